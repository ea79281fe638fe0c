"""The measurement of benchmark_loader.py: a run's loader on a part of a dataset, its times, and a report.

CPU time is measured per part of an item in one process, clips per second with worker processes.
"""

import contextlib
import functools
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Sampler

from VideoMAE.cli import parse_flags
from VideoMAE.config import V2VConfig, VCEConfig, to_json
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.data.splits import long_enough, readable, unreadable
from VideoMAE.data.v2v import videos_of, without_videos
from VideoMAE.data.vce import Annotations
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.dataset_tools.benchmark_loader import BenchmarkSettings, Mode
from VideoMAE.dataset_tools.prepare_videos import SETTINGS_FILE
from VideoMAE.dataset_tools.programs import check_ranges, kind_of, num_cores
from VideoMAE.files import write_json
from VideoMAE.runtime.distributed import World
from VideoMAE.training import finetune_v2v, finetune_vce
from VideoMAE.training.setup import validate_config
from VideoMAE.video.check import VideoCheck, check_videos
from VideoMAE.video.decoders import RGBConverter, decode_with_decord
from VideoMAE.video.reader import Video

logger = logging.getLogger("benchmark_loader")

LARGE_SHARE = 0.5  # the share of the CPU time from which a part is mentioned in the advice
PARTS = ("open", "decode", "convert", "augment", "collate")
NUM_BATCHES_AT_ONCE = 2000


class Window(NamedTuple):
    """The frames that an item reads from a video, numbered as in the file, and their size (height, width)."""

    path: Path
    indices: np.ndarray
    size: tuple[int, int]
    is_scaled: bool


class PartTimes(NamedTuple):
    """CPU seconds per part; the floor is decoding the same windows with decord and nothing else."""

    num_clips: int
    num_items: int
    num_windows: int
    cpu_seconds: dict[str, float]
    floor_cpu_seconds: float

    @property
    def total_seconds(self) -> float:
        return sum(self.cpu_seconds.values())

    @property
    def clips_per_second(self) -> float:
        return self.num_clips / self.total_seconds

    @property
    def floor_clips_per_second(self) -> float:
        return self.num_clips / self.floor_cpu_seconds

    def share(self, *parts: str) -> float:
        """The fraction of the total that these parts take, in [0, 1]."""
        return sum(self.cpu_seconds[part] for part in parts) / self.total_seconds


class WorkerRate(NamedTuple):
    """Clips per second of wall time after the first batch of every worker, and seconds until the first batch."""

    num_workers: int
    clips_per_second: float
    first_batch_seconds: float
    num_clips: int


@contextlib.contextmanager
def reading_timed(seconds: dict[str, float], windows: list[Window]) -> Iterator[None]:
    """Adds the CPU time of opening, decoding and conversion to RGB to `seconds`, and every window read to `windows`.

    "decode" includes "convert".
    """
    parts: tuple[tuple[Any, str, str], ...] = (
        (Video, "__init__", "open"),
        (Video, "close", "open"),
        (Video, "frames_at", "decode"),
        (RGBConverter, "__call__", "convert"),
    )

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            result = function(*arguments, **options)
            seconds[part] += time.process_time() - start
            if part == "decode":
                video, indices = arguments
                size = result.shape[1:3]
                stored = np.unique(video.positions_in_file(indices))
                windows.append(Window(video.path, stored, size, size != (video.info.height, video.info.width)))
            return result

        return call

    with contextlib.ExitStack() as stack:
        for owner, name, part in parts:
            original = getattr(owner, name)
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, timed(original, part))
        yield


def endless_keys(sampler: Sampler[Any]) -> Iterator[list[Any]]:
    """The keys of the sampler's batches, epoch after epoch."""
    for epoch in itertools.count():
        if isinstance(sampler, TrainSampler):
            sampler.set_position(epoch)
        yield from sampler


def endless_batches(loader: WatchedLoader) -> Iterator[Any]:
    """Batches without the restart of the workers after every epoch, which a few videos would make frequent."""
    keys = endless_keys(loader.sampler)
    while True:
        loader.sampler = list(itertools.islice(keys, NUM_BATCHES_AT_ONCE))  # type: ignore[assignment]
        yield from loader


def decode_windows(windows: list[Window]) -> None:
    """Decodes the windows with decord and discards the frames: the floor that no loader can beat."""
    for window in windows:
        decode_with_decord(window.path, window.indices, window.size, scales=window.is_scaled)


def time_parts(loader: WatchedLoader, *, seconds: float, repeats: int | None = None) -> PartTimes:
    """Makes batches in this process for `seconds` of wall time, or `repeats` batches, and decodes their windows again.

    Raises ValueError if no item yields a clip.
    """
    keys = endless_keys(loader.sampler)
    _ = loader.dataset[next(keys)[0]]  # triggers late imports
    cpu_seconds, windows = dict.fromkeys(PARTS, 0.0), list[Window]()
    num_clips = num_items = num_windows = num_batches = 0
    floor_seconds = item_seconds = 0.0
    deadline = time.monotonic() + seconds
    while num_batches < repeats if repeats else num_batches == 0 or time.monotonic() < deadline:
        batch_keys = next(keys)
        start = time.process_time()
        with reading_timed(cpu_seconds, windows):
            samples = [loader.dataset[key] for key in batch_keys]
        collate_start = time.process_time()
        batch = loader.collate_fn(samples)
        cpu_seconds["collate"] += time.process_time() - collate_start
        item_seconds += collate_start - start
        num_clips, num_items = num_clips + len(batch.clips), num_items + len(samples)
        del samples, batch
        start = time.process_time()
        decode_windows(windows)
        floor_seconds += time.process_time() - start
        num_windows, num_batches = num_windows + len(windows), num_batches + 1
        windows.clear()
    if not num_clips:
        raise ValueError(f"none of {num_items} items yields a clip")
    cpu_seconds["augment"] = item_seconds - cpu_seconds["open"] - cpu_seconds["decode"]
    cpu_seconds["decode"] -= cpu_seconds["convert"]
    return PartTimes(num_clips, num_items, num_windows, cpu_seconds, floor_seconds)


def time_workers(loader: WatchedLoader, *, seconds: float) -> WorkerRate:
    """Takes batches for `seconds` after the first batch of every worker, and at least one batch."""
    begin = time.monotonic()
    batches = endless_batches(loader)
    next(batches)
    first_batch_seconds = time.monotonic() - begin
    for _ in range(loader.num_workers - 1):
        next(batches)
    start = end = time.monotonic()
    num_clips = 0
    while not num_clips or end < start + seconds:
        num_clips += len(next(batches).clips)
        end = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    return WorkerRate(loader.num_workers, num_clips / (end - start), first_batch_seconds, num_clips)


class Benchmark(NamedTuple):
    """The items to measure: how to make a run's loader, the run's flags, a description and the videos."""

    make: Callable[[Any, World], WatchedLoader]
    config: VCEConfig | V2VConfig
    what: str
    num_videos: int
    unreadable: dict[str, str]

    def loader(self, num_workers: int) -> WatchedLoader:
        use_gpu = self.config.run.device != "cpu" and torch.cuda.is_available()
        world = World(rank=0, size=1, device=torch.device("cuda" if use_gpu else "cpu"))
        data: Any = replace(self.config.data, num_workers=num_workers)
        return self.make(replace(self.config, data=data), world)


def open_benchmark(root: Path, mode: Mode, run_flags: Sequence[str], *, max_videos: int) -> Benchmark:
    """The items that a run with these flags reads, from about `max_videos` videos sampled evenly.

    Unreadable videos are logged and left out. Raises ValueError if a flag or the dataset is invalid, or none is left.
    """
    common = ["--output_dir", "unused", "--disable_eval_during_finetuning", *run_flags]
    if kind_of(root) == "vce":
        config = parse_flags(VCEConfig, ["--data_path", str(root), *common])
        return _vce(validate_config(config), mode, max_videos)
    v2v = parse_flags(V2VConfig, ["--data_dir", str(root), *common])
    return _v2v(validate_config(v2v), mode, max_videos)


def _evenly(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` of `count` positions, from the first to the last. -> (N,)"""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _check(videos: Annotations) -> tuple[VideoCheck, dict[str, str]]:
    """Opens each video once -> the check by path, and the reasons of the unreadable videos by id."""
    check = check_videos({str(path): path for path in videos.paths}, num_processes=num_cores())
    bad = unreadable(videos, check)
    for key, reason in bad.items():
        logger.warning("unreadable, left out: %s (%s): %s", key, videos.paths[videos.ids.index(key)], reason)
    if len(bad) == len(videos.ids):
        raise ValueError(f"none of the {len(bad)} videos can be read, for example {videos.paths[0]}")
    return check, bad


def _vce(config: VCEConfig, mode: Mode, max_videos: int) -> Benchmark:
    data = config.data
    labels = finetune_vce.read_labels(data, Exclusion(data.exclude))
    videos = labels[mode].select(_evenly(len(labels[mode].ids), max_videos))
    check, bad = _check(videos)
    rate = f"every {data.sampling_rate}th frame"
    if mode == "train":
        videos = long_enough(videos, check, clip_len=data.num_frames, clip_fps=data.train_fps)
        rate = rate if data.train_fps is None else f"{data.train_fps:g} fps"
        what = f"VCE training clips, batches of {config.optim.batch_size} videos x {data.num_sample}"
    else:
        videos = readable(videos, check)
        what = f"VCE test videos, {data.test_num_segment} x {data.test_num_crop} views"

    def make(config: VCEConfig, world: World) -> WatchedLoader:
        if mode == "test":
            return finetune_vce.test_loader(videos, check, config, world)
        return finetune_vce.make_loaders({**labels, "train": videos}, check, config, world=world).train

    what = f"{what}, {data.num_frames} frames, {rate}, {data.input_size} pixels"
    return Benchmark(make, config, what, len(videos.ids), bad)


def _v2v(config: V2VConfig, mode: Mode, max_videos: int) -> Benchmark:
    data = config.data
    labels = finetune_v2v.read_labels(config, Exclusion(data.exclude))
    comparisons = labels.train if mode == "train" else [*labels.test, *labels.lists]
    comparisons = [comparisons[i] for i in _evenly(len(comparisons), max(max_videos // 2, 1))]
    videos = videos_of(data.data_dir, comparisons)
    check, bad = _check(videos)
    whole, _ = without_videos(comparisons, bad)
    if mode == "train" and not whole:
        raise ValueError(f"each of the {len(comparisons)} comparisons has an unreadable video")
    videos = videos_of(data.data_dir, whole) if mode == "train" else readable(videos, check)

    def make(config: V2VConfig, world: World) -> WatchedLoader:
        if mode == "test":
            return finetune_v2v.evaluation_loader(videos, check, config, world)
        chosen = finetune_v2v.Labels(whole, [], [], [])
        return finetune_v2v.make_loaders(chosen, videos, check, config, world=world).train

    what = f"V2V {'training comparisons' if mode == 'train' else 'test videos'}, {data.num_frames} frames per video"
    return Benchmark(make, config, f"{what}, {data.input_size} pixels", len(videos.ids), bad)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with right-aligned columns under a title, as text."""
    cells = [header, *([f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join([f"{title}:", *(f"  {line}" for line in lines)])


def parts_table(times: PartTimes) -> str:
    rows = [
        (part, 1000 * times.cpu_seconds[part] / times.num_clips, f"{100 * times.share(part):.0f} %") for part in PARTS
    ]
    rates = {"total": times.clips_per_second, "decord alone": times.floor_clips_per_second}
    rows += [(name, 1000 / rate, f"{rate:.1f} clips/s") for name, rate in rates.items()]
    return table(f"one core, CPU time of {times.num_clips} clips", ("", "ms/clip", "share"), rows)


def workers_table(rates: Sequence[WorkerRate], times: PartTimes) -> str:
    """The floor is decord alone on as many cores."""
    floors = [min(max(rate.num_workers, 1), num_cores()) * times.floor_clips_per_second for rate in rates]
    rows = [(*rate[:2], floor, rate.first_batch_seconds) for rate, floor in zip(rates, floors, strict=True)]
    header = ("workers", "clips/s", "floor", "seconds to first batch")
    return table(f"wall time, {num_cores()} cores", header, rows)


def cores_needed(gpu_clips_per_second: float, clips_per_second: float) -> int:
    return math.ceil(gpu_clips_per_second / clips_per_second)


def advice(times: PartTimes, config: Any, gpu_clips_per_second: float, *, is_prepared: bool) -> list[str]:
    """How many cores a GPU needs, and what would reduce that number."""
    needed = cores_needed(gpu_clips_per_second, times.clips_per_second)
    floor = cores_needed(gpu_clips_per_second, times.floor_clips_per_second)
    cores = num_cores()
    supplied = 100 * cores * times.clips_per_second / gpu_clips_per_second
    lines = [
        f"a GPU that consumes {gpu_clips_per_second:g} clips/s needs {needed} cores (for decoding alone: {floor}); the "
        f"{cores} cores of this machine supply {supplied:.0f} % of it"
    ]
    reading, pixels = times.share("open", "decode", "convert"), times.share("augment")
    if reading >= LARGE_SHARE:
        remedy = "" if is_prepared else "; data_prep/prepare_videos.py makes a copy that decodes faster"
        lines.append(f"reading videos takes {100 * reading:.0f} % of the CPU time{remedy}")
    elif pixels >= LARGE_SHARE:
        remedy = "; --augment fused is faster" if getattr(config.augment, "augment", "") == "exact" else ""
        lines.append(f"augmentation takes {100 * pixels:.0f} % of the CPU time{remedy}")
    load = os.getloadavg()[0]
    if load > cores + 1:
        lines.append(f"the system load is {load:.0f} on {cores} cores: the wall-time rates are too low")
    return lines


def run_benchmark(settings: BenchmarkSettings, run_flags: Sequence[str]) -> None:
    """Times the parts, then the workers, and logs each table when it is complete. Raises as `open_benchmark`."""
    check_ranges(settings, max_videos=1, repeats=1, above_0=["seconds", "gpu_clips_per_second"])
    if settings.workers is not None and min(settings.workers, default=0) < 0:
        raise ValueError(f"--workers {min(settings.workers)}: must be at least 0")
    benchmark = open_benchmark(settings.root, settings.mode, run_flags, max_videos=settings.max_videos)
    logger.info("%s: %s, from %d videos", settings.root, benchmark.what, benchmark.num_videos)
    powers = (2**power for power in range(num_cores().bit_length()))
    workers = sorted(set((0, *powers) if settings.workers is None else settings.workers))
    half, gpu_rate = settings.seconds / 2, settings.gpu_clips_per_second
    torch.set_num_threads(1)  # as in a loader's worker
    cv2.setNumThreads(0)
    times = time_parts(benchmark.loader(0), seconds=half, repeats=settings.repeats)
    logger.info("%s", parts_table(times))
    rates = [time_workers(benchmark.loader(number), seconds=half / len(workers)) for number in workers]
    if rates:
        logger.info("%s", workers_table(rates, times))
    advised = advice(times, benchmark.config, gpu_rate, is_prepared=(settings.root / SETTINGS_FILE).is_file())
    logger.info("%s", "\n".join(advised))
    if settings.json is None:
        return
    config = to_json(benchmark.config)
    content = {
        "root": str(settings.root), "mode": settings.mode, "what": benchmark.what,
        "num_videos": benchmark.num_videos, "unreadable": benchmark.unreadable,
        **times._asdict(), "whole_cpu_seconds": times.total_seconds,
        "clips_per_second_and_core": times.clips_per_second,
        "floor_clips_per_second_and_core": times.floor_clips_per_second,
        "of_the_floor": times.clips_per_second / times.floor_clips_per_second,
        "workers": [rate._asdict() for rate in rates],
        "gpu_clips_per_second": gpu_rate, "num_cores": num_cores(),
        "cores_per_gpu": cores_needed(gpu_rate, times.clips_per_second),
        "floor_cores_per_gpu": cores_needed(gpu_rate, times.floor_clips_per_second),
        "advice": advised, "flags": {part: config[part] for part in ("data", "augment")},
    }  # fmt: skip
    write_json(settings.json, content, indent=4)
    logger.info("%s", settings.json)

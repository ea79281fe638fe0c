"""The measurement of benchmark_loader.py: a run's loader on a part of a dataset, its times, and a report."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from VideoMAE.cli import parse_flags
from VideoMAE.config import V2VConfig, VCEConfig, to_json
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.splits import long_enough, readable, unreadable
from VideoMAE.data.v2v import videos_of, without_videos
from VideoMAE.data.vce import Annotations
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.dataset_tools.benchmark_loader import BenchmarkSettings, Mode
from VideoMAE.dataset_tools.loader_timing import PARTS, PartTimes, WorkerRate, time_parts, time_workers
from VideoMAE.dataset_tools.prepared_folder import SETTINGS_FILE
from VideoMAE.dataset_tools.programs import check_ranges, num_cores
from VideoMAE.dataset_tools.read_labels import kind_of
from VideoMAE.files import write_json
from VideoMAE.runtime.distributed import World
from VideoMAE.training import finetune_v2v, finetune_vce
from VideoMAE.training.setup import validate_config
from VideoMAE.video.check import VideoCheck, check_videos

logger = logging.getLogger("benchmark_loader")

LARGE_SHARE = 0.5  # the share of the CPU time from which a part is mentioned in the advice


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

    Unreadable videos are logged and left out.

    Raises:
        ValueError: the dataset, a flag or the labels are invalid, or no video is left.
    """
    common = ["--output_dir", "unused", "--disable_eval_during_finetuning", *run_flags]
    if kind_of(root) == "vce":
        config = parse_flags(VCEConfig, ["--data_path", str(root), *common])
        return _vce(validate_config(config), mode, max_videos)
    v2v = parse_flags(V2VConfig, ["--data_dir", str(root), *common])
    return _v2v(validate_config(v2v), mode, max_videos)


def _evenly(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` of `count` positions, from the first to the last."""
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


def part_lines(times: PartTimes) -> list[str]:
    """The table of the parts."""
    lines = [f"one core, CPU time of {times.num_clips} clips:", f"  {'':10}{'ms/clip':>10}{'share':>8}"]
    for part in PARTS:
        lines.append(f"  {part:10}{1000 * times.seconds[part] / times.num_clips:10.1f}{100 * times.share(part):6.0f} %")
    for name, rate, note in (
        ("total", times.clips_per_second, ""),
        ("floor", times.floor_clips_per_second, ", decord decoding the same frames"),
    ):
        lines.append(f"  {name:10}{1000 / rate:10.1f}{'':10}{rate:.1f} clips/s per core{note}")
    return lines


def worker_lines(rates: Sequence[WorkerRate], times: PartTimes) -> list[str]:
    """The table of the workers; their floor is decord on as many cores."""
    lines = [f"wall time, {num_cores()} cores:", f"  {'workers':>8}{'clips/s':>9}{'floor':>8}{'first batch after':>20}"]
    for workers, clips_per_second, first_batch_seconds, _ in rates:
        floor = min(max(workers, 1), num_cores()) * times.floor_clips_per_second
        lines.append(f"  {workers:8}{clips_per_second:9.1f}{floor:8.1f}{first_batch_seconds:18.1f} s")
    return lines


def cores_needed(gpu_clips_per_second: float, clips_per_second: float) -> int:
    """Number of cores that supply a GPU."""
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


def measure(benchmark: Benchmark, settings: BenchmarkSettings) -> dict[str, Any]:
    """Times the parts, then the workers, and logs each table when it is complete -> the numbers for --json."""

    def log(lines: Sequence[str]) -> None:
        logger.info("%s", "\n".join(lines))

    powers = (2**power for power in range(num_cores().bit_length()))
    workers = sorted(set((0, *powers) if settings.workers is None else settings.workers))
    half = settings.seconds / 2
    times = time_parts(benchmark.loader(0), seconds=half, repeats=settings.repeats)
    log(part_lines(times))
    rates = [time_workers(benchmark.loader(number), seconds=half / len(workers)) for number in workers]
    if rates:
        log(worker_lines(rates, times))
    gpu_rate = settings.gpu_clips_per_second
    advised = advice(times, benchmark.config, gpu_rate, is_prepared=(settings.root / SETTINGS_FILE).is_file())
    log(advised)
    return {
        "num_clips": times.num_clips,
        "num_items": times.num_items,
        "num_windows": times.num_windows,
        "cpu_seconds": times.seconds,
        "whole_cpu_seconds": times.total_seconds,
        "floor_cpu_seconds": times.floor_seconds,
        "clips_per_second_and_core": times.clips_per_second,
        "floor_clips_per_second_and_core": times.floor_clips_per_second,
        "of_the_floor": times.clips_per_second / times.floor_clips_per_second,
        "workers": [rate._asdict() for rate in rates],
        "gpu_clips_per_second": gpu_rate,
        "cores_per_gpu": cores_needed(gpu_rate, times.clips_per_second),
        "floor_cores_per_gpu": cores_needed(gpu_rate, times.floor_clips_per_second),
        "num_cores": num_cores(),
        "advice": advised,
    }


def run_benchmark(settings: BenchmarkSettings, run_flags: Sequence[str]) -> None:
    """Measures and reports. Raises ValueError as `open_benchmark`."""
    check_ranges(settings, max_videos=1, repeats=1, above_0=["seconds", "gpu_clips_per_second"])
    if settings.workers is not None and min(settings.workers, default=0) < 0:
        raise ValueError(f"--workers {min(settings.workers)}: must be at least 0")
    benchmark = open_benchmark(settings.root, settings.mode, run_flags, max_videos=settings.max_videos)
    logger.info("%s: %s, from %d videos", settings.root, benchmark.what, benchmark.num_videos)
    numbers = measure(benchmark, settings)
    if settings.json is not None:
        config = to_json(benchmark.config)
        content = {
            "root": str(settings.root),
            "mode": settings.mode,
            "what": benchmark.what,
            "num_videos": benchmark.num_videos,
            "unreadable": benchmark.unreadable,
            **numbers,
            "flags": {part: config[part] for part in ("data", "augment")},
        }
        write_json(settings.json, content, indent=4)
        logger.info("%s", settings.json)

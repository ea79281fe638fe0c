"""Measure the speed of a dataset's data loader, where the time goes, and how many CPU cores a GPU needs.

    emodiversity benchmark-loader vce_dataset

makes batches as a training run does and prints the CPU time per clip for opening, decoding, augmentation and collation.
Then it measures clips per second of wall time with 0, 1, 2, 4, ... workers.

ROOT comes first. All flags of the training programs are accepted, with their defaults: --sampling_rate, --train_fps,
--num_frames, --input_size, --batch_size, --num_sample, --aa, ... (see `emodiversity train-vce --help` for VCE and
`emodiversity train-v2v --help` for V2V).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import cv2
import numpy as np
import tyro

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.config import V2VConfig, VCEConfig, to_json
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.splits import long_enough, readable, unreadable
from VideoMAE.data.v2v import videos_of, without_videos
from VideoMAE.dataset_tools.programs import check_ranges, kind_of, num_cores
from VideoMAE.files import write_json
from VideoMAE.video.check import check_videos
from VideoMAE.video.reader import Video

if TYPE_CHECKING:
    from VideoMAE.data.watched_loader import WatchedLoader

logger = logging.getLogger("benchmark_loader")

Mode = Literal["train", "test"]
MAX_BATCHES = 2000  # of one measurement with workers


@dataclass(frozen=True)
class BenchmarkSettings:
    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]
    """Dataset folder in the layout of VCE or V2V, or a prepared copy."""
    mode: Mode = "train"
    """train: augmented clips (VCE) or comparisons (V2V); test: all views of each test video."""
    workers: tuple[int, ...] | None = None
    """Numbers of worker processes to measure. None: 0, 1, 2, 4, ... up to the number of cores."""
    gpu_clips_per_second: float = 300.0
    """Clips per second that one GPU consumes; the program prints how many cores can supply them."""
    seconds: float = 20.0
    """Approximate duration; one half for the parts, one half for the workers."""
    max_videos: int = 128
    """Number of videos, sampled evenly from the labels; each is opened once before the measurement."""
    json: Path | None = None
    """JSON file for all numbers."""


class Benchmark(NamedTuple):
    """A part of a dataset, and the function that makes its loader with a number of workers."""

    config: Any  # VCEConfig or V2VConfig
    loader: Callable[[int], WatchedLoader]
    num_videos: int
    unreadable: dict[str, str]


def open_benchmark(root: Path, mode: Mode, run_flags: Sequence[str], *, max_videos: int) -> Benchmark:
    """The items that a run with these flags reads, from about `max_videos` videos sampled evenly.

    Unreadable videos are logged and left out. Raises ValueError if a flag or the dataset is invalid, or none is left.
    """
    import torch  # deferred: it takes seconds

    from VideoMAE.runtime.distributed import World
    from VideoMAE.training import finetune_v2v, finetune_vce
    from VideoMAE.training.setup import validate_config

    def evenly(count: int, wanted: int) -> np.ndarray:
        """At most `wanted` of `count` positions, from the first to the last. -> (N,)"""
        return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))

    is_vce = kind_of(root) == "vce"
    flags = ["--output_dir", "unused", "--disable_eval_during_finetuning", *run_flags]
    config: Any
    if is_vce:
        config = validate_config(cli.parse_flags(VCEConfig, ["--data_path", str(root), *flags]))
        labels = finetune_vce.read_labels(config.data, Exclusion(config.data.exclude))
        videos = labels[mode].select(evenly(len(labels[mode].ids), max_videos))
    else:
        config = validate_config(cli.parse_flags(V2VConfig, ["--data_dir", str(root), *flags]))
        found = finetune_v2v.read_labels(config, Exclusion(config.data.exclude))
        comparisons = found.train if mode == "train" else [*found.test, *found.lists]
        comparisons = [comparisons[i] for i in evenly(len(comparisons), max(max_videos // 2, 1))]
        videos = videos_of(config.data.data_dir, comparisons)

    check = check_videos({str(path): path for path in videos.paths}, num_processes=num_cores())
    bad = unreadable(videos, check)
    for key, reason in bad.items():
        logger.warning("unreadable, left out: %s (%s): %s", key, videos.paths[videos.ids.index(key)], reason)
    if len(bad) == len(videos.ids):
        raise ValueError(f"none of the {len(bad)} videos can be read, for example {videos.paths[0]}")
    if is_vce and mode == "train":
        videos = long_enough(videos, check, clip_len=config.data.num_frames, clip_fps=config.data.train_fps)
    elif mode == "train":
        whole, _ = without_videos(comparisons, bad)
        if not whole:
            raise ValueError(f"each of the {len(comparisons)} comparisons has an unreadable video")
        videos = videos_of(config.data.data_dir, whole)
    else:
        videos = readable(videos, check)

    use_gpu = config.run.device != "cpu" and torch.cuda.is_available()
    world = World(rank=0, size=1, device=torch.device("cuda" if use_gpu else "cpu"))

    def loader(num_workers: int) -> WatchedLoader:
        run = replace(config, data=replace(config.data, num_workers=num_workers))
        if is_vce and mode == "train":
            return finetune_vce.make_loaders({**labels, "train": videos}, check, run, world=world).train
        if mode == "train":
            chosen = finetune_v2v.Labels(whole, [], [], [])
            return finetune_v2v.make_loaders(chosen, videos, check, run, world=world).train
        make = finetune_vce.test_loader if is_vce else finetune_v2v.evaluation_loader
        return make(videos, check, run, world)

    return Benchmark(config, loader, len(videos.ids), bad)


@contextlib.contextmanager
def reading_timed(seconds: dict[str, float]) -> Iterator[None]:
    """Adds the CPU time of opening and closing videos to `seconds["open"]`, that of decoding to `seconds["decode"]`."""
    originals = {name: getattr(Video, name) for name in ("__init__", "close", "frames_at")}

    def timed(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return originals[name](*arguments, **options)
            finally:
                seconds["decode" if name == "frames_at" else "open"] += time.process_time() - start

        return call

    try:
        for name in originals:
            setattr(Video, name, timed(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(Video, name, original)


def endless_keys(sampler: Any) -> Iterator[list[Any]]:
    """The keys of the sampler's batches, epoch after epoch."""
    for epoch in itertools.count():
        if hasattr(sampler, "set_position"):
            sampler.set_position(epoch)
        yield from sampler


def time_parts(loader: WatchedLoader, *, seconds: float) -> dict[str, Any]:
    """Makes batches in this process for `seconds` of wall time. -> numbers of items and clips, and CPU seconds by part

    Raises ValueError if no item yields a clip.
    """
    keys = endless_keys(loader.sampler)
    _ = loader.dataset[next(keys)[0]]  # triggers late imports
    parts = dict.fromkeys(("open", "decode", "augment", "collate"), 0.0)
    num_clips = num_items = 0
    deadline = time.monotonic() + seconds
    while not num_items or time.monotonic() < deadline:
        batch_keys = next(keys)
        start = time.process_time()
        with reading_timed(parts):
            samples = [loader.dataset[key] for key in batch_keys]
        made = time.process_time()
        num_clips += len(loader.collate_fn(samples).clips)
        num_items += len(samples)
        parts["augment"] += made - start  # and reading, which is subtracted below
        parts["collate"] += time.process_time() - made
    if not num_clips:
        raise ValueError(f"none of {num_items} items yields a clip")
    parts["augment"] -= parts["open"] + parts["decode"]
    return {"num_items": num_items, "num_clips": num_clips, "cpu_seconds": parts}


def time_workers(loader: WatchedLoader, *, seconds: float) -> float:
    """Clips per second of wall time, measured for `seconds` after the first batch of every worker."""
    # One list of keys for the whole measurement: the loader restarts its workers after every epoch.
    loader.sampler = list(itertools.islice(endless_keys(loader.sampler), MAX_BATCHES))  # type: ignore[assignment]
    num_clips = 0
    for number, batch in enumerate(loader):
        end = time.monotonic()
        if number < max(loader.num_workers, 1):
            start = end
            continue
        num_clips += len(batch.clips)
        if num_clips and end >= start + seconds:
            break
    return num_clips / (end - start)


def benchmark(settings: BenchmarkSettings, run_flags: Sequence[str]) -> None:
    """Times the parts, then the workers, of a run with these flags of the training program, and logs the results."""
    import torch  # deferred: it takes seconds

    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores, on purpose
    check_ranges(settings, max_videos=1, above_0=["seconds", "gpu_clips_per_second"])
    if settings.workers is not None and min(settings.workers, default=0) < 0:
        raise ValueError(f"--workers {min(settings.workers)}: must be at least 0")
    opened = open_benchmark(settings.root, settings.mode, run_flags, max_videos=settings.max_videos)
    data, cores, gpu_rate = opened.config.data, num_cores(), settings.gpu_clips_per_second
    logger.info(
        "%s, %s: %d frames, %d pixels, from %s",
        settings.root,
        settings.mode,
        data.num_frames,
        data.input_size,
        counted(opened.num_videos, "video"),
    )
    torch.set_num_threads(1)  # as in a loader's worker
    cv2.setNumThreads(0)

    times = time_parts(opened.loader(0), seconds=settings.seconds / 2)
    total, num_clips = sum(times["cpu_seconds"].values()), times["num_clips"]
    logger.info("one core, CPU time of %s:", counted(num_clips, "clip"))
    for part, seconds in times["cpu_seconds"].items():
        logger.info("%9s %8.1f ms per clip %4.0f %%", part, 1000 * seconds / num_clips, 100 * seconds / total)
    rate = num_clips / total
    logger.info("%9s %8.1f ms per clip, %.1f clips/s", "total", 1000 / rate, rate)

    powers = (0, *(2**power for power in range(cores.bit_length())))
    workers = sorted(set(powers if settings.workers is None else settings.workers))
    clips_per_second = {}
    logger.info("wall time, %s:", counted(cores, "core"))
    for number in workers:
        seconds = settings.seconds / 2 / len(workers)
        clips_per_second[number] = time_workers(opened.loader(number), seconds=seconds)
        logger.info("%9s %8.1f clips/s", counted(number, "worker"), clips_per_second[number])

    needed = math.ceil(gpu_rate / rate)
    logger.info(
        "a GPU that consumes %g clips/s needs %s; the %s of this machine can supply %.0f %%",
        gpu_rate,
        counted(needed, "core"),
        counted(cores, "core"),
        100 * cores * rate / gpu_rate,
    )
    if settings.json is not None:
        config = to_json(opened.config)
        content = {
            "root": str(settings.root),
            "mode": settings.mode,
            "num_videos": opened.num_videos,
            "unreadable": opened.unreadable,
            **times,
            "clips_per_second_and_core": rate,
            "clips_per_second_by_workers": clips_per_second,
            "num_cores": cores,
            "gpu_clips_per_second": gpu_rate,
            "cores_per_gpu": needed,
            "flags": {part: config[part] for part in ("data", "augment")},
        }
        write_json(settings.json, content, indent=4)
        logger.info("%s", settings.json)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(benchmark, BenchmarkSettings, argv, description=__doc__, accept_unknown_flags=True)

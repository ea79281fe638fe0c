"""Timing of a data loader: CPU time per part of an item, and clips per second with worker processes."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Sampler

from VideoMAE.data.loaders import TrainSampler
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.video.decoders import RGBConverter, decode_with_decord
from VideoMAE.video.reader import Video

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
    seconds: dict[str, float]
    floor_seconds: float

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def clips_per_second(self) -> float:
        return self.num_clips / self.total_seconds

    @property
    def floor_clips_per_second(self) -> float:
        return self.num_clips / self.floor_seconds

    def share(self, *parts: str) -> float:
        """The fraction of the total that these parts take, in [0, 1]."""
        return sum(self.seconds[part] for part in parts) / self.total_seconds


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


def use_one_thread() -> None:
    """Limits torch and OpenCV to one thread, as in a loader's worker."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


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
    use_one_thread()
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
    use_one_thread()
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

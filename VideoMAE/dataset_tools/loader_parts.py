"""What a loader's items cost on one core, part by part, beside bare decoding of the same windows."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import decord
import numpy as np
import torch
from torch.utils.data import Sampler

from VideoMAE.data.loaders import TrainSampler
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.video.decoders import RGBConverter, SequentialSource
from VideoMAE.video.prepared_copy import copied_video
from VideoMAE.video.reader import Video

PARTS = ("open", "decode", "convert", "augment", "collate")


class Window(NamedTuple):
    """The frames that an item read of a video, and their size (height, width) as it got them."""

    path: Path
    indices: np.ndarray
    size: tuple[int, int]
    is_squashed: bool


class Split(NamedTuple):
    """CPU seconds of so many clips by part; `floor` is bare decoding of the windows that those clips show."""

    num_clips: int
    num_items: int
    num_windows: int
    seconds: dict[str, float]
    floor_seconds: float

    @property
    def whole_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def clips_per_second(self) -> float:
        return self.num_clips / self.whole_seconds

    @property
    def floor_clips_per_second(self) -> float:
        return self.num_clips / self.floor_seconds

    def share(self, *parts: str) -> float:
        """Which part of the whole these take, from 0 to 1."""
        return sum(self.seconds[part] for part in parts) / self.whole_seconds


class Stopwatch:
    """CPU seconds of this process, all its threads, by part. Of a part inside another one only the inner one counts, so
    that the parts add up to the whole."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._parts: list[str] = []
        self._since = 0.0

    def _charge(self) -> None:
        now = time.process_time()
        if self._parts:
            self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._charge()
        self._parts.append(name)
        try:
            yield
        finally:
            self._charge()
            self._parts.pop()


def use_one_thread() -> None:
    """As a worker of the loader has it."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def endless_batches(sampler: Sampler[Any]) -> Iterator[list[Any]]:
    """The keys of batches, epoch after epoch."""
    for epoch in itertools.count():
        if isinstance(sampler, TrainSampler):
            sampler.set_position(epoch)
        yield from sampler


@contextlib.contextmanager
def told_apart(watch: Stopwatch, windows: list[Window]) -> Iterator[None]:
    """While inside, opening, decoding and, by PyAV, converting to RGB are parts of their own, and what is read is
    noted."""
    parts: tuple[tuple[Any, str, str], ...] = (
        (Video, "__init__", "open"),
        (Video, "close", "open"),
        (Video, "frames_at", "decode"),
        (RGBConverter, "__call__", "convert"),
    )
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in parts]

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            with watch.part(part):
                found = function(*arguments, **options)
            if function.__name__ == "frames_at":
                video, indices = arguments
                size = found.shape[1:3]
                windows.append(Window(video.path, indices, size, size != (video.info.height, video.info.width)))
            return found

        return call

    try:
        for (owner, name, original), (_, _, part) in zip(originals, parts, strict=True):
            setattr(owner, name, timed(original, part))
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def stored(window: Window) -> Window:
    """The same window by the numbers that its frames have in the file, rising: a prepared copy may hold fewer than its
    source."""
    with av.open(str(window.path)) as container:
        source = copied_video(container.metadata)
    indices = window.indices if source is None else source.places(window.indices)
    return window._replace(indices=np.unique(indices))


def decode_bare(window: Window) -> None:
    """What no loader can do without: decord opens the file and decodes the frames of a `stored` window, at its size;
    PyAV where decord cannot."""
    height, width = window.size if window.is_squashed else (-1, -1)
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(window.path), width=width, height=height, num_threads=1)
        reader.get_batch(window.indices[window.indices < len(reader)]).asnumpy()
    except (decord.DECORDError, RuntimeError):
        SequentialSource(window.path, window.size).read(window.indices)


def measure_parts(loader: WatchedLoader, *, seconds: float, repeats: int | None = None) -> Split:
    """Make batches of a loader without workers for so long by the clock, or `repeats` of them; after each, decode its
    windows bare.

    Raises ValueError when not one clip can be made.
    """
    use_one_thread()
    batches = endless_batches(loader.sampler)
    _ = loader.dataset[next(batches)[0]]  # imports what is imported late, and reads the first file
    watch, windows = Stopwatch(), list[Window]()
    num_clips = num_items = num_windows = num_batches = 0
    floor_seconds = 0.0
    deadline = time.monotonic() + seconds
    while num_batches < repeats if repeats else num_batches == 0 or time.monotonic() < deadline:
        keys = next(batches)
        with told_apart(watch, windows):
            with watch.part("augment"):
                samples = [loader.dataset[key] for key in keys]
            with watch.part("collate"):
                batch = loader.collate_fn(samples)
        num_clips, num_items = num_clips + len(batch.clips), num_items + len(samples)
        del samples, batch
        windows[:] = map(stored, windows)
        start = time.process_time()
        for window in windows:
            decode_bare(window)
        floor_seconds += time.process_time() - start
        num_windows, num_batches = num_windows + len(windows), num_batches + 1
        windows.clear()
    if not num_clips:
        raise ValueError(f"none of {num_items} items gave a clip")
    return Split(num_clips, num_items, num_windows, {part: watch.seconds[part] for part in PARTS}, floor_seconds)

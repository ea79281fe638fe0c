"""Every number that loading promises, in one run: each as a ratio, with its target and its floor.

python tests/benchmarks/benchmark_loading.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from benchmarking import ROOT, Times, say, say_times, time_interleaved, use_threads
from footage import Footage, make_footage
from torchvision.transforms.functional import normalize, to_tensor

from VideoMAE.augment.rand_augment import apply_operations
from VideoMAE.augment.video_transforms import IMAGENET_MEAN, IMAGENET_STD, TrainDraw, TrainTransform, erase
from VideoMAE.data.clips import TrainDataset
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.dataset_tools.benchmark_loader import endless_keys, open_benchmark
from VideoMAE.video.decoders import decode_with_decord
from VideoMAE.video.reader import Video

COMMON_FLAGS = ("--batch_size", "1", "--device", "cpu")
VCE_FLAGS = (*COMMON_FLAGS, "--train_fps", "None", "--sampling_rate", "4")
PIXEL_RATE, DECODING_RATE = 25, 13.5  # clips/s of the machine


class Row(NamedTuple):
    """A promise: a ratio and what it is to be; `floor` says what nothing can beat."""

    what: str
    ratio: float
    target: float
    floor: str
    at_most: bool = False

    def line(self) -> str:
        met = self.ratio <= self.target if self.at_most else self.ratio >= self.target
        bound = f"{'at most' if self.at_most else 'at least'} {self.target:.2f}"
        return f"| {self.what} | {bound} | {self.ratio:.2f}{'' if met else ': missed'} | {self.floor} |"


class Window(NamedTuple):
    """The frames that an item reads from a video, numbered as in the file, and their size (height, width)."""

    path: Path
    indices: np.ndarray
    size: tuple[int, int]
    is_scaled: bool


def decode_windows(windows: list[Window]) -> None:
    """Decodes the windows with decord and discards the frames: the floor that no loader can beat."""
    for window in windows:
        decode_with_decord(window.path, window.indices, window.size, scales=window.is_scaled)


class ByTheBook(TrainTransform):
    """The original's order of work: PIL for every operation on every frame, scaling and normalising of whole frames,
    then crop, flip and erasing of tensors."""

    def apply(self, frames: np.ndarray, draw: TrainDraw) -> torch.Tensor:
        top, left, height, width = draw.crop
        augmented = apply_operations(frames, draw.operations)
        clip = torch.stack([normalize(to_tensor(frame), IMAGENET_MEAN, IMAGENET_STD) for frame in augmented], dim=1)
        clip = clip[:, :, top : top + height, left : left + width]
        clip = F.interpolate(clip, size=(self.crop_size, self.crop_size), mode="bilinear", align_corners=False)
        clip = clip.flip(-1) if draw.flip else clip
        erase(clip, draw.erased, mode=self.random_erasing.mode)
        return clip


def loader_of(root: Path, mode: Any, *flags: str) -> WatchedLoader:
    """The run's own loader."""
    return open_benchmark(root, mode, flags, max_videos=1000).loader(0)


def by_the_book(exact: WatchedLoader) -> TrainDataset:
    """The same items, whose pixels are made as the original makes them."""
    dataset: Any = exact.dataset
    transform = copy(dataset.make_clips.transform)
    transform.__class__ = ByTheBook
    clips = replace(dataset.make_clips, transform=transform)
    return TrainDataset(dataset.annotations, make_clips=clips, seed=dataset.seed)


def first_keys(loader: WatchedLoader, count: int) -> list[Any]:
    """The keys of the first items that the loader makes."""
    batches = endless_keys(loader.sampler)
    return [next(batches)[0] for _ in range(count)]


def windows_of(loader: WatchedLoader, keys: Sequence[Any]) -> list[list[Window]]:
    """What each item reads."""
    found: list[list[Window]] = []

    def frames_at(video: Video, indices: np.ndarray) -> np.ndarray:
        frames = original(video, indices)
        stored, size = np.unique(video.positions_in_file(indices)), frames.shape[1:3]
        found[-1].append(Window(video.path, stored, size, size != (video.info.height, video.info.width)))
        return frames

    original = Video.frames_at
    with mock.patch.object(Video, "frames_at", frames_at):
        for key in keys:
            found.append([])
            _ = loader.dataset[key]
    return found


def frames_of(windows: Sequence[Window]) -> np.ndarray:
    (window,) = windows
    with Video(window.path) as video:
        return video.frames_at(window.indices)


def in_turn(function: Callable[[Any], Any], values: Sequence[Any]) -> Callable[[], Any]:
    """The function of one value after the other, from the first again after the last."""
    following = cycle(values)
    return lambda: function(next(following))


def faster(seconds: Times, one: str, other: str) -> float:
    """How many times as many a second `one` gives as `other`, by all the time that each took."""
    return sum(seconds[other]) / sum(seconds[one])


def per_second(seconds: Times, name: str) -> str:
    return f"{name}: {len(seconds[name]) / sum(seconds[name]):.1f}/s"


def training_rows(root: Path, copy: Path, *, repeats: int) -> list[Row]:
    """VCE's training items: from originals, fused and otherwise, and from a copy."""
    fused = loader_of(root, "train", *VCE_FLAGS, "--augment", "fused")
    exact = loader_of(root, "train", *VCE_FLAGS, "--augment", "exact")
    prepared = loader_of(copy, "train", *VCE_FLAGS, "--augment", "fused")
    keys = first_keys(fused, repeats)
    windows = windows_of(fused, keys)
    frames = list(enumerate(map(frames_of, windows[: min(repeats, 12)])))
    transform = fused.dataset.make_clips.transform  # type: ignore[attr-defined]
    seconds = time_interleaved(
        {
            "fused": in_turn(fused.dataset.__getitem__, keys),
            "exact": in_turn(exact.dataset.__getitem__, keys),
            "by the book": in_turn(by_the_book(exact).__getitem__, keys),
            "pixels, fused": in_turn(lambda drawn: transform(drawn[1], np.random.default_rng(drawn[0])), frames),
            "copy, fused": in_turn(prepared.dataset.__getitem__, keys),
            "bare decoding": in_turn(decode_windows, windows),
            "bare decoding of the copy": in_turn(decode_windows, windows_of(prepared, keys)),
        },
        repeats=repeats,
    )
    say("VCE training items, every 4th frame, full augmentation")
    say_times(seconds)
    bare, item = per_second(seconds, "bare decoding"), "training item, fused"
    free = [f"with free pixels {faster(seconds, 'bare decoding', name):.2f}" for name in ("by the book", "exact")]
    return [
        Row(f"{item} / bare decoding", faster(seconds, "fused", "bare decoding"), 0.65, bare),
        Row(f"{item} / as the original, PIL a frame", faster(seconds, "fused", "by the book"), 3, free[0]),
        Row(f"{item} / --augment exact", faster(seconds, "fused", "exact"), 3, free[1]),
        Row(
            "its pixels alone / bare decoding",
            faster(seconds, "pixels, fused", "bare decoding"),
            PIXEL_RATE / DECODING_RATE,
            bare,
        ),
        Row(
            "training item, copy / originals",
            faster(seconds, "copy, fused", "fused"),
            3,
            per_second(seconds, "bare decoding of the copy"),
        ),
    ]


def preference_rows(root: Path, copy: Path, *, repeats: int) -> list[Row]:
    """V2V's training items: two videos each."""
    originals, prepared = (loader_of(folder, "train", *COMMON_FLAGS) for folder in (root, copy))
    keys = first_keys(originals, repeats)
    seconds = time_interleaved(
        {
            "originals": in_turn(originals.dataset.__getitem__, keys),
            "copy": in_turn(prepared.dataset.__getitem__, keys),
            "bare decoding": in_turn(decode_windows, windows_of(originals, keys)),
            "bare decoding of the copy": in_turn(decode_windows, windows_of(prepared, keys)),
        },
        repeats=repeats,
    )
    say("V2V training items, 16 frames of each of two videos")
    say_times(seconds)
    floor = per_second(seconds, "bare decoding of the copy")
    return [Row("V2V item, copy / originals", faster(seconds, "copy", "originals"), 3, floor)]


def test_rows(root: Path, *, repeats: int) -> list[Row]:
    """VCE's test videos of 2 x 3 views."""
    loader = loader_of(root, "test", *COMMON_FLAGS)
    keys = first_keys(loader, repeats)
    windows = windows_of(loader, keys)
    seconds = time_interleaved(
        {
            "2 x 3 views": in_turn(loader.dataset.__getitem__, keys),
            "bare decoding": in_turn(decode_windows, windows),
        },
        repeats=repeats,
    )
    say(f"VCE test videos, {len(windows[0][0].indices)} frames decoded")
    say_times(seconds)
    ratio = 1 / faster(seconds, "2 x 3 views", "bare decoding")
    return [
        Row("test video / one decode of its frames", ratio, 1.2, per_second(seconds, "bare decoding"), at_most=True)
    ]


def prepare(source: Path, copy: Path, *flags: str) -> Path:
    """A prepared copy, made by the program."""
    program = ROOT / "data_prep/prepare_videos.py"
    subprocess.run([sys.executable, program, source, copy, *flags], check=True, stdout=subprocess.DEVNULL)
    sizes = [sum(file.stat().st_size for file in (root / "videos").iterdir()) for root in (source, copy)]
    say(f"prepared copy of {source.name}, {' '.join(flags)}: {sizes[1] / sizes[0]:.2f} times the bytes")
    return copy


def some_of(sample: Path, folder: Path, num_videos: int) -> Footage:
    """Parts of the two datasets that make_sample.py has drawn."""
    for name in ("vce_dataset", "v2v_dataset"):
        program = [sys.executable, ROOT / "data_prep/make_subset.py", sample / name, folder / name]
        subprocess.run([*program, "--num_videos", str(num_videos)], check=True, stdout=subprocess.DEVNULL)
    return Footage(folder / "vce_dataset", folder / "v2v_dataset")


def main(*, repeats: int = 24, num_films: int = 6, sample: Path | None = None) -> None:
    """Time the functions of each group in turn, on one thread.

    Args:
        repeats: timed calls of each.
        num_films: films of the kind that both datasets hold.
        sample: folder that data_prep/make_sample.py has made; 10 times as many of its videos take the films' place.
    """
    use_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = folder / "originals"
        films = some_of(sample, originals, 10 * num_films) if sample else make_footage(originals, num_films=num_films)
        rows = training_rows(films.vce, prepare(films.vce, folder / "vce_copy"), repeats=repeats)
        rows += preference_rows(films.v2v, prepare(films.v2v, folder / "v2v_copy"), repeats=repeats)
        rows += test_rows(films.vce, repeats=repeats)
    say("\n| what | target | measured | floor |\n|---|---|---|---|")
    for row in rows:
        say(row.line())


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

"""Items read from prepared copies of a film beside those from the film itself; sizes and likeness of the copies.

python tests/benchmarks/benchmark_prepared.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import decord
import numpy as np
import tyro
from benchmarking import say, say_times, time_interleaved, use_threads, write_film

from VideoMAE.augment.video_transforms import SquashTransform
from VideoMAE.config import AugmentConfig
from VideoMAE.data.clip_sampling import evenly_spaced, random_window
from VideoMAE.data.clips import EvenClips, TestClips, TrainClips
from VideoMAE.training.setup import train_transform
from VideoMAE.video.copy_video import Copied, Recipe, copy_video

CLIP_LEN, STRIDE, SIZE = 16, 4, 224
ORIGINAL, DEFAULT = "original", "copy"
KINDS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "copy, --gop 1": {"gop": 1},
    "copy, --gop 4": {"gop": 4},
    "copy, --every 2": {"every": 2},
    "copy, --short_side 224": {"short_side": 224},
}
FOR_V2V: dict[str, dict[str, Any]] = {"copy, --evenly 16": {"evenly": CLIP_LEN}}


def make_copy(film: Path, flags: dict[str, Any]) -> Path:
    """Copy the film as prepare_videos.py does, and say what that costs."""
    start = time.process_time()
    copied = copy_video(film, recipe=Recipe(**flags), folder=film.parent)
    seconds = time.process_time() - start
    assert isinstance(copied, Copied)
    name = " ".join(f"--{name} {value}" for name, value in flags.items()) or "as by default"
    say(
        f"  {name}: {copied.bytes / os.path.getsize(film):.2f} of the film's size, {copied.info.width} x "
        f"{copied.info.height}, PSNR {copied.psnr_db:.1f} dB, {seconds:.2f} s to make"
    )
    return Path(copied.temporary).rename(film.with_name(f"{name.replace(' ', '_')}.mp4"))


def bare_decord(path: Path, choose: Callable[[int], np.ndarray]) -> np.ndarray:
    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(choose(len(reader))).asnumpy()


def item(clips: Callable[[Path, np.random.Generator], Any], path: Path, seeds: count[int]) -> Any:
    return clips(path, np.random.default_rng(next(seeds)))


def window(seeds: count[int], num_frames: int) -> np.ndarray:
    return random_window(num_frames, clip_len=CLIP_LEN, stride=STRIDE, rng=np.random.default_rng(next(seeds)))


def compare(
    what: str,
    clips: Callable[[Path, np.random.Generator], Any],
    paths: dict[str, Path],
    floor: Callable[[int], np.ndarray],
    *,
    repeats: int,
    target: str,
) -> None:
    say(what)
    functions: dict[str, Callable[[], Any]] = {
        name: partial(item, clips, path, count()) for name, path in paths.items()
    }
    functions["floor: bare decord, original"] = partial(bare_decord, paths[ORIGINAL], floor)
    seconds = time_interleaved(functions, repeats=repeats)
    say_times(seconds)
    rates = {name: 1 / fmean(values) for name, values in seconds.items()}
    for name, rate in rates.items():
        is_copy = name in paths and name != ORIGINAL
        of_original = f"{rate / rates[ORIGINAL]:.2f} times the original's (target: {target})" if is_copy else ""
        say(f"  {name}: {rate:.1f} a second of one core (mean){', ' if of_original else ''}{of_original}")


def main(*, repeats: int = 40, aa: str = "rand-m7-n4-mstd0.5-inc1") -> None:
    """Time all in turn, on one thread; the n-th call of each sees the same window and the same draws.

    Args:
        repeats: timed calls of each.
        aa: augmentation, as the training flag of that name.
    """
    use_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        film = write_film(Path(folder) / "film.mp4")
        copies = {name: make_copy(film, flags) for name, flags in KINDS.items()}
        for_v2v = {name: make_copy(film, flags) for name, flags in FOR_V2V.items()}
        paths, timed = {ORIGINAL: film, **copies}, partial(compare, repeats=repeats)
        transform = train_transform(AugmentConfig(aa=aa), input_size=SIZE)
        decode_only = TrainClips(CLIP_LEN, STRIDE, None, 1, lambda frames, rng: _shape_of(frames))
        timed("open and decode, stride 4", decode_only, paths, partial(window, count()), target="none")
        few = {name: paths[name] for name in (ORIGINAL, DEFAULT, "copy, --gop 1")}
        for train_fps in (None, 4.0):
            clips = TrainClips(CLIP_LEN, STRIDE, train_fps, 1, transform)
            what = f"training item, {'stride 4' if train_fps is None else '4 fps'}"
            timed(what, clips, few, partial(window, count()), target="at least 3")
        even = EvenClips(CLIP_LEN, SquashTransform(SIZE), decode_size=(SIZE, SIZE))
        spaced = partial(evenly_spaced, clip_len=CLIP_LEN)
        timed("V2V item", even, {**few, **for_v2v}, spaced, target="at least 3")
        views = TestClips(CLIP_LEN, STRIDE, 2, 3, SIZE, SIZE)
        timed("test video, 2 x 3 views", views, few, lambda n: np.arange(0, n, STRIDE), target="none")


def _shape_of(frames: np.ndarray) -> Any:
    """What a transform returns, of no pixels."""
    import torch

    return torch.empty(len(frames))


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

"""A training item, decoding and augmentation apart, beside bare decoding of the same windows.

python tests/benchmarks/benchmark_train_item.py
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Literal

import decord
import numpy as np
import tyro
from benchmarking import Times, say, say_times, time_interleaved, use_threads, write_film

from VideoMAE.config import AugmentConfig
from VideoMAE.data.clip_sampling import random_fps_window, random_window
from VideoMAE.data.clips import TrainClips
from VideoMAE.training.setup import train_transform
from VideoMAE.video.reader import Video

CLIP_LEN, STRIDE, SIZE = 16, 4, 224


def random_indices(num_frames: int, fps: float, train_fps: float | None, rng: np.random.Generator) -> np.ndarray:
    if train_fps is None:
        return random_window(num_frames, clip_len=CLIP_LEN, stride=STRIDE, rng=rng)
    return random_fps_window(num_frames, video_fps=fps, clip_len=CLIP_LEN, clip_fps=train_fps, rng=rng)


def decode(path: Path, train_fps: float | None, seeds: count[int]) -> np.ndarray:
    with Video(path) as video:
        rng = np.random.default_rng(next(seeds))
        return video.frames_at(random_indices(video.num_frames, video.fps, train_fps, rng))


def decode_by_decord(path: Path, train_fps: float | None, seeds: count[int]) -> np.ndarray:
    reader = decord.VideoReader(str(path), num_threads=1)
    rng = np.random.default_rng(next(seeds))
    return reader.get_batch(random_indices(len(reader), reader.get_avg_fps(), train_fps, rng)).asnumpy()


def say_rates(seconds: Times) -> None:
    say_times(seconds)
    for name, values in seconds.items():
        say(f"  {name}: {1 / (sum(values) / len(values)):.1f} clips/s of one core (mean)")


def main(
    *, repeats: int = 40, augment: Literal["exact", "fused"] = "fused", aa: str = "rand-m7-n4-mstd0.5-inc1"
) -> None:
    """Time all in turn, on one thread; the n-th call of each sees the same window and the same draws.

    Args:
        repeats: timed calls of each.
        augment: as the training flag of that name.
        aa: as the training flag of that name.
    """
    use_threads(1)
    transform = train_transform(AugmentConfig(augment=augment, aa=aa), input_size=SIZE)
    with tempfile.TemporaryDirectory() as folder:
        path = write_film(Path(folder) / "film.mp4")
        for train_fps in (4.0, None):
            clips = TrainClips(CLIP_LEN, STRIDE, train_fps, 1, transform)
            frames = decode(path, train_fps, count())
            seeds = {name: count() for name in ("item", "decode", "augment", "floor")}
            seconds = time_interleaved(
                {
                    "training item": lambda clips=clips, n=seeds["item"]: clips(path, np.random.default_rng(next(n))),
                    "open and decode": partial(decode, path, train_fps, seeds["decode"]),
                    "augment": lambda frames=frames, n=seeds["augment"]: transform(
                        frames, np.random.default_rng(next(n))
                    ),
                    "floor: bare decord": partial(decode_by_decord, path, train_fps, seeds["floor"]),
                },
                repeats=repeats,
            )
            say(f"stride {STRIDE}" if train_fps is None else f"{train_fps:g} fps")
            say_rates(seconds)
            item, floor = seconds["training item"], seconds["floor: bare decord"]
            say(f"training item / bare decoding: {median(item) / median(floor):.2f} of medians (no target)")


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

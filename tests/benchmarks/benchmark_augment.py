"""Fused augmentation beside the exact one: how far the pixels differ, what each operation costs, clips per second.

python tests/benchmarks/benchmark_augment.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import copy
from itertools import count
from pathlib import Path
from statistics import mean, median
from time import process_time
from typing import Any

import cv2
import decord
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from benchmarking import Times, say, time_interleaved, use_threads, write_film

from VideoMAE.augment.rand_augment import AppliedOperation, apply_operations
from VideoMAE.augment.video_transforms import IMAGENET_MEAN, IMAGENET_STD, TrainDraw, TrainTransform, erase
from VideoMAE.config import AugmentConfig
from VideoMAE.data.clip_sampling import random_window
from VideoMAE.data.clips import TrainClips
from VideoMAE.training.setup import train_transform
from VideoMAE.video.reader import Video

CLIP_LEN, STRIDE, SIZE = 16, 4, 224
EXACT = train_transform(AugmentConfig(augment="exact"), input_size=SIZE)
FUSED = train_transform(AugmentConfig(augment="fused"), input_size=SIZE)


class WholeFrames(TrainTransform):
    """Exact, with every step done on whole frames, as the original orders them: Pillow frame by frame, then floats."""

    def apply(self, frames: np.ndarray, draw: TrainDraw) -> torch.Tensor:
        top, left, height, width = draw.crop
        clip = torch.from_numpy(apply_operations(frames, draw.operations)).float() / 255
        clip = (clip - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        clip = clip.permute(3, 0, 1, 2)[:, :, top : top + height, left : left + width]
        clip = F.interpolate(clip, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        clip = clip.flip(-1) if draw.flip else clip
        erase(clip, draw.erased, mode=self.random_erasing.mode)
        return clip


def difference(frames: np.ndarray, draw: TrainDraw) -> float:
    """Mean absolute difference of fused and exact, in units of 255, without erasing."""
    draw = draw._replace(erased=[])
    unequal = (EXACT.apply(frames, draw) - FUSED.apply(frames, draw)).abs()
    return float((unequal * torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)).mean()) * 255


def of_level_7(name: str, rng: np.random.Generator) -> AppliedOperation:
    level, sign = 7 + rng.normal() / 2, rng.choice((-1.0, 1.0))
    return AppliedOperation(name, FUSED.rand_augment.level_args(name, level, sign), "bicubic")


def seconds_of(function: Callable[[], Any]) -> float:
    start = process_time()
    function()
    return process_time() - start


def say_operations(frames: np.ndarray, draws: list[TrainDraw]) -> None:
    """A line for each operation, alone and after a rotation, with the crops and flips of the draws."""
    say("difference from exact, of 255 (mean, worst draw), and CPU milliseconds of a frame (exact, fused)")
    say(f"  {'operation':22} {'alone':>14} {'after Rotate':>14} {'milliseconds':>14}")
    rng = np.random.default_rng(0)
    for name in FUSED.rand_augment.names:
        alone, rotated, costs = [], [], []
        for draw in draws:
            draw = draw._replace(operations=[of_level_7(name, rng)], erased=[])
            alone.append(difference(frames, draw))
            costs.append([seconds_of(lambda kind=kind, draw=draw: kind.apply(frames, draw)) for kind in (EXACT, FUSED)])
            rotated.append(difference(frames, draw._replace(operations=[of_level_7("Rotate", rng), *draw.operations])))
        exact, fused = (1000 * mean(column) / len(frames) for column in zip(*costs, strict=True))
        texts = [f"{mean(values):.2f}, {max(values):.2f}" for values in (alone, rotated)]
        say(f"  {name:22} {texts[0]:>14} {texts[1]:>14} {f'{exact:.2f}, {fused:.2f}':>14}")


def say_whole_draws(frames: np.ndarray, draws: list[TrainDraw]) -> None:
    found = [difference(frames, draw) for draw in draws]
    above = sum(value > 3 for value in found)
    say(
        f"whole draws: mean {mean(found):.2f} (target: at most 3), median {median(found):.2f}, worst {max(found):.2f}; "
        f"{above} of {len(found)} are above 3"
    )


def one_warp_and_table(frames: np.ndarray) -> torch.Tensor:
    """As little as a fused augmentation can do to a frame: one affine warp, one table, planes of floats."""
    matrix = np.array([[1.1, 0.2, 3.0], [-0.2, 1.1, 40.0]])
    table = np.arange(256, dtype=np.float32)[np.newaxis]
    clip = torch.empty(3, len(frames), SIZE, SIZE)
    planes = clip.numpy()
    for t, frame in enumerate(frames):
        warped = cv2.warpAffine(frame, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        for channel, plane in enumerate(cv2.split(warped)):
            cv2.LUT(plane, table, dst=planes[channel, t])
    return clip


def time_all(path: Path, frames: np.ndarray, *, repeats: int) -> Times:
    """The n-th call of each sees the same window and the same draws."""

    def seeded(function: Callable[[np.random.Generator], Any]) -> Callable[[], Any]:
        seeds = count()
        return lambda: function(np.random.default_rng(next(seeds)))

    def decode(rng: np.random.Generator) -> np.ndarray:
        reader = decord.VideoReader(str(path), num_threads=1)
        return reader.get_batch(random_window(len(reader), clip_len=CLIP_LEN, stride=STRIDE, rng=rng)).asnumpy()

    whole_frames = copy(EXACT)
    whole_frames.__class__ = WholeFrames
    kinds = {"fused": FUSED, "exact": EXACT, "exact on whole frames": whole_frames}
    items = {name: TrainClips(CLIP_LEN, STRIDE, None, 1, kind) for name, kind in kinds.items()}
    functions = {f"augment, {name}": seeded(lambda rng, kind=kind: kind(frames, rng)) for name, kind in kinds.items()}
    functions |= {f"item, {name}": seeded(lambda rng, item=item: item(path, rng)) for name, item in items.items()}
    functions["floor: one warp and table a frame"] = lambda: one_warp_and_table(frames)
    functions["floor: bare decoding of the windows"] = seeded(decode)
    return time_interleaved(functions, repeats=repeats)


def main(*, repeats: int = 40, draws: int = 60) -> None:
    """Differences first, then all times in turn, on one thread.

    Args:
        repeats: timed calls of each.
        draws: compared draws.
    """
    use_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_film(Path(folder) / "film.mp4")
        with Video(path) as video:
            frames = video.frames_at(np.arange(0, CLIP_LEN * STRIDE, STRIDE))
        drawn = [FUSED.draw(*frames.shape[1:3], np.random.default_rng(seed)) for seed in range(draws)]
        say_operations(frames[:2], drawn[:12])
        say_whole_draws(frames[:2], drawn)
        rates = {name: len(s) / sum(s) for name, s in time_all(path, frames, repeats=repeats).items()}
    for name, rate in rates.items():
        say(f"  {name:36} {rate:6.1f} clips/s of one core (mean)")
    for name, other, target in (
        ("augment, fused", "floor: bare decoding of the windows", "at least 1.85"),
        ("augment, fused", "floor: one warp and table a frame", "the lower bound of the cost is 1"),
        ("augment, fused", "augment, exact", "no target"),
        ("item, fused", "floor: bare decoding of the windows", "at least 0.65"),
        ("item, fused", "item, exact", "at least 3"),
        ("item, fused", "item, exact on whole frames", "at least 3"),
        ("floor: bare decoding of the windows", "item, exact", "no item can be faster than this"),
    ):
        say(f"{name} / {other}: {rates[name] / rates[other]:.2f} ({target})")


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

"""From a video file to the clips a model sees: frames chosen, decoded once, transformed. T frames, H W pixels.

`open_video` is how: with which decoder, knowing what beforehand.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from VideoMAE.augment.video_transforms import SquashTransform, ValidationTransform, crop_views, resize_short_side
from VideoMAE.data import clip_sampling
from VideoMAE.video.reader import Video


def empty_clips(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialized tensor of this shape; in a worker, in shared memory, so that nothing is copied.

    Raises:
        RuntimeError: no room in shared memory.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).resize_(shape)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates tensors (b, ...) -> (B, ...), in a worker in shared memory; a single tensor is returned as is."""
    if len(tensors) == 1:
        return tensors[0]
    room = empty_clips(sum(map(len, tensors)), *tensors[0].shape[1:], dtype=tensors[0].dtype)
    return torch.cat(list(tensors), out=room)


@dataclass(frozen=True)
class TrainClips:
    """`num_sample` augmented copies of one random window, of consecutive frames at `train_fps` or, when None, of
    stride `stride`."""

    clip_len: int
    stride: int
    train_fps: float | None
    num_sample: int
    transform: Callable[[np.ndarray, np.random.Generator], Tensor]
    open_video: Callable[..., Video] = Video

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        """-> (num_sample, 3, T, H, W) float32"""
        with self.open_video(path) as video:
            if self.train_fps is None:
                indices = clip_sampling.random_window(
                    video.num_frames, clip_len=self.clip_len, stride=self.stride, rng=rng
                )
            else:
                indices = clip_sampling.random_fps_window(
                    video.num_frames, video_fps=video.fps, clip_len=self.clip_len, clip_fps=self.train_fps, rng=rng
                )
            frames = video.frames_at(indices)
        clips = [self.transform(frames, rng).unsqueeze(0) for _ in range(self.num_sample)]
        return joined(clips)


@dataclass(frozen=True)
class ValidationClips:
    """One window of the video, drawn by `rng`."""

    clip_len: int
    stride: int
    transform: Callable[[np.ndarray], Tensor]
    open_video: Callable[..., Video] = Video

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        """-> (1, 3, T, H, W) float32"""
        with self.open_video(path) as video:
            indices = clip_sampling.random_window(video.num_frames, clip_len=self.clip_len, stride=self.stride, rng=rng)
            return self.transform(video.frames_at(indices)).unsqueeze(0)


@dataclass(frozen=True)
class EvenClips:
    """Frames evenly over the whole video. With `decode_size` (height, width) the decoder squashes them to it, as the
    reference's does."""

    clip_len: int
    transform: Callable[[np.ndarray, np.random.Generator], Tensor]
    decode_size: tuple[int, int] | None = None
    open_video: Callable[..., Video] = Video

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        """-> (1, 3, T, H, W) float32"""
        with self.open_video(path, size=self.decode_size) as video:
            return self.of(video, rng)

    def of(self, video: Video, rng: np.random.Generator) -> Tensor:
        """The clip of a video that was opened with `decode_size`. -> (1, 3, T, H, W) float32"""
        frames = video.frames_at(clip_sampling.evenly_spaced(video.num_frames, clip_len=self.clip_len))
        return self.transform(frames, rng).unsqueeze(0)


@dataclass(frozen=True)
class IgnoreRng:
    """Adapts a deterministic transform to the interface of a random one."""

    transform: Callable[[np.ndarray], Tensor]

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        return self.transform(frames)


def preference_clips(
    num_frames: int,
    input_size: int,
    *,
    crop: Literal["squash", "center"],
    open_video: Callable[..., Video] = Video,
) -> EvenClips:
    """What V2V's evaluation sees of a video: the whole frame squashed, or the central square."""
    if crop == "center":
        transform = IgnoreRng(ValidationTransform(input_size, input_size))
        return EvenClips(num_frames, transform, open_video=open_video)
    size = (input_size, input_size)
    return EvenClips(num_frames, IgnoreRng(SquashTransform(input_size)), size, open_video)


@dataclass(frozen=True)
class TestClips:
    """Every view of a test video: segments along time, crops along the long side; only frames that some view shows
    are decoded."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    clip_len: int
    stride: int
    num_segments: int
    num_crops: int
    short_side_size: int
    crop_size: int
    open_video: Callable[..., Video] = Video

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        """-> (num_segments x num_crops, 3, T, H, W) float32, segment by segment"""
        with self.open_video(path) as video:
            return self.of(video)

    def of(self, video: Video) -> Tensor:
        """The views of an open video. -> (num_segments x num_crops, 3, T, H, W) float32, segment by segment"""
        strided = clip_sampling.strided_frames(video.num_frames, clip_len=self.clip_len, stride=self.stride)
        starts = clip_sampling.segment_starts(len(strided), num_segments=self.num_segments, clip_len=self.clip_len)
        windows = [strided[start : start + self.clip_len] for start in starts]
        shown, positions = np.unique(np.concatenate(windows), return_inverse=True)
        frames = resize_short_side(video.frames_at(shown), self.short_side_size)
        geometry = clip_sampling.view_geometry(
            len(strided),
            height=frames.shape[1],
            width=frames.shape[2],
            num_segments=self.num_segments,
            num_crops=self.num_crops,
            clip_len=self.clip_len,
            crop_size=self.crop_size,
        )
        crops, axis = [view.crop_start for view in geometry[: self.num_crops]], geometry[0].crop_axis
        views = empty_clips(self.num_segments, self.num_crops, 3, self.clip_len, self.crop_size, self.crop_size)
        for of_segment, out in zip(positions.reshape(self.num_segments, self.clip_len), views, strict=True):
            crop_views(frames[of_segment], self.crop_size, starts=crops, axis=axis, out=out)
        return views.flatten(0, 1)

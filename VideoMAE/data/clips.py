"""Clips of video files, from sampling to transformed pixels, and the datasets of them.

A clip maker samples the frames of a video, decodes them once and transforms them: (path, rng) -> (views, 3, T, H, W)
float32. Its `open_video` is `Video`, or a VideoOpener with a decoder and the known properties of the videos. B clips, P
comparisons, K emotions, T frames, H W pixels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from VideoMAE.augment.video_transforms import SquashTransform, ValidationTransform, crop_views, resize_short_side
from VideoMAE.data import clip_sampling
from VideoMAE.data.v2v import Comparison, video_file_of
from VideoMAE.data.vce import Annotations
from VideoMAE.video.reader import UnreadableVideoError, Video

MakeClips = Callable[[Path, np.random.Generator], Tensor]


def empty_clips(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialized tensor; in a loader worker, in shared memory. Raises RuntimeError if that is full."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).resize_(shape)


def concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates tensors (b, ...) into `empty_clips`, -> (B, ...); a single tensor is returned as is."""
    if len(tensors) == 1:
        return tensors[0]
    out = empty_clips(sum(map(len, tensors)), *tensors[0].shape[1:], dtype=tensors[0].dtype)
    return torch.cat(list(tensors), out=out)


@dataclass(frozen=True)
class TrainClips:
    """`num_sample` augmented copies of one random window, of consecutive frames of the video resampled to `train_fps`,
    or of every `stride`-th frame if that is None."""

    clip_len: int
    stride: int
    train_fps: float | None
    num_sample: int
    transform: Callable[[np.ndarray, np.random.Generator], Tensor]
    open_video: Callable[..., Video] = Video

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        with self.open_video(path) as video:
            num, length = video.num_frames, self.clip_len
            if self.train_fps is None:
                indices = clip_sampling.random_window(num, clip_len=length, stride=self.stride, rng=rng)
            else:
                indices = clip_sampling.random_fps_window(
                    num, video_fps=video.fps, clip_len=length, clip_fps=self.train_fps, rng=rng
                )
            frames = video.frames_at(indices)
        return concatenate([self.transform(frames, rng).unsqueeze(0) for _ in range(self.num_sample)])


@dataclass(frozen=True)
class ValidationClips:
    """One random window."""

    clip_len: int
    stride: int
    transform: Callable[[np.ndarray], Tensor]
    open_video: Callable[..., Video] = Video

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        with self.open_video(path) as video:
            indices = clip_sampling.random_window(video.num_frames, clip_len=self.clip_len, stride=self.stride, rng=rng)
            return self.transform(video.frames_at(indices)).unsqueeze(0)


@dataclass(frozen=True)
class EvenClips:
    """One clip of frames evenly spaced over the whole video.

    The decoder resizes frames to `decode_size` (height, width), as in the original V2V code. None: full size.
    """

    clip_len: int
    transform: Callable[[np.ndarray, np.random.Generator], Tensor]
    decode_size: tuple[int, int] | None = None
    open_video: Callable[..., Video] = Video

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        with self.open_video(path, size=self.decode_size) as video:
            return self.from_video(video, rng)

    def from_video(self, video: Video, rng: np.random.Generator) -> Tensor:
        """The clip of a video opened with `decode_size`, -> (1, 3, T, H, W) float32."""
        frames = video.frames_at(clip_sampling.evenly_spaced(video.num_frames, clip_len=self.clip_len))
        return self.transform(frames, rng).unsqueeze(0)


def preference_clips(
    num_frames: int, input_size: int, *, crop: Literal["squash", "center"], open_video: Callable[..., Video] = Video
) -> EvenClips:
    """V2V's evaluation clips: the whole frame squashed to a square, or the central square."""
    if crop == "center":
        return EvenClips(num_frames, ValidationTransform(input_size, input_size), open_video=open_video)
    return EvenClips(num_frames, SquashTransform(input_size), (input_size, input_size), open_video)


@dataclass(frozen=True)
class TestClips:
    """Every view of a test video: segments along time x crops along the long side. Decodes each frame once."""

    __test__ = False  # not a test case of pytest

    clip_len: int
    stride: int
    num_segments: int
    num_crops: int
    short_side_size: int
    crop_size: int
    open_video: Callable[..., Video] = Video

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        with self.open_video(path) as video:
            return self.from_video(video)

    def from_video(self, video: Video) -> Tensor:
        """The views of an open video, -> (num_segments x num_crops, 3, T, H, W) float32, segment by segment."""
        strided = clip_sampling.strided_frames(video.num_frames, clip_len=self.clip_len, stride=self.stride)
        starts = clip_sampling.segment_starts(len(strided), num_segments=self.num_segments, clip_len=self.clip_len)
        windows = [strided[start : start + self.clip_len] for start in starts]
        used, positions = np.unique(np.concatenate(windows), return_inverse=True)
        frames = resize_short_side(video.frames_at(used), self.short_side_size)
        height, width = frames.shape[1:3]
        crops = clip_sampling.crop_starts(max(height, width), num_crops=self.num_crops, crop_size=self.crop_size)
        views = empty_clips(self.num_segments, self.num_crops, 3, self.clip_len, self.crop_size, self.crop_size)
        axis = clip_sampling.crop_axis(height, width)
        for segment, out in zip(positions.reshape(self.num_segments, self.clip_len), views, strict=True):
            crop_views(frames[segment], self.crop_size, starts=crops, axis=axis, out=out)
        return views.flatten(0, 1)


class Sample(NamedTuple):
    """One video."""

    position: int
    clips: Tensor | None  # (views, 3, T, H, W) float32; None in evaluation if the video is unreadable
    targets: Tensor  # intensities (K,) float32
    skipped: dict[str, str]  # unreadable videos: id -> reason


class SampleKey(NamedTuple):
    """The key of a training sample. Random draws depend on it and the seed only."""

    position: int
    epoch: int


class _ClipDataset(Dataset[Sample]):
    def __init__(self, annotations: Annotations, *, make_clips: MakeClips, seed: int) -> None:
        self.annotations, self.make_clips, self.seed = annotations, make_clips, seed

    def __len__(self) -> int:
        return len(self.annotations.ids)


class TrainDataset(_ClipDataset):
    """Random clips; `dataset[SampleKey(index, epoch)]` depends on the key and the seed only.

    An unreadable video is replaced by the next readable one and reported in `skipped`.
    """

    def __getitem__(self, key: SampleKey) -> Sample:
        skipped: dict[str, str] = {}
        for offset in range(len(self)):
            index = (key.position + offset) % len(self)
            rng = np.random.default_rng((self.seed, key.epoch, index))
            try:
                clips = self.make_clips(self.annotations.paths[index], rng)
            except UnreadableVideoError as error:
                skipped[self.annotations.ids[index]] = error.reason
                continue
            return Sample(index, clips, torch.from_numpy(self.annotations.intensities[index]), skipped)
        raise ValueError(f"none of the {len(self)} training videos can be read: {next(iter(skipped.values()))}")


class EvaluationDataset(_ClipDataset):
    """The same clips of each video at every call. An unreadable video is not replaced."""

    def __getitem__(self, index: int) -> Sample:
        targets = torch.from_numpy(self.annotations.intensities[index])
        try:
            clips = self.make_clips(self.annotations.paths[index], np.random.default_rng((self.seed, index)))
        except UnreadableVideoError as error:
            return Sample(index, None, targets, {self.annotations.ids[index]: error.reason})
        return Sample(index, clips, targets, {})


class ComparisonSample(NamedTuple):
    """The clips of one comparison, from least to most preferred."""

    position: int
    clips: Tensor  # (videos, 3, T, H, W) float32; blank for an unreadable video
    weight: float  # 0 for a comparison with an unreadable video, else 1
    skipped: dict[str, str]  # unreadable videos: id -> reason


class ComparisonBatch(NamedTuple):
    """The clips of P comparisons, concatenated. B = all their videos."""

    clips: Tensor  # (B, 3, T, H, W), see loaders.Batch
    lengths: tuple[int, ...]  # (P,): videos in each comparison
    weights: Tensor  # (P,) float32
    indices: Tensor  # (P,) int64, positions in the dataset
    skipped: dict[str, str]


def collate_comparisons(samples: Sequence[ComparisonSample]) -> ComparisonBatch:
    return ComparisonBatch(
        clips=concatenate([sample.clips for sample in samples]),
        lengths=tuple(len(sample.clips) for sample in samples),
        weights=torch.tensor([sample.weight for sample in samples]),
        indices=torch.tensor([sample.position for sample in samples]),
        skipped={key: reason for sample in samples for key, reason in sample.skipped.items()},
    )


class ComparisonDataset(Dataset[ComparisonSample]):
    """The clips of each comparison's videos; `dataset[SampleKey(index, epoch)]` depends on the key and the seed only.

    The clip of an unreadable video is `blank`, (1, 3, T, H, W).
    """

    def __init__(
        self, comparisons: Sequence[Comparison], root: Path, *, make_clips: MakeClips, blank: Tensor, seed: int
    ) -> None:
        self.comparisons, self.root = comparisons, root
        self.make_clips, self.blank, self.seed = make_clips, blank, seed

    def __len__(self) -> int:
        return len(self.comparisons)

    def __getitem__(self, key: SampleKey) -> ComparisonSample:
        clips: list[Tensor] = []
        skipped: dict[str, str] = {}
        for rank, video in enumerate(self.comparisons[key.position]):
            rng = np.random.default_rng((self.seed, key.epoch, key.position, rank))
            try:
                clips.append(self.make_clips(self.root / video_file_of(video), rng))
            except UnreadableVideoError as error:
                skipped[video] = error.reason
                clips.append(self.blank)
        return ComparisonSample(key.position, concatenate(clips), 0.0 if skipped else 1.0, skipped)

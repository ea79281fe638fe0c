"""Clips of videos that have no labels: whole videos as the tests of VCE and V2V see them, and windows that slide over
one. T frames, H W pixels, S side of a clip, N windows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

from VideoMAE.augment.video_transforms import crop_views, resize_short_side
from VideoMAE.data import clip_sampling
from VideoMAE.data.clips import EvenClips, TestClips
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.video.reader import UnreadableVideoError, Video


class VideoClips(NamedTuple):
    """What networks need of one video, and how long it is; `error` says why it could not be read, and then there is
    nothing else."""

    emotion: Tensor | None  # (views, 3, T, S, S) float32, where VCE's clips are wanted
    preference: Tensor | None  # (1, 3, T, S, S) float32, where V2V's are
    duration_seconds: float | None
    error: str | None = None


@dataclass(frozen=True)
class ReadClips:
    """The clips of a video for VCE's network, for V2V's, or for both; no chance has a part in them."""

    emotion: TestClips | None
    preference: EvenClips | None

    def __call__(self, path: Path, rng: np.random.Generator) -> VideoClips:
        """Raises UnreadableVideoError."""
        emotion = preference = None
        duration_seconds = 0.0
        if self.emotion is not None:
            with Video(path) as video:
                emotion, duration_seconds = self.emotion.of(video), video.info.duration_seconds
        if self.preference is not None:
            with Video(path, size=self.preference.decode_size) as video:
                preference, duration_seconds = self.preference.of(video, rng), video.info.duration_seconds
        return VideoClips(emotion, preference, duration_seconds)


class _Videos(Dataset[VideoClips]):
    """The clips of each video, or why there are none."""

    def __init__(self, paths: Sequence[Path], make_clips: Callable[[Path, np.random.Generator], VideoClips]) -> None:
        self.paths, self.make_clips = paths, make_clips

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> VideoClips:
        try:
            return self.make_clips(self.paths[index], np.random.default_rng(0))
        except UnreadableVideoError as error:
            return VideoClips(None, None, None, error.reason)


def read_videos(
    paths: Iterable[Path], clips: ReadClips, *, num_workers: int, decode_seconds: float
) -> Iterator[tuple[Path, VideoClips]]:
    """The clips of each video in turn.

    Without workers a video is read when it is asked for. Workers read ahead, and one that is at a video for longer than
    `decode_seconds` is ended, see WatchedLoader; they need the main thread, since signals do.
    """
    if not num_workers:
        for path in paths:
            yield path, _Videos([path], clips)[0]
        return
    videos = _Videos(list(paths), clips)
    loader = WatchedLoader(
        videos,
        BatchSampler(SequentialSampler(videos), 1, drop_last=False),
        num_workers=min(num_workers, max(len(videos), 1)),
        pin_memory=False,
        collate_fn=_only,
        decode_seconds=decode_seconds,
    )
    yield from zip(videos.paths, loader, strict=True)


def _only(samples: Sequence[VideoClips]) -> VideoClips:
    return samples[0]


def emotion_windows(video: Video, clips: TestClips, starts: np.ndarray, *, window_frames: float) -> Iterator[Tensor]:
    """VCE's crops of each window that begins at `starts` (N,), in frames; -> (num_crops, 3, T, S, S) float32 each."""
    indices = clip_sampling.strided_in_windows(
        starts, num_frames=video.num_frames, window_frames=window_frames, clip_len=clips.clip_len
    )
    for frames in _frames_of_windows(video, indices, partial(resize_short_side, size=clips.short_side_size)):
        height, width = frames.shape[1:3]
        crops = clip_sampling.crop_starts(max(height, width), num_crops=clips.num_crops, crop_size=clips.crop_size)
        yield crop_views(frames, clips.crop_size, crops, axis="width" if width > height else "height")


def preference_windows(video: Video, clips: EvenClips, starts: np.ndarray, *, window_frames: float) -> Iterator[Any]:
    """V2V's clip of each window, of a video opened with its `decode_size`; -> (1, 3, T, S, S) float32 each."""
    indices = clip_sampling.even_in_windows(
        starts, num_frames=video.num_frames, window_frames=window_frames, clip_len=clips.clip_len
    )
    for frames in _frames_of_windows(video, indices, _unchanged):
        yield clips.transform(frames, np.random.default_rng(0)).unsqueeze(0)


def _frames_of_windows(
    video: Video, indices: np.ndarray, resize: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """The frames that each row of `indices` (N, T) names, resized; the video is decoded once, and the frames of one
    window are held. -> (T, h, w, 3) uint8 each"""
    shown = np.unique(indices)
    coming = zip(shown.tolist(), video.iterate(shown), strict=True)
    held: dict[int, np.ndarray] = {}
    for row in indices.tolist():
        held = {index: frame for index, frame in held.items() if index >= row[0]}
        while row[-1] not in held:
            index, frame = next(coming)
            held[index] = resize(frame[None])[0]
        yield np.stack([held[index] for index in row])


def _unchanged(frames: np.ndarray) -> np.ndarray:
    return frames

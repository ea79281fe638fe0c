"""Clips of unlabelled videos: the test clips of VCE and V2V, and the clips of a sliding window.

T frames, H W pixels, S side of a clip, N windows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

from VideoMAE.augment.video_transforms import crop_views, resize_short_side
from VideoMAE.data import clip_sampling
from VideoMAE.data.clips import EvenClips, TestClips
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.video.reader import UnreadableVideoError, Video


class VideoClips(NamedTuple):
    """The test clips of one video. If it cannot be read, `error` is the reason and everything else is None."""

    emotion: Tensor | None  # VCE: (views, 3, T, S, S) float32
    preference: Tensor | None  # V2V: (1, 3, T, S, S) float32
    duration_seconds: float | None
    error: str | None = None


@dataclass(frozen=True)
class ClipReader:
    """Reads the clips of a video for a VCE network, a V2V network, or both. None: not needed."""

    emotion: TestClips | None
    preference: EvenClips | None

    def __call__(self, path: Path, rng: np.random.Generator) -> VideoClips:
        """Raises UnreadableVideoError. The clips do not depend on `rng`."""
        emotion = preference = None
        duration_seconds = 0.0
        if self.emotion is not None:
            with Video(path) as video:
                emotion, duration_seconds = self.emotion.from_video(video), video.info.duration_seconds
        if self.preference is not None:
            with Video(path, size=self.preference.decode_size) as video:
                preference, duration_seconds = self.preference.from_video(video, rng), video.info.duration_seconds
        return VideoClips(emotion, preference, duration_seconds)


class _VideoDataset(Dataset[VideoClips]):
    """One item per video. WatchedLoader replaces `make_clips`."""

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
    paths: Iterable[Path], reader: ClipReader, *, num_workers: int, decode_seconds: float
) -> Iterator[tuple[Path, VideoClips]]:
    """The clips of each video, in order.

    Without workers, a video is read when it is requested. Workers read in advance and are killed if they spend more
    than `decode_seconds` on a video (see WatchedLoader), which sets signal handlers and so needs the main thread.
    """
    if not num_workers:
        for path in paths:
            yield path, _VideoDataset([path], reader)[0]
        return
    videos = _VideoDataset(list(paths), reader)
    loader = WatchedLoader(
        videos,
        BatchSampler(SequentialSampler(videos), 1, drop_last=False),
        num_workers=min(num_workers, max(len(videos), 1)),
        pin_memory=False,
        collate_fn=_single,
        decode_seconds=decode_seconds,
    )
    yield from zip(videos.paths, loader, strict=True)


def _single(samples: Sequence[VideoClips]) -> VideoClips:
    """The collate function of batches of one."""
    return samples[0]


def emotion_windows(video: Video, clips: TestClips, starts: np.ndarray, *, window_frames: float) -> Iterator[Tensor]:
    """VCE's crops of each window, -> N x (num_crops, 3, T, S, S) float32.

    Args:
        starts: first frame of each window, (N,).
    """
    indices = clip_sampling.strided_in_windows(
        starts, num_frames=video.num_frames, window_frames=window_frames, clip_len=clips.clip_len
    )
    for frames in _frames_of_windows(video, indices, partial(resize_short_side, size=clips.short_side_size)):
        height, width = frames.shape[1:3]
        crops = clip_sampling.crop_starts(max(height, width), num_crops=clips.num_crops, crop_size=clips.crop_size)
        yield crop_views(frames, clips.crop_size, crops, axis=clip_sampling.crop_axis(height, width))


def preference_windows(video: Video, clips: EvenClips, starts: np.ndarray, *, window_frames: float) -> Iterator[Tensor]:
    """V2V's clip of each window of a video opened with `clips.decode_size`, -> N x (1, 3, T, S, S) float32."""
    indices = clip_sampling.even_in_windows(
        starts, num_frames=video.num_frames, window_frames=window_frames, clip_len=clips.clip_len
    )
    for frames in _frames_of_windows(video, indices, lambda frames: frames):
        yield clips.transform(frames, np.random.default_rng(0)).unsqueeze(0)


def _frames_of_windows(
    video: Video, indices: np.ndarray, resize: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """The resized frames of each row of `indices` (N, T), -> N x (T, h, w, 3) uint8.

    The video is decoded once; only the frames of one window are kept in memory.
    """
    wanted = np.unique(indices)
    decoded = zip(wanted.tolist(), video.iterate(wanted), strict=True)
    frames: dict[int, np.ndarray] = {}
    for row in indices.tolist():
        frames = {index: frame for index, frame in frames.items() if index >= row[0]}
        while row[-1] not in frames:
            index, frame = next(decoded)
            frames[index] = resize(frame[None])[0]
        yield np.stack([frames[index] for index in row])

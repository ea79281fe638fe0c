"""Clips of unlabelled videos: the test clips of VCE and V2V, and the clips of a sliding window.

T frames, H W pixels, S side of a clip, N windows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

from VideoMAE.augment.video_transforms import crop_views, resize_short_side
from VideoMAE.data import clip_sampling
from VideoMAE.data.clips import EvenClips, TestClips
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.inference.config import InferenceFlags
from VideoMAE.inference.load import TaskName
from VideoMAE.video.reader import UnreadableVideoError, Video


class VideoClips(NamedTuple):
    """The test clips of one video. If it cannot be read, `error` is the reason and everything else is None."""

    vce: Tensor | None  # (views, 3, T, S, S) float32; None if not needed
    v2v: Tensor | None  # (1, 3, T, S, S) float32; None if not needed
    duration_seconds: float | None
    error: str | None = None


def open_video(path: Path, clips: TestClips | EvenClips) -> Video:
    """Opens a video with the size of frames that the clips need."""
    return Video(path, size=clips.decode_size if isinstance(clips, EvenClips) else None)


def _read(clips_of_tasks: Mapping[TaskName, TestClips | EvenClips], path: Path, rng: np.random.Generator) -> VideoClips:
    found: dict[TaskName, Tensor] = {}
    for task, clips in clips_of_tasks.items():
        with open_video(path, clips) as video:
            found[task] = clips.from_video(video, rng) if isinstance(clips, EvenClips) else clips.from_video(video)
            duration_seconds = video.info.duration_seconds
    return VideoClips(found.get("vce"), found.get("v2v"), duration_seconds)


class _VideoDataset(Dataset[VideoClips]):
    """One item per video. WatchedLoader replaces `make_clips`."""

    def __init__(self, paths: Sequence[Path], clips: Mapping[TaskName, TestClips | EvenClips]) -> None:
        self.paths, self.make_clips = paths, partial(_read, clips)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> VideoClips:
        try:
            return self.make_clips(self.paths[index], np.random.default_rng(0))
        except UnreadableVideoError as error:
            return VideoClips(None, None, None, error.reason)


def read_videos(
    paths: Iterable[Path], clips: Mapping[TaskName, TestClips | EvenClips], flags: InferenceFlags
) -> Iterator[tuple[Path, VideoClips]]:
    """The clips of each video, in order.

    Without workers, a video is read when it is requested. Workers read in advance and are killed if they spend more
    than --decode_seconds on a video (see WatchedLoader), which sets signal handlers and so needs the main thread.
    """
    if not flags.num_workers:
        for path in paths:
            yield path, _VideoDataset([path], clips)[0]
        return
    videos = _VideoDataset(list(paths), clips)
    loader = WatchedLoader(
        videos,
        BatchSampler(SequentialSampler(videos), 1, drop_last=False),
        num_workers=min(flags.num_workers, max(len(videos), 1)),
        pin_memory=False,
        collate_fn=itemgetter(0),
        decode_seconds=flags.decode_seconds,
    )
    yield from zip(videos.paths, loader, strict=True)


def window_clips(
    video: Video, clips: TestClips | EvenClips, starts: np.ndarray, *, window_frames: float
) -> Iterator[Tensor]:
    """VCE's crops or V2V's clip of each window of a video, -> N x (num_crops or 1, 3, T, S, S) float32.

    `starts` (N,) are the first frames. The video is decoded once; only the frames of one window are kept in memory.
    """
    choose = clip_sampling.strided_in_windows if isinstance(clips, TestClips) else clip_sampling.even_in_windows
    indices = choose(starts, num_frames=video.num_frames, window_frames=window_frames, clip_len=clips.clip_len)
    wanted = np.unique(indices)
    decoded = zip(wanted.tolist(), video.iterate(wanted), strict=True)
    kept: dict[int, np.ndarray] = {}
    for row in indices.tolist():
        kept = {index: frame for index, frame in kept.items() if index >= row[0]}
        while row[-1] not in kept:
            index, frame = next(decoded)
            kept[index] = (
                resize_short_side(frame[None], clips.short_side_size)[0] if isinstance(clips, TestClips) else frame
            )
        frames = np.stack([kept[index] for index in row])
        if isinstance(clips, EvenClips):
            yield clips.transform(frames, np.random.default_rng(0)).unsqueeze(0)
            continue
        height, width = frames.shape[1:3]
        crops = clip_sampling.crop_starts(max(height, width), num_crops=clips.num_crops, crop_size=clips.crop_size)
        yield crop_views(frames, clips.crop_size, crops, axis=clip_sampling.crop_axis(height, width))

"""Which frames of a video make a clip: pure index arithmetic, no pixels, no files.

Every function returns frame indices as int64. N frames in the video, T frames in the clip.
"""

from typing import Literal, NamedTuple

import numpy as np


def random_window(num_frames: int, *, clip_len: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """T frames spread over a window of T x stride frames at a random place. -> (T,) int64

    `num_frames=100, clip_len=4, stride=4`, window ending at 40 -> [24, 29, 34, 39]. The end is uniform in [T x
    stride, N). A video not longer than a window gives its frames at about the stride and then its last frame:
    `num_frames=9, clip_len=4, stride=4` -> [0, 8, 8, 8]. Source: the reference's training and validation sampling.
    """
    window = clip_len * stride
    if num_frames <= window:
        return window_indices(num_frames, clip_len=clip_len, stride=stride, end=None)
    return window_indices(num_frames, clip_len=clip_len, stride=stride, end=int(rng.integers(window, num_frames)))


def window_indices(num_frames: int, *, clip_len: int, stride: int, end: int | None) -> np.ndarray:
    """The frames of `random_window` for a given window end (None: the video is not longer than a window). -> (T,)
    int64"""
    if end is None:
        spread = np.linspace(0, num_frames, num=num_frames // stride)
        indices = np.concatenate((spread, np.full(clip_len - len(spread), num_frames)))
        return np.clip(indices, 0, num_frames - 1).astype(np.int64)
    start = end - clip_len * stride
    return np.clip(np.linspace(start, end, num=clip_len), start, end - 1).astype(np.int64)


def num_fps_windows(num_frames: int, *, video_fps: float, clip_len: int, clip_fps: float) -> int:
    """How many windows of T consecutive frames the video has after resampling to `clip_fps`; 0 when it is too short."""
    return max(int(num_frames * clip_fps / video_fps) - clip_len + 1, 0)


def random_fps_window(
    num_frames: int, *, video_fps: float, clip_len: int, clip_fps: float, rng: np.random.Generator
) -> np.ndarray:
    """T consecutive frames of the video resampled to `clip_fps`, every window equally likely. -> (T,) int64

    `num_frames=60, video_fps=30, clip_len=4, clip_fps=4`, window 1 -> [7, 15, 22, 30]: resampled frame k is frame
    floor(k x 30 / 4).

    Raises:
        ValueError: the video is shorter than T / clip_fps seconds.
    """
    num_windows = num_fps_windows(num_frames, video_fps=video_fps, clip_len=clip_len, clip_fps=clip_fps)
    if not num_windows:
        raise ValueError(
            f"{num_frames} frames at {video_fps:g} fps are too few for a clip of {clip_len} frames at {clip_fps:g} fps"
        )
    steps = np.arange(clip_len) + rng.integers(num_windows)
    return np.minimum(np.floor(steps * video_fps / clip_fps), num_frames - 1).astype(np.int64)


def strided_frames(num_frames: int, *, clip_len: int, stride: int) -> np.ndarray:
    """Frames 0, stride, 2 x stride, ... of the whole video, the last repeated up to T. -> (at least T,) int64

    `num_frames=10, clip_len=4, stride=4` -> [0, 4, 8, 8].
    """
    indices = np.arange(0, num_frames, stride, dtype=np.int64)
    return np.concatenate((indices, np.full(max(clip_len - len(indices), 0), indices[-1])))


def evenly_spaced(num_frames: int, *, clip_len: int) -> np.ndarray:
    """T frames from the first to the last, rounded to the nearest. -> (T,) int64

    `num_frames=10, clip_len=3` -> [0, 4, 9].
    """
    return np.round(np.linspace(0, num_frames - 1, clip_len)).astype(np.int64)


class ViewGeometry(NamedTuple):
    """One view of a test video: where its frames begin among the strided ones, and where its square crop begins."""

    first_frame: int
    crop_start: int
    crop_axis: Literal["height", "width"]


def segment_starts(num_strided: int, *, num_segments: int, clip_len: int) -> list[int]:
    """First strided frame of each segment, spread from the start to the end of the video; a single one is in the
    middle.

    `num_strided=40, num_segments=2, clip_len=16` -> [0, 24].
    """
    slack = max(num_strided - clip_len, 0)
    if num_segments == 1:
        return [slack // 2]
    return [int(segment * (slack / (num_segments - 1))) for segment in range(num_segments)]


def crop_starts(long_side: int, *, num_crops: int, crop_size: int) -> list[int]:
    """First pixel of each crop along the long side, from one end to the other; a single one is in the middle.

    `long_side=48, num_crops=3, crop_size=32` -> [0, 8, 16].
    """
    slack = long_side - crop_size
    if num_crops == 1:
        return [slack // 2]
    return [int(crop * (slack / (num_crops - 1))) for crop in range(num_crops)]


def view_geometry(
    num_strided: int, *, height: int, width: int, num_segments: int, num_crops: int, clip_len: int, crop_size: int
) -> list[ViewGeometry]:
    """The views of a test video in order (segment 0: crop 0, 1, ...; segment 1: ...); height and width after
    resizing."""
    axis: Literal["height", "width"] = "width" if width > height else "height"
    return [
        ViewGeometry(first_frame, crop_start, axis)
        for first_frame in segment_starts(num_strided, num_segments=num_segments, clip_len=clip_len)
        for crop_start in crop_starts(max(height, width), num_crops=num_crops, crop_size=crop_size)
    ]


def sliding_starts(num_frames: int, *, window_frames: float, hop_frames: float) -> np.ndarray:
    """Where windows begin that slide over a video as long as they fit in; a single one, at 0, when none does. -> (N,)
    float64 frames

    `num_frames=10, window_frames=4, hop_frames=3` -> [0, 3, 6].
    """
    hop_frames = max(hop_frames, 1.0)
    return hop_frames * np.arange(1 + int(max(num_frames - window_frames, 0) / hop_frames + 1e-6))


def strided_in_windows(starts: np.ndarray, *, num_frames: int, window_frames: float, clip_len: int) -> np.ndarray:
    """T frames of each window, a T-th of it apart, the video's last one repeated beyond its end. -> (N, T) int64

    With a window of T x stride frames a row has the frames that `strided_frames` has from its start on: `starts=[0, 3],
    num_frames=10, window_frames=8, clip_len=2` -> [[0, 4], [3, 7]].
    """
    offsets = np.arange(clip_len) * window_frames / clip_len
    return np.minimum(np.floor(starts[:, None] + offsets + 1e-6), num_frames - 1).astype(np.int64)


def even_in_windows(starts: np.ndarray, *, num_frames: int, window_frames: float, clip_len: int) -> np.ndarray:
    """T frames of each window from its first to its last, as `evenly_spaced` takes them of a whole video. -> (N, T)
    int64"""
    offsets = np.linspace(0, min(window_frames, num_frames) - 1, clip_len)
    return np.clip(np.round(starts[:, None] + offsets), 0, num_frames - 1).astype(np.int64)

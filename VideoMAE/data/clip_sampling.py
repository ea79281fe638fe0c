"""Frame indices and crop positions of clips: arithmetic without pixels or files.

N frames in the video, T frames in the clip, W windows; frame indices are int64.
"""

from typing import Literal

import numpy as np


def random_window(num_frames: int, *, clip_len: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """T frames of a random window of T x stride frames, whose end is uniform in [T x stride, N), -> (T,) int64.

    Window ending at 40, `clip_len=4, stride=4` -> [24, 29, 34, 39]. A video that is not longer than a window yields
    frames at about the stride, padded with the last frame: `num_frames=9, clip_len=4, stride=4` -> [0, 8, 8, 8].
    Source: the original's training and validation sampling.
    """
    window = clip_len * stride
    end = int(rng.integers(window, num_frames)) if num_frames > window else None
    return window_indices(num_frames, clip_len=clip_len, stride=stride, end=end)


def window_indices(num_frames: int, *, clip_len: int, stride: int, end: int | None) -> np.ndarray:
    """The frames of a window that ends at `end` (None: the video is not longer than a window), -> (T,) int64."""
    if end is None:
        spread = np.linspace(0, num_frames, num=num_frames // stride)
        indices = np.concatenate((spread, np.full(clip_len - len(spread), num_frames)))
        return np.clip(indices, 0, num_frames - 1).astype(np.int64)
    start = end - clip_len * stride
    return np.clip(np.linspace(start, end, num=clip_len), start, end - 1).astype(np.int64)


def num_fps_windows(num_frames: int, *, video_fps: float, clip_len: int, clip_fps: float) -> int:
    """The number of windows of T consecutive frames in the video resampled to `clip_fps`; 0 if it is too short."""
    return max(int(num_frames * clip_fps / video_fps) - clip_len + 1, 0)


def random_fps_window(
    num_frames: int, *, video_fps: float, clip_len: int, clip_fps: float, rng: np.random.Generator
) -> np.ndarray:
    """T consecutive frames of the video resampled to `clip_fps`, from a random window, -> (T,) int64.

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
    """Frames 0, stride, 2 x stride, ... of the video, padded with the last of them to T, -> (at least T,) int64.

    `num_frames=10, clip_len=4, stride=4` -> [0, 4, 8, 8].
    """
    indices = np.arange(0, num_frames, stride, dtype=np.int64)
    return np.concatenate((indices, np.full(max(clip_len - len(indices), 0), indices[-1])))


def evenly_spaced(num_frames: int, *, clip_len: int) -> np.ndarray:
    """T frames from the first to the last, rounded to the nearest, -> (T,) int64.

    `num_frames=10, clip_len=3` -> [0, 4, 9].
    """
    return np.round(np.linspace(0, num_frames - 1, clip_len)).astype(np.int64)


def segment_starts(num_strided: int, *, num_segments: int, clip_len: int) -> list[int]:
    """The first strided frame of each segment, from the start to the end of the video; a single one is centered.

    `num_strided=40, num_segments=2, clip_len=16` -> [0, 24].
    """
    return _spread(max(num_strided - clip_len, 0), num_segments)


def crop_starts(long_side: int, *, num_crops: int, crop_size: int) -> list[int]:
    """The first pixel of each crop along the long side, from one end to the other; a single one is centered.

    `long_side=48, num_crops=3, crop_size=32` -> [0, 8, 16].
    """
    return _spread(long_side - crop_size, num_crops)


def _spread(slack: int, number: int) -> list[int]:
    """Positions from 0 to `slack`; the middle if there is one."""
    if number == 1:
        return [slack // 2]
    return [int(position * (slack / (number - 1))) for position in range(number)]


def crop_axis(height: int, width: int) -> Literal["height", "width"]:
    """The long side of a frame, along which crops are taken; height for a square."""
    return "width" if width > height else "height"


def sliding_starts(num_frames: int, *, window_frames: float, hop_frames: float) -> np.ndarray:
    """The first frame of each window inside the video, -> (W,) float64; [0] if the video is shorter than a window.

    `num_frames=10, window_frames=4, hop_frames=3` -> [0, 3, 6]. Hops are at least one frame.
    """
    hop_frames = max(hop_frames, 1.0)
    return hop_frames * np.arange(1 + int(max(num_frames - window_frames, 0) / hop_frames + 1e-6))


def strided_in_windows(starts: np.ndarray, *, num_frames: int, window_frames: float, clip_len: int) -> np.ndarray:
    """T frames of each window, window_frames / T apart, padded with the video's last frame, -> (W, T) int64.

    A window of T x stride frames has the same frames as `strided_frames` of the video from its start:
    `starts=[0, 3], num_frames=10, window_frames=8, clip_len=2` -> [[0, 4], [3, 7]].
    """
    offsets = np.arange(clip_len) * window_frames / clip_len
    return np.minimum(np.floor(starts[:, None] + offsets + 1e-6), num_frames - 1).astype(np.int64)


def even_in_windows(starts: np.ndarray, *, num_frames: int, window_frames: float, clip_len: int) -> np.ndarray:
    """`evenly_spaced` frames of each window, -> (W, T) int64."""
    offsets = np.linspace(0, min(window_frames, num_frames) - 1, clip_len)
    return np.clip(np.round(starts[:, None] + offsets), 0, num_frames - 1).astype(np.int64)

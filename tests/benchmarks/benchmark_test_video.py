"""A test video with 2 x 3 views against one strided decode of the whole video.

python tests/benchmarks/benchmark_test_video.py
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import decord
import numpy as np
import torch
import tyro
from benchmarking import say, say_ratio, say_times, time_interleaved, use_threads, write_film

from VideoMAE.data.clip_sampling import crop_starts, segment_starts, strided_frames
from VideoMAE.data.clips import TestClips
from VideoMAE.data.video_reader import Video
from VideoMAE.data.video_transforms import crop_views, resize_short_side

CLIP_LEN, STRIDE, NUM_SEGMENTS, NUM_CROPS, SIZE = 16, 4, 2, 3, 224


def strided_decode(path: Path) -> np.ndarray:
    with Video(path) as video:
        return video.frames_at(strided_frames(video.num_frames, clip_len=CLIP_LEN, stride=STRIDE))


def strided_decode_by_decord(path: Path) -> np.ndarray:
    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(np.arange(0, len(reader), STRIDE)).asnumpy()


def decode_shown(path: Path) -> np.ndarray:
    """The frames that some view shows, opening included."""
    with Video(path) as video:
        strided = strided_frames(video.num_frames, clip_len=CLIP_LEN, stride=STRIDE)
        starts = segment_starts(len(strided), num_segments=NUM_SEGMENTS, clip_len=CLIP_LEN)
        return video.frames_at(np.unique(np.concatenate([strided[start : start + CLIP_LEN] for start in starts])))


def open_only(path: Path) -> None:
    Video(path).close()


def crop(frames: np.ndarray) -> torch.Tensor:
    starts = crop_starts(max(frames.shape[1:3]), num_crops=NUM_CROPS, crop_size=SIZE)
    views = torch.empty(NUM_SEGMENTS, NUM_CROPS, 3, CLIP_LEN, SIZE, SIZE)
    for segment, out in zip(np.array_split(frames, NUM_SEGMENTS), views, strict=True):
        crop_views(segment, SIZE, starts, axis="width", out=out)
    return views


def main(*, repeats: int = 9) -> None:
    """Time all in turn, on one thread.

    Args:
        repeats: timed calls of each.
    """
    use_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_film(Path(folder) / "film.mp4")
        clips = TestClips(CLIP_LEN, STRIDE, NUM_SEGMENTS, NUM_CROPS, SIZE, SIZE)
        frames = decode_shown(path)
        resized = resize_short_side(frames, SIZE)
        seconds = time_interleaved(
            {
                "TestClips, 2 x 3 views": partial(clips, path, np.random.default_rng(0)),
                "every 4th frame, Video": partial(strided_decode, path),
                "every 4th frame, decord": partial(strided_decode_by_decord, path),
                "split: open": partial(open_only, path),
                "split: open and decode": partial(decode_shown, path),
                "split: resize": partial(resize_short_side, frames, SIZE),
                "split: crop, normalise": partial(crop, resized),
            },
            repeats=repeats,
        )
    say_times(seconds)
    for way in ("Video", "decord"):
        say_ratio(
            f"TestClips / one strided decode by {way}",
            seconds["TestClips, 2 x 3 views"],
            seconds[f"every 4th frame, {way}"],
            "at most 1.5",
        )
    say(f"frames decoded for the views: {len(frames)}")


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

"""A test video with 2 x 3 views against one decode of the frames that it needs, and one strided decode of the video.

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

from VideoMAE.augment.video_transforms import crop_views, resize_short_side
from VideoMAE.data.clip_sampling import crop_starts, segment_starts, strided_frames
from VideoMAE.data.clips import TestClips
from VideoMAE.video.reader import DecoderName, Video, VideoOpener, probe

CLIP_LEN, STRIDE, NUM_SEGMENTS, NUM_CROPS, SIZE = 16, 4, 2, 3, 224
DECODERS: tuple[DecoderName, DecoderName] = ("decord", "pyav")


def strided_decode(path: Path) -> np.ndarray:
    with Video(path) as video:
        return video.frames_at(strided_frames(video.num_frames, clip_len=CLIP_LEN, stride=STRIDE))


def strided_decode_by_decord(path: Path) -> np.ndarray:
    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(np.arange(0, len(reader), STRIDE)).asnumpy()


def shown(num_frames: int) -> np.ndarray:
    """The frames that some view shows."""
    strided = strided_frames(num_frames, clip_len=CLIP_LEN, stride=STRIDE)
    starts = segment_starts(len(strided), num_segments=NUM_SEGMENTS, clip_len=CLIP_LEN)
    return np.unique(np.concatenate([strided[start : start + CLIP_LEN] for start in starts]))


def decode_shown(path: Path, decoder: DecoderName) -> np.ndarray:
    """The frames that some view shows, opening included."""
    with Video(path, decoder=decoder) as video:
        return video.frames_at(shown(video.num_frames))


def decode_shown_by_decord(path: Path) -> np.ndarray:
    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(shown(len(reader))).asnumpy()


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
        clips, by_pyav = (
            TestClips(
                CLIP_LEN, STRIDE, NUM_SEGMENTS, NUM_CROPS, SIZE, SIZE, VideoOpener(decoder, {str(path): probe(path)})
            )
            for decoder in DECODERS
        )
        frames = decode_shown(path, "decord")
        resized = resize_short_side(frames, SIZE)
        seconds = time_interleaved(
            {
                "TestClips, 2 x 3 views": partial(clips, path, np.random.default_rng(0)),
                "the same by pyav": partial(by_pyav, path, np.random.default_rng(0)),
                "needed frames, decord": partial(decode_shown_by_decord, path),
                "every 4th frame, Video": partial(strided_decode, path),
                "every 4th frame, decord": partial(strided_decode_by_decord, path),
                "split: open": partial(open_only, path),
                "split: open and decode": partial(decode_shown, path, "decord"),
                "split: the same by pyav": partial(decode_shown, path, "pyav"),
                "split: resize": partial(resize_short_side, frames, SIZE),
                "split: crop, normalise": partial(crop, resized),
            },
            repeats=repeats,
        )
    say_times(seconds)
    for way in ("TestClips, 2 x 3 views", "the same by pyav"):
        say_ratio(f"{way} / bare decord of its frames", seconds[way], seconds["needed frames, decord"], "at most 1.2")
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

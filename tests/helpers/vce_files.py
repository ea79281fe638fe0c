"""A tiny VCE dataset folder on disk: real H.264 videos whose brightness tells the most intense emotion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import video_files

from VideoMAE.data.vce import EMOTIONS

FIRST_TEST_ID = 50000


def top_emotion(video: int, *, num_levels: int) -> str:
    """Most intense emotion of the video-th video of a split: every `num_levels` videos all of them come once."""
    return EMOTIONS[video % num_levels * (len(EMOTIONS) // num_levels)]


def grey_level(video: int, *, num_levels: int) -> int:
    """Level of its frames, from dark to bright: `num_levels=4` -> 32, 96, 160, 224."""
    return (2 * (video % num_levels) + 1) * 256 // (2 * num_levels)


def make_entry(video_id: str, video: int, *, num_levels: int) -> dict[str, Any]:
    """A label as VCE has them: the top emotion at 0.9, all others at different intensities below 0.3."""
    others = np.random.default_rng(video).permutation(len(EMOTIONS)) / (100 * len(EMOTIONS) / 29)
    emotions = {name: round(float(value), 4) for name, value in zip(EMOTIONS, others, strict=True)}
    emotions[top_emotion(video, num_levels=num_levels)] = 0.9
    ranked = sorted(EMOTIONS, key=lambda name: -emotions[name])
    return {"emotions": emotions, "file": f"videos/{video_id}.mp4", "topK": ranked[:3]}


def frames_of_level(num_frames: int, level: int, *, width: int, height: int) -> Iterator[np.ndarray]:
    """Flat frames with a small square, a bit brighter or darker, that moves by a pixel a frame."""
    side = height // 6
    for i in range(num_frames):
        frame = np.full((height, width, 3), level, np.uint8)
        left = i % (width - side)
        frame[side : 2 * side, left : left + side] = level + (24 if level < 128 else -24)
        yield frame


def make_vce_folder(
    root: Path,
    num_train: int,
    num_test: int,
    *,
    num_frames: int = 150,
    fps: int = 30,
    width: int = 64,
    height: int = 48,
    num_levels: int = 3,
    unreadable: tuple[str, ...] = (),
) -> Path:
    """Writes train_labels.json, test_labels.json and videos/ID.mp4; returns `root`.

    Ids are 00000, 00001, ... in training and 50000, 50001, ... in the test. The videos of the ids in `unreadable` are
    empty files.
    """
    (root / "videos").mkdir(parents=True)
    for split, first_id, num_videos in (("train", 0, num_train), ("test", FIRST_TEST_ID, num_test)):
        entries = {}
        for video in range(num_videos):
            video_id = f"{first_id + video:05d}"
            entries[video_id] = make_entry(video_id, video, num_levels=num_levels)
            path = root / entries[video_id]["file"]
            if video_id in unreadable:
                path.write_bytes(b"")
                continue
            level = grey_level(video, num_levels=num_levels)
            video_files.write_video(path, frames_of_level(num_frames, level, width=width, height=height), fps=fps)
        (root / f"{split}_labels.json").write_text(json.dumps(entries), encoding="utf-8")
    return root

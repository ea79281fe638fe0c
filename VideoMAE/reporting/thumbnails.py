"""Thumbnails of a few videos, read in processes that can be killed: a damaged or hanging video costs its picture."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from VideoMAE.video.check import check_videos
from VideoMAE.video.reader import Video, VideoInfo

WIDTH, HEIGHT = 192, 144  # pixels that a thumbnail fits into
QUALITIES = (80, 65, 50, 35, 20)  # of JPEG: the first at which all fit into the budget


class Thumbnails(NamedTuple):
    """Pictures of the readable videos, (H, W, 3) uint8 BGR, and reasons for the unreadable ones, by id."""

    pictures: dict[str, np.ndarray]
    unreadable: dict[str, str]


def read_thumbnails(videos: Mapping[str, Path], *, num_processes: int, limit_seconds: float) -> Thumbnails:
    """The middle frame of each video, small."""
    with tempfile.TemporaryDirectory() as folder:
        check = check_videos(
            videos,
            num_processes=num_processes,
            limit_seconds=limit_seconds,
            describe="reading thumbnails",
            probe_function=partial(save_thumbnail, folder=Path(folder)),
        )
        pictures = {key: np.load(thumbnail_file(Path(folder), videos[key])) for key in check.infos}
    return Thumbnails(pictures, check.unreadable)


def thumbnail_file(folder: Path, video: Path) -> Path:
    return folder / f"{hashlib.sha256(str(video).encode()).hexdigest()}.npy"


def save_thumbnail(path: Path, *, folder: Path) -> VideoInfo:
    """Write the middle frame of a video, scaled to fit, under `folder`; raises UnreadableVideoError."""
    with Video(path) as video:
        held = video.frames_held
        frame = video.frames_at(held[[len(held) // 2]])[0]
        scale = min(WIDTH / frame.shape[1], HEIGHT / frame.shape[0])
        size = [max(1, round(scale * side)) for side in (frame.shape[1], frame.shape[0])]
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        np.save(thumbnail_file(folder, path), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        return video.info


def as_jpegs(pictures: Mapping[str, np.ndarray], *, budget_bytes: int) -> dict[str, bytes]:
    """The pictures as JPEG files, in the best quality at which all together fit into the budget, or in the lowest."""
    encoded: dict[str, bytes] = {}
    for quality in QUALITIES:
        encoded = {
            key: cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            for key, picture in pictures.items()
        }
        if sum(map(len, encoded.values())) <= budget_bytes:
            break
    return encoded

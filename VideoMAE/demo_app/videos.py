"""The videos that the demo is given: uploads and examples, looked at in a process that can be killed.

Nothing here imports torch: a process that looks at one file should start in a fraction of a second.
"""

from __future__ import annotations

import base64
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from VideoMAE.video.check import check_videos
from VideoMAE.video.reader import UnreadableVideoError, Video, VideoInfo, probe

logger = logging.getLogger(__name__)

NUM_TILES, TILE_HEIGHT = 8, 96
MIN_TILE_WIDTH, MAX_TILE_WIDTH = 24, 256
MAX_PIXELS = 4096 * 2304
MAX_FPS = 240  # bounds how many frames a file may hold, whatever duration it claims
LOOK_LIMIT_SECONDS = 30.0
MAX_NAME_LENGTH = 80


class SeenVideo(NamedTuple):
    """A video that can be read: `strip` is a JPEG of `NUM_TILES` frames, evenly over its duration, side by side."""

    name: str
    path: Path
    duration_seconds: float
    strip: bytes

    @property
    def strip_uri(self) -> str:
        """The strip as the source of an <img>, so that the page asks for no file."""
        return "data:image/jpeg;base64," + base64.b64encode(self.strip).decode()

    def thumbnail(self) -> np.ndarray:
        """The strip's middle tile -> (H, W, 3) uint8 RGB"""
        strip = cv2.imdecode(np.frombuffer(self.strip, np.uint8), cv2.IMREAD_COLOR)
        assert strip is not None
        width = strip.shape[1] // NUM_TILES
        return cv2.cvtColor(strip[:, width * (NUM_TILES // 2) : width * (NUM_TILES // 2 + 1)], cv2.COLOR_BGR2RGB)


def look_at(paths: Sequence[Path], *, max_seconds: float, num_processes: int = 1) -> list[SeenVideo | str]:
    """Each video, or a sentence why it cannot be taken; one that hangs or crashes its decoder spoils nothing else.

    The strips are written beside the files, and removed.
    """
    videos = {str(path): path for path in paths}
    probe_function = partial(probe_and_draw_strip, max_seconds=max_seconds)
    check = check_videos(
        videos, num_processes=num_processes, limit_seconds=LOOK_LIMIT_SECONDS, probe_function=probe_function
    )
    answers: list[SeenVideo | str] = []
    for key, path in videos.items():
        if key in check.unreadable:
            answers.append(f"{path.name}: {check.unreadable[key]}")
            continue
        strip = strip_file(path)
        answers.append(SeenVideo(path.name, path, check.infos[key].duration_seconds, strip.read_bytes()))
        strip.unlink()
    return answers


def strip_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.strip.jpg")


def probe_and_draw_strip(path: Path, *, max_seconds: float) -> VideoInfo:
    """`probe`, then read frames all over the video as the model will, and write them to `strip_file(path)`.

    Raises UnreadableVideoError as `probe` does, and for a video that is too long or too large to be taken.
    """
    info = probe(path)
    if info.duration_seconds > max_seconds:
        reason = f"it lasts {info.duration_seconds:.0f} s; this page takes at most {max_seconds:g} s"
        raise UnreadableVideoError(path, reason)
    if info.height * info.width > MAX_PIXELS or info.num_frames > max_seconds * MAX_FPS:
        reason = f"{info.num_frames} frames of {info.width} x {info.height} pixels are more than this page takes"
        raise UnreadableVideoError(path, reason)
    width = int(np.clip(round(TILE_HEIGHT * info.width / info.height), MIN_TILE_WIDTH, MAX_TILE_WIDTH))
    with Video(path, size=(TILE_HEIGHT, width)) as video:
        frames = video.frames_at(np.arange(0.5, NUM_TILES) / NUM_TILES * video.num_frames // 1)
    strip = cv2.cvtColor(np.concatenate(list(frames), axis=1), cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(strip_file(path)), strip, [cv2.IMWRITE_JPEG_QUALITY, 80]):
        raise OSError(f"{strip_file(path)} could not be written")
    return info


class Uploads:
    """The folder of what was uploaded, each file in a folder of its own that is removed after use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    def own(self, path: str | Path) -> Path:
        """The path of an uploaded file.

        Raises:
            ValueError: anything else, links and files elsewhere on the server among it.
        """
        resolved = Path(path).resolve()
        if resolved.parent.parent != self.folder or not resolved.is_file():
            raise ValueError("only a video that was uploaded to this page can be looked at; upload it again")
        return resolved

    @contextmanager
    def taken(self, *paths: str | Path) -> Iterator[list[Path]]:
        """The files of one request; they are removed at the end, whatever happens."""
        own: list[Path] = []
        try:
            own.extend(self.own(path) for path in paths)
            yield own
        finally:
            for path in own:
                shutil.rmtree(path.parent, ignore_errors=True)

    def forget_older_than(self, before: float) -> None:
        """Remove uploads from before a time (seconds since 1970) that nobody asked about."""
        for folder in self.folder.iterdir():
            if folder.stat().st_mtime < before:
                shutil.rmtree(folder, ignore_errors=True)


def safe_name(name: str) -> str:
    """What an upload is called here: the last part of its name, of harmless letters, its end kept."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(letter if letter.isalnum() or letter in "-_.,()+ " else "_" for letter in last)
    return kept.lstrip(".")[-MAX_NAME_LENGTH:].strip() or "video"


def look_at_examples(paths: Sequence[Path], folder: Path, *, max_seconds: float) -> list[SeenVideo]:
    """Videos to pick from, through links in `folder`; those that cannot be taken are named in the log and left out."""
    folder.mkdir(parents=True)
    links = [folder / path.name for path in paths]
    for link, path in zip(links, paths, strict=True):
        link.symlink_to(path.resolve())
    answers = look_at(links, max_seconds=max_seconds, num_processes=2)
    for answer in answers:
        if isinstance(answer, str):
            logger.warning("left out of the examples: %s", answer)
    return [answer for answer in answers if isinstance(answer, SeenVideo)]

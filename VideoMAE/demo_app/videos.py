"""The demo's uploads and examples, opened in processes that can be killed; without torch, these start quickly."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from VideoMAE.video.check import run_in_processes
from VideoMAE.video.reader import UnreadableVideoError, Video, probe

NUM_TILES, TILE_HEIGHT = 8, 96
MIN_TILE_WIDTH, MAX_TILE_WIDTH = 24, 256
MAX_PIXELS = 4096 * 2304
MAX_FPS = 240  # bounds the number of frames in a file, whatever duration it declares
PROBE_LIMIT_SECONDS = 30.0
MAX_NAME_LENGTH = 80


class DemoVideo(NamedTuple):
    """A readable video; `strip` is a JPEG file of `NUM_TILES` evenly spaced frames side by side."""

    name: str
    path: Path
    duration_seconds: float
    strip: bytes
    thumbnail: np.ndarray  # the middle frame of the strip, (H, W, 3) uint8 RGB


def probe_videos(paths: Sequence[Path], *, max_seconds: float, num_processes: int = 1) -> list[DemoVideo | str]:
    """Opens each video; returns a sentence for a rejected one. A video that hangs or crashes its decoder affects no
    other."""
    open_one = partial(open_video, max_seconds=max_seconds)
    tasks = [(str(path), path) for path in paths]
    stream = run_in_processes(tasks, min(num_processes, len(tasks)), PROBE_LIMIT_SECONDS, open_one)
    found = {probed.video_id: probed.result for probed in stream}
    return [found[key] if isinstance(found[key], DemoVideo) else f"{path.name}: {found[key]}" for key, path in tasks]


def open_video(path: Path, *, max_seconds: float) -> DemoVideo:
    """Probes a video and reads frames over its whole length, as the model will.
    Raises UnreadableVideoError as `probe` does, and for a video that is too long or too large."""
    info = probe(path)
    if info.duration_seconds > max_seconds:
        raise UnreadableVideoError(path, f"it lasts {info.duration_seconds:.0f} s; the maximum is {max_seconds:g} s")
    if info.height * info.width > MAX_PIXELS or info.num_frames > max_seconds * MAX_FPS:
        size = f"{info.num_frames} frames of {info.width} x {info.height} pixels"
        raise UnreadableVideoError(path, f"{size} exceed the maximum")
    width = int(np.clip(round(TILE_HEIGHT * info.width / info.height), MIN_TILE_WIDTH, MAX_TILE_WIDTH))
    with Video(path, size=(TILE_HEIGHT, width)) as video:
        frames = video.frames_at(np.arange(0.5, NUM_TILES) / NUM_TILES * video.num_frames // 1)
    strip = cv2.cvtColor(np.concatenate(list(frames), axis=1), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    return DemoVideo(path.name, path, info.duration_seconds, encoded, frames[NUM_TILES // 2])


class Uploads:
    """The folder of uploaded files, each in a subfolder that is removed after use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    def checked(self, path: str | Path) -> Path:
        """The resolved path of an uploaded file.
        Raises ValueError for anything else, including links to other files of the server."""
        resolved = Path(path).resolve()
        if resolved.parent.parent != self.folder or not resolved.is_file():
            raise ValueError("only a video that was uploaded to this page can be used; upload it again")
        return resolved

    @contextmanager
    def removed_after(self, *paths: str | Path) -> Iterator[list[Path]]:
        """The files of one request, which are removed at the end, even after an error."""
        files: list[Path] = []
        try:
            files.extend(self.checked(path) for path in paths)
            yield files
        finally:
            for file in files:
                shutil.rmtree(file.parent, ignore_errors=True)

    def remove_older_than(self, time: float) -> None:
        """Removes uploads from before `time` (seconds since 1970) that no request used."""
        for folder in self.folder.iterdir():
            if folder.stat().st_mtime < time:
                shutil.rmtree(folder, ignore_errors=True)


def safe_name(name: str) -> str:
    """The file name of an upload: the last part of its name, other characters replaced, at most MAX_NAME_LENGTH."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(letter if letter.isalnum() or letter in "-_.,()+ " else "_" for letter in last)
    return kept.lstrip(".")[-MAX_NAME_LENGTH:].strip() or "video"

"""A folder of features: one file per video, or one matrix with an index; a later call computes the missing ones.

features.json contains the settings that the features depend on. A video's file is written atomically. A row of the
matrix counts as written when index.jsonl contains it, which happens only after the row is on disk.
"""

import hashlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from safetensors.numpy import save_file
from torch import nn

from VideoMAE.data.video_lists import NamedVideo
from VideoMAE.files import (
    clear_leftovers,
    is_temporary,
    json_line,
    read_complete_json_lines,
    read_json,
    write_atomically,
    write_errors_name,
    write_json,
    write_json_lines,
)
from VideoMAE.runtime.folder_lock import LOCK_NAME, hold_folder

ABOUT = "features.json"
UNREADABLE = "unreadable.jsonl"
SECONDS_BETWEEN_SYNCS = 5.0


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Checks that a folder is new or contains features with these settings (by flag), and locks it.

    Raises:
        ValueError: it contains other files or features with other settings, or another program holds its lock.
    """
    file = folder / ABOUT
    if file.is_file():
        saved = read_json(file).get("settings")
        if not isinstance(saved, dict):
            raise ValueError(f"{file}: has no settings; choose another --output_dir")
        differs = [
            f"{name}: {saved.get(name)} there, {settings.get(name)} here"
            for name in {**settings, **saved}
            if saved.get(name) != settings.get(name)
        ]
        if differs:
            raise ValueError(
                f"{folder}: contains features with other settings ({'; '.join(differs)}); choose another --output_dir"
            )
    elif folder.is_dir() and {path.name for path in folder.iterdir() if not is_temporary(path)} - {LOCK_NAME}:
        raise ValueError(f"{folder}: not empty and not a folder of features; choose another --output_dir")
    hold_folder(folder)
    for parent in {folder, *(path.parent for path in folder.rglob(".*.tmp"))}:
        clear_leftovers(parent)


def describe(folder: Path, settings: Mapping[str, Any], **more: Any) -> None:
    """Writes features.json."""
    write_json(folder / ABOUT, {"settings": dict(settings), **more})


def write_unreadable(folder: Path, reasons: Mapping[NamedVideo, str]) -> None:
    """Writes the videos without features and the reasons; no file if there are none."""
    lines = [{"id": video.id, "path": str(video.path), "error": reason} for video, reason in reasons.items()]
    if lines:
        write_json_lines(folder / UNREADABLE, lines)
    else:
        (folder / UNREADABLE).unlink(missing_ok=True)


class FileStore:
    """One file per video: `ID.npz` with the array `features` and the video's `path`, or `ID.safetensors`."""

    def __init__(self, folder: Path, videos: Sequence[NamedVideo], *, suffix: str) -> None:
        self.folder, self.videos, self.suffix = folder, videos, suffix

    def file_of(self, video: NamedVideo) -> Path:
        name = PurePosixPath(video.id)
        return self.folder / name.with_name(f"{name.name}.{self.suffix}")

    def done(self) -> set[str]:
        """The ids of the videos whose features are stored."""
        return {video.id for video in self.videos if self.file_of(video).is_file()}

    def add(self, video: NamedVideo, features: np.ndarray) -> None:
        """Stores the features of a video. Raises ValueError when the file cannot be written."""

        def write(temporary: Path) -> None:
            if self.suffix == "safetensors":
                save_file({"features": np.ascontiguousarray(features)}, temporary, {"path": str(video.path)})
                return
            with temporary.open("wb") as file:
                np.savez(file, features=features, path=np.array(str(video.path)))

        write_atomically(self.file_of(video), write)

    def close(self, lost: Iterable[NamedVideo] = ()) -> None:
        """Writes everything to disk; `lost` are videos without features."""


class MatrixStore:
    """All videos in features.npy, (V, *shape), for `np.load(..., mmap_mode="r")`, and a line of index.jsonl for each
    row that is written. Rows of videos without features are NaN."""

    def __init__(self, folder: Path, videos: Sequence[NamedVideo], *, shape: tuple[int, ...], dtype: str) -> None:
        """Raises ValueError when features.npy is damaged or cannot be created."""
        self.row_of = {video.id: row for row, video in enumerate(videos)}
        self.matrix, self.index = folder / "features.npy", folder / "index.jsonl"
        expected = ((len(videos), *shape), np.dtype(dtype))

        def allocate(file: Path) -> None:
            open_memmap(file, mode="w+", shape=expected[0], dtype=expected[1])
            with file.open("r+b") as opened:  # a full disk is an error here, but a fatal signal in the memory map
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)

        if not self.matrix.is_file():
            write_atomically(self.matrix, allocate)
            self.index.unlink(missing_ok=True)
        try:
            open_memmap(self.matrix, mode="r")  # fails for a truncated file, which mode "r+" would fill with zeros
            self.rows = open_memmap(self.matrix, mode="r+")
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{self.matrix}: damaged: {error}; delete {folder} to recompute its features") from error
        if (self.rows.shape, self.rows.dtype) != expected:
            raise ValueError(
                f"{self.matrix}: is an array {self.rows.shape} of {self.rows.dtype}, expected {expected[0]} of "
                f"{dtype}; delete {folder} to recompute its features"
            )
        complete = read_complete_json_lines(self.index)
        if self.index.is_file():  # an interruption may have damaged the last line
            os.truncate(self.index, len(_as_lines(complete)))
        self._done = {line["id"] for line in complete}
        self._unsynced: list[NamedVideo] = []
        self._synced_at = time.monotonic()

    def done(self) -> set[str]:
        return self._done & self.row_of.keys()

    def add(self, video: NamedVideo, features: np.ndarray) -> None:
        """Raises ValueError when the index cannot be written."""
        assert features.shape == self.rows.shape[1:] and features.dtype == self.rows.dtype
        self.rows[self.row_of[video.id]] = features
        self._unsynced.append(video)
        if time.monotonic() - self._synced_at > SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Writes the rows to disk, and then their lines of the index."""
        with write_errors_name(self.matrix):
            self.rows.flush()
        lines = [{"id": video.id, "path": str(video.path), "row": self.row_of[video.id]} for video in self._unsynced]
        with write_errors_name(self.index), self.index.open("ab") as file:
            file.write(_as_lines(lines))
            file.flush()
            os.fsync(file.fileno())
        self._done |= {video.id for video in self._unsynced}
        self._unsynced, self._synced_at = [], time.monotonic()

    def close(self, lost: Iterable[NamedVideo] = ()) -> None:
        for video in lost:
            self.rows[self.row_of[video.id]] = np.nan
        self.sync()


Store = FileStore | MatrixStore


def open_store(folder: Path, videos: Sequence[NamedVideo], form: str, *, shape: tuple[int, ...], dtype: str) -> Store:
    """The store of a --format."""
    if form == "matrix":
        return MatrixStore(folder, videos, shape=shape, dtype=dtype)
    return FileStore(folder, videos, suffix=form)


def fingerprint_of_weights(model: nn.Module) -> str:
    """A checksum of all weights except those of the head."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not name.startswith("head."):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _as_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(map(json_line, entries)).encode()

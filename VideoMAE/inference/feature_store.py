"""A folder of features: one file a video, or one matrix with an index; a later call goes on where a call ended.

features.json says how the features were made. A file of a video is there whole or not at all. In a matrix a row counts
when index.jsonl names it, which happens only after it is on disk.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import save_file

from VideoMAE.data.named_videos import NamedVideo
from VideoMAE.files import (
    clear_leftovers,
    is_temporary,
    read_complete_json_lines,
    write_atomically,
    write_errors_name,
    write_text,
)
from VideoMAE.runtime.folder_lock import LOCK_NAME, hold_folder

ABOUT = "features.json"
UNREADABLE = "unreadable.jsonl"
SECONDS_BETWEEN_SYNCS = 5.0


class Store(Protocol):
    """Where features go."""

    def done(self) -> set[str]:
        """The ids whose features are there."""

    def add(self, video: NamedVideo, features: np.ndarray) -> None:
        """Keeps a video's features."""

    def close(self, lost: Iterable[NamedVideo] = ()) -> None:
        """Puts everything on disk; `lost` have no features."""


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder one for features of these settings, by the names of their flags, and keeps other programs out.

    Raises:
        ValueError: it holds something else, features of other settings, or another program works in it.
    """
    file = folder / ABOUT
    if file.is_file():
        try:
            saved = json.loads(file.read_text(encoding="utf-8"))["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: damaged: {error!r}; choose another --output_dir") from error
        differs = [
            f"{name}: {saved.get(name)} there, {settings.get(name)} here"
            for name in {**settings, **saved}
            if saved.get(name) != settings.get(name)
        ]
        if differs:
            raise ValueError(
                f"{folder}: holds features made otherwise ({'; '.join(differs)}); choose another --output_dir"
            )
    elif folder.is_dir() and {path.name for path in folder.iterdir() if not is_temporary(path)} - {LOCK_NAME}:
        raise ValueError(f"{folder}: not empty and no folder of features; choose another --output_dir")
    hold_folder(folder)
    for parent in {folder, *(path.parent for path in folder.rglob(".*.tmp"))}:
        clear_leftovers(parent)


def describe(folder: Path, settings: Mapping[str, Any], **more: Any) -> None:
    """Writes features.json."""
    write_text(folder / ABOUT, json.dumps({"settings": dict(settings), **more}, indent=2) + "\n")


def write_unreadable(folder: Path, reasons: Mapping[NamedVideo, str]) -> None:
    """Says which videos have no features, and why; no file where all have."""
    lines = [{"id": video.id, "path": str(video.path), "error": reason} for video, reason in reasons.items()]
    if lines:
        write_text(folder / UNREADABLE, _as_lines(lines).decode())
    else:
        (folder / UNREADABLE).unlink(missing_ok=True)


def open_store(folder: Path, videos: Sequence[NamedVideo], form: str, *, shape: tuple[int, ...], dtype: str) -> Store:
    """The store of a form of --format."""
    if form == "matrix":
        return MatrixStore(folder, videos, shape=shape, dtype=dtype)
    return FileStore(folder, videos, suffix=form)


class FileStore:
    """One file a video: `ID.npz` with the array `features` and the video's `path`, or `ID.safetensors`."""

    def __init__(self, folder: Path, videos: Sequence[NamedVideo], *, suffix: str) -> None:
        self.folder, self.videos, self.suffix = folder, videos, suffix

    def file_of(self, video: NamedVideo) -> Path:
        """Where a video's features lie."""
        name = PurePosixPath(video.id)
        return self.folder / name.with_name(f"{name.name}.{self.suffix}")

    def done(self) -> set[str]:
        return {video.id for video in self.videos if self.file_of(video).is_file()}

    def add(self, video: NamedVideo, features: np.ndarray) -> None:
        """Raises ValueError when the file cannot be written."""

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, features=features, path=np.array(str(video.path)))

        def write_tensors(temporary: Path) -> None:
            save_file({"features": np.ascontiguousarray(features)}, temporary, {"path": str(video.path)})

        write_atomically(self.file_of(video), write if self.suffix == "npz" else write_tensors)

    def close(self, lost: Iterable[NamedVideo] = ()) -> None:
        pass


class MatrixStore:
    """All videos in features.npy, (V, *shape), for `np.load(..., mmap_mode="r")`; a line of index.jsonl for each row
    that is there. Rows of videos that are lost are NaN."""

    def __init__(self, folder: Path, videos: Sequence[NamedVideo], *, shape: tuple[int, ...], dtype: str) -> None:
        """Raises ValueError when the matrix is not whole."""
        self.row_of = {video.id: row for row, video in enumerate(videos)}
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.matrix, self.index = folder / "features.npy", folder / "index.jsonl"
        if not self.matrix.is_file():
            self._create(len(videos))
        with self.matrix.open("rb") as file:
            version = np.lib.format.read_magic(file)
            assert version == (1, 0)
            found, _, kind = np.lib.format.read_array_header_1_0(file)
            self.first = file.tell()
        if (found, kind) != ((len(videos), *shape), self.dtype):
            raise ValueError(
                f"{self.matrix}: is an array {found} of {kind}, expected {(len(videos), *shape)} of {dtype}"
            )
        whole = read_complete_json_lines(self.index)
        if self.index.is_file():  # an interruption may have spoilt the last line
            os.truncate(self.index, len(_as_lines(whole)))
        self._known = {line["id"] for line in whole}
        self._waiting: list[NamedVideo] = []
        self._synced_at = time.monotonic()
        self._file = self.matrix.open("r+b")

    def _create(self, num_rows: int) -> None:
        """A matrix without values, which takes no room yet."""
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (num_rows, *self.shape)})
                file.truncate(file.tell() + num_rows * self._row_bytes)

        write_atomically(self.matrix, write)
        self.index.unlink(missing_ok=True)

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def done(self) -> set[str]:
        return self._known & self.row_of.keys()

    def add(self, video: NamedVideo, features: np.ndarray) -> None:
        """Raises ValueError when the row cannot be written."""
        assert features.shape == self.shape and features.dtype == self.dtype
        self._write(self.row_of[video.id], features)
        self._waiting.append(video)
        if time.monotonic() - self._synced_at > SECONDS_BETWEEN_SYNCS:
            self._sync()

    def _write(self, row: int, features: np.ndarray) -> None:
        with write_errors_name(self.matrix):
            self._file.seek(self.first + row * self._row_bytes)
            self._file.write(np.ascontiguousarray(features).tobytes())

    def _sync(self) -> None:
        """Puts the rows on disk and then names them in the index."""
        with write_errors_name(self.matrix):
            self._file.flush()
            os.fsync(self._file.fileno())
        lines = [{"id": video.id, "path": str(video.path), "row": self.row_of[video.id]} for video in self._waiting]
        with write_errors_name(self.index), self.index.open("ab") as file:
            file.write(_as_lines(lines))
            file.flush()
            os.fsync(file.fileno())
        self._known |= {video.id for video in self._waiting}
        self._waiting, self._synced_at = [], time.monotonic()

    def close(self, lost: Iterable[NamedVideo] = ()) -> None:
        for video in lost:
            self._write(self.row_of[video.id], np.full(self.shape, np.nan, self.dtype))
        self._sync()
        self._file.close()


def _as_lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()

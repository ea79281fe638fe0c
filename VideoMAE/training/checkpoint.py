"""Checkpoints of a run: written whole or not at all, found again, and kept sparingly."""

import contextlib
import errno
import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from VideoMAE.training.pretrained import read_checkpoint

logger = logging.getLogger(__name__)

BEST = "checkpoint-best.pth"
LAST = "checkpoint-last.pth"
PREVIOUS = "checkpoint-previous.pth"


def write_atomically(path: Path, write: Any, *, keep_old_as: Path | None = None) -> None:
    """Lets `write(temporary_path)` make a file, then gives it its name; a failure leaves the old file whole.

    The old file is kept under another name where one is given.

    Raises:
        ValueError: the file cannot be written (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if keep_old_as is not None and path.is_file():
            os.replace(path, keep_old_as)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path}: cannot be written: {_reason(error, path)}; what stood there before is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns an OSError of writing to this file or folder into a ValueError that names it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {_reason(error, path)}") from error


def _reason(error: OSError | RuntimeError, path: Path) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full"
    if path.parent.is_dir() and shutil.disk_usage(path.parent).free < 2**20:
        return "the disk is full"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "inline_container" in str(error):  # torch's writer, which knows no more either
        return "not all of it was taken; a quota or a limit on the size of files?"
    return next(iter(str(error).splitlines()), type(error).__name__)


def is_temporary(path: Path) -> bool:
    """Whether `write_atomically`, or the check of the videos, has not finished this file."""
    return path.suffix == ".tmp" and path.stem.rpartition(".")[2].isdigit()


def clear_leftovers(folder: Path) -> None:
    """Deletes what killed processes were writing: each may be as large as a checkpoint. Nobody else may be at work in
    the folder."""
    for path in filter(is_temporary, folder.iterdir()):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Writes the newest checkpoint; the one before stays beside it, should the newest be damaged later."""
    write_atomically(folder / LAST, lambda temporary: torch.save(content, temporary), keep_old_as=folder / PREVIOUS)


def epoch_name(epoch: int) -> str:
    """File name of an epoch's checkpoint."""
    return f"checkpoint-{epoch}.pth"


def has_any(output_dir: Path) -> bool:
    """Whether a run has saved anything there, whole or damaged."""
    return any(output_dir.glob("checkpoint-*.pth"))


def check_whole(path: Path) -> None:
    """Compares a checkpoint's checksums, which torch.load passes over: a flipped bit would become a wrong weight.

    Raises:
        ValueError: the file is missing, truncated or damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such checkpoint") from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(f"{path}: truncated or damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path}: damaged: the checksum of its part {damaged} is wrong")


def read_whole(path: Path) -> dict[str, Any]:
    """The content of a run's checkpoint, found whole. Raises ValueError as `check_whole` and `read_checkpoint` do."""
    check_whole(path)
    return read_checkpoint(path)


def newest(output_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a run and its content; damaged ones are named and passed over. None: there is
    none.

    Raises:
        ValueError: there are checkpoints, and every one is damaged.
    """
    numbered = sorted(
        (path for path in output_dir.glob("checkpoint-*.pth") if path.stem.split("-")[1].isdigit()),
        key=lambda path: int(path.stem.split("-")[1]),
        reverse=True,
    )
    candidates = [path for path in (output_dir / LAST, output_dir / PREVIOUS, *numbered) if path.is_file()]
    for path in candidates:
        try:
            return path, read_whole(path)
        except ValueError as error:
            logger.warning("passed over a checkpoint: %s", error)
    if candidates:
        raise ValueError(f"{output_dir}: every checkpoint is damaged; move the folder away or pass --no_auto_resume")
    return None

"""Checkpoints of a run: written whole or not at all, found again, and kept sparingly."""

import contextlib
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from VideoMAE.training.pretrained import read_checkpoint

logger = logging.getLogger(__name__)

BEST = "checkpoint-best.pth"
LAST = "checkpoint-last.pth"


def write_atomically(path: Path, write: Any) -> None:
    """Lets `write(temporary_path)` make a file, then gives it its name; a failure leaves the old file whole.

    Raises:
        ValueError: the file cannot be written (disk full, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if path.parent.is_dir() and shutil.disk_usage(path.parent).free < 2**20:
            reason = "the disk is full"
        raise ValueError(f"{path}: cannot be written: {reason}; what stood there before is untouched") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all."""
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def epoch_name(epoch: int) -> str:
    """File name of an epoch's checkpoint."""
    return f"checkpoint-{epoch}.pth"


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
    candidates = [path for path in (output_dir / LAST, *numbered) if path.is_file()]
    for path in candidates:
        try:
            return path, read_checkpoint(path)
        except ValueError as error:
            logger.warning("passed over a checkpoint: %s", error)
    if candidates:
        raise ValueError(f"{output_dir}: every checkpoint is damaged; move the folder away or pass --no_auto_resume")
    return None

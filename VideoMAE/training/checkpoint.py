"""Checkpoints of a run: written whole or not at all, found again, and kept sparingly."""

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from VideoMAE.files import write_atomically
from VideoMAE.training.pretrained import read_checkpoint

logger = logging.getLogger(__name__)

BEST = "checkpoint-best.pth"
LAST = "checkpoint-last.pth"
PREVIOUS = "checkpoint-previous.pth"


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

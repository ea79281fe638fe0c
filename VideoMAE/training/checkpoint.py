"""Checkpoints of a run: atomic writes, integrity checks, and which one to resume from."""

import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from VideoMAE.cli import counted
from VideoMAE.config import RunConfig, differences
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.files import write_atomically
from VideoMAE.runtime.folder_lock import check_still_held
from VideoMAE.training.pretrained import read_checkpoint

logger = logging.getLogger(__name__)

BEST = "checkpoint-best.pth"
LAST = "checkpoint-last.pth"
PREVIOUS = "checkpoint-previous.pth"


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically."""
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Writes the last checkpoint and keeps the previous one, in case the last is damaged later."""
    write_atomically(folder / LAST, lambda temporary: torch.save(content, temporary), keep_old_as=folder / PREVIOUS)


def epoch_name(epoch: int) -> str:
    """File name of an epoch's checkpoint."""
    return f"checkpoint-{epoch}.pth"


def check_whole(path: Path) -> None:
    """Verifies a checkpoint's checksums, which torch.load ignores: a flipped bit would silently change a weight. Raises
    ValueError if the file is missing, truncated or damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such checkpoint") from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(f"{path}: truncated or damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path}: damaged: the checksum of its part {damaged} is wrong")


def newest(output_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest intact checkpoint of a run and its content, or None; damaged ones are logged and skipped. Raises
    ValueError if every checkpoint is damaged."""
    epochs = {path.stem.removeprefix("checkpoint-") for path in output_dir.glob("checkpoint-*.pth")}
    numbered = map(epoch_name, sorted(map(int, filter(str.isdigit, epochs)), reverse=True))
    candidates = [output_dir / name for name in (LAST, PREVIOUS, *numbered) if (output_dir / name).is_file()]
    for path in candidates:
        try:
            check_whole(path)
            return path, read_checkpoint(path)
        except ValueError as error:
            logger.warning("skipped a damaged checkpoint: %s", error)
    if candidates:
        raise ValueError(f"{output_dir}: every checkpoint is damaged; move the folder away or pass --no_auto_resume")
    return None


def find_to_resume(
    run: RunConfig, *, settings: dict[str, Any], labels: str, sampler: TrainSampler
) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to resume from and its content; None: a new run.

    Raises:
        ValueError: the checkpoint is damaged, contains only weights, or is of a run with other settings, other labels
        or another batch per process.
    """
    if run.resume is not None:
        check_whole(run.resume)
        path, content = run.resume, read_checkpoint(run.resume)
    elif run.auto_resume and (found := newest(run.output_dir)):
        path, content = found
    else:
        return None
    if "backend" not in content:
        raise ValueError(f"{path}: contains weights but no training state; pass it with --finetune instead of --resume")
    if differs := differences(content["config"], settings):
        raise ValueError(f"{path}: belongs to a run with another configuration ({'; '.join(differs)})")
    if content["labels"] != labels:
        raise ValueError(
            f"{path}: was trained on videos or labels that differ from the dataset's; restore them, "
            "or choose another --output_dir"
        )
    total = content["total_batch_size"]
    if total != sampler.total_batch_size and content["share"] != [sampler.batch_size, sampler.update_freq]:
        raise ValueError(
            f"{path}: belongs to a run with total batch size {total}, this run has {sampler.total_batch_size}; "
            "choose --batch_size and --update_freq so that batch_size x update_freq x processes is the same"
        )
    return path, content


def steps_done(content: dict[str, Any], *, sampler: TrainSampler, world_size: int) -> int:
    """The completed steps of the epoch, in units of the current total batch size; logs what a changed number of
    processes affects."""
    steps, before, total = content["state"]["steps"], content["world_size"], content["total_batch_size"]
    if before != world_size:
        logger.warning(
            "this run had %s and now has %d: random numbers depend on the process, so the results from here "
            "on are close but not identical to those of an uninterrupted run",
            counted(before, "process"),
            world_size,
        )
    if total == sampler.total_batch_size:
        return int(steps)
    logger.warning(
        "the total batch size changes from %d to %d, and the learning rate with it; "
        "the epoch resumes at the same fraction of its videos",
        total,
        sampler.total_batch_size,
    )
    return int(steps * total // sampler.total_batch_size)


def save_run(folder: Path, content: dict[str, Any], *, is_best: bool, keep_every: int) -> None:
    """Writes a run's state as its last checkpoint; after an epoch also as the best or a numbered one, where due.

    Raises:
        ValueError: a file cannot be written, or another run holds the folder; the previous checkpoint is unchanged.
    """
    check_still_held(folder)
    epoch, done = content["epoch"], content["state"]["epoch"]
    if is_best:
        tested = content["model"] if content["model_ema"] is None else content["model_ema"]
        best = {"model": tested, **{key: content[key] for key in ("epoch", "metrics", "config")}}
        save(folder / BEST, best)
    if done > epoch and done % keep_every == 0:
        save(folder / epoch_name(epoch), content)
    save_last(folder, content)

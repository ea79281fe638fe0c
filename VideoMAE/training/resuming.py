"""What lies between a run and its checkpoints: which one to go on from, whether it is of this run, what is kept."""

import logging
from pathlib import Path
from typing import Any

from VideoMAE import flags
from VideoMAE.config import RunConfig
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.runtime.folder_lock import check_still_held
from VideoMAE.training import checkpoint

logger = logging.getLogger(__name__)


def find(run: RunConfig) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, and its content; None: the run begins anew.

    Raises:
        ValueError: the checkpoint is damaged, or holds weights only.
    """
    if run.resume is not None:
        path, content = run.resume, checkpoint.read_whole(run.resume)
    elif run.auto_resume and (found := checkpoint.newest(run.output_dir)):
        path, content = found
    else:
        return None
    if "backend" not in content:
        raise ValueError(f"{path}: holds weights but no state of a run to resume; give it to --finetune instead")
    return path, content


def check_same_run(
    path: Path, content: dict[str, Any], *, settings: dict[str, Any], labels: str, sampler: TrainSampler
) -> None:
    """Refuses a checkpoint of a run with other settings, other labels, or another batch on each process.

    Raises:
        ValueError: says what differs.
    """
    differs = flags.differences(content["config"], settings)
    if differs:
        raise ValueError(f"{path}: comes from a run of another configuration ({'; '.join(differs)})")
    if content["labels"] != labels:
        raise ValueError(
            f"{path}: was trained on other videos or labels than there are now; bring them back to what they were, "
            "or choose another --output_dir"
        )
    total = content["total_batch_size"]
    if total != sampler.total_batch_size and content["share"] != [sampler.batch_size, sampler.update_freq]:
        raise ValueError(
            f"{path}: comes from a run with a total batch of {total}, this one has {sampler.total_batch_size}; "
            "set --batch_size or --update_freq so that x processes they give the same"
        )


def steps_with_these_processes(content: dict[str, Any], *, sampler: TrainSampler, world_size: int) -> int:
    """How many steps of its epoch the run has done, counted in its present total batch; says what another number of
    processes changes."""
    steps, before, total = content["state"]["steps"], content["world_size"], content["total_batch_size"]
    if before != world_size:
        logger.warning(
            "this run had %d processes and now has %d: every process draws its random numbers anew, "
            "so that from here on the numbers are close to those of an unbroken run but not the same",
            before, world_size,
        )  # fmt: skip
    if total == sampler.total_batch_size:
        return int(steps)
    logger.warning(
        "the total batch was %d and is now %d, and the learning rate with it; "
        "the epoch goes on at the same share of its videos",
        total, sampler.total_batch_size,
    )  # fmt: skip
    return int(steps * total // sampler.total_batch_size)


def write(folder: Path, content: dict[str, Any], *, is_best: bool, keep_every: int) -> None:
    """Writes a run's state as its last checkpoint, after an epoch also as the best one and as the epoch's where due.

    Raises:
        ValueError: a file cannot be written, or the folder is no longer this run's; the one before is untouched.
    """
    check_still_held(folder)
    epoch, done = content["epoch"], content["state"]["epoch"]
    if is_best:
        tested = content["model"] if content["model_ema"] is None else content["model_ema"]
        best = {"model": tested, **{key: content[key] for key in ("epoch", "metrics", "config")}}
        checkpoint.save(folder / checkpoint.BEST, best)
    if done > epoch and done % keep_every == 0:
        checkpoint.save(folder / checkpoint.epoch_name(epoch), content)
    checkpoint.save_last(folder, content)

"""The loop: train an epoch, evaluate, test. Knows no task and no backend."""

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from VideoMAE.data.loaders import Batch
from VideoMAE.optim_factory import set_step_values
from VideoMAE.training import checkpoint, distributed
from VideoMAE.training.backends import Backend, NonFiniteGradientError
from VideoMAE.training.ema import WeightAverage
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.tasks import Evaluation


class Task(Protocol):
    """A dataset's problem: see tasks.py."""

    select_by: str
    instead: str

    def training_loss(self, forward: Callable[[Tensor], Tensor], batch: Any) -> Tensor: ...

    def validation_metrics(self, outcome: Evaluation) -> dict[str, Any]: ...


class Schedule(NamedTuple):
    """Values per optimizer step. (steps,) each"""

    lr: np.ndarray
    weight_decay: np.ndarray


class SharedError(ValueError):
    """A reason to stop that every process knows, so that one of them says it."""


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch (a NamedTuple) with its tensors on the device."""
    return type(batch)(
        *(field.to(device, non_blocking=True) if isinstance(field, Tensor) else field for field in batch)
    )


def seed_step(seed: int, position: int, rank: int) -> None:
    """Sets the random state of torch and numpy for one batch of one process, so that no draw depends on what came
    before."""
    state = int(np.random.SeedSequence((seed, position, rank)).generate_state(1)[0])
    torch.manual_seed(state)
    np.random.seed(state)


def train_one_epoch(
    backend: Backend,
    loader: DataLoader[Any],
    task: Task,
    *,
    schedule: Schedule,
    epoch: int,
    update_freq: int,
    ids: Sequence[str],
    device: torch.device,
    seed: int,
    rank: int,
    average: WeightAverage | None,
    logger: MetricLogger,
) -> tuple[dict[str, float], dict[str, str]]:
    """One pass over the training videos. Returns the epoch's means, and the videos that could not be read with reasons.

    Raises:
        SharedError: the loss is not finite; nothing of that step reached the weights.
    """
    backend.model.train()
    num_batches = len(loader)
    losses: list[float] = []
    skipped: dict[str, str] = {}
    pending, shown = torch.zeros((), device=device), []
    bar = logger.progress(loader, describe=f"epoch {epoch}", total=num_batches)
    for number, batch in enumerate(bar):
        update = (number + 1) % update_freq == 0
        step = (epoch * num_batches + number) // update_freq
        skipped.update(batch.skipped)
        shown.extend(batch.indices.tolist())
        batch = to_device(batch, device)
        seed_step(seed, epoch * num_batches + number, rank)
        set_step_values(backend.optimizer, lr=schedule.lr[step], weight_decay=schedule.weight_decay[step])
        loss = task.training_loss(partial(backend.forward, update=update), batch)
        pending += loss.detach() / update_freq
        if update:
            losses.append(_finite_mean(pending, epoch=epoch, step=step, ids=ids, shown=shown))
        try:
            norm = backend.backward(loss, update=update)
        except NonFiniteGradientError as error:
            raise SharedError(f"{error} in epoch {epoch}, step {step}, on {name_videos(ids, shown)}") from error
        if update:
            pending, shown = torch.zeros((), device=device), []
            if average is not None:
                average.update(backend.model)
            logger.step(
                epoch=epoch, step=step, values={"loss": losses[-1], "lr": float(schedule.lr[step]), "grad_norm": norm}
            )
    return {"train_loss": float(np.mean(losses)), "lr": float(schedule.lr[step])}, skipped


def _finite_mean(loss: Tensor, *, epoch: int, step: int, ids: Sequence[str], shown: Sequence[int]) -> float:
    """The loss of a step over all processes, or a SharedError that names the step's videos."""
    mean = distributed.mean_over_processes(loss)
    if not math.isfinite(mean):
        raise SharedError(f"the loss became {mean} in epoch {epoch}, step {step}, on {name_videos(ids, shown)}")
    return mean


def name_videos(ids: Sequence[str], shown: Sequence[int]) -> str:
    """What all processes showed in a step, by id; every process must ask."""
    return "the videos " + ", ".join(ids[index] for part in distributed.gather(list(shown)) for index in part)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: DataLoader[Any],
    *,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    logger: MetricLogger,
    describe: str,
) -> Evaluation:
    """Runs the model over this process's share and puts all shares together; the same at every process."""
    model.eval()
    dtype = next(model.parameters()).dtype
    indices: list[int] = []
    logits: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    batch: Batch
    for batch in logger.progress(loader, describe=describe, total=len(loader)):
        skipped.update(batch.skipped)
        videos = len(batch.indices)
        if not videos:
            continue
        with autocast():
            output = model(batch.clips.to(device, dtype=dtype, non_blocking=True)).float().cpu().numpy()
        indices.extend(batch.indices.tolist())
        views = len(output) // videos
        logits.append(output.reshape(videos, views, -1))
        targets.append(batch.targets.numpy()[::views])
    empty = np.empty((0, 1, 1), dtype=np.float32)
    order, all_logits = distributed.gather_by_index(indices, np.concatenate(logits) if logits else empty)
    _, all_targets = distributed.gather_by_index(indices, np.concatenate(targets) if targets else empty[:, 0])
    if not np.isfinite(all_logits).all():
        raise SharedError(f"the network's outputs in {describe} are not finite; its weights are ruined")
    reasons = {key: reason for part in distributed.gather(skipped) for key, reason in part.items()}
    return Evaluation(order, all_logits, all_targets, reasons)


def validation_one_epoch(
    model: nn.Module,
    loader: DataLoader[Any],
    task: Task,
    *,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    logger: MetricLogger,
) -> dict[str, Any]:
    """Metrics on one clip of every validation video.

    Raises:
        SharedError: no validation video can be read.
    """
    outcome = evaluate(model, loader, device=device, autocast=autocast, logger=logger, describe="validation")
    if not len(outcome.indices):
        raise SharedError("none of the validation videos can be read")
    return {**task.validation_metrics(outcome), "num_unreadable": len(outcome.skipped)}


def final_test(
    model: nn.Module,
    loader: DataLoader[Any],
    *,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    logger: MetricLogger,
) -> Evaluation:
    """Every view of every test video.

    Raises:
        SharedError: no test video can be read.
    """
    outcome = evaluate(model, loader, device=device, autocast=autocast, logger=logger, describe="test")
    if not len(outcome.indices):
        raise SharedError("none of the test videos can be read")
    return outcome


def write_results(
    output_dir: Path,
    results: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    *,
    lines_name: str = "predictions.jsonl",
    prefix: str = "",
) -> None:
    """Writes results.json, and a file with one video a line; `prefix` begins both names."""
    checkpoint.write_text(output_dir / f"{prefix}{lines_name}", "".join(json.dumps(line) + "\n" for line in lines))
    checkpoint.write_text(output_dir / f"{prefix}results.json", json.dumps(results, indent=2) + "\n")

"""The loop: train an epoch, evaluate, test. Knows no task and no backend."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from VideoMAE.augment.device_augment import PlannedClips
from VideoMAE.data.loaders import Batch
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.files import write_json, write_json_lines
from VideoMAE.optim_factory import set_step_values
from VideoMAE.runtime import distributed
from VideoMAE.runtime.stop_request import InterruptedRunError, stop_request
from VideoMAE.training.backends import Backend, NonFiniteGradientError
from VideoMAE.training.ema import WeightAverage
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.tasks import Evaluation

MAX_OVERFLOWS_IN_A_ROW = 32


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


@dataclasses.dataclass
class EpochState:
    """How far training has come: in `epoch`, `steps` optimizer steps are done.

    `losses` has one value per step, NaN where fp16's scaler left the step out; `overflows` counts such steps in a row.
    """

    epoch: int = 0
    steps: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    overflows: int = 0


class StepControl(Protocol):
    """Who decides after each optimizer step whether to save and whether to stop."""

    def wishes(self) -> tuple[bool, bool]:
        """Whether this process wants to save after the present step, and whether to stop."""

    def after_step(self, *, save: bool, stop: bool) -> None:
        """Hears, alike at every process, whether any of them wants to."""


class Batches(Protocol):
    """What evaluation reads from: a loader, or part of what one gives."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


class SharedError(ValueError):
    """A reason to stop that every process knows, so that one of them says it."""


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch (a NamedTuple) with its tensors on the device; planned clips become tensors there."""
    return type(batch)(
        *(field.to(device, non_blocking=True) if isinstance(field, Tensor | PlannedClips) else field for field in batch)
    )


def seed_step(seed: int, position: int, rank: int) -> None:
    """Sets the random state of torch and numpy for one batch of one process, so that no draw depends on what came
    before."""
    state = int(np.random.SeedSequence((seed, position, rank)).generate_state(1)[0])
    torch.manual_seed(state)
    np.random.seed(state)


def train_one_epoch(
    backend: Backend,
    loader: WatchedLoader,
    task: Task,
    *,
    schedule: Schedule,
    state: EpochState,
    steps_per_epoch: int,
    update_freq: int,
    ids: Sequence[str],
    skipped: dict[str, str],
    device: torch.device,
    seed: int,
    rank: int,
    average: WeightAverage | None,
    logger: MetricLogger,
    control: StepControl,
) -> dict[str, float]:
    """The steps of an epoch that `state` says are left; `loader` begins with the first of them.

    Moves `state` on, adds videos that could not be read to `skipped`, with reasons, and returns the epoch's means.

    Raises:
        SharedError: the loss or the gradient is not finite, and not for fp16's scaler to deal with; nothing of that
        step reached the weights.
    """
    backend.model.train()
    pending, shown = torch.zeros((), device=device), []
    bar = logger.progress(
        loader, describe=f"epoch {state.epoch}", total=steps_per_epoch * update_freq, done=state.steps * update_freq
    )
    for number, batch in enumerate(bar, start=(state.epoch * steps_per_epoch + state.steps) * update_freq):
        update = (number + 1) % update_freq == 0
        step = number // update_freq
        skipped.update(batch.skipped)
        shown.extend(batch.indices.tolist())
        batch = to_device(batch, device)
        seed_step(seed, number, rank)
        set_step_values(backend.optimizer, lr=schedule.lr[step], weight_decay=schedule.weight_decay[step])
        loss = task.training_loss(partial(backend.forward, update=update), batch)
        pending += loss.detach() / update_freq
        if not update:
            backend.backward(loss, update=False)
            continue
        mean, save, stop = _agree(pending, control)
        norm = _step(backend, loss, mean, state=state, ids=ids, shown=shown)
        pending, shown = torch.zeros((), device=device), []
        if average is not None and not state.overflows:
            average.update(backend.model)
        logger.step(
            epoch=state.epoch, step=step, values={"loss": mean, "lr": float(schedule.lr[step]), "grad_norm": norm}
        )
        control.after_step(save=save, stop=stop)
    last = (state.epoch + 1) * steps_per_epoch - 1
    return {"train_loss": float(np.nanmean(state.losses)), "lr": float(schedule.lr[last])}


def _agree(loss: Tensor, control: StepControl) -> tuple[float, bool, bool]:
    """A step's loss over all processes, and whether any of them wishes to save or to stop after it."""
    save, stop = control.wishes()
    wishes = torch.tensor([save, stop], dtype=torch.float32, device=loss.device)
    mean, any_save, any_stop = distributed.mean_over_processes(torch.cat([loss.float().reshape(1), wishes]))
    return mean, any_save > 0, any_stop > 0


def _step(
    backend: Backend, loss: Tensor, mean: float, *, state: EpochState, ids: Sequence[str], shown: Sequence[int]
) -> float | None:
    """Backward and the optimizer's step; moves `state` on and returns the gradient's norm."""
    in_fp16 = backend.settings.precision == "fp16"
    where = f"in epoch {state.epoch}, step {state.steps} of it, on"
    if not math.isfinite(mean) and not in_fp16:
        raise SharedError(f"the loss became {mean} {where} {name_videos(ids, shown)}")
    try:
        norm = backend.backward(loss, update=True)
    except NonFiniteGradientError as error:
        raise SharedError(f"{error} {where} {name_videos(ids, shown)}") from error
    overflowed = not math.isfinite(mean) or (norm is not None and not math.isfinite(norm))
    state.steps += 1
    state.losses.append(math.nan if overflowed else mean)
    state.overflows = state.overflows + 1 if overflowed else 0
    if state.overflows > MAX_OVERFLOWS_IN_A_ROW:
        raise SharedError(
            f"{state.overflows} steps in a row were not finite in fp16, {where} {name_videos(ids, shown)}"
        )
    return norm


def name_videos(ids: Sequence[str], shown: Sequence[int]) -> str:
    """What all processes showed in a step, by id; every process must ask."""
    return "the videos " + ", ".join(ids[index] for part in distributed.gather(list(shown)) for index in part)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Batches,
    *,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    logger: MetricLogger,
    describe: str,
) -> Evaluation:
    """Runs the model over this process's share and puts all shares together; the same at every process.

    Raises:
        SharedError: the outputs are not finite.
        InterruptedRunError: a process was asked to stop.
    """
    model.eval()
    dtype = next(model.parameters()).dtype
    indices: list[int] = []
    logits: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    skipped: dict[str, str] = {}
    batch: Batch
    for batch in logger.progress(loader, describe=describe, total=len(loader)):
        if stop_request:
            break
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
    if any(distributed.gather(bool(stop_request))):
        raise InterruptedRunError(f"stopped in {describe}")
    empty = np.empty((0, 1, 1), dtype=np.float32)
    order, all_logits = distributed.gather_by_index(indices, np.concatenate(logits) if logits else empty)
    _, all_targets = distributed.gather_by_index(indices, np.concatenate(targets) if targets else empty[:, 0])
    if not np.isfinite(all_logits).all():
        raise SharedError(f"the network's outputs in {describe} are not finite; its weights are ruined")
    reasons = {key: reason for part in distributed.gather(skipped) for key, reason in part.items()}
    return Evaluation(order, all_logits, all_targets, reasons)


def validation_one_epoch(
    model: nn.Module,
    loader: WatchedLoader,
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
    loader: WatchedLoader,
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
    write_json_lines(output_dir / f"{prefix}{lines_name}", lines)
    write_json(output_dir / f"{prefix}results.json", results)

"""Training and evaluation loops, for any task (training/tasks.py) and backend (training/backends.py)."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from VideoMAE.data.loaders import Batch
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.files import write_json, write_json_lines
from VideoMAE.optim_factory import Schedule, set_step_values
from VideoMAE.runtime import distributed
from VideoMAE.runtime.distributed import ErrorOnAllRanks
from VideoMAE.runtime.stop_request import InterruptedRunError, stop_request
from VideoMAE.training.backends import Backend, NonFiniteGradientError
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.tasks import EmotionTask, Evaluation, PreferenceTask

Task = EmotionTask | PreferenceTask


class StepResult(NamedTuple):
    """One optimizer step; the same on every process, except `unreadable`."""

    loss: float  # mean over the total batch
    lr: float
    grad_norm: float | None
    is_skipped: bool  # by fp16's loss scaler, because the loss or the gradient was not finite
    indices: list[int]  # dataset positions that this process used
    unreadable: dict[str, str]  # videos that this process could not read, with reasons


class NonFiniteStepError(ValueError):
    """The loss or the gradient of at least one process is not finite; the weights are those before the step."""

    def __init__(self, reason: str, indices: list[int]) -> None:
        super().__init__(reason)
        self.indices = indices


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch (a NamedTuple) with its tensors on the device."""
    return type(batch)(
        *(field.to(device, non_blocking=True) if isinstance(field, Tensor) else field for field in batch)
    )


def seed_step(seed: int, position: int, rank: int) -> None:
    """Seeds torch and numpy for one batch of one process, so that a step does not depend on the steps before it."""
    state = int(np.random.SeedSequence((seed, position, rank)).generate_state(1)[0])
    torch.manual_seed(state)
    np.random.seed(state)


def train_one_epoch(
    backend: Backend, batches: Iterable[Any], task: Task, *, schedule: Schedule, first_batch: int, seed: int
) -> Iterator[StepResult]:
    """Runs the optimizer steps of an epoch, or of the rest of one, and yields each result.

    The first of the `batches` has the number `first_batch`, counted over all epochs of this process. Raises
    NonFiniteStepError if the loss or the gradient is not finite, except in fp16.
    """
    update_freq, world = backend.settings.update_freq, backend.settings.world
    backend.model.train()
    loss_sum, indices, unreadable = torch.zeros((), device=world.device), list[int](), dict[str, str]()
    for number, batch in enumerate(batches, start=first_batch):
        step, is_update = number // update_freq, (number + 1) % update_freq == 0
        indices += batch.indices.tolist()
        unreadable |= batch.skipped
        batch = to_device(batch, world.device)
        seed_step(seed, number, world.rank)
        set_step_values(backend.optimizer, lr=schedule.lr[step], weight_decay=schedule.weight_decay[step])
        loss = task.training_loss(partial(backend.forward, update=is_update), batch)
        loss_sum += loss.detach() / update_freq
        if not is_update:
            backend.backward(loss, update=False)
            continue
        (mean,) = distributed.mean_over_processes(loss_sum.reshape(1))
        if not math.isfinite(mean) and backend.settings.precision != "fp16":
            raise NonFiniteStepError(f"the loss became {mean}", indices)
        try:
            norm = backend.backward(loss, update=True)
        except NonFiniteGradientError as error:
            raise NonFiniteStepError(str(error), indices) from error
        is_skipped = not math.isfinite(mean) or (norm is not None and not math.isfinite(norm))
        yield StepResult(mean, float(schedule.lr[step]), norm, is_skipped, indices, unreadable)
        loss_sum, indices, unreadable = torch.zeros((), device=world.device), [], {}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Any,
    *,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    logger: MetricLogger,
    describe: str,
) -> Evaluation:
    """Runs the model on this process's part of the videos and gathers all outputs on every process.

    `loader` is an iterable of `Batch` with a length. Raises ErrorOnAllRanks if the outputs are not finite, and
    InterruptedRunError if a process was asked to stop.
    """
    model.eval()
    dtype = next(model.parameters()).dtype
    indices, skipped = list[int](), dict[str, str]()
    logits, targets = list[np.ndarray](), list[np.ndarray]()
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
        raise ErrorOnAllRanks(f"the outputs of the network in {describe} are not finite; its weights are unusable")
    reasons = {key: reason for part in distributed.gather(skipped) for key, reason in part.items()}
    return Evaluation(order, all_logits, all_targets, reasons)


def validation_one_epoch(model: nn.Module, loader: WatchedLoader, task: Task, **settings: Any) -> dict[str, Any]:
    """Metrics on one clip of every validation video; raises ErrorOnAllRanks if none can be read. See `evaluate`."""
    outcome = evaluate(model, loader, describe="validation", **settings)
    if not len(outcome.indices):
        raise ErrorOnAllRanks("none of the validation videos can be read")
    return {**task.validation_metrics(outcome), "num_unreadable": len(outcome.skipped)}


def final_test(model: nn.Module, loader: WatchedLoader, **settings: Any) -> Evaluation:
    """Outputs for every view of every test video; raises ErrorOnAllRanks if none can be read. See `evaluate`."""
    outcome = evaluate(model, loader, describe="test", **settings)
    if not len(outcome.indices):
        raise ErrorOnAllRanks("none of the test videos can be read")
    return outcome


def write_results(
    output_dir: Path,
    results: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    *,
    lines_name: str = "predictions.jsonl",
    prefix: str = "",
) -> None:
    """Writes results.json, and a JSON lines file with one video per line; `prefix` is prepended to both names."""
    write_json_lines(output_dir / f"{prefix}{lines_name}", lines)
    write_json(output_dir / f"{prefix}results.json", results)

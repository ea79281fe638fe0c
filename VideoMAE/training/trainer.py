"""Training from the first step to the last: validation, checkpoints, stopping and exact resuming, for any task."""

import dataclasses
import logging
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import nn

from VideoMAE.config import FinetuneConfig, to_json
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.engine_for_finetuning import NonFiniteStepError, StepResult, Task, train_one_epoch, validation_one_epoch
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.optim_factory import ScaleRule, WeightAverage, make_schedule, scale_to_batch
from VideoMAE.runtime import distributed
from VideoMAE.runtime.distributed import ErrorOnAllRanks, World, raise_on_all_ranks
from VideoMAE.runtime.stop_request import InterruptedRunError, stop_request
from VideoMAE.training import checkpoint
from VideoMAE.training.backends import autocast, make_backend
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.pretrained import load_pretrained

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE_OVERFLOWS = 32


class Loaders(NamedTuple):
    """The loaders of a run."""

    train: WatchedLoader
    sampler: TrainSampler
    validation: WatchedLoader | None
    ids: Sequence[str]  # names of the training dataset's positions
    max_bad: int  # largest number of unreadable training videos
    labels: str  # checksum of the training labels


@dataclasses.dataclass
class TrainState:
    """The position of a run: `steps` optimizer steps of `epoch` (from 0) are done."""

    epoch: int = 0
    steps: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)  # one per step; NaN if fp16's loss scaler skipped it
    overflows: int = 0  # consecutive skipped steps

    def count(self, result: StepResult) -> None:
        """Adds a step."""
        self.steps += 1
        self.losses.append(math.nan if result.is_skipped else result.loss)
        self.overflows = self.overflows + 1 if result.is_skipped else 0


class Trainer:
    """The epochs of a run, and the state that its checkpoints contain.

    A step depends only on its number, the rank and the seed, not on the history of the process, so checkpoints need no
    random states; see engine_for_finetuning.seed_step and data.clips.SampleKey.
    """

    def __init__(
        self,
        model: VisionTransformer,
        task: Task,
        loaders: Loaders,
        *,
        config: FinetuneConfig,
        world: World,
        precision: str,
        scale: ScaleRule = scale_to_batch,
    ) -> None:
        self.task, self.loaders, self.world = task, loaders, world
        self.optim, self.run = config.optim, config.run
        self.settings = to_json(config)
        self.schedule = make_schedule(self.optim, loaders.sampler, scale=scale)
        self.autocast = partial(autocast, world.device, precision)
        model.to(world.device)
        device = torch.device("cpu") if self.optim.model_ema_force_cpu else world.device
        decay = self.optim.model_ema_decay
        self.average = WeightAverage(model, decay=decay, device=device) if self.optim.model_ema else None
        self.backend = make_backend(model, self.optim, self.run, world=world, precision=precision)
        self.state = TrainState(epoch=self.run.start_epoch)
        self.best: float | None = None
        self.unreadable: dict[str, str] = {}  # the same on every process
        self.unreadable_here: dict[str, str] = {}  # found by this process since the last exchange
        self.saved_at = time.monotonic()

    @property
    def tested_model(self) -> nn.Module:
        """The network that is validated and tested: the moving average if there is one."""
        return self.backend.model if self.average is None else self.average.on(self.world.device)

    @property
    def step(self) -> int:
        """Number of optimizer steps done, over all epochs."""
        return self.state.epoch * self.loaders.sampler.steps_per_epoch + self.state.steps

    def resume(self) -> None:
        """Restores --resume or, with --auto_resume, the newest intact checkpoint of the output folder, if any."""
        sampler, labels = self.loaders.sampler, self.loaders.labels
        found = checkpoint.find_to_resume(self.run, settings=self.settings, labels=labels, sampler=sampler)
        if found is None:
            return
        path, content = found
        self.backend.model.load_state_dict(content["model"])
        self.backend.load_state_dict(content["backend"])
        if self.average is not None:
            self.average.module.load_state_dict(content["model_ema"])
        self.state, self.best, self.unreadable = TrainState(**content["state"]), content["best"], content["skipped"]
        self.state.steps = checkpoint.steps_done(content, sampler=sampler, world_size=self.world.size)
        epoch, epochs = self.state.epoch + 1, self.optim.epochs
        where = f"epoch {epoch} of {epochs}, {self.state.steps} of {sampler.steps_per_epoch} steps"
        logger.info("resumed from %s: %s done", path, where if epoch <= epochs else "all epochs are")

    def fit(self, log: MetricLogger) -> None:
        """Trains the remaining epochs; validates, logs and saves after each.

        Raises:
            ErrorOnAllRanks: a loss is not finite, too many videos are unreadable, or a checkpoint cannot be written.
            InterruptedRunError: a process was asked to stop; the state is saved.
        """
        self.log = log
        while self.state.epoch < self.optim.epochs:
            epoch = self.state.epoch
            try:
                values = {**self._train_epoch(), **self._validate()}
            except ErrorOnAllRanks as error:
                last = self.run.output_dir / checkpoint.LAST
                saved = f"the last good checkpoint is {last}" if last.is_file() else "no checkpoint has been written"
                raise ErrorOnAllRanks(f"{error}; {saved}") from error
            log.epoch(epoch, values)
            score = values.get(f"val_{self.task.select_by}")
            is_best = score is None or self.best is None or score >= self.best  # on a tie, the later epoch
            self.best = score if is_best else self.best
            self.state = TrainState(epoch + 1)
            self._save(values, of_epoch=epoch, is_best=is_best)
            log.say(describe_epoch(epoch, self.optim.epochs, values))

    def _train_epoch(self) -> dict[str, float | None]:
        """The remaining steps of the epoch -> its mean loss (None if fp16 skipped all steps) and last learning rate."""
        sampler, state, update_freq = self.loaders.sampler, self.state, self.optim.update_freq
        sampler.set_position(state.epoch, state.steps)
        total, done = sampler.steps_per_epoch * update_freq, state.steps * update_freq
        name = f"epoch {state.epoch + 1}"
        batches = self.log.progress(self.loaders.train, describe=name, total=total, done=done)
        first = self.step * update_freq
        try:
            for result in train_one_epoch(
                self.backend, batches, self.task, schedule=self.schedule, first_batch=first, seed=self.run.seed
            ):
                self._finish_step(result)
        except NonFiniteStepError as error:
            raise self._step_error(str(error), error.indices, step=state.steps + 1) from error
        self._share_unreadable()
        last = (state.epoch + 1) * sampler.steps_per_epoch - 1
        losses = [loss for loss in state.losses if not math.isnan(loss)]
        return {"train_loss": float(np.mean(losses)) if losses else None, "lr": float(self.schedule.lr[last])}

    def _finish_step(self, result: StepResult) -> None:
        """Counts and logs a step, updates the moving average, and saves or stops if any process requests it."""
        self.unreadable_here |= result.unreadable
        self.state.count(result)
        if self.state.overflows > MAX_CONSECUTIVE_OVERFLOWS:
            reason = f"{self.state.overflows} consecutive steps overflowed in fp16"
            raise self._step_error(reason, result.indices, step=self.state.steps)
        if self.average is not None and not result.is_skipped:
            self.average.update(self.backend.model)
        values = {"loss": result.loss, "lr": result.lr, "grad_norm": result.grad_norm}
        self.log.step(epoch=self.state.epoch, step=self.step - 1, values=values)
        run, is_last = self.run, self.state.steps == self.loaders.sampler.steps_per_epoch  # the epoch's end saves too
        steps_due = run.save_ckpt_steps > 0 and self.step % run.save_ckpt_steps == 0 and not is_last
        minutes_due = run.save_ckpt_minutes > 0 and time.monotonic() - self.saved_at >= 60 * run.save_ckpt_minutes
        requests = [steps_due or (minutes_due and self.world.is_main), bool(stop_request)]
        save, stop = distributed.mean_over_processes(torch.tensor(requests, device=self.world.device))
        if stop:
            self._save_and_stop()
        elif save:
            self._share_unreadable()
            self._save({}, of_epoch=self.state.epoch)

    def _step_error(self, reason: str, indices: list[int], *, step: int) -> ErrorOnAllRanks:
        """An error that names the videos of a step on all processes; every process must call this."""
        videos = ", ".join(self.loaders.ids[index] for part in distributed.gather(indices) for index in part)
        return ErrorOnAllRanks(f"{reason} in epoch {self.state.epoch + 1}, step {step}, on the videos {videos}")

    def _validate(self) -> dict[str, Any]:
        """The metrics of the epoch's network, as val_*."""
        if self.loaders.validation is None:
            return {}
        try:
            measured = validation_one_epoch(
                self.tested_model,
                self.loaders.validation,
                self.task,
                device=self.world.device,
                autocast=self.autocast,
                logger=self.log,
            )
        except InterruptedRunError:
            self._save_and_stop()
        return {f"val_{name}": value for name, value in measured.items()}

    def _save_and_stop(self) -> NoReturn:
        self._share_unreadable()
        self._save({}, of_epoch=self.state.epoch)
        seconds, signal_name = max(distributed.gather((stop_request.seconds_ago(), stop_request.signal_name)))
        where = f"after step {self.state.steps} of epoch {self.state.epoch + 1}"
        if not self.run.save_ckpt:
            raise InterruptedRunError(f"{signal_name}: stopped {where}; nothing is saved because of --no_save_ckpt")
        raise InterruptedRunError(
            f"{signal_name}: saved {self.run.output_dir / checkpoint.LAST} {where}, {seconds:.1f} s after the signal; "
            "run the same command again to resume"
        )

    def best_model(self) -> nn.Module:
        """The network of the best epoch; of the last one if no checkpoints are written."""
        if not self.run.save_ckpt:
            return self.tested_model
        best = self.run.output_dir / checkpoint.BEST
        with raise_on_all_ranks():
            checkpoint.check_whole(best)
            load_pretrained(self.backend.model, best, must_be_whole=True)
        return self.backend.model

    def _share_unreadable(self) -> None:
        """Exchanges newly found unreadable videos, logs them, and raises an error if there are too many."""
        for part in distributed.gather(self.unreadable_here):
            for key in part.keys() - self.unreadable.keys():
                self.log.say(f"unreadable in training, {self.task.unreadable_policy}: {key}: {part[key]}")
            self.unreadable.update(part)
        self.unreadable_here.clear()
        check_num_unreadable(self.unreadable, self.loaders.max_bad)

    def _save(self, values: dict[str, Any], *, of_epoch: int, is_best: bool = False) -> None:
        """Writes the state; `values` are the metrics of a finished epoch, empty within an epoch."""
        if not self.run.save_ckpt:
            return
        self.log.sync()
        sampler = self.loaders.sampler
        content = {
            "model": {name: value.float().cpu() for name, value in self.backend.model.state_dict().items()},
            "model_ema": None if self.average is None else self.average.module.state_dict(),
            "backend": self.backend.state_dict(),
            "epoch": of_epoch,
            "state": dataclasses.asdict(self.state),
            "best": self.best,
            "skipped": self.unreadable,
            "labels": self.loaders.labels,
            "world_size": self.world.size,
            "total_batch_size": sampler.total_batch_size,
            "share": [sampler.batch_size, sampler.update_freq],
            "metrics": values,
            "config": self.settings,
        }
        folder, keep_every = self.run.output_dir, self.run.save_ckpt_freq
        write = partial(checkpoint.save_run, folder, content, is_best=is_best, keep_every=keep_every)
        with raise_on_all_ranks():
            distributed.on_main(self.world, write)
        self.saved_at = time.monotonic()


def check_num_unreadable(reasons: Mapping[str, str], max_bad: int) -> None:
    """Raises ErrorOnAllRanks if more than `max_bad` training videos are unreadable."""
    if len(reasons) > max_bad:
        named = "; ".join(f"{key}: {reason}" for key, reason in reasons.items())
        raise ErrorOnAllRanks(f"unreadable training videos: {len(reasons)}, more than --max_bad_videos allows: {named}")


def describe_epoch(epoch: int, num_epochs: int, values: dict[str, Any]) -> str:
    """An epoch in one line; `epoch` counts from 0, the line from 1."""
    shown = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
    return f"epoch {epoch + 1} of {num_epochs}: {', '.join(shown)}"

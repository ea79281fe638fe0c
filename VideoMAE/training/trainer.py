"""Training from the first step to the last, for any task: validation, checkpoints, stopping and going on exactly."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
from torch import nn

from VideoMAE import flags
from VideoMAE.config import RunConfig
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.engine_for_finetuning import EpochState, SharedError, Task, train_one_epoch, validation_one_epoch
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.runtime import distributed
from VideoMAE.runtime.distributed import World
from VideoMAE.runtime.stop_request import InterruptedRunError, stop_request
from VideoMAE.training import checkpoint, resuming
from VideoMAE.training.backends import autocast
from VideoMAE.training.ema import WeightAverage
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.optimization import ScaleRule, make_backend, make_schedule, scale_to_batch
from VideoMAE.training.pretrained import load_pretrained
from VideoMAE.training.setup import RunSettings, known_to_all, say_where

logger = logging.getLogger(__name__)


class Loaders(NamedTuple):
    """Where batches come from; `ids` names the training dataset's positions, `max_bad` bounds the unreadable among
    them, and `labels` is the fingerprint of what is to be learned."""

    train: WatchedLoader
    sampler: TrainSampler
    validation: WatchedLoader | None
    ids: Sequence[str]
    max_bad: int
    labels: str


class Fitting:
    """Training in progress: the state that a checkpoint holds, and the steps that move it.

    What happens in a step depends on its number, the rank and the seed only, never on what the process did before, so
    that a checkpoint needs no random states: see engine_for_finetuning.seed_step and vce.SampleKey.
    """

    def __init__(
        self,
        model: VisionTransformer,
        task: Task,
        loaders: Loaders,
        *,
        config: RunSettings,
        world: World,
        precision: str,
        scale: ScaleRule = scale_to_batch,
    ) -> None:
        self.task, self.loaders, self.world = task, loaders, world
        self.optim, self.run = config.optim, config.run
        self.settings = flags.to_json(config)
        self.schedule = make_schedule(self.optim, loaders.sampler, scale=scale)
        self.autocast = partial(autocast, world.device, precision)
        model.to(world.device)
        self.average = None
        if self.optim.model_ema:
            device = torch.device("cpu") if self.optim.model_ema_force_cpu else world.device
            self.average = WeightAverage(model, decay=self.optim.model_ema_decay, device=device)
        self.backend = make_backend(model, self.optim, self.run, world=world, precision=precision)
        self.state = EpochState(epoch=self.run.start_epoch)
        self.best: float | None = None
        self.skipped: dict[str, str] = {}  # unreadable videos that every process knows of
        self.found: dict[str, str] = {}  # those that this process found since
        self.saved_at = time.monotonic()

    @property
    def tested_model(self) -> nn.Module:
        """The network that validation and testing see: the average where one is kept."""
        return self.backend.model if self.average is None else self.average.on(self.world.device)

    @property
    def step(self) -> int:
        """How many optimizer steps are done, as steps are numbered."""
        return self.state.epoch * self.loaders.sampler.steps_per_epoch + self.state.steps

    def resume(self) -> None:
        """Goes on from --resume, or with --auto_resume from the newest whole checkpoint of the output folder."""
        found = resuming.find(self.run)
        if found is None:
            return
        path, content = found
        sampler = self.loaders.sampler
        resuming.check_same_run(path, content, settings=self.settings, labels=self.loaders.labels, sampler=sampler)
        self.backend.model.load_state_dict(content["model"])
        self.backend.load_state_dict(content["backend"])
        if self.average is not None:
            self.average.module.load_state_dict(content["model_ema"])
        self.state, self.best, self.skipped = EpochState(**content["state"]), content["best"], content["skipped"]
        self.state.steps = resuming.steps_with_these_processes(content, sampler=sampler, world_size=self.world.size)
        logger.info(
            "resumed from %s: epoch %d of %d, step %d of %d", path, self.state.epoch, self.optim.epochs,
            self.state.steps, sampler.steps_per_epoch,
        )  # fmt: skip

    def fit(self, log: MetricLogger) -> None:
        """Trains the epochs that are left, validating, logging and saving after each.

        Raises:
            SharedError: a loss is not finite, too many videos are unreadable, or a checkpoint cannot be written.
            InterruptedRunError: a process was asked to stop; the state is saved.
        """
        self.log = log
        while self.state.epoch < self.optim.epochs:
            epoch = self.state.epoch
            with self._says_what_is_saved():
                values = self._train_and_validate()
            log.epoch(epoch, values)
            score = values.get(f"val_{self.task.select_by}")
            is_best = score is None or self.best is None or score >= self.best  # of equals the later
            self.best = score if is_best else self.best
            self.state = EpochState(epoch + 1)
            self._save(values, of_epoch=epoch, is_best=is_best)
            log.say(describe_epoch(epoch, self.optim.epochs, values))

    @contextmanager
    def _says_what_is_saved(self) -> Iterator[None]:
        try:
            yield
        except SharedError as error:
            last = self.run.output_dir / checkpoint.LAST
            saved = f"the last good checkpoint is {last}" if last.is_file() else "no checkpoint had been written yet"
            raise SharedError(f"{error}; {saved}") from error

    def _train_and_validate(self) -> dict[str, Any]:
        """What is left of an epoch. Returns its line of log.txt."""
        sampler = self.loaders.sampler
        sampler.set_position(self.state.epoch, self.state.steps)
        means = train_one_epoch(
            self.backend,
            self.loaders.train,
            self.task,
            schedule=self.schedule,
            state=self.state,
            steps_per_epoch=sampler.steps_per_epoch,
            update_freq=self.optim.update_freq,
            ids=self.loaders.ids,
            skipped=self.found,
            device=self.world.device,
            seed=self.run.seed,
            rank=self.world.rank,
            average=self.average,
            logger=self.log,
            control=self,
        )
        self._share_found()
        if self.loaders.validation is None:
            return dict(means)
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
        return {**means, **{f"val_{name}": value for name, value in measured.items()}}

    def wishes(self) -> tuple[bool, bool]:
        """Whether this process wants to save after the present step, and whether to stop; see StepControl."""
        run = self.run
        steps_due = run.save_ckpt_steps > 0 and (self.step + 1) % run.save_ckpt_steps == 0
        minutes_due = run.save_ckpt_minutes > 0 and time.monotonic() - self.saved_at >= 60 * run.save_ckpt_minutes
        return steps_due or (minutes_due and self.world.is_main), bool(stop_request)

    def after_step(self, *, save: bool, stop: bool) -> None:
        """Saves, or saves and stops, as the processes agreed; see StepControl."""
        if stop:
            self._save_and_stop()
        elif save:
            self._share_found()
            self._save({}, of_epoch=self.state.epoch)

    def _save_and_stop(self) -> NoReturn:
        self._share_found()
        self._save({}, of_epoch=self.state.epoch)
        asked = max(distributed.gather((stop_request.seconds_ago(), stop_request.signal_name)))
        where = f"after step {self.state.steps} of epoch {self.state.epoch}"
        if not self.run.save_ckpt:
            raise InterruptedRunError(f"{asked[1]}: stopped {where}; nothing is saved, as --no_save_ckpt asks")
        raise InterruptedRunError(
            f"{asked[1]}: saved {self.run.output_dir / checkpoint.LAST} {where}, {asked[0]:.1f} s after the signal; "
            "the same command goes on from there"
        )

    def best_model(self) -> nn.Module:
        """The network of the best epoch; of the last one where no checkpoints are written."""
        if self.run.save_ckpt:
            best = self.run.output_dir / checkpoint.BEST
            with known_to_all():
                checkpoint.check_whole(best)
                load_pretrained(self.backend.model, best, must_be_whole=True)
            return self.backend.model
        return self.tested_model

    def _share_found(self) -> None:
        """Names newly unreadable videos and stops when there are too many."""
        for part in distributed.gather(self.found):
            for key in part.keys() - self.skipped.keys():
                self.log.say(f"unreadable in training, {self.task.instead}: {key}: {part[key]}")
            self.skipped.update(part)
        self.found.clear()
        if len(self.skipped) > self.loaders.max_bad:
            named = "; ".join(f"{key}: {reason}" for key, reason in self.skipped.items())
            raise SharedError(
                f"{len(self.skipped)} training videos turned out unreadable, more than --max_bad_videos allows: {named}"
            )

    def _save(self, values: dict[str, Any], *, of_epoch: int, is_best: bool = False) -> None:
        """Writes the present state; with the metrics `values` at the end of an epoch, with none within."""
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
            "skipped": self.skipped,
            "labels": self.loaders.labels,
            "world_size": self.world.size,
            "total_batch_size": sampler.total_batch_size,
            "share": [sampler.batch_size, sampler.update_freq],
            "metrics": values,
            "config": self.settings,
        }
        with known_to_all():
            distributed.on_main(
                self.world,
                lambda: resuming.write(
                    self.run.output_dir, content, is_best=is_best, keep_every=self.run.save_ckpt_freq
                ),
            )
        self.saved_at = time.monotonic()


class Trainer(Protocol):
    """What trains a network: a `Fitting`, or a LinearProbe."""

    state: EpochState

    @property
    def step(self) -> int: ...

    def fit(self, log: MetricLogger) -> None: ...

    def best_model(self) -> nn.Module: ...


def fit_and_test(
    model: nn.Module,
    fitting: Trainer | None,
    test: Callable[[nn.Module, MetricLogger], None],
    *,
    run: RunConfig,
    world: World,
    show_progress: bool = True,
) -> None:
    """Trains the epochs that are left, where `fitting` is given, hands the network to `test` and says where the
    results are."""
    log = MetricLogger(run.output_dir, enabled=world.is_main, num_processes=world.size, show_progress=show_progress)
    tested = model.to(world.device)
    with stop_request.deferred():
        try:
            if fitting is not None:
                log.open(run.log_dir, epoch=fitting.state.epoch, steps=fitting.state.steps, first_step=fitting.step)
                fitting.fit(log)
                tested = fitting.best_model()
            test(tested, log)
            log.close()
        except BaseException:
            log.abandon()
            raise
    say_where(run, world=world)


def describe_epoch(epoch: int, num_epochs: int, values: dict[str, Any]) -> str:
    """An epoch in one line."""
    shown = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
    return f"epoch {epoch + 1} of {num_epochs}: {', '.join(shown)}"

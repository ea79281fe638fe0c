"""Training from the first epoch to the last, for any task: optimizer, schedule, validation, checkpoints, resuming."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from VideoMAE import flags
from VideoMAE.config import OptimConfig, RunConfig
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.engine_for_finetuning import Schedule, SharedError, Task, train_one_epoch, validation_one_epoch
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.optim_factory import create_optimizer, parameter_groups
from VideoMAE.run_setup import RunSettings, known_to_all, say_where
from VideoMAE.training import checkpoint, distributed
from VideoMAE.training.backends import Backend, BackendSettings, DDPBackend, DeepSpeedBackend, autocast
from VideoMAE.training.distributed import World
from VideoMAE.training.ema import WeightAverage
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.pretrained import load_pretrained, read_checkpoint
from VideoMAE.training.schedules import cosine_schedule

logger = logging.getLogger(__name__)


def scale_to_batch(base: float, total_batch_size: int) -> float:
    """The linear scaling rule: base x total batch / 256. Source: Goyal et al. 2017, section 2.1."""
    return base * total_batch_size / 256


def keep_base(base: float, total_batch_size: int) -> float:
    """The base itself, whatever the total batch."""
    return base


ScaleRule = Callable[[float, int], float]


def make_schedule(optim: OptimConfig, sampler: TrainSampler, *, scale: ScaleRule = scale_to_batch) -> Schedule:
    """Learning rate (scaled to the total batch by `scale`) and weight decay of every optimizer step."""
    values = partial(cosine_schedule, epochs=optim.epochs, steps_per_epoch=sampler.steps_per_epoch)
    end = optim.weight_decay if optim.weight_decay_end is None else optim.weight_decay_end
    return Schedule(
        lr=values(
            scale(optim.lr, sampler.total_batch_size),
            scale(optim.min_lr, sampler.total_batch_size),
            warmup_epochs=optim.warmup_epochs,
            warmup_steps=optim.warmup_steps,
        ),
        weight_decay=values(optim.weight_decay, end),
    )


def make_backend(
    model: VisionTransformer, optim: OptimConfig, run: RunConfig, *, world: World, precision: str
) -> Backend:
    """The optimizer over layer-decayed groups, and DDP or DeepSpeed around it."""
    groups = parameter_groups(
        model,
        num_layers=model.get_num_layers(),
        weight_decay=optim.weight_decay,
        layer_decay=optim.layer_decay,
        no_weight_decay=model.no_weight_decay(),
    )
    optimizer = create_optimizer(
        groups, opt=optim.opt, lr=optim.lr, betas=optim.opt_betas, eps=optim.opt_eps, momentum=optim.momentum
    )
    settings = BackendSettings(world, precision, optim.update_freq, optim.clip_grad)
    if run.enable_deepspeed:
        return DeepSpeedBackend(model, optimizer, settings, batch_size=optim.batch_size, zero_stage=run.zero_stage)
    if run.zero_stage:
        raise ValueError(f"--zero_stage {run.zero_stage} needs --enable_deepspeed")
    return DDPBackend(model, optimizer, settings)


class Loaders(NamedTuple):
    """Where batches come from; `ids` names the training dataset's positions, `max_bad` bounds the unreadable among
    them."""

    train: DataLoader[Any]
    sampler: TrainSampler
    validation: DataLoader[Any] | None
    ids: Sequence[str]
    max_bad: int


class Fitting:
    """Training in progress: the state that a checkpoint holds, and the epochs that move it."""

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
        self.epoch = self.run.start_epoch
        self.best: float | None = None
        self.skipped: dict[str, str] = {}

    @property
    def tested_model(self) -> nn.Module:
        """The network that validation and testing see: the average where one is kept."""
        return self.backend.model if self.average is None else self.average.on(self.world.device)

    def resume(self) -> None:
        """Goes on from --resume, or with --auto_resume from the newest whole checkpoint of the output folder."""
        if self.run.resume is not None:
            path, content = self.run.resume, read_checkpoint(self.run.resume)
        elif self.run.auto_resume and (found := checkpoint.newest(self.run.output_dir)):
            path, content = found
        else:
            return
        if "backend" not in content:
            raise ValueError(f"{path}: holds weights but no state of a run to resume; give it to --finetune instead")
        differs = flags.differences(content["config"], self.settings)
        if differs:
            raise ValueError(f"{path}: comes from a run of another configuration ({'; '.join(differs)})")
        total = self.loaders.sampler.total_batch_size
        if content["total_batch_size"] != total:
            raise ValueError(
                f"{path}: comes from a run with a total batch of {content['total_batch_size']}, this one has {total}; "
                "set --batch_size or --update_freq so that x processes they give the same"
            )
        self.backend.model.load_state_dict(content["model"])
        self.backend.load_state_dict(content["backend"])
        if self.average is not None:
            self.average.module.load_state_dict(content["model_ema"])
        self.epoch, self.best, self.skipped = content["epoch"] + 1, content["best"], content["skipped"]
        logger.info("resumed from %s: epoch %d of %d", path, self.epoch, self.optim.epochs)

    def fit(self, log: MetricLogger) -> None:
        """Trains the epochs that are left, validating, logging and saving after each.

        Raises:
            SharedError: a loss is not finite, too many videos are unreadable, or a checkpoint cannot be written.
        """
        for epoch in range(self.epoch, self.optim.epochs):
            self.loaders.sampler.set_epoch(epoch)
            try:
                values = self._train_and_validate(epoch, log)
            except SharedError as error:
                raise SharedError(f"{error}; {self._what_is_saved()}") from error
            self.epoch = epoch
            log.epoch(epoch, values)
            self._save(values)
            log.say(describe_epoch(epoch, self.optim.epochs, values))

    def _train_and_validate(self, epoch: int, log: MetricLogger) -> dict[str, Any]:
        """One epoch. Returns its line of log.txt."""
        means, skipped = train_one_epoch(
            self.backend,
            self.loaders.train,
            self.task,
            schedule=self.schedule,
            epoch=epoch,
            update_freq=self.optim.update_freq,
            ids=self.loaders.ids,
            device=self.world.device,
            seed=self.run.seed,
            rank=self.world.rank,
            average=self.average,
            logger=log,
        )
        self._count_skipped(skipped, log)
        if self.loaders.validation is None:
            return dict(means)
        measured = validation_one_epoch(
            self.tested_model,
            self.loaders.validation,
            self.task,
            device=self.world.device,
            autocast=self.autocast,
            logger=log,
        )
        return {**means, **{f"val_{name}": value for name, value in measured.items()}}

    def best_model(self) -> nn.Module:
        """The network of the best epoch; of the last one where no checkpoints are written."""
        if self.run.save_ckpt:
            with known_to_all():
                load_pretrained(self.backend.model, self.run.output_dir / checkpoint.BEST, must_be_whole=True)
            return self.backend.model
        return self.tested_model

    def _what_is_saved(self) -> str:
        last = self.run.output_dir / checkpoint.LAST
        return f"the last good checkpoint is {last}" if last.is_file() else "no checkpoint had been written yet"

    def _count_skipped(self, skipped: dict[str, str], log: MetricLogger) -> None:
        """Names newly unreadable videos and stops when there are too many."""
        for part in distributed.gather(skipped):
            for key in part.keys() - self.skipped.keys():
                log.say(f"unreadable in training, {self.task.instead}: {key}: {part[key]}")
            self.skipped.update(part)
        if len(self.skipped) > self.loaders.max_bad:
            named = "; ".join(f"{key}: {reason}" for key, reason in self.skipped.items())
            raise SharedError(
                f"{len(self.skipped)} training videos turned out unreadable, more than --max_bad_videos allows: {named}"
            )

    def _save(self, values: dict[str, Any]) -> None:
        score = values.get(f"val_{self.task.select_by}")
        is_best = score is None or self.best is None or score >= self.best  # of equals the later
        self.best = score if is_best else self.best
        if not self.run.save_ckpt:
            return
        weights = {name: value.float().cpu() for name, value in self.backend.model.state_dict().items()}
        content = {
            "model": weights,
            "model_ema": None if self.average is None else self.average.module.state_dict(),
            "backend": self.backend.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "skipped": self.skipped,
            "total_batch_size": self.loaders.sampler.total_batch_size,
            "metrics": values,
            "config": self.settings,
        }
        with known_to_all():
            distributed.on_main(self.world, lambda: self._write(content, is_best=is_best))

    def _write(self, content: dict[str, Any], *, is_best: bool) -> None:
        folder = self.run.output_dir
        if is_best:
            tested = content["model"] if self.average is None else content["model_ema"]
            best = {"model": tested, **{key: content[key] for key in ("epoch", "metrics", "config")}}
            checkpoint.save(folder / checkpoint.BEST, best)
        if (self.epoch + 1) % self.run.save_ckpt_freq == 0:
            checkpoint.save(folder / checkpoint.epoch_name(self.epoch), content)
        checkpoint.save(folder / checkpoint.LAST, content)


def fit_and_test(
    model: nn.Module,
    fitting: Fitting | None,
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
    if fitting is not None:
        log.open(run.log_dir, start_epoch=fitting.epoch)
        fitting.fit(log)
        tested = fitting.best_model()
    test(tested, log)
    log.close()
    say_where(run, world=world)


def describe_epoch(epoch: int, num_epochs: int, values: dict[str, Any]) -> str:
    """An epoch in one line."""
    shown = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
    return f"epoch {epoch + 1} of {num_epochs}: {', '.join(shown)}"

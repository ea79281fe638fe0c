"""--linear_probe: the head alone is trained, on what the frozen network makes of every video once.

The features are cached in the output folder, so that a run that was broken off goes on with the rest. The head on them
is found by head_solver.py; the best epoch is chosen, tested and saved as in a run that trains everything.
"""

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from VideoMAE import flags
from VideoMAE.data.loaders import Batch, make_loader
from VideoMAE.data.vce import EvaluationDataset
from VideoMAE.engine_for_finetuning import EpochState, SharedError, Task, evaluate
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.runtime import distributed
from VideoMAE.runtime.distributed import World
from VideoMAE.runtime.folder_lock import check_still_held
from VideoMAE.runtime.stop_request import InterruptedRunError, stop_request
from VideoMAE.training import checkpoint
from VideoMAE.training.backends import autocast
from VideoMAE.training.feature_cache import FeatureCache, fingerprint_of_weights
from VideoMAE.training.head_solver import HeadSolver, apply_head
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.setup import RunSettings, known_to_all, loader_settings, share_sampler
from VideoMAE.training.tasks import Evaluation
from VideoMAE.training.trainer import describe_epoch

logger = logging.getLogger(__name__)

VIDEOS_PER_BLOCK = 64  # of each process; what an interruption costs at most

MEANINGLESS: dict[str, tuple[Any, str]] = {
    "eval": (False, "which trains nothing"),
    "mixup": (0, "the head sees features of whole clips"),
    "cutmix": (0, "the head sees features of whole clips"),
    "num_sample": (1, "every video passes through the network once, as in validation"),
    "device_augment": (False, "every video passes through the network once, as in validation"),
    "drop": (0, "the network is frozen"),
    "attn_drop_rate": (0, "the network is frozen"),
    "fc_drop_rate": (0, "--weight_decay keeps the head small"),
    "use_checkpoint": (False, "the network is frozen"),
    "model_ema": (False, "the head's optimum is no average"),
    "clip_grad": (None, "L-BFGS chooses its steps by itself"),
    "weight_decay_end": (None, "the head has one objective"),
    "resume": (None, "the features in the output folder are taken up by themselves"),
    "start_epoch": (0, "the head is trained from the start"),
    "save_ckpt_steps": (0, "the head is trained at one go"),
}  # flag -> the only value that goes with --linear_probe, and why


def check_flags(config: RunSettings) -> None:
    """Says what --linear_probe makes of the other flags.

    Raises:
        ValueError: one of them makes no sense with it.
    """
    values = flags.flat(flags.to_json(config))
    for name, (only, reason) in MEANINGLESS.items():
        if name in values and values[name] != only:
            raise ValueError(f"--linear_probe does not go with --{name} {values[name]}: {reason}")
    if config.run.enable_deepspeed:
        logger.warning("--linear_probe needs no --enable_deepspeed: nothing but the head is trained; it is ignored")


class ProbeData(NamedTuple):
    """What a probe learns from.

    `make_batch` makes a batch of the task's from the positions in `train` of the N videos that could be read and their
    targets (N, K); its `clips` are row numbers, from 0 to N - 1. `max_bad` bounds the videos that could not.
    """

    train: EvaluationDataset
    validation: EvaluationDataset | None
    make_batch: Callable[[np.ndarray, Tensor], Any]
    max_bad: int


class FrozenNetwork(nn.Module):
    """What the head sees. (B, 3, T, H, W) -> (B, D)"""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        return self.model.forward_features(clips)


class _Block:
    """The next `size` batches."""

    def __init__(self, batches: Iterator[Batch], size: int) -> None:
        self.batches, self.size = batches, size

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.batches, self.size)


class LinearProbe:
    """A run that trains the head alone; to `fit_and_test` it is what a Fitting is."""

    def __init__(
        self,
        model: VisionTransformer,
        task: Task,
        data: ProbeData,
        *,
        config: RunSettings,
        world: World,
        precision: str,
    ) -> None:
        self.model, self.task, self.data = model, task, data
        self.config, self.run, self.world = config, config.run, world
        self.autocast = partial(autocast, world.device, precision)
        self.state, self.step = EpochState(), 0
        self.cache = FeatureCache(self.run.output_dir / "features")
        logger.info(
            "linear probe of %s, %s, %d x %s: %d training videos pass once through the frozen network; then L-BFGS on "
            "the head alone, --weight_decay %g (--lr, --opt and the augmentation flags are not used)",
            config.model.model, precision, world.size, world.device.type, len(data.train), config.optim.weight_decay,
        )  # fmt: skip

    def fit(self, log: MetricLogger) -> None:
        """Computes the features that are not there yet, trains the head on them, and saves the best epoch's network.

        Raises:
            SharedError: too many videos are unreadable, features are not finite, or a file cannot be written.
            InterruptedRunError: a process was asked to stop; the features so far are on disk.
        """
        with known_to_all():
            weights = fingerprint_of_weights(self.model) if self.world.is_main else ""
            distributed.on_main(self.world, lambda: self.cache.claim(weights))
        train = self._extract(self.data.train, "training", max_bad=self.data.max_bad, log=log)
        validation = None
        if self.data.validation is not None:
            validation = self._extract(self.data.validation, "validation", max_bad=None, log=log)
        with known_to_all():
            head = distributed.on_main(self.world, lambda: self._train_head(train, validation, log))
        if head is None:
            raise InterruptedRunError("stopped in training the head; the same command goes on from the features")
        self.model.head.load_state_dict(head)

    def best_model(self) -> nn.Module:
        """The network with the head of the best epoch."""
        return self.model

    def _extract(self, dataset: EvaluationDataset, split: str, *, max_bad: int | None, log: MetricLogger) -> Evaluation:
        """The features of every readable video, as the logits of an evaluation (V, 1, D); empty but at the main
        process."""
        ids, optim = dataset.annotations.ids, self.config.optim
        with known_to_all():
            known = distributed.on_main(self.world, lambda: self.cache.read(split))
        done = {position for position, key in enumerate(ids) if key in known}
        sampler = share_sampler(len(ids), self.config, self.world, done=done)
        loader = make_loader(dataset, sampler, batch_size=optim.batch_size, **loader_settings(self.config, self.world))
        log.say(f"{split}: features of {len(done)} of {len(ids)} videos are there already")
        size = max(VIDEOS_PER_BLOCK // optim.batch_size, 1)
        batches, frozen = iter(loader), FrozenNetwork(self.model)
        reasons: dict[str, str] = {}
        num_blocks = math.ceil(max(distributed.gather(len(loader))) / size)
        for block in range(num_blocks):
            try:
                outcome = evaluate(
                    frozen,
                    _Block(batches, min(size, max(len(loader) - block * size, 0))),
                    device=self.world.device,
                    autocast=self.autocast,
                    logger=log,
                    describe=f"{split} features, part {block + 1} of {num_blocks}",
                )
            except InterruptedRunError as error:
                raise InterruptedRunError(f"{error}; the same command goes on from there") from error
            reasons |= outcome.skipped
            _check_readable(reasons, len(ids), split, max_bad=max_bad)
            with known_to_all():
                distributed.on_main(self.world, partial(self._keep, split, ids, outcome))
        for key, reason in reasons.items():
            log.say(f"unreadable in {split}: {key}: {reason}")
        return self._collected(dataset, split, reasons)

    def _keep(self, split: str, ids: list[str], outcome: Evaluation) -> None:
        check_still_held(self.run.output_dir)
        if len(outcome.indices):
            self.cache.add(split, [ids[index] for index in outcome.indices], outcome.logits[:, 0])

    def _collected(self, dataset: EvaluationDataset, split: str, reasons: dict[str, str]) -> Evaluation:
        ids, rows = dataset.annotations.ids, self.cache.rows.pop(split, {})
        found = np.array([position for position, key in enumerate(ids) if key in rows], dtype=np.int64)
        features = np.array([rows[ids[position]] for position in found])
        return Evaluation(found, features[:, None], dataset.annotations.intensities[found], reasons)

    def _train_head(
        self, train: Evaluation, validation: Evaluation | None, log: MetricLogger
    ) -> dict[str, Tensor] | None:
        """Trains and saves the head of the best epoch. Returns its state, None when asked to stop."""
        features = torch.from_numpy(train.logits[:, 0]).to(self.world.device, torch.float64)
        batch = self.data.make_batch(train.indices, torch.from_numpy(train.targets).to(features))
        output = next(module for module in self.model.head.modules() if isinstance(module, nn.Linear))
        loss_of = partial(_loss_of_rows, self.task, batch)
        solver = HeadSolver(features, output, loss_of=loss_of, weight_decay=self.config.optim.weight_decay)
        best: tuple[float | None, int, dict[str, Any]] = (None, -1, {})
        for epoch in range(self.config.optim.epochs):
            if stop_request:
                return None
            values = solver.run_epoch()
            folded = solver.folded()
            if validation is not None:
                logits = apply_head(folded, validation.logits[:, 0])
                measured = self.task.validation_metrics(validation._replace(logits=logits[:, None]))
                values |= {f"val_{name}": value for name, value in measured.items()}
                values["val_num_unreadable"] = len(validation.skipped)
            log.epoch(epoch, values)
            log.say(describe_epoch(epoch, self.config.optim.epochs, values))
            score = values.get(f"val_{self.task.select_by}")
            if score is None or best[0] is None or score >= best[0]:  # of equals the later
                best = (score, epoch, values)
                self._put(output, folded)
            if solver.converged:
                log.say(f"the head's objective has converged after {epoch + 1} epochs")
                break
        self._save(best[1], best[2])
        return {name: value.cpu() for name, value in self.model.head.state_dict().items()}

    @staticmethod
    def _put(output: nn.Linear, folded: tuple[Tensor, Tensor | None]) -> None:
        with torch.no_grad():
            output.weight.copy_(folded[0])
            if folded[1] is not None:
                output.bias.copy_(folded[1])

    def _save(self, epoch: int, values: dict[str, Any]) -> None:
        if not self.run.save_ckpt:
            return
        check_still_held(self.run.output_dir)
        content = {
            "model": {name: value.float().cpu() for name, value in self.model.state_dict().items()},
            "epoch": epoch,
            "metrics": values,
            "config": flags.to_json(self.config),
        }
        checkpoint.save(self.run.output_dir / checkpoint.BEST, content)


def _check_readable(reasons: dict[str, str], num_videos: int, split: str, *, max_bad: int | None) -> None:
    if max_bad is None:
        if len(reasons) == num_videos:
            raise SharedError(f"none of the {split} videos can be read")
    elif len(reasons) > max_bad:
        named = "; ".join(f"{key}: {reason}" for key, reason in reasons.items())
        raise SharedError(
            f"{len(reasons)} {split} videos turned out unreadable, more than --max_bad_videos allows: {named}"
        )


def _loss_of_rows(task: Task, batch: Any, outputs: Tensor) -> Tensor:
    return task.training_loss(lambda rows: outputs[rows], batch)

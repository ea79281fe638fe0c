"""--linear_probe: trains only the head, on features that the frozen network computes once for every video.

The features are stored in the output folder, so an interrupted run resumes with the remaining videos. All losses but
mse are convex in a linear head: full-batch L-BFGS reaches the optimum in a few dozen passes over the features, without
a learning rate. The best epoch is selected, tested and saved as in full fine-tuning.
N videos, D features, K outputs.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from VideoMAE.config import FinetuneConfig, to_json
from VideoMAE.data.clips import EvaluationDataset
from VideoMAE.data.loaders import Batch
from VideoMAE.data.vce import Annotations
from VideoMAE.data.video_lists import NamedVideo
from VideoMAE.engine_for_finetuning import Task, evaluate
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.runtime import distributed
from VideoMAE.runtime.distributed import ErrorOnAllRanks, World, raise_on_all_ranks
from VideoMAE.runtime.folder_lock import check_still_held
from VideoMAE.runtime.stop_request import InterruptedRunError, stop_request
from VideoMAE.training import checkpoint
from VideoMAE.training.backends import autocast
from VideoMAE.training.feature_store import MatrixStore, claim, describe, fingerprint_of_weights
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.setup import fingerprint, shared_loader
from VideoMAE.training.tasks import Evaluation
from VideoMAE.training.trainer import TrainState, check_num_unreadable, describe_epoch

logger = logging.getLogger(__name__)

VIDEOS_PER_BLOCK = 64  # per process; an interruption loses at most one block
ITERATIONS_PER_EPOCH = 5
CONVERGED = 1e-7  # relative decrease of the objective per epoch below which it has converged
LBFGS = partial(
    torch.optim.LBFGS, tolerance_grad=1e-10, tolerance_change=1e-14, history_size=30, line_search_fn="strong_wolfe"
)


def apply_head(head: tuple[Tensor, Tensor], features: np.ndarray) -> np.ndarray:
    """Applies a linear head. features (V, D) -> outputs (V, K) float32"""
    weight, bias = head
    return (torch.from_numpy(features).to(weight) @ weight.T + bias).float().cpu().numpy()


class HeadSolver:
    """Minimizes a task's loss plus weight_decay / 2 x the mean over outputs of their squared weight norm, in float64.

    Features (N, D) are divided by their standard deviation over the training videos and, if the head has a bias,
    centered, so that one weight decay suits every network. Starts from zero weights and, if there is a bias, the best
    constant output; without one, the bias stays 0. Only the shape of `output` is used; loss_of: (N, K) -> ().
    """

    def __init__(
        self, features: Tensor, output: nn.Linear, *, loss_of: Callable[[Tensor], Tensor], weight_decay: float
    ) -> None:
        features, has_bias = features.double(), output.bias is not None
        spread = features.std(dim=0, correction=0)
        self.scale = torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread))
        self.mean = features.mean(dim=0) if has_bias else torch.zeros_like(spread)
        self.features = (features - self.mean) / self.scale
        self.weight = features.new_zeros(output.weight.shape).requires_grad_()
        self.bias = features.new_zeros(len(output.weight)).requires_grad_(has_bias)
        self.weight_decay, self.loss_of = weight_decay, loss_of
        self.value, self.converged = math.inf, False
        if has_bias:
            self._minimize(LBFGS([self.bias], max_iter=100))
        parameters = [self.weight, self.bias] if has_bias else [self.weight]
        self._optimizer = LBFGS(parameters, max_iter=ITERATIONS_PER_EPOCH)

    def _parts(self) -> tuple[Tensor, Tensor]:
        """The loss and the penalty."""
        penalty = 0.5 * self.weight_decay * self.weight.square().sum(dim=1).mean()
        return self.loss_of(self.features @ self.weight.T + self.bias), penalty

    def _minimize(self, optimizer: torch.optim.Optimizer) -> None:
        def objective() -> float:
            self.weight.grad = None
            optimizer.zero_grad()
            value = torch.stack(self._parts()).sum()
            value.backward()
            return float(value.detach())

        optimizer.step(objective)

    def run_epoch(self) -> dict[str, Any]:
        """Runs ITERATIONS_PER_EPOCH iterations -> loss and penalty. Raises ValueError if they are not finite."""
        self._minimize(self._optimizer)
        with torch.no_grad():
            loss, penalty = (float(part) for part in self._parts())
        before, self.value = self.value, loss + penalty
        if not math.isfinite(self.value):
            raise ValueError(f"the head's loss became {self.value}")
        self.converged = before - self.value <= CONVERGED * max(abs(self.value), 1e-12)
        return {"train_loss": loss, "penalty": penalty}

    def unnormalized_head(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) for unnormalized features."""
        weight = self.weight.detach() / self.scale
        return weight, self.bias.detach() - weight @ self.mean


class ProbeData(NamedTuple):
    """The videos of a probe.

    `make_loss` turns positions in `train` (the N videos that could be read) and their targets (N, K) into the loss of
    the outputs for these videos, (N, K) -> ().
    """

    train: EvaluationDataset
    validation: EvaluationDataset | None
    ids: Mapping[str, Sequence[str]]  # videos of the labels by split, readable or not
    make_loss: Callable[[np.ndarray, Tensor], Callable[[Tensor], Tensor]]
    max_bad: int  # largest number of training videos that may turn out unreadable


class FrozenNetwork(nn.Module):
    """The network without its head. (B, 3, T, H, W) -> (B, D)"""

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
    """A run that trains only the head, with the interface of `Trainer`."""

    def __init__(
        self,
        model: VisionTransformer,
        task: Task,
        data: ProbeData,
        *,
        config: FinetuneConfig,
        world: World,
        precision: str,
    ) -> None:
        self.model, self.task, self.data = model, task, data
        self.config, self.run, self.world = config, config.run, world
        self.autocast = partial(autocast, world.device, precision)
        self.state, self.step = TrainState(), 0
        self.store: MatrixStore  # of the split that is being extracted; only on the main process
        logger.info(
            "linear probe of %s, %s, %d x %s: features of %d training videos from the frozen network, then L-BFGS on "
            "the head with --weight_decay %g (--lr, --opt and the augmentation flags are ignored)",
            config.model.model,
            precision,
            world.size,
            world.device.type,
            len(data.train),
            config.optim.weight_decay,
        )
        if self.run.enable_deepspeed:
            logger.warning("--enable_deepspeed is ignored: --linear_probe trains only the head")

    def fit(self, log: MetricLogger) -> None:
        """Computes the missing features, trains the head on them, and saves the network of the best epoch.

        Raises:
            ErrorOnAllRanks: too many videos are unreadable, features are not finite, or a file cannot be written.
            InterruptedRunError: a process was asked to stop; the features computed so far are on disk.
        """
        train = self._extract(self.data.train, "training", log)
        validation = None if self.data.validation is None else self._extract(self.data.validation, "validation", log)
        with raise_on_all_ranks():
            head = distributed.on_main(self.world, lambda: self._train_head(train, validation, log))
        if head is None:
            raise InterruptedRunError("stopped while training the head; run the same command again to resume")
        self.model.head.load_state_dict(head)

    def best_model(self) -> nn.Module:
        """The network with the head of the best epoch."""
        return self.model

    def _extract(self, dataset: EvaluationDataset, split: str, log: MetricLogger) -> Evaluation:
        """The features of every readable video, as the logits of an evaluation (V, 1, D); empty except on the main
        process."""
        annotations, batch_size = dataset.annotations, self.config.optim.batch_size
        with raise_on_all_ranks():
            stored = distributed.on_main(self.world, lambda: self._open_store(split))
        done = {position for position, key in enumerate(annotations.ids) if key in stored}
        loader = shared_loader(dataset, self.config, self.world, batch_size=batch_size, done=done)
        log.say(f"{split}: features of {len(done)} of {len(annotations.ids)} videos are stored")
        size = max(VIDEOS_PER_BLOCK // batch_size, 1)
        batches, frozen = iter(loader), FrozenNetwork(self.model)
        reasons: dict[str, str] = {}
        num_blocks = math.ceil(max(distributed.gather(len(loader))) / size)
        for block in range(num_blocks):
            try:
                part = _Block(batches, min(size, max(len(loader) - block * size, 0)))
                name = f"{split} features, part {block + 1} of {num_blocks}"
                outcome = evaluate(
                    frozen, part, device=self.world.device, autocast=self.autocast, logger=log, describe=name
                )
            except InterruptedRunError as error:
                raise InterruptedRunError(f"{error}; run the same command again to resume") from error
            reasons |= outcome.skipped
            if split == "training":
                check_num_unreadable(reasons, self.data.max_bad)
            elif len(reasons) == len(annotations.ids):
                raise ErrorOnAllRanks(f"none of the {split} videos can be read")
            with raise_on_all_ranks():
                distributed.on_main(self.world, partial(self._store, annotations, outcome))
        for key, reason in reasons.items():
            log.say(f"unreadable in {split}: {key}: {reason}")
        if not self.world.is_main:
            return Evaluation(np.empty(0), np.empty((0, 1, 1)), np.empty((0, 1)), reasons)
        written = self.store.done()
        found = np.array([position for position, key in enumerate(annotations.ids) if key in written], dtype=np.int64)
        features = self.store.rows[[self.store.row_of[annotations.ids[position]] for position in found]]
        return Evaluation(found, features[:, None], annotations.intensities[found], reasons)

    def _open_store(self, split: str) -> set[str]:
        """Opens the stored features of a split, on the main process. -> the ids of their videos"""
        folder, ids = self.run.output_dir / "features" / split, self.data.ids[split]
        weights = fingerprint_of_weights(self.model)
        settings = {"checksum of the weights": weights, "checksum of the video ids": fingerprint(ids)}
        claim(folder, settings)
        describe(folder, settings)
        videos = [NamedVideo(key, Path()) for key in ids]
        self.store = MatrixStore(folder, videos, shape=(self.model.embed_dim,), dtype="float32")
        return self.store.done()

    def _store(self, annotations: Annotations, outcome: Evaluation) -> None:
        """Writes a block of features, on the main process."""
        check_still_held(self.run.output_dir)
        for position, features in zip(outcome.indices, outcome.logits[:, 0], strict=True):
            self.store.add(NamedVideo(annotations.ids[position], annotations.paths[position]), features)
        self.store.sync()

    def _train_head(
        self, train: Evaluation, validation: Evaluation | None, log: MetricLogger
    ) -> dict[str, Tensor] | None:
        """Trains and saves the head of the best epoch. -> its state; None if asked to stop"""
        features = torch.from_numpy(train.logits[:, 0]).to(self.world.device, torch.float64)
        loss_of = self.data.make_loss(train.indices, torch.from_numpy(train.targets).to(features))
        output = next(module for module in self.model.head.modules() if isinstance(module, nn.Linear))
        solver = HeadSolver(features, output, loss_of=loss_of, weight_decay=self.config.optim.weight_decay)
        best: tuple[float | None, int, dict[str, Any]] = (None, -1, {})
        for epoch in range(self.config.optim.epochs):
            if stop_request:
                return None
            values = solver.run_epoch()
            head = solver.unnormalized_head()
            if validation is not None:
                logits = apply_head(head, validation.logits[:, 0])
                measured = self.task.validation_metrics(validation._replace(logits=logits[:, None]))
                values |= {f"val_{name}": value for name, value in measured.items()}
                values["val_num_unreadable"] = len(validation.skipped)
            log.epoch(epoch, values)
            log.say(describe_epoch(epoch, self.config.optim.epochs, values))
            score = values.get(f"val_{self.task.select_by}")
            if score is None or best[0] is None or score >= best[0]:  # on a tie, the later epoch
                best = (score, epoch, values)
                with torch.no_grad():
                    for parameter, value in zip(output.parameters(), head, strict=False):  # V2V's head has no bias
                        parameter.copy_(value)
            if solver.converged:
                log.say(f"the head's objective has converged after {epoch + 1} epochs")
                break
        if self.run.save_ckpt:
            check_still_held(self.run.output_dir)
            weights = {name: value.float().cpu() for name, value in self.model.state_dict().items()}
            content = {"model": weights, "epoch": best[1], "metrics": best[2], "config": to_json(self.config)}
            checkpoint.save(self.run.output_dir / checkpoint.BEST, content)
        return {name: value.cpu() for name, value in self.model.head.state_dict().items()}

"""--linear_probe: trains only the head, on features that the frozen network computes once for every video.

The features are stored in the output folder, so an interrupted run resumes with the remaining videos. head_solver.py
optimizes the head; the best epoch is selected, tested and saved as in full fine-tuning.
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
from VideoMAE.data.datasets import EvaluationDataset
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
from VideoMAE.training.head_solver import HeadSolver, apply_head
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.setup import fingerprint, shared_loader
from VideoMAE.training.tasks import Evaluation
from VideoMAE.training.trainer import TrainState, describe_epoch

logger = logging.getLogger(__name__)

VIDEOS_PER_BLOCK = 64  # per process; an interruption loses at most one block


class ProbeData(NamedTuple):
    """The videos of a probe.

    `make_loss` turns positions in `train` (the N videos that could be read) and their targets (N, K) into the loss of
    the outputs for these videos, (N, K) -> (). `ids` are the videos of the labels by split, readable or not; `max_bad`
    is the largest number of videos that may turn out unreadable.
    """

    train: EvaluationDataset
    validation: EvaluationDataset | None
    ids: Mapping[str, Sequence[str]]
    make_loss: Callable[[np.ndarray, Tensor], Callable[[Tensor], Tensor]]
    max_bad: int


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
        logger.info(
            "linear probe of %s, %s, %d x %s: features of %d training videos from the frozen network, then L-BFGS on "
            "the head with --weight_decay %g (--lr, --opt and the augmentation flags are ignored)",
            config.model.model, precision, world.size, world.device.type, len(data.train), config.optim.weight_decay,
        )  # fmt: skip
        if self.run.enable_deepspeed:
            logger.warning("--enable_deepspeed is ignored: --linear_probe trains only the head")

    def fit(self, log: MetricLogger) -> None:
        """Computes the missing features, trains the head on them, and saves the network of the best epoch.

        Raises:
            ErrorOnAllRanks: too many videos are unreadable, features are not finite, or a file cannot be written.
            InterruptedRunError: a process was asked to stop; the features computed so far are on disk.
        """
        train = self._extract(self.data.train, "training", max_bad=self.data.max_bad, log=log)
        validation = None
        if self.data.validation is not None:
            validation = self._extract(self.data.validation, "validation", max_bad=None, log=log)
        with raise_on_all_ranks():
            head = distributed.on_main(self.world, lambda: self._train_head(train, validation, log))
        if head is None:
            raise InterruptedRunError("stopped while training the head; run the same command again to resume")
        self.model.head.load_state_dict(head)

    def best_model(self) -> nn.Module:
        """The network with the head of the best epoch."""
        return self.model

    def _extract(self, dataset: EvaluationDataset, split: str, *, max_bad: int | None, log: MetricLogger) -> Evaluation:
        """The features of every readable video, as the logits of an evaluation (V, 1, D); empty except on the main
        process."""
        annotations, optim = dataset.annotations, self.config.optim
        weights = fingerprint_of_weights(self.model) if self.world.is_main else ""
        store: MatrixStore | None = None

        def open_store() -> set[str]:
            nonlocal store
            store = self._open_store(split, weights)
            return store.done()

        with raise_on_all_ranks():
            stored_ids = distributed.on_main(self.world, open_store)
        done = {position for position, key in enumerate(annotations.ids) if key in stored_ids}
        loader = shared_loader(dataset, self.config, self.world, batch_size=optim.batch_size, done=done)
        log.say(f"{split}: features of {len(done)} of {len(annotations.ids)} videos are stored")
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
                raise InterruptedRunError(f"{error}; run the same command again to resume") from error
            reasons |= outcome.skipped
            _check_readable(reasons, len(annotations.ids), split, max_bad=max_bad)
            with raise_on_all_ranks():
                distributed.on_main(self.world, partial(self._store, store, annotations, outcome))
        for key, reason in reasons.items():
            log.say(f"unreadable in {split}: {key}: {reason}")
        return _stored(store, annotations, reasons)

    def _open_store(self, split: str, weights: str) -> MatrixStore:
        """The stored features of a split; `weights` is the checksum of the network."""
        folder, ids = self.run.output_dir / "features" / split, self.data.ids[split]
        settings = {"checksum of the weights": weights, "checksum of the video ids": fingerprint(ids)}
        claim(folder, settings)
        describe(folder, settings)
        videos = [NamedVideo(key, Path()) for key in ids]
        return MatrixStore(folder, videos, shape=(self.model.embed_dim,), dtype="float32")

    def _store(self, store: MatrixStore | None, annotations: Annotations, outcome: Evaluation) -> None:
        """Writes a block of features, on the main process."""
        assert store is not None
        check_still_held(self.run.output_dir)
        for position, features in zip(outcome.indices, outcome.logits[:, 0], strict=True):
            store.add(NamedVideo(annotations.ids[position], annotations.paths[position]), features)
        store.sync()

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
                _copy_head(output, head)
            if solver.converged:
                log.say(f"the head's objective has converged after {epoch + 1} epochs")
                break
        self._save(best[1], best[2])
        return {name: value.cpu() for name, value in self.model.head.state_dict().items()}

    def _save(self, epoch: int, values: dict[str, Any]) -> None:
        if not self.run.save_ckpt:
            return
        check_still_held(self.run.output_dir)
        content = {
            "model": {name: value.float().cpu() for name, value in self.model.state_dict().items()},
            "epoch": epoch,
            "metrics": values,
            "config": to_json(self.config),
        }
        checkpoint.save(self.run.output_dir / checkpoint.BEST, content)


def _check_readable(reasons: dict[str, str], num_videos: int, split: str, *, max_bad: int | None) -> None:
    if max_bad is None:
        if len(reasons) == num_videos:
            raise ErrorOnAllRanks(f"none of the {split} videos can be read")
    elif len(reasons) > max_bad:
        named = "; ".join(f"{key}: {reason}" for key, reason in reasons.items())
        raise ErrorOnAllRanks(f"unreadable {split} videos: {len(reasons)}, more than --max_bad_videos allows: {named}")


def _stored(store: MatrixStore | None, annotations: Annotations, reasons: dict[str, str]) -> Evaluation:
    """The features of a split as an evaluation; empty except on the main process."""
    done, row_of = (store.done(), store.row_of) if store is not None else (set(), {})
    found = np.array([position for position, key in enumerate(annotations.ids) if key in done], dtype=np.int64)
    features = np.empty((0, 1), np.float32)
    if store is not None:
        features = store.rows[[row_of[annotations.ids[position]] for position in found]]
    return Evaluation(found, features[:, None], annotations.intensities[found], reasons)


def _copy_head(output: nn.Linear, head: tuple[Tensor, Tensor | None]) -> None:
    with torch.no_grad():
        output.weight.copy_(head[0])
        if head[1] is not None:
            output.bias.copy_(head[1])

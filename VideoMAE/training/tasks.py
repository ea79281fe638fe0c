"""Training tasks: the loss of a batch, and the metrics of predictions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit, softmax
from torch import Tensor

from VideoMAE.data.clips import ComparisonBatch
from VideoMAE.data.loaders import Batch
from VideoMAE.data.v2v import Comparison, pairs_in
from VideoMAE.training import metrics
from VideoMAE.training.losses import LOSSES, preference_loss

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Mixes clips and soft targets; see mixup.ClipMixup."""


class Evaluation(NamedTuple):
    """The outputs for each readable video in dataset order, and the reasons for unreadable ones."""

    indices: np.ndarray  # (V,)
    logits: np.ndarray  # (V, views, K) float32
    targets: np.ndarray  # (V, K) float32
    skipped: dict[str, str]


class EmotionTask:
    """VCE: predict the intensities of K emotions, or the most intense one, depending on the loss."""

    select_by = "acc1"  # the metric that selects the best epoch; higher is better
    unreadable_policy = "replaced by another video"

    def __init__(
        self, *, loss: str, smoothing: float = 0.0, mixup: Mix | None = None, classes_only: bool = False
    ) -> None:
        self.make_targets, self.loss = LOSSES[loss]
        self.predicts_intensities = loss in ("bce", "mse")
        self.smoothing = smoothing
        self.mixup = mixup
        self.classes_only = classes_only

    def training_loss(self, forward: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
        """Mean loss over the clips of a batch. -> ()"""
        clips, targets = batch.clips, self.make_targets(batch.targets, smoothing=self.smoothing)
        if self.mixup is not None:
            clips, targets = self.mixup(clips, targets)
        return self.loss(forward(clips), targets)

    def loss_of(self, logits: Tensor, intensities: Tensor) -> Tensor:
        """Mean loss of the outputs, without mixup. logits (N, K), intensities (N, K) -> ()"""
        return self.loss(logits, self.make_targets(intensities, smoothing=self.smoothing))

    def validation_metrics(self, outcome: Evaluation) -> dict[str, Any]:
        """The metrics of an evaluation."""
        return self.metrics(outcome.logits, outcome.targets)

    def metrics(self, logits: np.ndarray, intensities: np.ndarray, *, average: str = "logits") -> dict[str, Any]:
        """All metrics of logits (V, views, K) and intensities (V, K), ranked by the mean of `average` over views.

        Metrics that the labels or the loss do not define are None.
        """
        predictions = metrics.average_views(logits, average=average)
        results: dict[str, Any] = dict(metrics.ranking_metrics(predictions, intensities))
        results["predicted_in_true_top3"] = (
            None if self.classes_only else metrics.predicted_in_true_top_k(predictions, intensities)
        )
        measured = metrics.intensity_metrics(metrics.average_views(logits, average="logits"), intensities)
        defined = self.predicts_intensities and not self.classes_only
        return {**results, **{name: value if defined else None for name, value in measured.items()}}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The intensity of each emotion, or its probability of being the most intense. (..., K) -> (..., K)"""
        return expit(logits) if self.predicts_intensities else softmax(logits, axis=-1)


class PreferenceTask:
    """V2V: score videos so that the preferred video of a pair has the higher score.

    Args:
        held_out: the comparisons that select the best epoch.
        ids: the video ids at the positions of the validation dataset.
    """

    select_by = "pair_accuracy"
    unreadable_policy = "its comparisons are dropped"

    def __init__(self, *, loss: str, margin: float, held_out: Sequence[Comparison], ids: Sequence[str]) -> None:
        self.loss = preference_loss(loss, margin=margin)
        self.held_out = held_out
        self.ids = ids

    def training_loss(self, forward: Callable[[Tensor], Tensor], batch: ComparisonBatch) -> Tensor:
        """Mean loss over the comparisons of a batch; dropped comparisons add 0. -> ()"""
        return (self.losses(forward(batch.clips)[:, 0], batch.lengths) * batch.weights).mean()

    def losses(self, scores: Tensor, lengths: Sequence[int]) -> Tensor:
        """The loss of each comparison; `scores` (sum of lengths,) are those of its videos, one comparison after the
        other. -> (P,)"""
        counts = torch.tensor(lengths, device=scores.device)
        inside = torch.arange(max(lengths), device=scores.device) < counts[:, None]
        ranked = scores.new_zeros(inside.shape).masked_scatter(inside, scores)
        return self.loss(ranked, counts)

    def validation_metrics(self, outcome: Evaluation) -> dict[str, Any]:
        """The metrics of the held-out pairs."""
        return metrics.judge_pairs(scores_by_id(outcome, self.ids), pairs_in(self.held_out))


def scores_by_id(outcome: Evaluation, ids: Sequence[str]) -> dict[str, float]:
    """The scores of the readable videos; `ids` are the video ids at the positions of the dataset."""
    return {ids[index]: float(score) for index, score in zip(outcome.indices, outcome.logits[:, 0, 0], strict=True)}

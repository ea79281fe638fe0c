"""Training tasks: targets, losses, and the metrics of predictions.

The losses on logits and soft targets are means over the batch; those on preferences have one value per comparison.
B batch, K emotions, P comparisons, M videos in the longest of them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax
from torch import Tensor

from VideoMAE.data.clips import ComparisonBatch
from VideoMAE.data.loaders import Batch
from VideoMAE.data.v2v import Comparison, pairs_in
from VideoMAE.training import metrics

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of clips and soft targets; see mixup.ClipMixup


class Evaluation(NamedTuple):
    """The outputs for each readable video in dataset order, and the reasons for unreadable ones."""

    indices: np.ndarray  # (V,)
    logits: np.ndarray  # (V, views, K) float32
    targets: np.ndarray  # (V, K) float32
    skipped: dict[str, str]


def mse_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared error between sigmoid(logits), which is in [0, 1], and intensities, mean over B and K; Brier 1950.
    (B, K), (B, K) -> ()"""
    return F.mse_loss(torch.sigmoid(logits), targets)


def intensity_targets(intensities: Tensor, *, smoothing: float) -> Tensor:
    """The intensities themselves. (B, K) -> (B, K)"""
    return intensities


def class_targets(intensities: Tensor, *, smoothing: float) -> Tensor:
    """One-hot of the most intense emotion (the first on ties), smoothed with a uniform distribution. (B, K) -> (B, K)

    The true class has 1 - smoothing + smoothing / K, every other smoothing / K. Source: Szegedy et al. 2016, section 7.
    """
    num_classes = intensities.shape[1]
    one_hot = F.one_hot(intensities.argmax(dim=1), num_classes).to(intensities.dtype)
    return one_hot * (1 - smoothing) + smoothing / num_classes


def distribution_targets(intensities: Tensor, *, smoothing: float) -> Tensor:
    """The intensities divided by their sum; uniform if all are 0. (B, K) -> (B, K)"""
    total = intensities.sum(dim=1, keepdim=True)
    uniform = torch.full_like(intensities, 1 / intensities.shape[1])
    return torch.where(total > 0, intensities / total.clamp_min(1e-12), uniform)


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "bce": (intensity_targets, F.binary_cross_entropy_with_logits),  # the original's; mean over B and K
    "ce": (class_targets, F.cross_entropy),  # of softmax(logits) and a distribution, mean over B
    "soft_ce": (distribution_targets, F.cross_entropy),
    "mse": (intensity_targets, mse_loss),
}
"""By --loss: the targets of intensities, and the mean loss of logits and targets. (B, K), (B, K) -> ()"""


def logistic_loss(worse: Tensor, better: Tensor) -> Tensor:
    """-log sigmoid(better - worse), computed as log(1 + exp(worse - better)). (P,), (P,) -> (P,)

    The negative log-likelihood of the preference when the odds are exp(better - worse); the original's loss. Source:
    Bradley & Terry 1952, with scores as logarithms of their strengths.
    """
    return F.softplus(worse - better)


def hinge_loss(worse: Tensor, better: Tensor, *, margin: float) -> Tensor:
    """max(0, margin - (better - worse)). Source: Herbrich et al. 1999. (P,), (P,) -> (P,)"""
    return F.relu(margin - (better - worse))


def plackett_luce_loss(ranked: Tensor, lengths: Tensor) -> Tensor:
    """Negative log-likelihood of complete orders. (P, M) scores from least to most preferred, (P,) -> (P,)

    The most preferred is chosen from all with probability softmax(scores), the next from the rest, and so on: with
    s_1 the least preferred, the sum over k of log(exp s_1 + ... + exp s_k) - s_k. For two videos it is the logistic
    loss. Entries of a row beyond its length are ignored. Source: Plackett 1975; Luce 1959; as a loss, Xia et al.
    2008 (ListMLE).
    """
    terms = torch.logcumsumexp(ranked, dim=1) - ranked
    inside = torch.arange(ranked.shape[1], device=ranked.device) < lengths[:, None]
    return torch.where(inside, terms, 0.0).sum(dim=1)


def preference_loss(name: str, *, margin: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss `logistic`, `hinge` or `listwise` as a function of ranked scores and lengths. (P, M), (P,) -> (P,)"""
    if name == "listwise":
        return plackett_luce_loss
    on_pairs = partial(hinge_loss, margin=margin) if name == "hinge" else logistic_loss

    def loss(ranked: Tensor, lengths: Tensor) -> Tensor:
        assert ranked.shape[1] == 2, f"--loss {name} takes pairs"
        return on_pairs(ranked[:, 0], ranked[:, 1])

    return loss


class EmotionTask:
    """VCE: predict the intensities of K emotions, or the most intense one, depending on the loss."""

    select_by = "acc1"  # the metric that selects the best epoch; higher is better
    unreadable_policy = "replaced by another video"

    def __init__(
        self, *, loss: str, smoothing: float = 0.0, mixup: Mix | None = None, classes_only: bool = False
    ) -> None:
        self.make_targets, self.loss = LOSSES[loss]
        self.predicts_intensities = loss in ("bce", "mse")
        self.smoothing, self.mixup, self.classes_only = smoothing, mixup, classes_only

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
    """V2V: score videos so that the preferred video of a pair has the higher score. The comparisons `held_out` select
    the best epoch; `ids` are the video ids at the positions of the validation dataset."""

    select_by = "pair_accuracy"
    unreadable_policy = "its comparisons are dropped"

    def __init__(self, *, loss: str, margin: float, held_out: Sequence[Comparison], ids: Sequence[str]) -> None:
        self.loss = preference_loss(loss, margin=margin)
        self.held_out, self.ids = held_out, ids

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

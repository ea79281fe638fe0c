"""Losses on logits and soft targets, each a mean over the batch; losses on preferences, one value per comparison.

B batch, K emotions, P comparisons, M videos in the longest of them.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def mse_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared error between sigmoid(logits) and intensities, mean over B and K. (B, K), (B, K) -> ()

    The sigmoid makes predictions intensities in [0, 1]. Source: Brier 1950.
    """
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
    """max(0, margin - (better - worse)). (P,), (P,) -> (P,)

    Zero if the preferred score is higher by at least `margin`. Source: Herbrich et al. 1999.
    """
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

"""Accuracies and errors, each a sum over counts of all videos. V videos, K emotions."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax


def top_k_accuracy(predictions: np.ndarray, targets: np.ndarray, *, k: int) -> float:
    """Share of videos whose most intense emotion is among the k highest predictions, in percent.

    predictions (V, K), targets (V, K) -> float in [0, 100]. The reference's acc1 (k=1) and acc3 (k=3).
    """
    return 100.0 * float(np.mean(top_k_hits(predictions, targets, k=k)))


def top_k_hits(predictions: np.ndarray, targets: np.ndarray, *, k: int) -> np.ndarray:
    """Whether a video's most intense emotion is among its k highest predictions. (V, K), (V, K) -> (V,) bool"""
    highest = np.argsort(-predictions, axis=1, kind="stable")[:, :k]
    return (highest == targets.argmax(axis=1)[:, None]).any(axis=1)


def predicted_in_true_top_k(predictions: np.ndarray, targets: np.ndarray, *, k: int = 3) -> float:
    """Share of videos whose highest prediction is among the k most intense emotions, in percent.

    predictions (V, K), targets (V, K) -> float in [0, 100]. The other reading of the paper's "top-3 accuracy".
    """
    return 100.0 * float(np.mean(top_k_hits(targets, predictions, k=k)))


def binary_cross_entropy(logits: np.ndarray, intensities: np.ndarray) -> float:
    """Mean over videos and emotions of the cross-entropy between intensity and sigmoid(logit). (V, K), (V, K) ->
    float, nats"""
    return float(np.mean(cross_entropies(logits, intensities)))


def cross_entropies(logits: np.ndarray, intensities: np.ndarray) -> np.ndarray:
    """The terms of `binary_cross_entropy`. (V, K), (V, K) -> (V, K) nats"""
    logits = logits.astype(np.float64)
    return np.logaddexp(0.0, logits) - logits * intensities


def mean_correlation(predictions: np.ndarray, targets: np.ndarray) -> float | None:
    """Pearson correlation over videos, averaged over the emotions that vary in both; None when none does. (V, K), (V,
    K)"""
    found = correlations(predictions, targets)
    return None if np.isnan(found).all() else float(np.nanmean(found))


def correlations(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Pearson correlation of each emotion over videos, NaN for one that does not vary in both. (V, K), (V, K) ->
    (K,)"""
    x = predictions - predictions.mean(axis=0, dtype=np.float64)
    y = targets - targets.mean(axis=0, dtype=np.float64)
    return correlation_of_sums((x * y).sum(axis=0), (x**2).sum(axis=0), (y**2).sum(axis=0))


def correlation_of_sums(products: np.ndarray, x_squares: np.ndarray, y_squares: np.ndarray) -> np.ndarray:
    """Pearson correlation from sums over centred values, NaN where one side does not vary; arrays of any one shape."""
    norm = np.sqrt(x_squares * y_squares)
    return np.divide(products, norm, out=np.full(norm.shape, np.nan), where=norm > 1e-12)


def average_views(logits: np.ndarray, *, average: str) -> np.ndarray:
    """A video's prediction from its views' logits: their mean, or the mean of their softmax. (V, views, K) -> (V, K)"""
    if average == "softmax":
        return softmax(logits.astype(np.float64), axis=-1).mean(axis=1)
    return logits.astype(np.float64).mean(axis=1)


def ranking_metrics(predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """acc1, acc3 and acc5 in percent. (V, K), (V, K) -> dict"""
    return {f"acc{k}": top_k_accuracy(predictions, targets, k=k) for k in (1, 3, 5)}


def intensity_metrics(logits: np.ndarray, intensities: np.ndarray) -> dict[str, float | None]:
    """How close sigmoid(logits) comes to the intensities: bce, mean_absolute_error, mean_correlation. (V, K), (V, K)
    -> dict"""
    predicted = expit(logits.astype(np.float64))
    return {
        "bce": binary_cross_entropy(logits, intensities),
        "mean_absolute_error": float(np.abs(predicted - intensities).mean()),
        "mean_correlation": mean_correlation(predicted, intensities),
    }


def list_accuracy(scores: Sequence[Sequence[float]]) -> float:
    """Share of lists whose scores, from least to most preferred, never fall; equal scores pass. -> float in [0, 1]"""
    return float(np.mean([in_order(ranked) for ranked in scores]))


def in_order(scores: Sequence[float]) -> bool:
    """Whether a list's scores, from least to most preferred, never fall."""
    return bool(np.all(np.diff(scores) >= 0))


def kendall_tau(scores: Sequence[float]) -> float:
    """Rank correlation between scores and their order, which is from least to most preferred. -> float in [-1, 1]

    tau-b, which allows for ties: (concordant - discordant) / sqrt(pairs x pairs untied in the scores). Scores that
    are all equal say nothing: 0. Source: Kendall 1945, as scipy.stats.kendalltau.
    """
    if len(set(scores)) == 1:
        return 0.0
    from scipy.stats import kendalltau  # only here: it takes a second to import

    return float(kendalltau(range(len(scores)), scores).statistic)


def judge_pairs(scores: Mapping[str, float], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Pair accuracy in percent, preferred strictly higher, over the pairs (worse, better) whose videos both have a
    score; None when there is none."""
    differences = score_differences(scores, [pair for pair in pairs if pair[0] in scores and pair[1] in scores])
    return {
        "pair_accuracy": 100.0 * float(np.mean(differences > 0)) if len(differences) else None,
        "num_ties": int(np.sum(differences == 0)),
        "num_pairs": len(pairs),
        "num_pairs_lost": len(pairs) - len(differences),
    }


def score_differences(scores: Mapping[str, float], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """How much higher the preferred one of each pair (worse, better) is scored. -> (P,)"""
    return np.array([scores[better] - scores[worse] for worse, better in pairs], dtype=np.float64)


def judge_lists(scores: Mapping[str, float], lists: Sequence[Sequence[str]]) -> dict[str, Any]:
    """How the scores of each list's videos, given from least to most preferred, follow its order.

    `list_accuracy` (whole order) and `pair_accuracy_in_lists` (each pair inside each list) in percent, and the mean
    over lists of `kendall_tau`; over the lists all of whose videos have a score, None when there is none.
    """
    whole = [entry for entry in lists if all(key in scores for key in entry)]
    ranked = [[scores[key] for key in entry] for entry in whole]
    inside = judge_pairs(scores, [pair for entry in whole for pair in itertools.combinations(entry, 2)])
    return {
        "list_accuracy": 100.0 * list_accuracy(ranked) if ranked else None,
        "pair_accuracy_in_lists": inside["pair_accuracy"],
        "mean_kendall_tau": float(np.mean([kendall_tau(entry) for entry in ranked])) if ranked else None,
        "num_ties_in_lists": inside["num_ties"],
        "num_lists": len(lists),
        "num_lists_lost": len(lists) - len(whole),
    }

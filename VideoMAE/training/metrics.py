"""Metrics, each computed from sums over all videos. V videos, K emotions."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit, softmax


def top_k_accuracy(predictions: np.ndarray, targets: np.ndarray, *, k: int) -> float:
    """Percentage of videos whose most intense emotion is among the k highest predictions: the original's acc1 and acc3.
    predictions (V, K), targets (V, K) -> float in [0, 100]"""
    return 100.0 * float(np.mean(top_k_hits(predictions, targets, k=k)))


def top_k_hits(predictions: np.ndarray, targets: np.ndarray, *, k: int) -> np.ndarray:
    """Whether a video's most intense emotion is among its k highest predictions. (V, K), (V, K) -> (V,) bool"""
    highest = np.argsort(-predictions, axis=1, kind="stable")[:, :k]
    return (highest == targets.argmax(axis=1)[:, None]).any(axis=1)


def predicted_in_true_top_k(predictions: np.ndarray, targets: np.ndarray, *, k: int = 3) -> float:
    """Percentage of videos whose highest prediction is among the k most intense emotions: the other interpretation of
    the paper's "top-3 accuracy". predictions (V, K), targets (V, K) -> float in [0, 100]"""
    return 100.0 * float(np.mean(top_k_hits(targets, predictions, k=k)))


def cross_entropies(logits: np.ndarray, intensities: np.ndarray) -> np.ndarray:
    """Binary cross-entropy between intensities and sigmoid(logits). (V, K), (V, K) -> (V, K) nats"""
    logits = logits.astype(np.float64)
    return np.logaddexp(0.0, logits) - logits * intensities


def mean_correlation(predictions: np.ndarray, targets: np.ndarray) -> float | None:
    """Pearson correlation over videos, averaged over the emotions that vary in both; None if there are none. (V, K),
    (V, K)"""
    found = correlations(predictions, targets)
    return None if np.isnan(found).all() else float(np.nanmean(found))


def correlations(predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Pearson correlation of each emotion over videos, NaN if it does not vary in both. (V, K), (V, K) -> (K,)"""
    x = predictions - predictions.mean(axis=0, dtype=np.float64)
    y = targets - targets.mean(axis=0, dtype=np.float64)
    return correlation_of_sums((x * y).sum(axis=0), (x**2).sum(axis=0), (y**2).sum(axis=0))


def correlation_of_sums(products: np.ndarray, x_squares: np.ndarray, y_squares: np.ndarray) -> np.ndarray:
    """Pearson correlation from sums over centered values, NaN where one side does not vary; arrays of equal shape."""
    norm = np.sqrt(x_squares * y_squares)
    return np.divide(products, norm, out=np.full(norm.shape, np.nan), where=norm > 1e-12)


def average_views(logits: np.ndarray, *, average: str) -> np.ndarray:
    """Averages the logits, or their softmax, over the views of each video. (V, views, K) -> (V, K)"""
    if average == "softmax":
        return softmax(logits.astype(np.float64), axis=-1).mean(axis=1)
    return logits.astype(np.float64).mean(axis=1)


def ranking_metrics(predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """acc1, acc3 and acc5 in percent. (V, K), (V, K) -> dict"""
    return {f"acc{k}": top_k_accuracy(predictions, targets, k=k) for k in (1, 3, 5)}


def intensity_metrics(logits: np.ndarray, intensities: np.ndarray) -> dict[str, float | None]:
    """bce, mean_absolute_error and mean_correlation of sigmoid(logits) and intensities. (V, K), (V, K) -> dict"""
    predicted = expit(logits.astype(np.float64))
    return {
        "bce": float(np.mean(cross_entropies(logits, intensities))),
        "mean_absolute_error": float(np.abs(predicted - intensities).mean()),
        "mean_correlation": mean_correlation(predicted, intensities),
    }


def in_order(scores: Sequence[float]) -> bool:
    """Whether the scores of a list, from least to most preferred, never decrease; ties count as correct."""
    return bool(np.all(np.diff(scores) >= 0))


def kendall_tau(scores: Sequence[float]) -> float:
    """Rank correlation between scores and their order from least to most preferred: tau-b, which handles ties; 0 if all
    scores are equal. Source: Kendall 1945. -> float in [-1, 1]"""
    if len(set(scores)) == 1:
        return 0.0
    from scipy.stats import kendalltau  # deferred: takes a second to import

    return float(kendalltau(range(len(scores)), scores).statistic)


def judge_pairs(scores: Mapping[str, float], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Percentage of pairs (worse, better) in which the better video has the strictly higher score, over the pairs with
    scores of both videos; None if there are none."""
    differences = score_differences(scores, [pair for pair in pairs if pair[0] in scores and pair[1] in scores])
    return {
        "pair_accuracy": 100.0 * float(np.mean(differences > 0)) if len(differences) else None,
        "num_ties": int(np.sum(differences == 0)),
        "num_pairs": len(pairs),
        "num_pairs_lost": len(pairs) - len(differences),
    }


def score_differences(scores: Mapping[str, float], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Score of the better minus score of the worse video of each pair (worse, better). -> (P,)"""
    return np.array([scores[better] - scores[worse] for worse, better in pairs], dtype=np.float64)


def judge_lists(scores: Mapping[str, float], lists: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Metrics of lists, given from least to most preferred.

    `list_accuracy` (whole order) and `pair_accuracy_in_lists` (every pair in a list) in percent, and the mean
    `kendall_tau`, over the lists with scores of all videos; None if there are none.
    """
    whole = [entry for entry in lists if all(key in scores for key in entry)]
    ranked = [[scores[key] for key in entry] for entry in whole]
    inside = judge_pairs(scores, [pair for entry in whole for pair in itertools.combinations(entry, 2)])
    return {
        "list_accuracy": 100.0 * float(np.mean([in_order(entry) for entry in ranked])) if ranked else None,
        "pair_accuracy_in_lists": inside["pair_accuracy"],
        "mean_kendall_tau": float(np.mean([kendall_tau(entry) for entry in ranked])) if ranked else None,
        "num_ties_in_lists": inside["num_ties"],
        "num_lists": len(lists),
        "num_lists_lost": len(lists) - len(whole),
    }

"""Bootstrap intervals of metrics: items are drawn anew with replacement, and every metric is computed from the draw.

An item is what was sampled independently of the others: a video, or a connected component of compared videos. A draw
is how often each of N items came up, so that a metric that is a ratio of sums needs one product of matrices for all R
draws. Statistics that are resampled together see the same draws: their differences are paired. Source: Efron and
Tibshirani 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from VideoMAE.training.metrics import correlation_of_sums

LEVEL_PERCENT = 95
MAX_CELLS = 4_000_000  # of a chunk of draws: 32 MB

Statistic = Callable[[np.ndarray], np.ndarray]
"""How often each item came up (R, N) -> the metric of each draw, (R,) or (R, K)."""


class Interval(NamedTuple):
    """Between these, LEVEL_PERCENT of the draws."""

    low: float
    high: float


def draws(num_items: int, *, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each item comes up in each draw of as many as there are, in chunks of draws. -> (r, N) float64"""
    rng = np.random.default_rng(seed)
    per_chunk = max(1, MAX_CELLS // num_items)
    for first in range(0, num_resamples, per_chunk):
        rows = min(per_chunk, num_resamples - first)
        drawn = rng.integers(num_items, size=(rows, num_items))
        drawn += num_items * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num_items)
        yield counts.reshape(rows, num_items).astype(np.float64)


def resample(
    statistics: Mapping[str, Statistic], num_items: int, *, num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Every statistic of the same draws. -> (R,) or (R, K) by name"""
    found: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for counts in draws(num_items, num_resamples=num_resamples, seed=seed):
        for name, statistic in statistics.items():
            found[name].append(statistic(counts))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def mean_of(values: np.ndarray) -> Statistic:
    """The mean over items. values (N,)"""
    return ratio_of(values, np.ones(len(values)))


def ratio_of(numerators: np.ndarray, denominators: np.ndarray) -> Statistic:
    """A sum over items by another one: the mean over what the items hold, where they hold different numbers of it.
    (N,), (N,)"""
    sums = np.stack([numerators, denominators], axis=1).astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        numerator, denominator = (counts @ sums).T
        return numerator / denominator

    return statistic


def correlations_of(predictions: np.ndarray, targets: np.ndarray) -> Statistic:
    """Pearson correlation over items of each column, NaN where one does not vary in a draw. (N, K), (N, K) -> (R, K)"""
    x = predictions - predictions.mean(axis=0, dtype=np.float64)
    y = targets - targets.mean(axis=0, dtype=np.float64)
    terms = np.concatenate([x, y, x * x, y * y, x * y], axis=1)

    def statistic(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(axis=1, keepdims=True)
        x_mean, y_mean, x_squares, y_squares, products = np.split(counts @ terms / total, 5, axis=1)
        x_var, y_var = (_positive(x_squares - x_mean**2, x_squares), _positive(y_squares - y_mean**2, y_squares))
        return correlation_of_sums(total * (products - x_mean * y_mean), total * x_var, total * y_var)

    return statistic


def _positive(variances: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """The variances, 0 where they are no more than what rounding leaves of a difference of `squares`."""
    return np.where(variances > 1e-12 * squares, variances, 0.0)


def mean_over_columns(statistic: Statistic) -> Statistic:
    """The mean of a statistic over the columns that are no NaN. -> (R,)"""

    def mean(counts: np.ndarray) -> np.ndarray:
        values = statistic(counts)
        known = np.isfinite(values)
        number = known.sum(axis=1)
        return np.divide(
            np.where(known, values, 0).sum(axis=1), number, out=np.full(len(values), np.nan), where=number > 0
        )

    return mean


def interval(values: np.ndarray) -> Interval | None:
    """Percentile interval of a metric's draws (R,); NaN draws are left out. None: nothing is left."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    tail = (100 - LEVEL_PERCENT) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return Interval(float(low), float(high))


def probability_better(differences: np.ndarray, *, lower_is_better: bool = False) -> float:
    """Share of draws in which a difference (R,) is for the better; none at all counts half. -> float in [0, 1]"""
    known = differences[np.isfinite(differences)]
    better = known < 0 if lower_is_better else known > 0
    return float(np.mean(better + 0.5 * (known == 0)))

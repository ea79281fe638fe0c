"""Metrics with bootstrap intervals: items are drawn with replacement, and every metric is computed from each draw.

An item is a unit that was sampled independently: a video, or a connected component of compared videos. A draw is stored
as the number of times that each of the N items was drawn, so a ratio of sums over R draws is one matrix product.
Statistics that are resampled together share their draws, so their differences are paired. Source: Efron and
Tibshirani 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from VideoMAE.training.metrics import correlation_of_sums
from VideoMAE.training.results import METRIC_TITLES, PREFERENCE_TITLES

LEVEL_PERCENT = 95
MAX_CELLS = 4_000_000  # of one chunk of draws: 32 MB
LOWER_IS_BETTER = ("bce", "mean_absolute_error")
TITLES = {**METRIC_TITLES, **PREFERENCE_TITLES}

Statistic = Callable[[np.ndarray], np.ndarray]
"""Counts of the items in each draw (R, N) -> the metric of each draw, (R,) or (R, K)."""


class Interval(NamedTuple):
    """The bounds that hold LEVEL_PERCENT of the draws."""

    low: float
    high: float


@dataclass(frozen=True)
class Resampling:
    """The number of bootstrap draws and their seed."""

    num_resamples: int
    seed: int

    def draw(self, statistics: Mapping[str, Statistic], num_items: int) -> dict[str, np.ndarray]:
        return resample(statistics, num_items, num_resamples=self.num_resamples, seed=self.seed)

    def method(self, unit: str, num_items: int) -> dict[str, Any]:
        """How the intervals were computed, for report.json; `unit` is what is resampled."""
        return {
            "interval": "percentile bootstrap",
            "level_percent": LEVEL_PERCENT,
            "num_resamples": self.num_resamples,
            "seed": self.seed,
            "resampled": unit,
            "num_resampled": num_items,
        }


def draws(num_items: int, *, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Counts of the items in each draw of `num_items`, in chunks of draws. -> (r, N) float64"""
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
    """The ratio of two sums over items: a mean over the elements of items that hold different numbers of them.
    (N,), (N,)"""
    sums = np.stack([numerators, denominators], axis=1).astype(np.float64)

    def statistic(counts: np.ndarray) -> np.ndarray:
        numerator, denominator = (counts @ sums).T
        return numerator / denominator

    return statistic


def correlations_of(predictions: np.ndarray, targets: np.ndarray) -> Statistic:
    """Pearson correlation of each column over items, NaN where one is constant in a draw. (N, K), (N, K) -> (R, K)"""
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
    """The variances, 0 where they are within the rounding error of `squares`."""
    return np.where(variances > 1e-12 * squares, variances, 0.0)


def mean_over_columns(statistic: Statistic) -> Statistic:
    """The mean of a statistic over its columns, NaN ignored. -> (R,)"""

    def mean(counts: np.ndarray) -> np.ndarray:
        values = statistic(counts)
        known = np.isfinite(values)
        number = known.sum(axis=1)
        return np.divide(
            np.where(known, values, 0).sum(axis=1), number, out=np.full(len(values), np.nan), where=number > 0
        )

    return mean


def interval(values: np.ndarray) -> Interval | None:
    """Percentile interval of the draws of a metric (R,), NaN ignored; None without a finite draw."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    tail = (100 - LEVEL_PERCENT) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return Interval(float(low), float(high))


def probability_better(differences: np.ndarray, *, lower_is_better: bool = False) -> float:
    """Share of draws whose difference (R,) is an improvement; a difference of 0 counts half. -> float in [0, 1]"""
    known = differences[np.isfinite(differences)]
    better = known < 0 if lower_is_better else known > 0
    return float(np.mean(better + 0.5 * (known == 0)))


def value_of(statistic: Statistic, num_items: int) -> float | None:
    """A statistic of the items without resampling; None where it is undefined."""
    value = float(statistic(np.ones((1, num_items)))[0])
    return value if math.isfinite(value) else None


def estimate(value: float | None, values: np.ndarray | None = None) -> dict[str, Any]:
    """A value and the interval of its draws; `low` and `high` are None without draws or if all draws are equal, and
    `value` is None if it is not finite."""
    if value is not None and not math.isfinite(value):
        value = None
    found = None if values is None or value is None else interval(values)
    if found is None or found.high - found.low < 1e-12:
        return {"value": value, "low": None, "high": None}
    return {"value": value, **found._asdict()}


def title_of(metric: str) -> dict[str, Any]:
    """Title, unit and direction of a metric: "top-1 accuracy, %" -> {"title": "top-1 accuracy", "unit": "%", ...}"""
    name, _, unit = TITLES[metric].rpartition(", ")
    if not name or unit not in ("%", "nats"):
        name, unit = TITLES[metric], ""
    return {"title": name, "unit": unit, "lower_is_better": metric in LOWER_IS_BETTER}


def metric_entries(
    statistics: Mapping[str, Mapping[str, Statistic]], num_items: int, resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """The estimates of every predictor, {predictor: {metric: statistic}}, from the same draws.

    -> {metric: title, unit, and each predictor's estimate}, in the order of the first predictor's metrics
    """
    drawn = resampling.draw(
        {f"{who} {metric}": found for who, named in statistics.items() for metric, found in named.items()}, num_items
    )
    first = next(iter(statistics.values()))
    return {
        metric: {
            **title_of(metric),
            **{
                who: estimate(value_of(named[metric], num_items), drawn[f"{who} {metric}"])
                for who, named in statistics.items()
                if metric in named
            },
        }
        for metric in first
    }


def difference_entries(
    a: Mapping[str, Statistic], b: Mapping[str, Statistic], num_items: int, resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """The metrics of two runs and their differences (B minus A), paired: both runs use the same draws.

    -> {metric: title, unit, estimates "a", "b", "difference", "percent_b_better"}
    """
    shared = [metric for metric in a if metric in b]
    drawn = resampling.draw(
        {f"{who} {metric}": named[metric] for who, named in (("a", a), ("b", b)) for metric in shared}, num_items
    )
    entries: dict[str, dict[str, Any]] = {}
    for metric in shared:
        value_a, value_b = value_of(a[metric], num_items), value_of(b[metric], num_items)
        differences = drawn[f"b {metric}"] - drawn[f"a {metric}"]
        entries[metric] = {
            **title_of(metric),
            "a": estimate(value_a, drawn[f"a {metric}"]),
            "b": estimate(value_b, drawn[f"b {metric}"]),
            "difference": {
                "value": None if value_a is None or value_b is None else value_b - value_a,
                **(interval(differences) or Interval(math.nan, math.nan))._asdict(),
            },
            "percent_b_better": 100.0 * probability_better(differences, lower_is_better=metric in LOWER_IS_BETTER),
        }
    return entries


def disagreements(results: Mapping[str, Any], computed: Mapping[str, float | None]) -> list[str]:
    """A sentence for each metric of results.json that differs from the one computed from the predictions."""
    return [
        f"results.json has {results[metric]:.4f} for {TITLES[metric]}, but the predictions in the same folder give "
        f"{value:.4f}: they may come from different tests."
        for metric, value in computed.items()
        if value is not None
        and results.get(metric) is not None
        and not math.isclose(results[metric], value, rel_tol=1e-3, abs_tol=1e-3)
    ]

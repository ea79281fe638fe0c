"""Metrics with bootstrap intervals: items are drawn with replacement, and every metric is computed from each draw.

An item is a unit that was sampled independently: a video, or a connected component of compared videos. A draw is stored
as the number of times that each of the N items was drawn, so a ratio of sums over R draws is one matrix product.
Statistics that are resampled together share their draws, so their differences are paired. Source: Efron and
Tibshirani 1993, chapter 13 (percentile intervals).
"""

import math
from collections.abc import Callable, Iterator, Mapping
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


class Resampling(NamedTuple):
    """The number of bootstrap draws and their seed."""

    num_resamples: int
    seed: int

    def draws(self, num_items: int) -> Iterator[np.ndarray]:
        """Counts of the items in each draw of `num_items`, in chunks of draws. -> (r, N) float64"""
        rng = np.random.default_rng(self.seed)
        per_chunk = max(1, MAX_CELLS // num_items)
        for first in range(0, self.num_resamples, per_chunk):
            rows = min(per_chunk, self.num_resamples - first)
            drawn = rng.integers(num_items, size=(rows, num_items)) + num_items * np.arange(rows)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=rows * num_items)
            yield counts.reshape(rows, num_items).astype(np.float64)

    def draw(self, statistics: Mapping[str, Statistic], num_items: int) -> dict[str, np.ndarray]:
        """Every statistic of the same draws. -> (R,) or (R, K) by name"""
        chunks = [[statistic(counts) for statistic in statistics.values()] for counts in self.draws(num_items)]
        return {name: np.concatenate(parts) for name, parts in zip(statistics, zip(*chunks, strict=True), strict=True)}

    def method(self, unit: str, num_items: int) -> dict[str, Any]:
        """How the intervals were computed, for report.json; `unit` is what is resampled."""
        how = {"interval": "percentile bootstrap", "level_percent": LEVEL_PERCENT, **self._asdict()}
        return {**how, "resampled": unit, "num_resampled": num_items}


def mean_of(sums: np.ndarray, counts: np.ndarray | float = 1.0) -> Statistic:
    """The mean over the elements of items, from the sum of each item's elements and their number. (N,), (N,)"""
    terms = np.stack(np.broadcast_arrays(sums, counts), axis=1).astype(np.float64)
    return lambda draws: np.divide(*(draws @ terms).T)


def correlations_of(predictions: np.ndarray, targets: np.ndarray) -> Statistic:
    """Pearson correlation of each column over items, NaN where one is constant in a draw. (N, K), (N, K) -> (R, K)"""
    x = predictions - predictions.mean(axis=0, dtype=np.float64)
    y = targets - targets.mean(axis=0, dtype=np.float64)
    terms = np.concatenate([x, y, x * x, y * y, x * y], axis=1)

    def statistic(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(axis=1, keepdims=True)
        x_mean, y_mean, x_squares, y_squares, products = np.split(counts @ terms / total, 5, axis=1)
        variances = []
        for mean, squares in ((x_mean, x_squares), (y_mean, y_squares)):
            variance = squares - mean**2
            variances.append(np.where(variance > 1e-12 * squares, variance, 0.0))  # else it is a rounding error
        return correlation_of_sums(total * (products - x_mean * y_mean), total * variances[0], total * variances[1])

    return statistic


def mean_over_columns(statistic: Statistic) -> Statistic:
    """The mean of a statistic over its columns, NaN ignored. -> (R,)"""
    return lambda counts: np.ma.masked_invalid(statistic(counts)).mean(axis=1).filled(np.nan)


def interval(values: np.ndarray) -> list[float]:
    """The bounds that hold LEVEL_PERCENT of the draws of a metric (R,), NaN ignored; NaN without a finite draw."""
    known, tail = values[np.isfinite(values)], (100 - LEVEL_PERCENT) / 2
    return np.percentile(known, [tail, 100 - tail]).tolist() if len(known) else [math.nan, math.nan]


def probability_better(differences: np.ndarray, *, lower_is_better: bool = False) -> float:
    """Share of draws whose difference (R,) is an improvement; a difference of 0 counts half. -> float in [0, 1]"""
    known = differences[np.isfinite(differences)]
    better = known < 0 if lower_is_better else known > 0
    return float(np.mean(better + 0.5 * (known == 0)))


def estimate(value: float | None, values: np.ndarray | None = None) -> dict[str, Any]:
    """A value and the interval of its draws; `low` and `high` are None without draws or if all draws are equal, and
    `value` is None if it is not finite."""
    if value is None or not math.isfinite(value):
        return {"value": None, "low": None, "high": None}
    low, high = interval(np.empty(0) if values is None else values)
    has_width = high - low >= 1e-12
    return {"value": value, "low": low if has_width else None, "high": high if has_width else None}


def metric_entries(
    statistics: Mapping[str, Mapping[str, Statistic]], num_items: int, resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """The estimates of several predictors, {predictor: {metric: statistic}}, from the same draws.

    -> {metric: title, unit, and each predictor's estimate}, in the order of the first predictor's metrics.
    The metrics of runs "a" and "b" are those of both, with the paired "difference" (B minus A) and "percent_b_better".
    """
    drawn = {who: resampling.draw(named, num_items) for who, named in statistics.items()}
    entries: dict[str, dict[str, Any]] = {}
    for metric in next(iter(statistics.values())):
        if "b" in statistics and metric not in statistics["b"]:
            continue
        title, _, unit = TITLES[metric].rpartition(", ")  # "top-1 accuracy, %"
        if unit not in ("%", "nats"):
            title, unit = TITLES[metric], ""
        entry: dict[str, Any] = {"title": title, "unit": unit, "lower_is_better": metric in LOWER_IS_BETTER}
        for who, named in statistics.items():
            if metric in named:
                entry[who] = estimate(float(named[metric](np.ones((1, num_items)))[0]), drawn[who][metric])
        if "b" in statistics:
            values, differences = (entry["a"]["value"], entry["b"]["value"]), drawn["b"][metric] - drawn["a"][metric]
            low, high = interval(differences)
            entry["difference"] = {"value": None if None in values else values[1] - values[0], "low": low, "high": high}
            better = probability_better(differences, lower_is_better=entry["lower_is_better"])
            entry["percent_b_better"] = 100.0 * better
        entries[metric] = entry
    return entries


def agreement(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, int]:
    """Counts of the items that both runs, one run or neither predicts correctly. (N,), (N,) bool"""
    names = {"both": (True, True), "only_a": (True, False), "only_b": (False, True), "neither": (False, False)}
    return {name: int(np.sum((right_a == a) & (right_b == b))) for name, (a, b) in names.items()}


def disagreements(results: Mapping[str, Any], entries: Mapping[str, Any]) -> list[str]:
    """A sentence for each metric of results.json that differs from the model's value in `entries`."""
    values = {metric: entry["model"]["value"] for metric, entry in entries.items()}
    return [
        f"results.json has {results[metric]:.4f} for {TITLES[metric]}, but the predictions in the same folder give "
        f"{value:.4f}: they may come from different tests."
        for metric, value in values.items()
        if None not in (value, results.get(metric))
        and not math.isclose(results[metric], value, rel_tol=1e-3, abs_tol=1e-3)
    ]

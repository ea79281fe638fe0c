"""What both tasks' reports say of a metric: its value and its bootstrap interval, alone or against another run's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from VideoMAE.reporting import bootstrap
from VideoMAE.reporting.bootstrap import LEVEL_PERCENT, Statistic
from VideoMAE.reporting.run_files import Run
from VideoMAE.training.results import METRIC_TITLES, PREFERENCE_TITLES

LOWER_IS_BETTER = ("bce", "mean_absolute_error")
TITLES = {**METRIC_TITLES, **PREFERENCE_TITLES}


@dataclass(frozen=True)
class Resampling:
    """How many draws, from which seed."""

    num_resamples: int
    seed: int

    def draw(self, statistics: Mapping[str, Statistic], num_items: int) -> dict[str, np.ndarray]:
        return bootstrap.resample(statistics, num_items, num_resamples=self.num_resamples, seed=self.seed)

    def method(self, what: str, num_items: int) -> dict[str, Any]:
        """For the page: how its intervals came about; `what` is drawn."""
        return {
            "interval": "percentile bootstrap",
            "level_percent": LEVEL_PERCENT,
            "num_resamples": self.num_resamples,
            "seed": self.seed,
            "resampled": what,
            "num_resampled": num_items,
        }


def value_of(statistic: Statistic, num_items: int) -> float | None:
    """A statistic of the items as they are; None where it is not defined."""
    value = float(statistic(np.ones((1, num_items)))[0])
    return value if math.isfinite(value) else None


def estimate(value: float | None, values: np.ndarray | None = None) -> dict[str, Any]:
    """A value and the interval of its draws; no interval where there are none or all are the same. A value that is no
    finite number is None."""
    if value is not None and not math.isfinite(value):
        value = None
    found = None if values is None or value is None else bootstrap.interval(values)
    if found is None or found.high - found.low < 1e-12:
        return {"value": value, "low": None, "high": None}
    return {"value": value, **found._asdict()}


def title_of(metric: str) -> dict[str, Any]:
    """A metric's name and unit, and which way is better: "top-1 accuracy, %" -> top-1 accuracy, in %."""
    name, _, unit = TITLES[metric].rpartition(", ")
    if not name or unit not in ("%", "nats"):
        name, unit = TITLES[metric], ""
    return {"title": name, "unit": unit, "lower_is_better": metric in LOWER_IS_BETTER}


def metric_entries(
    statistics: Mapping[str, Mapping[str, Statistic]], num_items: int, resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """Every metric of every answerer, {answerer: {metric: statistic}}, from the same draws.

    -> {metric: title, unit, and each answerer's estimate}, in the order of the first answerer's metrics
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
    """Two runs' metrics and how much higher the second's are, paired: both see the same draws.

    -> {metric: title, unit, estimates "a", "b", "difference", "percent_b_better"}
    """
    drawn = resampling.draw(
        {f"{who} {metric}": named[metric] for who, named in (("a", a), ("b", b)) for metric in a if metric in b},
        num_items,
    )
    entries: dict[str, dict[str, Any]] = {}
    for metric in (metric for metric in a if metric in b):
        values = {"a": value_of(a[metric], num_items), "b": value_of(b[metric], num_items)}
        differences = drawn[f"b {metric}"] - drawn[f"a {metric}"]
        known = None not in values.values()
        entries[metric] = {
            **title_of(metric),
            **{who: estimate(value, drawn[f"{who} {metric}"]) for who, value in values.items()},
            "difference": {
                "value": values["b"] - values["a"] if known else None,  # type: ignore[operator]
                **(bootstrap.interval(differences) or bootstrap.Interval(math.nan, math.nan))._asdict(),
            },
            "percent_b_better": 100.0
            * bootstrap.probability_better(differences, lower_is_better=metric in LOWER_IS_BETTER),
        }
    return entries


def disagreements(run: Run, computed: Mapping[str, float | None]) -> list[str]:
    """A sentence for each metric of results.json that the predictions beside it do not give."""
    assert run.results is not None
    return [
        f"results.json says {run.results[metric]:.4f} for {TITLES[metric]}, the predictions beside it give "
        f"{value:.4f}: they may be of different tests."
        for metric, value in computed.items()
        if value is not None
        and run.results.get(metric) is not None
        and not math.isclose(run.results[metric], value, rel_tol=1e-3, abs_tol=1e-3)
    ]


def plain(value: Any) -> Any:
    """The same as JSON has it: lists for arrays, None for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value

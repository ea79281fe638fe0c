"""The numbers of a tested V2V run. P pairs, L lists, C connected components.

Everything returned is plain values, as they stand in `report.json`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from VideoMAE.data.v2v import Comparison, components_of, pairs_in
from VideoMAE.reporting import bootstrap
from VideoMAE.reporting.bootstrap import Statistic
from VideoMAE.reporting.metric_numbers import Resampling, disagreements, estimate, metric_entries
from VideoMAE.reporting.run_files import PreferenceTest, Run
from VideoMAE.training import metrics
from VideoMAE.training.results import preference_results

NUM_SCORE_BINS, NUM_MARGIN_BINS = 30, 10


class Units(NamedTuple):
    """Comparisons grouped by the connected component that their videos form: what is drawn anew."""

    component: np.ndarray  # (P,) or (L,) int, of each comparison
    num_components: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(P,) -> (C,)"""
        return np.bincount(self.component, values, minlength=self.num_components)

    def mean(self, values: np.ndarray, weights: np.ndarray | None = None) -> Statistic:
        """The mean over comparisons, of `weights` each where given, as a function of a draw of components."""
        weights = np.ones(len(values)) if weights is None else weights
        return bootstrap.ratio_of(self.sums(values * weights), self.sums(weights))


def units_of(comparisons: Sequence[Comparison], connected_by: Sequence[Comparison]) -> Units:
    """The components that hold any of these comparisons, in the graph of all that connect videos."""
    component = components_of(connected_by)
    numbers = [component[entry[0]] for entry in comparisons]
    distinct, places = np.unique(np.array(numbers, dtype=int), return_inverse=True)
    return Units(places, len(distinct))


class Judged(NamedTuple):
    """A run's test, worked out."""

    test: PreferenceTest
    margins: np.ndarray  # (P,) how much higher the preferred one is scored
    pairs: Units
    lists: Units


def judge(test: PreferenceTest) -> Judged:
    every = [*test.pairs, *test.lists]
    return Judged(
        test,
        metrics.score_differences(test.scores, test.pairs),
        units_of(test.pairs, every),
        units_of(test.lists, every),
    )


def pair_statistics(judged: Judged) -> dict[str, Statistic]:
    if not judged.test.pairs:
        return {}
    return {"pair_accuracy": judged.pairs.mean(100.0 * (judged.margins > 0))}


def list_statistics(judged: Judged) -> dict[str, Statistic]:
    test = judged.test
    if not test.lists:
        return {}
    ranked = [[test.scores[key] for key in entry] for entry in test.lists]
    inside = [np.array([b - a for a, b in itertools.combinations(scores, 2)]) for scores in ranked]
    weights = np.array([len(found) for found in inside], dtype=float)
    right = np.array([100.0 * np.mean(found > 0) for found in inside])
    return {
        "list_accuracy": judged.lists.mean(np.array([100.0 * metrics.in_order(scores) for scores in ranked])),
        "pair_accuracy_in_lists": judged.lists.mean(right, weights),
        "mean_kendall_tau": judged.lists.mean(np.array([metrics.kendall_tau(scores) for scores in ranked])),
    }


def preference_report(run: Run, judged: Judged, resampling: Resampling) -> dict[str, Any]:
    """Everything that the report of a V2V run says of its test."""
    test = judged.test
    entries: dict[str, dict[str, Any]] = {}
    for units, statistics in ((judged.pairs, pair_statistics(judged)), (judged.lists, list_statistics(judged))):
        if statistics:
            entries |= metric_entries({"model": statistics}, units.num_components, resampling)
    chance = preference_results(test.scores, test.pairs, test.lists)["chance"]
    for metric, entry in entries.items():
        entry["chance"] = estimate(chance[metric])
    computed = {metric: entry["model"]["value"] for metric, entry in entries.items()}
    return {
        "num_videos": len(test.scores) + len(run.unreadable),
        "num_unreadable": len(run.unreadable),
        "num_pairs": len(test.pairs),
        "num_pairs_lost": test.num_pairs_lost,
        "num_ties": int(np.sum(judged.margins == 0)),
        "num_lists": len(test.lists),
        "num_lists_lost": test.num_lists_lost,
        "method": {
            **resampling.method("connected components of the pairs", judged.pairs.num_components),
            "num_components_of_lists": judged.lists.num_components,
        },
        "metrics": entries,
        "notes": disagreements(run, computed),
        "scores": score_numbers(judged),
        "margins": margin_numbers(run, judged, resampling),
        "lists_by_length": lists_by_length(judged),
        "pairs": pairs_by_margin(judged),
        "lists": lists_by_tau(judged),
    }


def score_numbers(judged: Judged) -> dict[str, Any]:
    """The distribution of all scores, and of the preferred and the other videos of the pairs."""
    scores = np.array(list(judged.test.scores.values()))
    edges = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-9), NUM_SCORE_BINS + 1)
    sides = {
        side: np.array([judged.test.scores[getattr(pair, side)] for pair in judged.test.pairs])
        for side in ("better", "worse")
    }
    return {
        "edges": edges.tolist(),
        "all": np.histogram(scores, edges)[0].tolist(),
        **{side: np.histogram(values, edges)[0].tolist() for side, values in sides.items()},
        "mean": float(scores.mean()),
        "standard_deviation": float(scores.std()),
        "mean_margin": float(judged.margins.mean()) if len(judged.margins) else None,
    }


def margin_numbers(run: Run, judged: Judged, resampling: Resampling) -> list[dict[str, Any]]:
    """Pair accuracy by how far apart the scores are: bins of equal number, the closest pairs first. Where the loss is
    Bradley-Terry's, with the accuracy that these distances promise."""
    size = np.abs(judged.margins)
    num_bins = min(NUM_MARGIN_BINS, len(size) // 5)
    if not num_bins:
        return []
    found = []
    for number, part in enumerate(np.array_split(np.argsort(size, kind="stable"), num_bins)):
        inside = np.zeros(len(size))
        inside[part] = 1.0
        statistic = bootstrap.ratio_of(
            judged.pairs.sums(inside * 100.0 * (judged.margins > 0)), judged.pairs.sums(inside)
        )
        with np.errstate(invalid="ignore"):  # a draw may hold no pair of this bin
            drawn = resampling.draw({"accuracy": statistic}, judged.pairs.num_components)["accuracy"]
        entry = {
            "number": number,
            "num_pairs": len(part),
            "mean_distance": float(size[part].mean()),
            "accuracy": estimate(float(100.0 * np.mean(judged.margins[part] > 0)), drawn),
        }
        if run.settings.get("loss") == "logistic":
            entry["promised"] = float(100.0 * np.mean(1 / (1 + np.exp(-size[part]))))
        found.append(entry)
    return found


def lists_by_length(judged: Judged) -> list[dict[str, Any]]:
    """The lists' metrics for each length of list."""
    found = []
    for length in sorted({len(entry) for entry in judged.test.lists}):
        lists = [entry for entry in judged.test.lists if len(entry) == length]
        measured = preference_results(judged.test.scores, [], lists)
        kept = ("num_lists", "list_accuracy", "pair_accuracy_in_lists", "mean_kendall_tau")
        found.append(
            {
                "length": length,
                **{key: measured[key] for key in kept},
                "chance_of_order": measured["chance"]["list_accuracy"],
            }
        )
    return found


def pairs_by_margin(judged: Judged) -> list[dict[str, Any]]:
    """Every pair with its margin, the most wrong first."""
    order = np.argsort(judged.margins, kind="stable")
    return [
        {"worse": pair.worse, "better": pair.better, "margin": float(judged.margins[place])}
        for place, pair in ((place, judged.test.pairs[place]) for place in order)
    ]


def lists_by_tau(judged: Judged) -> list[dict[str, Any]]:
    """Every list with its scores, in its true order; those that were ordered best first, of equals the longest, of
    these the one with the most certain order."""
    scores = judged.test.scores
    found = [
        {
            "ids": list(entry),
            "scores": [scores[key] for key in entry],
            "kendall_tau": metrics.kendall_tau([scores[key] for key in entry]),
            "mean_margin": float(np.mean(metrics.score_differences(scores, pairs_in([entry])))),
        }
        for entry in judged.test.lists
    ]
    return sorted(found, key=lambda item: (-item["kendall_tau"], -len(item["ids"]), -item["mean_margin"]))

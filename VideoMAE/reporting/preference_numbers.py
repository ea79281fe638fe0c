"""The numbers of a tested V2V run, as written to `report.json`. P pairs, L lists, C connected components."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from VideoMAE.data.v2v import Comparison, components_of, pairs_in
from VideoMAE.reporting import bootstrap
from VideoMAE.reporting.bootstrap import Resampling, Statistic, disagreements, estimate, metric_entries
from VideoMAE.reporting.run_files import Dataset, PreferenceTest, Run, preference_test
from VideoMAE.training import metrics
from VideoMAE.training.results import preference_results

NUM_SCORE_BINS, NUM_MARGIN_BINS = 30, 10
MAX_LISTS = 3  # shown


class Components(NamedTuple):
    """Comparisons grouped by the connected component of their videos, the unit of resampling."""

    component: np.ndarray  # (P,) or (L,) int, of each comparison
    num_components: int

    def mean(self, values: np.ndarray, weights: np.ndarray | None = None) -> Statistic:
        """The (weighted) mean over comparisons as a statistic of components. (P,), (P,)"""
        weights = np.ones(len(values)) if weights is None else weights
        sums, totals = (
            np.bincount(self.component, each, minlength=self.num_components) for each in (values * weights, weights)
        )
        return bootstrap.ratio_of(sums, totals)


def components_holding(comparisons: Sequence[Comparison], connected_by: Sequence[Comparison]) -> Components:
    """The components of these comparisons in the graph that all of `connected_by` form."""
    component = components_of(connected_by)
    numbers = [component[entry[0]] for entry in comparisons]
    distinct, places = np.unique(np.array(numbers, dtype=int), return_inverse=True)
    return Components(places, len(distinct))


class Evaluation(NamedTuple):
    """A test with the score differences of its pairs and the components of its comparisons."""

    test: PreferenceTest
    margins: np.ndarray  # (P,) score of the preferred video minus score of the other
    pairs: Components
    lists: Components


def evaluate(test: PreferenceTest) -> Evaluation:
    comparisons = [*test.pairs, *test.lists]
    pairs, lists = (components_holding(entries, comparisons) for entries in (test.pairs, test.lists))
    return Evaluation(test, metrics.score_differences(test.scores, test.pairs), pairs, lists)


def list_statistics(found: Evaluation) -> dict[str, Statistic]:
    ranked = [[found.test.scores[key] for key in entry] for entry in found.test.lists]
    inside = [np.array([b - a for a, b in itertools.combinations(scores, 2)]) for scores in ranked]
    weights = np.array([len(differences) for differences in inside], dtype=float)
    right = np.array([100.0 * np.mean(differences > 0) for differences in inside])
    return {
        "list_accuracy": found.lists.mean(np.array([100.0 * metrics.in_order(scores) for scores in ranked])),
        "pair_accuracy_in_lists": found.lists.mean(right, weights),
        "mean_kendall_tau": found.lists.mean(np.array([metrics.kendall_tau(scores) for scores in ranked])),
    }


def metric_entries_of(evaluations: Mapping[str, Evaluation], resampling: Resampling) -> dict[str, dict[str, Any]]:
    """The metrics of the pairs and of the lists, of one test ("model") or of two on the same comparisons ("a", "b")."""
    first = next(iter(evaluations.values()))
    entries: dict[str, dict[str, Any]] = {}
    if first.test.pairs:
        pairs = {who: {"pair_accuracy": e.pairs.mean(100.0 * (e.margins > 0))} for who, e in evaluations.items()}
        entries |= metric_entries(pairs, first.pairs.num_components, resampling)
    if first.test.lists:
        lists = {who: list_statistics(found) for who, found in evaluations.items()}
        entries |= metric_entries(lists, first.lists.num_components, resampling)
    return entries


def preference_report(run: Run, dataset: Dataset, resampling: Resampling, *, num_examples: int = 0) -> dict[str, Any]:
    """All numbers of a V2V test, and the best and the worst predicted lists and pairs.
    Raises ValueError if the dataset, the only source of pairs and lists, cannot be read."""
    assert run.results is not None
    test = preference_test(run, dataset)
    found = evaluate(test)
    entries = metric_entries_of({"model": found}, resampling)
    chance = preference_results(test.scores, test.pairs, test.lists)["chance"]
    for metric, entry in entries.items():
        entry["chance"] = estimate(chance[metric])
    lists = lists_by_tau(found)
    num_lists = min(MAX_LISTS, num_examples, len(lists) // 2)
    pairs = [
        {**test.pairs[place]._asdict(), "margin": float(found.margins[place])}
        for place in np.argsort(found.margins, kind="stable")
    ]
    return {
        "num_videos": len(test.scores) + len(run.unreadable),
        "num_unreadable": len(run.unreadable),
        "num_pairs": len(test.pairs),
        "num_pairs_lost": test.num_pairs_lost,
        "num_ties": int(np.sum(found.margins == 0)),
        "num_lists": len(test.lists),
        "num_lists_lost": test.num_lists_lost,
        "method": method_of(found, resampling),
        "metrics": entries,
        "notes": disagreements(run.results, entries),
        "scores": score_numbers(found),
        "margins": margin_numbers(run, found, resampling),
        "lists_by_length": lists_by_length(found),
        "lists_best": lists[:num_lists],
        "lists_worst": lists[::-1][:num_lists],
        "pairs_wrong": [entry for entry in pairs if entry["margin"] <= 0][:num_examples],
        "pairs_right": [entry for entry in pairs[::-1] if entry["margin"] > 0][:num_examples],
    }


def method_of(found: Evaluation, resampling: Resampling) -> dict[str, Any]:
    method = resampling.method("connected components of the pairs", found.pairs.num_components)
    return {**method, "num_components_of_lists": found.lists.num_components}


def score_numbers(found: Evaluation) -> dict[str, Any]:
    """Histograms of all scores and of the preferred and the other videos of the pairs, and their moments."""
    scores = np.array(list(found.test.scores.values()))
    edges = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-9), NUM_SCORE_BINS + 1)
    sides = {
        side: np.array([found.test.scores[getattr(pair, side)] for pair in found.test.pairs])
        for side in ("better", "worse")
    }
    return {
        "edges": edges.tolist(),
        "all": np.histogram(scores, edges)[0].tolist(),
        **{side: np.histogram(values, edges)[0].tolist() for side, values in sides.items()},
        "mean": float(scores.mean()),
        "standard_deviation": float(scores.std()),
        "mean_margin": float(found.margins.mean()) if len(found.margins) else None,
    }


def margin_numbers(run: Run, found: Evaluation, resampling: Resampling) -> list[dict[str, Any]]:
    """Pair accuracy in bins of equal count by score difference, the smallest first; for the Bradley-Terry loss with the
    accuracy that these differences predict."""
    size = np.abs(found.margins)
    num_bins = min(NUM_MARGIN_BINS, len(size) // 5)
    if not num_bins:
        return []
    entries = []
    for number, part in enumerate(np.array_split(np.argsort(size, kind="stable"), num_bins)):
        inside = np.zeros(len(size))
        inside[part] = 1.0
        statistic = found.pairs.mean(100.0 * (found.margins > 0), inside)
        with np.errstate(invalid="ignore"):  # a draw may hold no pair of this bin
            drawn = resampling.draw({"accuracy": statistic}, found.pairs.num_components)["accuracy"]
        entry = {
            "number": number,
            "num_pairs": len(part),
            "mean_distance": float(size[part].mean()),
            "accuracy": estimate(float(100.0 * np.mean(found.margins[part] > 0)), drawn),
        }
        if run.settings.get("loss") == "logistic":
            entry["promised"] = float(100.0 * np.mean(1 / (1 + np.exp(-size[part]))))
        entries.append(entry)
    return entries


def lists_by_length(found: Evaluation) -> list[dict[str, Any]]:
    """The metrics of the lists of each length."""
    kept = ("num_lists", "list_accuracy", "pair_accuracy_in_lists", "mean_kendall_tau")
    entries = []
    for length in sorted({len(entry) for entry in found.test.lists}):
        lists = [entry for entry in found.test.lists if len(entry) == length]
        measured = preference_results(found.test.scores, [], lists)
        measures = {key: measured[key] for key in kept}
        entries.append({"length": length, **measures, "chance_of_order": measured["chance"]["list_accuracy"]})
    return entries


def lists_by_tau(found: Evaluation) -> list[dict[str, Any]]:
    """Every list with its scores in the true order, sorted by Kendall tau, length and mean score difference, the
    highest first."""
    scores = found.test.scores
    entries = [
        {
            "ids": list(entry),
            "scores": [scores[key] for key in entry],
            "kendall_tau": metrics.kendall_tau([scores[key] for key in entry]),
            "mean_margin": float(np.mean(metrics.score_differences(scores, pairs_in([entry])))),
        }
        for entry in found.test.lists
    ]
    return sorted(entries, key=lambda entry: (-entry["kendall_tau"], -len(entry["ids"]), -entry["mean_margin"]))

"""The numbers of a tested V2V run and of a comparison of two, as written to `report.json`. P pairs, L lists."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from VideoMAE.data.v2v import Comparison, Pair, components_of, pairs_in
from VideoMAE.reporting import bootstrap
from VideoMAE.reporting.bootstrap import Resampling, Statistic, estimate, metric_entries
from VideoMAE.reporting.run_files import Dataset, Run
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
        return bootstrap.mean_of(sums, totals)


def components_holding(comparisons: Sequence[Comparison], connected_by: Sequence[Comparison]) -> Components:
    """The components of these comparisons in the graph that all of `connected_by` form."""
    component = components_of(connected_by)
    numbers = np.array([component[entry[0]] for entry in comparisons], dtype=int)
    distinct, places = np.unique(numbers, return_inverse=True)
    return Components(places, len(distinct))


class PreferenceTest(NamedTuple):
    """The scores of the readable videos, and the pairs and lists whose videos all have a score."""

    scores: dict[str, float]
    pairs: Sequence[Pair]
    lists: Sequence[Comparison]
    num_pairs_lost: int = 0
    num_lists_lost: int = 0

    @property
    def margins(self) -> np.ndarray:
        """Score of the preferred video minus score of the other, of each pair. -> (P,)"""
        return metrics.score_differences(self.scores, self.pairs)

    def components(self, comparisons: Sequence[Comparison]) -> Components:
        """The components of the pairs or of the lists in the graph of both."""
        return components_holding(comparisons, [*self.pairs, *self.lists])

    def method(self, resampling: Resampling) -> dict[str, Any]:
        num_components = self.components(self.pairs).num_components
        method = resampling.method("connected components of the pairs", num_components)
        return {**method, "num_components_of_lists": self.components(self.lists).num_components}


def preference_test(run: Run, dataset: Dataset) -> PreferenceTest:
    """The scores of a V2V run and the pairs and lists of its test.
    Raises ValueError if the dataset, the only source of pairs and lists, cannot be read."""
    if dataset.missing:
        raise ValueError(f"{run.folder}: the dataset with its pairs and lists cannot be read: {dataset.missing}")
    scores = {line["id"]: float(line["score"]) for line in run.predicted}
    pairs = [pair for pair in dataset.pairs if scores.keys() >= set(pair)]
    lists = [entry for entry in dataset.lists if scores.keys() >= set(entry)]
    return PreferenceTest(scores, pairs, lists, len(dataset.pairs) - len(pairs), len(dataset.lists) - len(lists))


def metric_entries_of(tests: Mapping[str, PreferenceTest], resampling: Resampling) -> dict[str, dict[str, Any]]:
    """The metrics of the pairs and of the lists, of one test ("model") or of two on the same comparisons ("a", "b")."""
    first = next(iter(tests.values()))
    entries: dict[str, dict[str, Any]] = {}
    if first.pairs:
        pairs = first.components(first.pairs)
        statistics = {who: {"pair_accuracy": pairs.mean(100.0 * (test.margins > 0))} for who, test in tests.items()}
        entries |= metric_entries(statistics, pairs.num_components, resampling)
    if first.lists:
        lists = first.components(first.lists)
        statistics = {}
        for who, test in tests.items():
            ranked = [[test.scores[key] for key in entry] for entry in test.lists]
            inside = [np.array([b - a for a, b in itertools.combinations(scores, 2)]) for scores in ranked]
            right = np.array([100.0 * np.mean(differences > 0) for differences in inside])
            statistics[who] = {
                "list_accuracy": lists.mean(np.array([100.0 * metrics.in_order(scores) for scores in ranked])),
                "pair_accuracy_in_lists": lists.mean(right, np.array(list(map(len, inside)), dtype=float)),
                "mean_kendall_tau": lists.mean(np.array(list(map(metrics.kendall_tau, ranked)))),
            }
        entries |= metric_entries(statistics, lists.num_components, resampling)
    return entries


def preference_report(run: Run, dataset: Dataset, resampling: Resampling, *, num_examples: int = 0) -> dict[str, Any]:
    """All numbers of a V2V test, and the best and the worst predicted lists and pairs.
    Raises ValueError if the dataset, the only source of pairs and lists, cannot be read."""
    assert run.results is not None
    test = preference_test(run, dataset)
    margins, scores = test.margins, np.array(list(test.scores.values()))
    entries = metric_entries_of({"model": test}, resampling)
    chance = preference_results(test.scores, test.pairs, test.lists)["chance"]
    for metric, entry in entries.items():
        entry["chance"] = estimate(chance[metric])
    edges = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-9), NUM_SCORE_BINS + 1)
    sides = {side: [test.scores[getattr(pair, side)] for pair in test.pairs] for side in ("better", "worse")}
    by_length = []
    for length in sorted(set(map(len, test.lists))):
        measured = preference_results(test.scores, [], [entry for entry in test.lists if len(entry) == length])
        kept = ("num_lists", "list_accuracy", "pair_accuracy_in_lists", "mean_kendall_tau")
        chance_of_order = {"chance_of_order": measured["chance"]["list_accuracy"]}
        by_length.append({"length": length, **{key: measured[key] for key in kept}, **chance_of_order})
    lists: list[dict[str, Any]] = [
        {
            "ids": list(entry),
            "scores": [test.scores[key] for key in entry],
            "kendall_tau": metrics.kendall_tau([test.scores[key] for key in entry]),
            "mean_margin": float(np.mean(metrics.score_differences(test.scores, pairs_in([entry])))),
        }
        for entry in test.lists
    ]
    lists.sort(key=lambda entry: (-entry["kendall_tau"], -len(entry["ids"]), -entry["mean_margin"]))
    num_lists = min(MAX_LISTS, num_examples, len(lists) // 2)
    pairs = [
        {**test.pairs[place]._asdict(), "margin": float(margins[place])} for place in np.argsort(margins, kind="stable")
    ]
    return {
        "num_videos": len(test.scores) + len(run.unreadable),
        "num_unreadable": len(run.unreadable),
        "num_pairs": len(test.pairs),
        "num_pairs_lost": test.num_pairs_lost,
        "num_ties": int(np.sum(margins == 0)),
        "num_lists": len(test.lists),
        "num_lists_lost": test.num_lists_lost,
        "method": test.method(resampling),
        "metrics": entries,
        "notes": bootstrap.disagreements(run.results, entries),
        "scores": {
            "edges": edges.tolist(),
            "all": np.histogram(scores, edges)[0].tolist(),
            **{side: np.histogram(values, edges)[0].tolist() for side, values in sides.items()},
            "mean": float(scores.mean()),
            "standard_deviation": float(scores.std()),
            "mean_margin": float(margins.mean()) if len(margins) else None,
        },
        "margins": margin_numbers(run, test, resampling),
        "lists_by_length": by_length,
        "lists_best": lists[:num_lists],
        "lists_worst": lists[::-1][:num_lists],
        "pairs_wrong": [entry for entry in pairs if entry["margin"] <= 0][:num_examples],
        "pairs_right": [entry for entry in pairs[::-1] if entry["margin"] > 0][:num_examples],
    }


def margin_numbers(run: Run, test: PreferenceTest, resampling: Resampling) -> list[dict[str, Any]]:
    """Pair accuracy in bins of equal count by score difference, the smallest first; for the Bradley-Terry loss with the
    accuracy that these differences predict."""
    margins, pairs = test.margins, test.components(test.pairs)
    size = np.abs(margins)
    num_bins = min(NUM_MARGIN_BINS, len(size) // 5)
    entries = []
    for number, part in enumerate(np.array_split(np.argsort(size, kind="stable"), num_bins) if num_bins else []):
        statistic = pairs.mean(100.0 * (margins > 0), np.isin(np.arange(len(size)), part).astype(float))
        with np.errstate(invalid="ignore"):  # a draw may hold no pair of this bin
            drawn = resampling.draw({"accuracy": statistic}, pairs.num_components)["accuracy"]
        entry = {
            "number": number,
            "num_pairs": len(part),
            "mean_distance": float(size[part].mean()),
            "accuracy": estimate(float(100.0 * np.mean(margins[part] > 0)), drawn),
        }
        if run.settings.get("loss") == "logistic":
            entry["promised"] = float(100.0 * np.mean(1 / (1 + np.exp(-size[part]))))
        entries.append(entry)
    return entries


def compare_preferences(runs: Sequence[Run], tests: Sequence[PreferenceTest], resampling: Resampling) -> dict[str, Any]:
    """All numbers of a comparison of two V2V tests on their common pairs and lists, A and B.
    Raises ValueError if the labels of the tests differ, or they have no common pair."""
    folders = f"{runs[0].folder} and {runs[1].folder}"
    common: dict[str, list[Any]] = {}
    for noun in ("pairs", "lists"):
        first, second = (getattr(test, noun) for test in tests)
        known, orders = set(second), set(map(frozenset, second))
        reordered = [entry for entry in first if entry not in known and frozenset(entry) in orders]
        if reordered:
            raise ValueError(
                f"{folders} were tested on different labels: {len(reordered)} of {len(first)} {noun} have a different "
                f"order in the second, for example {' < '.join(reordered[0])}"
            )
        common[noun] = [entry for entry in first if entry in known]
    num_pairs, num_lists = map(len, common.values())
    if not num_pairs:
        num_in_a, num_in_b = (len(test.pairs) for test in tests)
        raise ValueError(f"{folders} have no common test pair: they have {num_in_a} and {num_in_b}")
    a, b = (PreferenceTest(test.scores, common["pairs"], common["lists"]) for test in tests)
    margins_a, margins_b = (test.margins / max(float(np.std(list(test.scores.values()))), 1e-12) for test in (a, b))
    entries = [
        {**a.pairs[place]._asdict(), "margin_a": float(margins_a[place]), "margin_b": float(margins_b[place])}
        for place in np.argsort(margins_a - margins_b, kind="stable")
    ]
    return {
        "num_common": num_pairs,
        "num_common_lists": num_lists,
        "num_only": {
            name: {"pairs": len(test.pairs) - num_pairs, "lists": len(test.lists) - num_lists}
            for name, test in zip("ab", tests, strict=True)
        },
        "method": a.method(resampling),
        "metrics": metric_entries_of({"a": a, "b": b}, resampling),
        "agreement": bootstrap.agreement(margins_a > 0, margins_b > 0),
        "emotions": {},
        "better_in_b": [entry for entry in entries if entry["margin_b"] > entry["margin_a"]],
        "better_in_a": [entry for entry in entries[::-1] if entry["margin_b"] < entry["margin_a"]],
    }

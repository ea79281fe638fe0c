"""The numbers of a comparison of two runs of one task on their common test videos or comparisons, A and B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from VideoMAE.data.v2v import Comparison
from VideoMAE.reporting import bootstrap, emotion_numbers, preference_numbers
from VideoMAE.reporting.bootstrap import Resampling, estimate, metric_entries
from VideoMAE.reporting.emotion_numbers import Evaluation
from VideoMAE.reporting.run_files import EmotionTest, PreferenceTest, Run

Entry = TypeVar("Entry", bound=Comparison)
TOLERANCE = 1e-6  # of intensities, which predictions.jsonl rounds


def videos_only_in(run: Run, other: Run, *, name_of_other: str) -> dict[str, str]:
    """The videos for which `run` has a prediction and `other` has none, with the reason."""
    shared = {line["id"] for line in other.predicted}
    only = [line["id"] for line in run.predicted if line["id"] not in shared]
    return {
        key: f"{'could not be read' if key in other.unreadable else 'not'} in {name_of_other}'s test" for key in only
    }


def compare_emotions(runs: Sequence[Run], tests: Sequence[EmotionTest], resampling: Resampling) -> dict[str, Any]:
    """All numbers of a comparison of two VCE tests.
    Raises ValueError if the emotions or labels of the tests differ, or they have no common video."""
    a, b = map(emotion_numbers.evaluate, runs, common_videos(runs, tests))
    num_videos = len(a.test.ids)
    statistics = {"a": emotion_numbers.statistics_of(a), "b": emotion_numbers.statistics_of(b)}
    numbers: dict[str, Any] = {
        "num_common": num_videos,
        "method": resampling.method("videos", num_videos),
        "metrics": metric_entries(statistics, num_videos, resampling),
        "agreement": agreement(a.first_predicted == a.first_true, b.first_predicted == b.first_true),
    }
    if a.prediction_meaning != b.prediction_meaning:
        return numbers | {"emotions": {}, "better_in_a": [], "better_in_b": []}
    errors_a, errors_b = a.errors, b.errors
    entries = []
    for row in np.argsort(errors_b - errors_a, kind="stable"):
        in_a, in_b = (emotion_numbers.top_emotions_of(found, row) for found in (a, b))
        predicted = {"predicted_a": in_a["predicted"], "predicted_b": in_b["predicted"]}
        errors = {"error_a": float(errors_a[row]), "error_b": float(errors_b[row])}
        entries.append({"id": in_a["id"], "true": in_a["true"], **predicted, **errors})
    return numbers | {
        "prediction_meaning": a.prediction_meaning,
        "emotions": correlation_differences(a, b, resampling),
        "better_in_b": [entry for entry in entries if entry["error_b"] < entry["error_a"]],
        "better_in_a": [entry for entry in entries[::-1] if entry["error_b"] > entry["error_a"]],
    }


def common_videos(runs: Sequence[Run], tests: Sequence[EmotionTest]) -> list[EmotionTest]:
    """The two tests with only their common videos, in the order of the first."""
    first, second = tests
    folders = f"{runs[0].folder} and {runs[1].folder}"
    if first.emotions != second.emotions:
        known = len(set(first.emotions) & set(second.emotions))
        raise ValueError(
            f"{folders} have different emotions: {len(first.emotions)} and {len(second.emotions)}, {known} of them "
            "with the same name"
        )
    shared = set(second.ids)
    ids = [key for key in first.ids if key in shared]
    if not ids:
        raise ValueError(f"{folders} have no common test video: they have {len(first.ids)} and {len(second.ids)}")
    a, b = first.select(ids), second.select(ids)
    differ = np.abs(a.targets - b.targets).max(axis=1) > TOLERANCE
    if differ.any():
        raise ValueError(
            f"{folders} were tested on different labels: {int(differ.sum())} of the {len(ids)} common videos have "
            f"different intensities, for example {ids[int(differ.argmax())]}"
        )
    return [a, b]


def correlation_differences(a: Evaluation, b: Evaluation, resampling: Resampling) -> dict[str, dict[str, Any]]:
    """The correlations of each emotion in "a" and "b", and the difference with its interval."""
    num_videos = len(a.test.ids)
    statistic_a, statistic_b = (bootstrap.correlations_of(found.predicted, found.expected) for found in (a, b))
    in_a, in_b = (statistic(np.ones((1, num_videos)))[0] for statistic in (statistic_a, statistic_b))
    drawn = resampling.draw({"gap": lambda counts: statistic_b(counts) - statistic_a(counts)}, num_videos)["gap"]
    return {
        name: {"a": float(in_a[k]), "b": float(in_b[k]), "difference": estimate(float(in_b[k] - in_a[k]), drawn[:, k])}
        for k, name in enumerate(a.test.emotions)
    }


def agreement(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, int]:
    """Counts of the videos or pairs that both runs, one run or neither predicts correctly. (N,), (N,) bool"""
    names = {"both": (True, True), "only_a": (True, False), "only_b": (False, True), "neither": (False, False)}
    return {name: int(np.sum((right_a == a) & (right_b == b))) for name, (a, b) in names.items()}


def compare_preferences(runs: Sequence[Run], tests: Sequence[PreferenceTest], resampling: Resampling) -> dict[str, Any]:
    """All numbers of a comparison of two V2V tests.
    Raises ValueError if the labels of the tests differ, or they have no common pair."""
    pairs = common_comparisons(runs, tests[0].pairs, tests[1].pairs, noun="pairs")
    lists = common_comparisons(runs, tests[0].lists, tests[1].lists, noun="lists")
    if not pairs:
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} have no common test pair: they have {len(tests[0].pairs)} and "
            f"{len(tests[1].pairs)}"
        )
    a, b = (preference_numbers.evaluate(PreferenceTest(test.scores, pairs, lists, 0, 0)) for test in tests)
    margins_a, margins_b = (
        found.margins / max(float(np.std(list(found.test.scores.values()))), 1e-12) for found in (a, b)
    )
    entries = [
        {**pairs[place]._asdict(), "margin_a": float(margins_a[place]), "margin_b": float(margins_b[place])}
        for place in np.argsort(margins_a - margins_b, kind="stable")
    ]
    return {
        "num_common": len(pairs),
        "num_common_lists": len(lists),
        "num_only": {
            name: {"pairs": len(test.pairs) - len(pairs), "lists": len(test.lists) - len(lists)}
            for name, test in zip("ab", tests, strict=True)
        },
        "method": preference_numbers.method_of(a, resampling),
        "metrics": preference_numbers.metric_entries_of({"a": a, "b": b}, resampling),
        "agreement": agreement(a.margins > 0, b.margins > 0),
        "emotions": {},
        "better_in_b": [entry for entry in entries if entry["margin_b"] > entry["margin_a"]],
        "better_in_a": [entry for entry in entries[::-1] if entry["margin_b"] < entry["margin_a"]],
    }


def common_comparisons(
    runs: Sequence[Run], first: Sequence[Entry], second: Sequence[Entry], *, noun: str
) -> list[Entry]:
    """The comparisons of both tests, in the order of the first. Raises ValueError if the second reverses one."""
    known, orders = set(second), set(map(frozenset, second))
    reordered = [entry for entry in first if entry not in known and frozenset(entry) in orders]
    if reordered:
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} were tested on different labels: {len(reordered)} of {len(first)} "
            f"{noun} have a different order in the second, for example {' < '.join(reordered[0])}"
        )
    return [entry for entry in first if entry in known]

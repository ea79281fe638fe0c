"""The numbers of a comparison of two runs of one task on their common test videos or comparisons, A and B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from VideoMAE.data.v2v import Comparison
from VideoMAE.reporting import bootstrap, emotion_numbers, preference_numbers
from VideoMAE.reporting.bootstrap import Resampling, difference_entries, estimate
from VideoMAE.reporting.run_files import EmotionTest, PreferenceTest, Run

Entry = TypeVar("Entry", bound=Comparison)
TOLERANCE = 1e-6  # of intensities, which predictions.jsonl rounds


def videos_only_in(run: Run, other: Run, *, name_of_other: str) -> dict[str, str]:
    """The videos for which `run` has a prediction and `other` has none, with the reason."""
    shared = {line["id"] for line in other.predicted}
    return {
        line["id"]: f"could not be read in {name_of_other}'s test"
        if line["id"] in other.unreadable
        else f"not in {name_of_other}'s test"
        for line in run.predicted
        if line["id"] not in shared
    }


def compare_emotions(runs: Sequence[Run], tests: Sequence[EmotionTest], resampling: Resampling) -> dict[str, Any]:
    """All numbers of a comparison of two VCE tests.

    Raises:
        ValueError: the emotions or labels of the tests differ, or they have no common video.
    """
    rows = common_videos(runs, tests)
    found = [emotion_numbers.evaluate(run, test) for run, test in zip(runs, tests, strict=True)]
    both = list(zip(found, rows, strict=True))
    a, b = (emotion_numbers.statistics_of(evaluation, chosen) for evaluation, chosen in both)
    right_a, right_b = (
        (evaluation.predictions.ranking.argmax(axis=1) == evaluation.test.targets.argmax(axis=1))[chosen]
        for evaluation, chosen in both
    )
    num_videos = len(rows[0])
    numbers: dict[str, Any] = {
        "num_common": num_videos,
        "method": resampling.method("videos", num_videos),
        "metrics": difference_entries(a, b, num_videos, resampling),
        "agreement": agreement(right_a, right_b),
    }
    if found[0].prediction_meaning != found[1].prediction_meaning:
        return numbers | {"emotions": {}, "better_in_a": [], "better_in_b": []}
    errors_a, errors_b = (emotion_numbers.errors_of_videos(evaluation)[chosen] for evaluation, chosen in both)
    entries = []
    for place in np.argsort(errors_b - errors_a, kind="stable"):
        top_a, top_b = (emotion_numbers.top_emotions_of(evaluation, int(chosen[place])) for evaluation, chosen in both)
        entries.append(
            {
                "id": top_a["id"],
                "true": top_a["true"],
                "predicted_a": top_a["predicted"],
                "predicted_b": top_b["predicted"],
                "error_a": float(errors_a[place]),
                "error_b": float(errors_b[place]),
            }
        )
    statistics = {
        who: bootstrap.correlations_of(evaluation.predicted[chosen], evaluation.expected[chosen])
        for who, (evaluation, chosen) in zip("ab", both, strict=True)
    }
    return numbers | {
        "prediction_meaning": found[0].prediction_meaning,
        "emotions": correlation_differences(tests[0].emotions, statistics, num_videos, resampling),
        "better_in_b": [entry for entry in entries if entry["error_b"] < entry["error_a"]],
        "better_in_a": [entry for entry in entries[::-1] if entry["error_b"] > entry["error_a"]],
    }


def common_videos(runs: Sequence[Run], tests: Sequence[EmotionTest]) -> list[list[int]]:
    """The rows of the common videos in each of the two tests, in the order of the first."""
    first, second = tests
    folders = f"{runs[0].folder} and {runs[1].folder}"
    if first.emotions != second.emotions:
        known = len(set(first.emotions) & set(second.emotions))
        raise ValueError(
            f"{folders} have different emotions: {len(first.emotions)} and {len(second.emotions)}, {known} of them "
            "with the same name"
        )
    places = {key: place for place, key in enumerate(second.ids)}
    rows = [(place, places[key]) for place, key in enumerate(first.ids) if key in places]
    if not rows:
        raise ValueError(f"{folders} have no common test video: they have {len(first.ids)} and {len(second.ids)}")
    rows_a, rows_b = ([row[side] for row in rows] for side in (0, 1))
    differ = np.abs(first.targets[rows_a] - second.targets[rows_b]).max(axis=1) > TOLERANCE
    if differ.any():
        raise ValueError(
            f"{folders} were tested on different labels: {int(differ.sum())} of the {len(rows)} common videos have "
            f"different intensities, for example {first.ids[rows_a[int(differ.argmax())]]}"
        )
    return [rows_a, rows_b]


def correlation_differences(
    emotions: Sequence[str], statistics: Mapping[str, bootstrap.Statistic], num_videos: int, resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """The correlations of each emotion in "a" and "b", and the difference with its interval."""
    values = {who: statistic(np.ones((1, num_videos)))[0] for who, statistic in statistics.items()}
    drawn = resampling.draw(statistics, num_videos)
    differences, drawn_differences = values["b"] - values["a"], drawn["b"] - drawn["a"]
    return {
        emotion: {
            **{who: float(values[who][k]) for who in "ab"},
            "difference": estimate(float(differences[k]), drawn_differences[:, k]),
        }
        for k, emotion in enumerate(emotions)
    }


def agreement(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, int]:
    """Counts of the videos or pairs that both runs, one run or neither predicts correctly. (N,), (N,) bool"""
    return {
        "both": int(np.sum(right_a & right_b)),
        "only_a": int(np.sum(right_a & ~right_b)),
        "only_b": int(np.sum(~right_a & right_b)),
        "neither": int(np.sum(~right_a & ~right_b)),
    }


def compare_preferences(runs: Sequence[Run], tests: Sequence[PreferenceTest], resampling: Resampling) -> dict[str, Any]:
    """All numbers of a comparison of two V2V tests.

    Raises:
        ValueError: the labels of the tests differ, or they have no common pair.
    """
    pairs = common_comparisons(runs, tests[0].pairs, tests[1].pairs, noun="pairs")
    lists = common_comparisons(runs, tests[0].lists, tests[1].lists, noun="lists")
    if not pairs:
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} have no common test pair: they have {len(tests[0].pairs)} and "
            f"{len(tests[1].pairs)}"
        )
    a, b = (preference_numbers.evaluate(PreferenceTest(test.scores, pairs, lists, 0, 0)) for test in tests)
    metrics = difference_entries(
        preference_numbers.pair_statistics(a), preference_numbers.pair_statistics(b), a.pairs.num_components, resampling
    )
    if lists:
        metrics |= difference_entries(
            preference_numbers.list_statistics(a), preference_numbers.list_statistics(b), a.lists.num_components,
            resampling
        )  # fmt: skip
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
        "metrics": metrics,
        "agreement": agreement(a.margins > 0, b.margins > 0),
        "emotions": {},
        "better_in_b": [entry for entry in entries if entry["margin_b"] > entry["margin_a"]],
        "better_in_a": [entry for entry in entries[::-1] if entry["margin_b"] < entry["margin_a"]],
    }


def common_comparisons(
    runs: Sequence[Run], first: Sequence[Entry], second: Sequence[Entry], *, noun: str
) -> list[Entry]:
    """The comparisons of both tests, in the order of the first. Raises ValueError if the second reverses one."""
    known = set(second)
    orders: Mapping[frozenset[str], Entry] = {frozenset(entry): entry for entry in second}
    reordered = [entry for entry in first if entry not in known and frozenset(entry) in orders]
    if reordered:
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} were tested on different labels: {len(reordered)} of {len(first)} "
            f"{noun} have a different order in the second, for example {' < '.join(reordered[0])}"
        )
    return [entry for entry in first if entry in known]

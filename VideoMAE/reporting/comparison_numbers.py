"""Two runs of one task on what both were tested on: every difference, with its interval, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from VideoMAE.data.v2v import Comparison
from VideoMAE.reporting import bootstrap, emotion_numbers, preference_numbers
from VideoMAE.reporting.metric_numbers import Resampling, difference_entries, estimate
from VideoMAE.reporting.run_files import EmotionTest, PreferenceTest, Run

Entry = TypeVar("Entry", bound=Comparison)
TOLERANCE = 1e-6  # of intensities, which predictions.jsonl rounds


def only_one_has(mine: Run, other: Run, *, name_of_other: str) -> dict[str, str]:
    """The videos that this run has a prediction of and the other one has none, with the reason."""
    theirs = {line["id"] for line in other.read}
    return {
        line["id"]: f"could not be read in {name_of_other}'s test"
        if line["id"] in other.unreadable
        else f"not in {name_of_other}'s test"
        for line in mine.read
        if line["id"] not in theirs
    }


def compare_emotions(runs: Sequence[Run], tests: Sequence[EmotionTest], resampling: Resampling) -> dict[str, Any]:
    """Everything that a comparison says of two VCE runs' tests.

    Raises:
        ValueError: their test labels differ, or they share no video.
    """
    rows = common_videos(runs, tests)
    judged = [emotion_numbers.judge(run, test) for run, test in zip(runs, tests, strict=True)]
    a, b = (emotion_numbers.statistics_of(found, chosen) for found, chosen in zip(judged, rows, strict=True))
    num_videos = len(rows[0])
    right = [
        (found.answers.ranking.argmax(axis=1) == found.test.targets.argmax(axis=1))[chosen]
        for found, chosen in zip(judged, rows, strict=True)
    ]
    numbers: dict[str, Any] = {
        "num_common": num_videos,
        "method": resampling.method("videos", num_videos),
        "metrics": difference_entries(a, b, num_videos, resampling),
        "agreement": agreement(*right),
    }
    if judged[0].says != judged[1].says:
        return numbers | {"emotions": {}, "better_in_a": [], "better_in_b": []}
    predicted = [found.predicted[chosen] for found, chosen in zip(judged, rows, strict=True)]
    expected = [found.expected[chosen] for found, chosen in zip(judged, rows, strict=True)]
    errors = [emotion_numbers.errors_of_videos(found)[chosen] for found, chosen in zip(judged, rows, strict=True)]
    order = np.argsort(errors[1] - errors[0], kind="stable")
    entries = []
    for place in order:
        said_a, said_b = (
            emotion_numbers.said_of(found, int(chosen[place])) for found, chosen in zip(judged, rows, strict=True)
        )
        entries.append(
            {
                "id": said_a["id"],
                "true": said_a["true"],
                "predicted_a": said_a["predicted"],
                "predicted_b": said_b["predicted"],
                "error_a": float(errors[0][place]),
                "error_b": float(errors[1][place]),
            }
        )
    return numbers | {
        "says": judged[0].says,
        "emotions": differences_of_emotions(tests[0].emotions, predicted, expected, resampling),
        "better_in_b": [entry for entry in entries if entry["error_b"] < entry["error_a"]],
        "better_in_a": [entry for entry in entries[::-1] if entry["error_b"] > entry["error_a"]],
    }


def common_videos(runs: Sequence[Run], tests: Sequence[EmotionTest]) -> list[list[int]]:
    """The rows, in each test, of the videos that both have, in the first one's order."""
    first, second = tests
    if first.emotions != second.emotions:
        known = len(set(first.emotions) & set(second.emotions))
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} are of different emotions: {len(first.emotions)} and "
            f"{len(second.emotions)}, of which {known} have the same name"
        )
    places = {key: place for place, key in enumerate(second.ids)}
    rows = [(place, places[key]) for place, key in enumerate(first.ids) if key in places]
    if not rows:
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} share no test video: they have {len(first.ids)} and "
            f"{len(second.ids)}"
        )
    mine, theirs = ([row[side] for row in rows] for side in (0, 1))
    differ = np.abs(first.targets[mine] - second.targets[theirs]).max(axis=1) > TOLERANCE
    if differ.any():
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} were tested on different labels: of the {len(rows)} videos that "
            f"both have, {int(differ.sum())} have other intensities, for instance "
            f"{first.ids[mine[int(differ.argmax())]]}"
        )
    return [mine, theirs]


def differences_of_emotions(
    emotions: Sequence[str], predicted: Sequence[np.ndarray], expected: Sequence[np.ndarray], resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """Of each emotion the two correlations, and the difference with its interval."""
    statistics = {
        who: bootstrap.correlations_of(*both)
        for who, both in zip("ab", zip(predicted, expected, strict=True), strict=True)
    }
    num_videos = len(predicted[0])
    values = {who: statistic(np.ones((1, num_videos)))[0] for who, statistic in statistics.items()}
    drawn = resampling.draw(statistics, num_videos)
    differences, drawn_differences = values["b"] - values["a"], drawn["b"] - drawn["a"]
    return {
        emotion: {
            **{who: float(values[who][place]) for who in "ab"},
            "difference": estimate(float(differences[place]), drawn_differences[:, place]),
        }
        for place, emotion in enumerate(emotions)
    }


def agreement(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, int]:
    """How many videos or pairs both runs have right, one of them, neither."""
    return {
        "both": int(np.sum(right_a & right_b)),
        "only_a": int(np.sum(right_a & ~right_b)),
        "only_b": int(np.sum(~right_a & right_b)),
        "neither": int(np.sum(~right_a & ~right_b)),
    }


def compare_preferences(runs: Sequence[Run], tests: Sequence[PreferenceTest], resampling: Resampling) -> dict[str, Any]:
    """Everything that a comparison says of two V2V runs' tests.

    Raises:
        ValueError: their test labels differ, or they share no pair.
    """
    pairs = common_comparisons(runs, tests[0].pairs, tests[1].pairs, noun="pairs")
    lists = common_comparisons(runs, tests[0].lists, tests[1].lists, noun="lists")
    if not pairs:
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} share no test pair: they have {len(tests[0].pairs)} and "
            f"{len(tests[1].pairs)}"
        )
    a, b = (preference_numbers.judge(PreferenceTest(test.scores, pairs, lists, 0, 0)) for test in tests)
    metrics = difference_entries(
        preference_numbers.pair_statistics(a), preference_numbers.pair_statistics(b), a.pairs.num_components, resampling
    )
    if lists:
        metrics |= difference_entries(
            preference_numbers.list_statistics(a), preference_numbers.list_statistics(b), a.lists.num_components,
            resampling,
        )  # fmt: skip
    spreads = [max(float(np.std(list(test.scores.values()))), 1e-12) for test in tests]
    scaled = [found.margins / spread for found, spread in zip((a, b), spreads, strict=True)]
    order = np.argsort(scaled[0] - scaled[1], kind="stable")
    entries = [
        {
            "worse": pairs[place].worse, "better": pairs[place].better,
            "margin_a": float(scaled[0][place]), "margin_b": float(scaled[1][place]),
        }
        for place in order
    ]  # fmt: skip
    return {
        "num_common": len(pairs),
        "num_common_lists": len(lists),
        "num_only": {
            name: {"pairs": len(test.pairs) - len(pairs), "lists": len(test.lists) - len(lists)}
            for name, test in zip("ab", tests, strict=True)
        },
        "method": {
            **resampling.method("connected components of the pairs", a.pairs.num_components),
            "num_components_of_lists": a.lists.num_components,
        },
        "metrics": metrics,
        "agreement": agreement(a.margins > 0, b.margins > 0),
        "emotions": {},
        "better_in_b": [entry for entry in entries if entry["margin_b"] > entry["margin_a"]],
        "better_in_a": [entry for entry in entries[::-1] if entry["margin_b"] < entry["margin_a"]],
    }


def common_comparisons(
    runs: Sequence[Run], mine: Sequence[Entry], theirs: Sequence[Entry], *, noun: str
) -> list[Entry]:
    """The comparisons that both tests have, in the first one's order; none may have another order in the second."""
    known = set(theirs)
    orders: Mapping[frozenset[str], Entry] = {frozenset(entry): entry for entry in theirs}
    common = [entry for entry in mine if entry in known]
    turned = [entry for entry in mine if entry not in known and frozenset(entry) in orders]
    if turned:
        raise ValueError(
            f"{runs[0].folder} and {runs[1].folder} were tested on different labels: {len(turned)} of {len(mine)} "
            f"{noun} have another order in the second, for instance {' < '.join(turned[0])}"
        )
    return common

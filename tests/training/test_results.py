"""Results: the two guesses that need no model on cases computed by hand, the table, one line per video."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from VideoMAE.data.v2v import Pair
from VideoMAE.data.vce import EMOTIONS
from VideoMAE.training.results import (
    METRIC_TITLES,
    chance,
    emotion_results,
    majority_guess,
    prediction_lines,
    preference_results,
    preference_table,
    table,
)
from VideoMAE.training.tasks import EmotionTask

# Most intense in training: emotion 1 three times, 3 twice, 0 once, the others never.
TRAINING = np.array(
    [
        [0.2, 0.9, 0.1, 0.0, 0.0, 0.0],
        [0.2, 0.9, 0.1, 0.0, 0.0, 0.0],
        [0.2, 0.9, 0.1, 0.0, 0.0, 0.0],
        [0.2, 0.0, 0.1, 0.6, 0.0, 0.0],
        [0.2, 0.0, 0.1, 0.6, 0.0, 0.0],
        [0.8, 0.0, 0.1, 0.0, 0.0, 0.0],
    ],
    dtype=np.float32,
)
# Most intense in the test: 1, 3, 0, 2, 5; the guess ranks 1, 3, 0, then 2, 4, 5 in order.
TARGETS = np.array(
    [
        [0.3, 0.9, 0.2, 0.1, 0.0, 0.0],
        [0.3, 0.4, 0.2, 0.5, 0.0, 0.0],
        [0.9, 0.1, 0.2, 0.3, 0.4, 0.0],
        [0.0, 0.0, 1.0, 0.5, 0.6, 0.1],
        [0.0, 0.1, 0.2, 0.0, 0.3, 0.8],
    ],
    dtype=np.float32,
)


def make_task(loss: str = "bce", classes_only: bool = False) -> EmotionTask:
    return EmotionTask(loss=loss, smoothing=0.1, classes_only=classes_only)


def make_logits(views: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((5, views, 6)).astype(np.float32) * 3


def test_the_majority_guess_answers_the_training_videos_most_frequent_emotions() -> None:
    guess = majority_guess(make_task(), TRAINING, TARGETS)
    assert guess["acc1"] == 20
    assert guess["acc3"] == 60
    assert guess["acc5"] == 80
    assert guess["predicted_in_true_top3"] == 40  # emotion 1 is among the top 3 of the first two videos
    assert guess["mean_correlation"] is None


def test_the_majority_guess_says_the_training_videos_mean_intensities() -> None:
    guess = majority_guess(make_task(), TRAINING, TARGETS)
    mean = np.clip(TRAINING.astype(float).mean(axis=0), 1e-6, 1 - 1e-6)
    assert guess["mean_absolute_error"] == pytest.approx(np.abs(mean - TARGETS).mean())
    terms = TARGETS * np.log(mean) + (1 - TARGETS) * np.log(1 - mean)
    assert guess["bce"] == pytest.approx(-terms.mean())


def test_always_boredom_has_the_top_1_that_the_published_counts_give(golden: Any) -> None:
    counts = golden("vce_top_emotion_counts.json")
    one_hot = {
        split: np.repeat(np.eye(27, dtype=np.float32), [counts[f"{split}_labels"][name] for name in EMOTIONS], axis=0)
        for split in ("train", "test")
    }
    guess = majority_guess(make_task("ce", classes_only=True), one_hot["train"], one_hot["test"])
    assert round(guess["acc1"], 2) == 13.66
    assert round(guess["acc3"], 2) == 35.41


def test_chance_is_the_expectation_of_a_random_ranking() -> None:
    guess = chance(make_task(), TARGETS)
    assert guess["acc1"] == pytest.approx(100 / 6)
    assert guess["acc3"] == pytest.approx(50)
    assert guess["acc5"] == pytest.approx(500 / 6)
    assert guess["predicted_in_true_top3"] == pytest.approx(50)
    assert guess["bce"] == pytest.approx(math.log(2))
    assert guess["mean_absolute_error"] == pytest.approx(np.abs(0.5 - TARGETS).mean())
    assert guess["mean_correlation"] is None


def test_chance_among_fewer_emotions_than_guesses_is_certainty() -> None:
    guess = chance(make_task(), TARGETS[:, :4])
    assert (guess["acc1"], guess["acc3"], guess["acc5"]) == (25, 75, 100)


def test_labels_without_intensities_give_guesses_without_intensity_metrics() -> None:
    task = make_task("ce", classes_only=True)
    for guess in (majority_guess(task, TRAINING, TARGETS), chance(task, TARGETS)):
        assert guess["acc1"] is not None
        assert {name for name, value in guess.items() if value is None} == {
            "predicted_in_true_top3",
            "bce",
            "mean_absolute_error",
            "mean_correlation",
        }


@pytest.mark.parametrize("average", ["logits", "softmax"])
def test_results_hold_the_chosen_average_both_averages_and_both_guesses(average: str) -> None:
    task, logits = make_task(), make_logits(views=6)
    results = emotion_results(task, logits, TARGETS, training=TRAINING, average=average)
    measured = task.metrics(logits, TARGETS, average=average)
    assert {name: results[name] for name in METRIC_TITLES} == measured
    ranking = ("acc1", "acc3", "acc5", "predicted_in_true_top3")
    for name in ("logits", "softmax"):
        of_average = task.metrics(logits, TARGETS, average=name)
        assert results[f"average_of_{name}"] == {metric: of_average[metric] for metric in ranking}
    assert results["majority_guess"] == majority_guess(task, TRAINING, TARGETS)
    assert results["chance"] == chance(task, TARGETS)
    assert json.loads(json.dumps(results)) == results


def test_the_table_shows_every_metric_beside_both_guesses() -> None:
    results = emotion_results(make_task(), make_logits(), TARGETS, training=TRAINING, average="logits")
    lines = table({**results, "num_videos": 7, "num_unreadable": 2}).splitlines()
    assert lines[0].split() == ["model", "majority", "guess", "chance"]
    assert len(lines) == len(METRIC_TITLES) + 2
    for line, (metric, title) in zip(lines[1:-1], METRIC_TITLES.items(), strict=True):
        assert line.startswith(title)
        digits = 1 if title.endswith("%") else 4
        cells = [results[metric], results["majority_guess"][metric], results["chance"][metric]]
        expected = ["-" if cell is None else f"{cell:.{digits}f}" for cell in cells]
        assert line.removeprefix(title).split() == expected
        assert len(line) == len(lines[0])
    assert lines[-1] == "7 test videos, 2 of them unreadable"


def test_the_table_leaves_out_metrics_that_are_not_defined() -> None:
    results = emotion_results(
        make_task("ce", classes_only=True), make_logits(), TARGETS, training=TRAINING, average="logits"
    )
    text = table({**results, "num_videos": 5, "num_unreadable": 0})
    assert METRIC_TITLES["acc1"] in text
    assert METRIC_TITLES["predicted_in_true_top3"] not in text
    assert METRIC_TITLES["bce"] not in text


def test_prediction_lines_name_the_video_and_its_emotions_in_order() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    logits = np.array([[[0.0, 3, 1, 2, -1, -2], [0, 3, 1, 4, -1, -2]]], dtype=np.float32)
    (line,) = prediction_lines(make_task(), logits, TARGETS[1:2], ids=["00007"], emotions=names)
    assert line["id"] == "00007"
    assert line["predicted_top3"] == ["b", "d", "c"]  # 3, 3, 1: of equals the first
    assert line["true_top3"] == ["d", "b", "a"]
    assert np.float32([*line["true"].values()]).tolist() == TARGETS[1].tolist()
    assert line["view_logits"] == logits[0].tolist()
    assert list(line["predicted"]) == names
    assert line["predicted"]["b"] == pytest.approx(1 / (1 + math.exp(-3)), abs=1e-5)
    assert json.loads(json.dumps(line)) == line


def test_prediction_lines_of_classes_hold_chances_and_one_true_emotion() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    task = make_task("ce", classes_only=True)
    lines = prediction_lines(task, make_logits(), np.eye(6, dtype=np.float32)[:5], ids=list("vwxyz"), emotions=names)
    assert [line["id"] for line in lines] == list("vwxyz")
    assert [line["true_top3"] for line in lines] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    for line in lines:
        assert sum(line["predicted"].values()) == pytest.approx(1, abs=1e-4)


def test_results_name_what_is_lost_and_compare_with_chance() -> None:
    pairs, lists = [Pair("a", "b"), Pair("a", "gone")], [("a", "b"), ("b", "gone", "a"), ("a", "c", "b")]
    results = preference_results({"a": 0.0, "b": 1.0, "c": 0.5}, pairs, lists)
    assert (results["pair_accuracy"], results["list_accuracy"]) == (100.0, 100.0)
    assert (results["lost_pairs"], results["lost_lists"]) == ([["a", "gone"]], [["b", "gone", "a"]])
    assert results["chance"]["list_accuracy"] == pytest.approx(100 * (1 / 2 + 1 / 6 + 1 / 6) / 3)
    shown = preference_table({**results, "num_videos": 4, "num_unreadable": 1})
    assert "list accuracy (whole order), %           100.0            27.8" in shown
    assert "2 test pairs (1 lost, 0 tied), 3 lists (1 lost), over 4 videos, 1 of them unreadable" in shown

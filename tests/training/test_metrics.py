"""Metrics: the original programs' numbers, and agreement with torch and scipy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import torch.nn.functional as F

from VideoMAE.data.v2v import Pair
from VideoMAE.training.metrics import (
    average_views,
    cross_entropies,
    in_order,
    intensity_metrics,
    judge_lists,
    judge_pairs,
    kendall_tau,
    mean_correlation,
    predicted_in_true_top_k,
    ranking_metrics,
    top_k_accuracy,
)
from VideoMAE.training.tasks import EmotionTask


def make_logits_and_intensities(num_videos: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((num_videos, 27)).astype(np.float32) * 3
    return logits, rng.random((num_videos, 27)).astype(np.float32)


def test_accuracies_of_one_view_are_the_original_programs(golden: Any) -> None:
    case = golden("metrics_0.json")["single_view"]
    logits, targets = np.array(case["logits"]), np.array(case["targets"])
    measured = ranking_metrics(logits, targets)
    assert measured["acc1"] == case["acc1"]
    assert measured["acc3"] == case["acc3"]
    assert list(measured) == ["acc1", "acc3", "acc5"]


@pytest.mark.parametrize("average", ["logits", "softmax"])
def test_accuracies_of_several_views_are_the_original_programs_under_both_averages(golden: Any, average: str) -> None:
    file = golden("metrics_0.json")
    logits, targets = np.array(file["multi_view"]["logits"]), np.array(file["single_view"]["targets"])
    expected = file["multi_view"][f"average_of_{average}"]
    predictions = average_views(logits, average=average)
    assert top_k_accuracy(predictions, targets, k=1) == expected["acc1"]
    assert top_k_accuracy(predictions, targets, k=3) == expected["acc3"]
    assert predicted_in_true_top_k(predictions, targets, k=3) == expected["predicted_in_true_top3"]
    task = EmotionTask(loss="bce", smoothing=0.1)
    of_task = task.metrics(logits, targets, average=average)
    assert {name: of_task[name] for name in expected} == expected


def test_list_accuracy_is_the_original_programs(golden: Any) -> None:
    case = golden("metrics_0.json")["listwise"]
    ends = np.cumsum(case["lengths"])
    lists = [case["scores"][end - length : end] for end, length in zip(ends, case["lengths"], strict=True)]
    assert ends[-1] == len(case["scores"])
    assert np.mean([in_order(scores) for scores in lists]) == case["accuracy"]
    keys = np.split(np.arange(ends[-1]), ends[:-1])
    judged = judge_lists(dict(enumerate(case["scores"])), [entry.tolist() for entry in keys])
    assert judged["list_accuracy"] == pytest.approx(100 * case["accuracy"])


def test_a_list_counts_when_its_scores_never_fall() -> None:
    assert in_order([0.1, 0.1, 0.3])
    assert not in_order([0.1, 0.3, 0.2])
    assert [in_order(scores) for scores in ([1, 2], [2, 1], [1, 1], [0, 2, 1, 3])] == [True, False, True, False]


def test_a_pair_counts_when_the_preferred_score_is_strictly_higher() -> None:
    scores = {"a": 0.0, "b": 1.0, "c": 1.0}
    judged = judge_pairs(scores, [Pair("a", "b"), Pair("b", "c"), Pair("c", "a"), Pair("a", "gone")])
    assert judged == {"pair_accuracy": pytest.approx(100 / 3), "num_ties": 1, "num_pairs": 4, "num_pairs_lost": 1}
    assert judge_pairs({}, [Pair("a", "b")])["pair_accuracy"] is None


def test_lists_are_judged_whole_and_by_their_pairs() -> None:
    scores = {"a": 0.0, "b": 1.0, "c": 1.0, "d": -1.0}
    lists = [("a", "b", "c"), ("a", "b", "d"), ("a", "gone")]
    judged = judge_lists(scores, lists)
    assert judged["list_accuracy"] == 50.0  # equal scores pass
    assert judged["pair_accuracy_in_lists"] == pytest.approx(100 * 3 / 6)
    assert (judged["num_ties_in_lists"], judged["num_lists"], judged["num_lists_lost"]) == (1, 3, 1)
    assert judged["mean_kendall_tau"] == pytest.approx((2 / np.sqrt(3 * 2) + (1 - 2) / 3) / 2)
    assert judge_lists({}, lists)["mean_kendall_tau"] is None


def test_kendall_tau_is_concordant_minus_discordant_pairs() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.integers(0, 5, size=rng.integers(2, 6)).astype(float)
        differences = [scores[j] - scores[i] for i, j in itertools.combinations(range(len(scores)), 2)]
        untied = sum(d != 0 for d in differences)
        expected = sum(np.sign(differences)) / np.sqrt(untied * len(differences)) if untied else 0.0
        assert kendall_tau(scores.tolist()) == pytest.approx(expected)


def test_of_equal_predictions_and_intensities_the_first_counts() -> None:
    flat, rising = np.zeros((1, 5)), np.array([[0.5, 0.5, 0.2, 0.5, 0.1]])
    assert top_k_accuracy(flat, rising, k=1) == 100
    assert top_k_accuracy(flat, np.array([[0, 0, 0, 1, 0]]), k=3) == 0
    assert top_k_accuracy(flat, np.array([[0, 0, 1, 0, 0]]), k=3) == 100
    assert predicted_in_true_top_k(np.array([[0, 0, 0, 0, 1]]), rising, k=3) == 0
    assert predicted_in_true_top_k(np.array([[0, 0, 0, 1, 0]]), rising, k=3) == 100


def test_the_two_readings_of_top_3_differ() -> None:
    predictions, targets = np.array([[4.0, 3, 2, 1, 0]]), np.array([[0.7, 0.1, 0.2, 0.8, 0.9]])
    assert top_k_accuracy(predictions, targets, k=3) == 0
    assert predicted_in_true_top_k(predictions, targets, k=3) == 100


def test_accuracy_is_in_percent_of_all_videos() -> None:
    predictions, targets = np.eye(5)[[0, 1, 2, 3]], np.eye(5)[[0, 1, 2, 4]]
    assert top_k_accuracy(predictions, targets, k=1) == 75


def test_binary_cross_entropy_is_torchs() -> None:
    logits, intensities = make_logits_and_intensities()
    expected = F.binary_cross_entropy_with_logits(torch.tensor(logits).double(), torch.tensor(intensities).double())
    assert cross_entropies(logits, intensities).mean() == pytest.approx(float(expected), rel=1e-9)


def test_binary_cross_entropy_of_huge_logits_is_finite() -> None:
    assert not cross_entropies(np.array([[1000.0, -1000.0]]), np.array([[1.0, 0.0]])).any()
    assert cross_entropies(np.array([[1000.0]]), np.array([[0.0]])) == 1000


def test_mean_correlation_is_the_mean_of_scipys_over_emotions() -> None:
    predictions, targets = make_logits_and_intensities()
    targets[:, 0] += predictions[:, 0]
    expected = np.mean([scipy.stats.pearsonr(predictions[:, k], targets[:, k])[0] for k in range(27)])
    assert mean_correlation(predictions, targets) == pytest.approx(expected, abs=1e-6)


def test_emotions_that_never_vary_are_left_out_of_the_mean_correlation() -> None:
    predictions, targets = make_logits_and_intensities(3001)
    predictions[:, 3], targets[:, 5], targets[:, 6] = 0.1, 0.1, 0.7
    kept = [k for k in range(27) if k not in (3, 5, 6)]
    expected = mean_correlation(predictions[:, kept], targets[:, kept])
    assert mean_correlation(predictions, targets) == pytest.approx(expected, abs=1e-9)
    assert mean_correlation(predictions, np.full_like(targets, 0.1)) is None
    assert mean_correlation(predictions[:1], targets[:1]) is None


def test_views_are_averaged_as_logits_or_as_probabilities() -> None:
    views = np.random.default_rng(1).standard_normal((4, 6, 27)).astype(np.float32) * 4
    np.testing.assert_allclose(average_views(views, average="logits"), views.astype(float).mean(axis=1))
    probabilities = scipy.special.softmax(views.astype(float), axis=2).mean(axis=1)
    np.testing.assert_allclose(average_views(views, average="softmax"), probabilities)


def test_intensity_metrics_compare_sigmoids_with_intensities() -> None:
    logits, intensities = make_logits_and_intensities()
    predicted = 1 / (1 + np.exp(-logits.astype(float)))
    measured = intensity_metrics(logits, intensities)
    assert measured["bce"] == cross_entropies(logits, intensities).mean()
    assert measured["mean_absolute_error"] == pytest.approx(np.abs(predicted - intensities).mean())
    assert measured["mean_correlation"] == pytest.approx(mean_correlation(predicted, intensities))


def test_intensities_come_from_the_mean_logits_whatever_average_ranks_the_emotions() -> None:
    views = np.random.default_rng(1).standard_normal((40, 6, 27)).astype(np.float32) * 4
    intensities = make_logits_and_intensities(40)[1]
    task = EmotionTask(loss="bce", smoothing=0.1, mixup=None, classes_only=False)
    expected = intensity_metrics(views.mean(axis=1, dtype=np.float64), intensities)
    for average in ("logits", "softmax"):
        measured = task.metrics(views, intensities, average=average)
        assert {name: measured[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "classes_only", "has_errors", "has_top3"),
    [("bce", False, True, True), ("mse", False, True, True), ("ce", False, False, True), ("bce", True, False, False)],
)
def test_metrics_that_labels_or_loss_do_not_define_are_none(
    loss: str, classes_only: bool, has_errors: bool, has_top3: bool
) -> None:
    logits, intensities = make_logits_and_intensities()
    task = EmotionTask(loss=loss, smoothing=0.1, classes_only=classes_only)
    measured = task.metrics(logits[:, None], intensities)
    for name in ("bce", "mean_absolute_error", "mean_correlation"):
        assert (measured[name] is not None) == has_errors
    assert (measured["predicted_in_true_top3"] is not None) == has_top3

"""The numbers of a tested VCE run, as written to `report.json`. V videos, K emotions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import spearmanr

from VideoMAE.reporting import bootstrap
from VideoMAE.reporting.bootstrap import Resampling, Statistic, disagreements, estimate, metric_entries
from VideoMAE.reporting.run_files import Dataset, EmotionTest, Run, emotion_test
from VideoMAE.training import metrics
from VideoMAE.training.results import majority_answers
from VideoMAE.training.tasks import EmotionTask

NUM_BINS, NUM_BINS_PER_EMOTION = 20, 8
NUM_TOP_EMOTIONS = 2  # named for each video
METRICS = ("acc1", "acc3", "acc5", "predicted_in_true_top3", "bce", "mean_absolute_error", "mean_correlation")
MEANINGS = {"ce": "probability of being the most intense", "soft_ce": "share of all intensity"}  # by loss


class Evaluation(NamedTuple):
    """A test with its predictions averaged over views; the arrays are (V, K)."""

    test: EmotionTest
    ranking: np.ndarray  # values to rank by
    logits: np.ndarray
    predicted: np.ndarray
    expected: np.ndarray
    defined: tuple[str, ...]  # the metrics that the run's loss and labels define
    prediction_meaning: str

    @property
    def first_true(self) -> np.ndarray:
        """The most intense emotion of each video. -> (V,) int"""
        return self.test.targets.argmax(axis=1)

    @property
    def first_predicted(self) -> np.ndarray:
        return self.ranking.argmax(axis=1)

    @property
    def errors(self) -> np.ndarray:
        """Mean absolute error over the emotions of each video. -> (V,)"""
        return np.abs(self.predicted - self.expected).mean(axis=1)


def evaluate(run: Run, test: EmotionTest) -> Evaluation:
    """Averages a run's predictions over views, as its own test did, and computes the targets of its loss."""
    assert run.results is not None
    loss = run.settings["loss"]
    task = EmotionTask(loss=loss, classes_only=test.classes_only)
    ranking = metrics.average_views(test.view_logits, average=run.settings.get("test_average", "logits"))
    logits = metrics.average_views(test.view_logits, average="logits")
    expected = task.make_targets(torch.from_numpy(test.targets), smoothing=0.0).numpy().astype(np.float64)
    defined = tuple(metric for metric in METRICS if run.results.get(metric) is not None)
    meaning = MEANINGS.get(loss, "intensity")
    return Evaluation(test, ranking, logits, task.probabilities(logits), expected, defined, meaning)


def values_per_video(ranking: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """The contribution of each video to each metric that is a mean over videos. (V, K) each -> (V,) by metric"""
    hits = {f"acc{k}": metrics.top_k_hits(ranking, targets, k=k) for k in (1, 3, 5)}
    hits["predicted_in_true_top3"] = metrics.top_k_hits(targets, ranking, k=3)
    return {
        **{metric: 100.0 * values for metric, values in hits.items()},
        "bce": metrics.cross_entropies(logits, targets).mean(axis=1),
        "mean_absolute_error": np.abs(expit(logits) - targets).mean(axis=1),
    }


def statistics_of(found: Evaluation) -> dict[str, Statistic]:
    """The metrics that a run defines."""
    values = values_per_video(found.ranking, found.logits, found.test.targets)
    by_emotion = bootstrap.correlations_of(expit(found.logits), found.test.targets)
    statistics = {metric: bootstrap.mean_of(each) for metric, each in values.items()}
    statistics["mean_correlation"] = bootstrap.mean_over_columns(by_emotion)
    return {metric: statistics[metric] for metric in found.defined}


def emotion_report(run: Run, dataset: Dataset, resampling: Resampling, *, num_examples: int = 0) -> dict[str, Any]:
    """All numbers of a VCE test, and the videos with the smallest and the largest errors.
    Raises ValueError if the test cannot be reconstructed from the run's folder and its dataset."""
    assert run.results is not None
    found = evaluate(run, emotion_test(run, dataset))
    test, num_videos = found.test, len(found.test.ids)
    statistics = {"model": statistics_of(found), **guesses(found, dataset)}
    entries = metric_entries(statistics, num_videos, resampling)
    for metric, entry in entries.items():
        for guess in ("majority_guess", "chance"):
            entry.setdefault(guess, estimate(run.results[guess].get(metric)))
    errors, half = found.errors, min(num_examples, num_videos // 2)
    order = np.argsort(errors, kind="stable")

    def example(row: int) -> dict[str, Any]:
        return {**top_emotions_of(found, row), "error": float(errors[row])}

    return {
        "num_videos": num_videos + len(run.unreadable),
        "num_unreadable": len(run.unreadable),
        "num_views": test.view_logits.shape[1],
        "method": resampling.method("videos", num_videos),
        "prediction_meaning": found.prediction_meaning,
        "metrics": entries,
        "notes": disagreements(run.results, entries),
        "emotions": emotion_entries(found, resampling),
        "calibration": calibration(found),
        "confusion": confusion(found),
        "best": [example(row) for row in order[:half]],
        "worst": [example(row) for row in order[::-1][:half]],
    }


def guesses(found: Evaluation, dataset: Dataset) -> dict[str, dict[str, Statistic]]:
    """The majority guess, if the training labels are known, and the one metric of chance that depends on the videos."""
    targets = found.test.targets
    statistics: dict[str, dict[str, Statistic]] = {}
    if dataset.train is not None and dataset.train.emotions == found.test.emotions:
        ranking, logits = (
            np.broadcast_to(answer, targets.shape) for answer in majority_answers(dataset.train.intensities)
        )
        values = values_per_video(ranking, logits, targets)
        statistics["majority_guess"] = {
            metric: bootstrap.mean_of(values[metric]) for metric in found.defined if metric in values
        }
    if "mean_absolute_error" in found.defined:
        statistics["chance"] = {"mean_absolute_error": bootstrap.mean_of(np.abs(0.5 - targets).mean(axis=1))}
    return statistics


def emotion_entries(found: Evaluation, resampling: Resampling) -> dict[str, dict[str, Any]]:
    """For each emotion: correlation of predictions and truth, means, error, and how often it ranks first."""
    predicted, expected = found.predicted, found.expected
    drawn = resampling.draw({"r": bootstrap.correlations_of(predicted, expected)}, len(predicted))["r"]
    pearson = metrics.correlations(predicted, expected)
    first_true, first_predicted = found.first_true, found.first_predicted
    entries = {}
    for k, name in enumerate(found.test.emotions):
        known = bool(np.isfinite(pearson[k]))
        is_first, is_predicted_first = first_true == k, first_predicted == k
        num_first = int(is_first.sum())
        entries[name] = {
            "pearson": estimate(float(pearson[k]), drawn[:, k]),
            "spearman": float(spearmanr(predicted[:, k], expected[:, k]).statistic) if known else None,
            "mean_true": float(expected[:, k].mean()),
            "mean_predicted": float(predicted[:, k].mean()),
            "mean_absolute_error": float(np.abs(predicted - expected)[:, k].mean()),
            "num_first": num_first,
            "num_predicted_first": int(is_predicted_first.sum()),
            "percent_of_first_found": 100.0 * int(is_predicted_first[is_first].sum()) / num_first
            if num_first
            else None,
        }
    return entries


def calibration(found: Evaluation) -> dict[str, Any]:
    """Mean prediction and mean truth per bin: of all emotions in bins of equal width, of each emotion in bins of equal
    count. The calibration error is the mean distance of the two, weighted by the counts."""
    predicted, expected = found.predicted.ravel(), found.expected.ravel()
    overall = binned(predicted, expected, np.minimum((predicted * NUM_BINS).astype(int), NUM_BINS - 1))
    by_emotion = {}
    for name, in_column, true in zip(found.test.emotions, found.predicted.T, found.expected.T, strict=True):
        num_videos = len(in_column)
        bins = np.empty(num_videos, int)
        parts = np.array_split(np.argsort(in_column, kind="stable"), min(NUM_BINS_PER_EMOTION, num_videos))
        for number, part in enumerate(parts):
            bins[part] = number
        by_emotion[name] = binned(in_column, true, bins)
    return {"overall": overall, "num_bins": NUM_BINS, "by_emotion": by_emotion}


def binned(predicted: np.ndarray, expected: np.ndarray, place: np.ndarray) -> dict[str, Any]:
    """Means and count of each bin that is not empty, and the calibration error. (N,), (N,), (N,) int"""
    counts = np.bincount(place)
    full = counts > 0
    mean_predicted, mean_true = (np.bincount(place, values)[full] / counts[full] for values in (predicted, expected))
    return {
        "predicted": mean_predicted,
        "true": mean_true,
        "counts": counts[full],
        "bias": np.mean(predicted - expected),
        "error": np.average(np.abs(mean_predicted - mean_true), weights=counts[full]),
    }


def confusion(found: Evaluation) -> dict[str, Any]:
    """The confusion matrix of the most intense emotion: rows true, columns predicted, the most frequent true emotion
    first; emotions that are first in neither are left out."""
    num_emotions = len(found.test.emotions)
    counts = np.zeros((num_emotions, num_emotions), int)
    np.add.at(counts, (found.first_true, found.first_predicted), 1)
    present = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    order = present[np.argsort(-counts.sum(axis=1)[present], kind="stable")]
    return {"emotions": [found.test.emotions[k] for k in order], "counts": counts[np.ix_(order, order)].tolist()}


def top_emotions_of(found: Evaluation, row: int) -> dict[str, Any]:
    """The most intense emotions of a video, true and predicted, with their values."""

    def top(values: np.ndarray, rank_by: np.ndarray) -> list[list[Any]]:
        places = np.argsort(-rank_by, kind="stable")[:NUM_TOP_EMOTIONS]
        return [[found.test.emotions[place], float(values[place])] for place in places]

    return {
        "id": found.test.ids[row],
        "true": top(found.expected[row], found.test.targets[row]),
        "predicted": top(found.predicted[row], found.ranking[row]),
    }

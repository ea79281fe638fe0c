"""The numbers of a tested VCE run. V videos, K emotions.

Everything returned is plain values or arrays, as they stand in `report.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import spearmanr

from VideoMAE.reporting import bootstrap
from VideoMAE.reporting.bootstrap import Statistic
from VideoMAE.reporting.metric_numbers import Resampling, disagreements, estimate, metric_entries
from VideoMAE.reporting.run_files import Dataset, EmotionTest, Run
from VideoMAE.training import metrics
from VideoMAE.training.results import majority_answers
from VideoMAE.training.tasks import EmotionTask

NUM_BINS, NUM_BINS_OF_EMOTION = 20, 8
NUM_SAID = 2  # emotions named of a video


class Answers(NamedTuple):
    """What a model, or a guess, says of each video: to rank by, and as logits of intensities. (V, K), (V, K)"""

    ranking: np.ndarray
    logits: np.ndarray


class Judged(NamedTuple):
    """A run's test, worked out: its answers, each emotion's prediction and what that should have been, (V, K) each."""

    test: EmotionTest
    answers: Answers
    predicted: np.ndarray
    expected: np.ndarray
    defined: tuple[str, ...]  # the metrics that this run's loss and labels define
    says: str  # what a prediction is


def judge(run: Run, test: EmotionTest) -> Judged:
    """A run's predictions as its own test took them: averaged over views, beside the targets of its loss."""
    assert run.results is not None
    loss = run.settings["loss"]
    task = EmotionTask(loss=loss, classes_only=test.classes_only)
    ranking = metrics.average_views(test.view_logits, average=run.settings.get("test_average", "logits"))
    logits = metrics.average_views(test.view_logits, average="logits")
    expected = task.make_targets(torch.from_numpy(test.targets), smoothing=0.0).numpy().astype(np.float64)
    known = ("acc1", "acc3", "acc5", "predicted_in_true_top3", "bce", "mean_absolute_error", "mean_correlation")
    defined = tuple(metric for metric in known if run.results.get(metric) is not None)
    says = {"ce": "probability of being the most intense", "soft_ce": "share of all intensity"}.get(loss, "intensity")
    return Judged(test, Answers(ranking, logits), task.probabilities(logits), expected, defined, says)


def values_of_videos(answers: Answers, targets: np.ndarray) -> dict[str, np.ndarray]:
    """What each video adds to each metric that is a mean over videos. -> (V,) by metric, accuracies in percent"""
    ranking, logits = answers
    hits = {f"acc{k}": metrics.top_k_hits(ranking, targets, k=k) for k in (1, 3, 5)}
    hits["predicted_in_true_top3"] = metrics.top_k_hits(targets, ranking, k=3)
    return {
        **{metric: 100.0 * values for metric, values in hits.items()},
        "bce": metrics.cross_entropies(logits, targets).mean(axis=1),
        "mean_absolute_error": np.abs(expit(logits) - targets).mean(axis=1),
    }


def statistics_of(judged: Judged, rows: Sequence[int] | None = None) -> dict[str, Statistic]:
    """The metrics that a run defines, as functions of a draw of its videos, or of those in `rows`."""
    chosen = np.arange(len(judged.test.ids)) if rows is None else np.asarray(rows)
    targets = judged.test.targets[chosen]
    answers = Answers(judged.answers.ranking[chosen], judged.answers.logits[chosen])
    found = {name: bootstrap.mean_of(values) for name, values in values_of_videos(answers, targets).items()}
    found["mean_correlation"] = bootstrap.mean_over_columns(bootstrap.correlations_of(expit(answers.logits), targets))
    return {name: found[name] for name in judged.defined}


def emotion_report(run: Run, judged: Judged, dataset: Dataset, resampling: Resampling) -> dict[str, Any]:
    """Everything that the report of a VCE run says of its test."""
    assert run.results is not None
    test, num_videos = judged.test, len(judged.test.ids)
    statistics = {"model": statistics_of(judged), **guesses(judged, dataset)}
    entries = metric_entries(statistics, num_videos, resampling)
    for metric, entry in entries.items():
        for guess in ("majority_guess", "chance"):
            entry.setdefault(guess, estimate(run.results[guess].get(metric)))
    computed = {metric: entry["model"]["value"] for metric, entry in entries.items()}
    return {
        "num_videos": num_videos + len(run.unreadable),
        "num_unreadable": len(run.unreadable),
        "num_views": test.view_logits.shape[1],
        "method": resampling.method("videos", num_videos),
        "says": judged.says,
        "metrics": entries,
        "notes": disagreements(run, computed),
        "emotions": numbers_of_emotions(judged, resampling),
        "calibration": calibration(judged),
        "confusion": confusion(judged),
        "videos": videos_by_error(judged),
    }


def guesses(judged: Judged, dataset: Dataset) -> dict[str, dict[str, Statistic]]:
    """The majority guess, where the training labels are known, and, of chance, the error that depends on the videos."""
    targets = judged.test.targets
    found: dict[str, dict[str, Statistic]] = {}
    if dataset.train is not None and dataset.train.emotions == judged.test.emotions:
        answers = Answers(
            *(np.broadcast_to(answer, targets.shape) for answer in majority_answers(dataset.train.intensities))
        )
        found["majority_guess"] = {
            metric: bootstrap.mean_of(values)
            for metric, values in values_of_videos(answers, targets).items()
            if metric in judged.defined
        }
    if "mean_absolute_error" in judged.defined:
        found["chance"] = {"mean_absolute_error": bootstrap.mean_of(np.abs(0.5 - targets).mean(axis=1))}
    return found


def numbers_of_emotions(judged: Judged, resampling: Resampling) -> dict[str, dict[str, Any]]:
    """Of each emotion: how its predictions go with the truth over the videos, and how often it comes first."""
    predicted, expected = judged.predicted, judged.expected
    statistic = bootstrap.correlations_of(predicted, expected)
    drawn = resampling.draw({"r": statistic}, len(predicted))["r"]
    pearson = metrics.correlations(predicted, expected)
    first_true, first_said = judged.test.targets.argmax(axis=1), judged.answers.ranking.argmax(axis=1)
    found = {}
    for place, name in enumerate(judged.test.emotions):
        known = bool(np.isfinite(pearson[place]))
        num_first = int(np.sum(first_true == place))
        both = int(np.sum((first_true == place) & (first_said == place)))
        found[name] = {
            "pearson": estimate(float(pearson[place]) if known else None, drawn[:, place]),
            "spearman": float(spearmanr(predicted[:, place], expected[:, place]).statistic) if known else None,
            "mean_true": float(expected[:, place].mean()),
            "mean_predicted": float(predicted[:, place].mean()),
            "mean_absolute_error": float(np.abs(predicted - expected)[:, place].mean()),
            "num_first": num_first,
            "num_said_first": int(np.sum(first_said == place)),
            "percent_of_first_found": 100.0 * both / num_first if num_first else None,
        }
    return found


def calibration(judged: Judged) -> dict[str, Any]:
    """Predictions in bins beside what was true of them: all emotions' in bins of equal width, each emotion's in bins of
    equal number. The error is the mean distance of the two, weighted by how many a bin holds."""
    predicted, expected = judged.predicted.ravel(), judged.expected.ravel()
    place = np.minimum((predicted * NUM_BINS).astype(int), NUM_BINS - 1)
    by_emotion = {}
    for column, name in enumerate(judged.test.emotions):
        order = np.argsort(judged.predicted[:, column], kind="stable")
        bins = np.empty(len(order), int)
        for number, part in enumerate(np.array_split(order, min(NUM_BINS_OF_EMOTION, len(order)))):
            bins[part] = number
        by_emotion[name] = binned(judged.predicted[:, column], judged.expected[:, column], bins)
    return {"overall": binned(predicted, expected, place), "num_bins": NUM_BINS, "by_emotion": by_emotion}


def binned(predicted: np.ndarray, expected: np.ndarray, place: np.ndarray) -> dict[str, Any]:
    """Means of both and the number of each bin that holds any, and the calibration error. (N,), (N,), (N,) int"""
    counts = np.bincount(place)
    full = counts > 0
    said, true = (np.bincount(place, values)[full] / counts[full] for values in (predicted, expected))
    return {
        "predicted": said.tolist(),
        "true": true.tolist(),
        "counts": counts[full].tolist(),
        "bias": float(np.mean(predicted - expected)),
        "error": float(np.average(np.abs(said - true), weights=counts[full])),
    }


def confusion(judged: Judged) -> dict[str, Any]:
    """How often each emotion was said to come first where another one does: rows true, columns said; emotions that come
    first in neither are left out, the commonest true one is first."""
    targets, num_emotions = judged.test.targets, len(judged.test.emotions)
    true, said = targets.argmax(axis=1), judged.answers.ranking.argmax(axis=1)
    counts = np.bincount(true * num_emotions + said, minlength=num_emotions**2).reshape(num_emotions, num_emotions)
    present = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    order = present[np.argsort(-counts.sum(axis=1)[present], kind="stable")]
    return {"emotions": [judged.test.emotions[k] for k in order], "counts": counts[np.ix_(order, order)].tolist()}


def errors_of_videos(judged: Judged) -> np.ndarray:
    """Mean absolute error over a video's emotions. -> (V,)"""
    return np.abs(judged.predicted - judged.expected).mean(axis=1)


def said_of(judged: Judged, row: int) -> dict[str, Any]:
    """A video's most intense emotions, true and predicted, with their values."""
    emotions = judged.test.emotions

    def highest(values: np.ndarray, by: np.ndarray) -> list[list[Any]]:
        places = np.argsort(-by, kind="stable")[:NUM_SAID]
        return [[emotions[place], float(values[place])] for place in places]

    return {
        "id": judged.test.ids[row],
        "true": highest(judged.expected[row], judged.test.targets[row]),
        "predicted": highest(judged.predicted[row], judged.answers.ranking[row]),
    }


def videos_by_error(judged: Judged) -> list[dict[str, Any]]:
    """Every video with its error, the smallest first."""
    errors = errors_of_videos(judged)
    return [{**said_of(judged, row), "error": float(errors[row])} for row in np.argsort(errors, kind="stable")]

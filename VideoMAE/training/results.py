"""Test results: metrics of the model and of two baselines without a model, and one line per video.

V videos, K emotions.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from VideoMAE.training import metrics
from VideoMAE.training.tasks import EmotionTask

METRIC_TITLES = {
    "acc1": "top-1 accuracy, %",
    "acc3": "top-3 accuracy (truth among 3 predictions), %",
    "acc5": "top-5 accuracy, %",
    "predicted_in_true_top3": "prediction among the true top 3, %",
    "bce": "binary cross-entropy, nats",
    "mean_absolute_error": "mean absolute error of intensities",
    "mean_correlation": "mean correlation over emotions",
}
PREFERENCE_TITLES = {
    "pair_accuracy": "pair accuracy, %",
    "list_accuracy": "list accuracy (whole order), %",
    "pair_accuracy_in_lists": "pair accuracy inside lists, %",
    "mean_kendall_tau": "mean Kendall tau of lists",
}


def emotion_results(
    task: EmotionTask, logits: np.ndarray, targets: np.ndarray, *, training: np.ndarray, average: str
) -> dict[str, Any]:
    """The metrics of a test and of two baselines.

    Emotions are ranked by the mean over views of `average` (logits or softmax); the ranking metrics are also given for
    both.

    logits (V, views, K), targets (V, K), training (N, K) -> the content of results.json
    """
    both = {f"average_of_{name}": task.metrics(logits, targets, average=name) for name in ("logits", "softmax")}
    ranking = ("acc1", "acc3", "acc5", "predicted_in_true_top3")
    return {
        **both[f"average_of_{average}"],
        **{name: {metric: measured[metric] for metric in ranking} for name, measured in both.items()},
        "majority_guess": majority_guess(task, training, targets),
        "chance": chance(task, targets),
    }


def majority_guess(task: EmotionTask, training: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Metrics of the best constant prediction: emotions ranked by how often each is the most intense in training.

    Cross-entropy and error are those of the mean intensities of the training videos. (N, K), (V, K) -> metrics
    """
    ranking, constant = (
        np.broadcast_to(answer, (len(targets), 1, len(answer))) for answer in majority_answers(training)
    )
    ranked, fitted = task.metrics(ranking, targets), task.metrics(constant, targets)
    return {**ranked, **{name: fitted[name] for name in ("bce", "mean_absolute_error")}, "mean_correlation": None}


def majority_answers(training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The constant predictions of the majority baseline: how often each emotion is the most intense in training (the
    ranking), and the logits of the mean intensities. (N, K) -> (K,), (K,)"""
    counts = np.bincount(training.argmax(axis=1), minlength=training.shape[1])
    mean = np.clip(training.astype(np.float64).mean(axis=0), 1e-6, 1 - 1e-6)
    return counts, np.log(mean / (1 - mean))


def chance(task: EmotionTask, targets: np.ndarray) -> dict[str, Any]:
    """Expected metrics of a random ranking, and of intensity 0.5 for all emotions. (V, K) -> metrics"""
    num_classes = targets.shape[1]
    flat = task.metrics(np.zeros((len(targets), 1, num_classes)), targets)
    hits = {f"acc{k}": 100.0 * min(k / num_classes, 1) for k in (1, 3, 5)}
    in_top3 = None if flat["predicted_in_true_top3"] is None else hits["acc3"]
    return {**flat, **hits, "predicted_in_true_top3": in_top3, "mean_correlation": None}


def prediction_lines(
    task: EmotionTask,
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    ids: Sequence[str],
    emotions: Sequence[str],
    average: str = "logits",
) -> list[dict[str, Any]]:
    """One entry per video: id, most intense emotions (predicted and true), all predictions and labels, and the logits
    of every view."""
    ranked = metrics.average_views(logits, average=average)
    probabilities = task.probabilities(metrics.average_views(logits, average="logits"))
    return [
        {
            "id": key,
            "predicted_top3": [emotions[i] for i in np.argsort(-ranking, kind="stable")[:3]],
            "true_top3": [emotions[i] for i in np.argsort(-target, kind="stable")[: 1 if task.classes_only else 3]],
            "predicted": {name: round(float(value), 5) for name, value in zip(emotions, predicted, strict=True)},
            "true": {name: round(float(value), 7) for name, value in zip(emotions, target, strict=True)},
            "view_logits": np.round(views.astype(np.float64), 5).tolist(),
        }
        for key, views, ranking, predicted, target in zip(ids, logits, ranked, probabilities, targets, strict=True)
    ]


def table(results: Mapping[str, Any]) -> str:
    """The metrics of VCE's `results` with "majority_guess" and "chance", as aligned text."""
    columns = {"model": results, "majority guess": results["majority_guess"], "chance": results["chance"]}
    counted = f"{results['num_videos']} test videos, {results['num_unreadable']} of them unreadable"
    return "\n".join([*_aligned(METRIC_TITLES, columns), counted])


def preference_results(
    scores: Mapping[str, float], pairs: Sequence[tuple[str, str]], lists: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The metrics of V2V's pairs and lists from the scores of the readable videos, and the expected metrics of chance.

    `lost_pairs` and `lost_lists` are the comparisons with a video that has no score.
    """
    chance = {
        "pair_accuracy": 50.0,
        "list_accuracy": 100.0 * float(np.mean([1 / math.factorial(len(entry)) for entry in lists])) if lists else None,
        "pair_accuracy_in_lists": 50.0,
        "mean_kendall_tau": 0.0,
    }
    lost = {
        f"lost_{name}": [list(entry) for entry in entries if any(key not in scores for key in entry)]
        for name, entries in (("pairs", pairs), ("lists", lists))
    }
    return {**metrics.judge_pairs(scores, pairs), **metrics.judge_lists(scores, lists), "chance": chance, **lost}


def preference_table(results: Mapping[str, Any]) -> str:
    """The metrics of V2V's `results` with "chance", as aligned text."""
    counted = (
        f"{results['num_pairs']} test pairs ({results['num_pairs_lost']} lost, {results['num_ties']} tied), "
        f"{results['num_lists']} lists ({results['num_lists_lost']} lost), over {results['num_videos']} videos, "
        f"{results['num_unreadable']} of them unreadable"
    )
    return "\n".join([*_aligned(PREFERENCE_TITLES, {"model": results, "chance": results["chance"]}), counted])


FILES = {
    "checkpoint-best.pth": "weights of the best epoch",
    "results.json": "test metrics",
    "predictions.jsonl": "predictions for the test videos",
    "scores.jsonl": "scores of the test videos",
    "curves.png": "loss and accuracy over the epochs",
    "log.txt": "one line per epoch",
    "steps.jsonl": "one line per step",
    "features": "features of the frozen network",
    "config.json": "every flag",
}


def describe_files(output_dir: Path) -> str:
    """The files of a run, one per line."""
    lines = [f"  {name:<20} {content}" for name, content in FILES.items() if (output_dir / name).exists()]
    return "\n".join([f"{output_dir}:", *lines])


def _aligned(titles: Mapping[str, str], columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per metric of the first column."""
    width = max(len(title) for title in titles.values())
    lines = [" " * width + "".join(f"{name:>16}" for name in columns)]
    for metric, title in titles.items():
        cells = [column.get(metric) for column in columns.values()]
        if cells[0] is None:
            continue
        digits = 1 if title.endswith("%") else 4
        shown = ["-" if cell is None else f"{cell:.{digits}f}" for cell in cells]
        lines.append(f"{title:<{width}}" + "".join(f"{cell:>16}" for cell in shown))
    return lines

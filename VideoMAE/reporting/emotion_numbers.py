"""The numbers of a tested VCE run and of a comparison of two, as written to `report.json`. V videos, K emotions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from scipy.stats import spearmanr

from VideoMAE.reporting import bootstrap
from VideoMAE.reporting.bootstrap import Resampling, Statistic, estimate, metric_entries
from VideoMAE.reporting.run_files import Dataset, Run
from VideoMAE.training import metrics
from VideoMAE.training.results import majority_answers
from VideoMAE.training.tasks import EmotionTask

NUM_BINS, NUM_BINS_PER_EMOTION = 20, 8
NUM_TOP_EMOTIONS = 2  # named for each video
METRICS = ("acc1", "acc3", "acc5", "predicted_in_true_top3", "bce", "mean_absolute_error", "mean_correlation")
TOP = {"acc3": 3, "acc5": 5, "predicted_in_true_top3": 3}  # always 100 % with as many emotions
MEANINGS = {"ce": "probability of being the most intense", "soft_ce": "share of all intensity"}  # by loss
TOLERANCE = 1e-6  # of intensities, which predictions.jsonl rounds


class EmotionTest(NamedTuple):
    """The predictions of a VCE run for its test videos, averaged over views, and the truth; the arrays are (V, K)."""

    ids: list[str]
    emotions: tuple[str, ...]
    num_views: int
    targets: np.ndarray  # true intensities, float32
    ranking: np.ndarray  # values to rank by
    logits: np.ndarray
    predicted: np.ndarray
    expected: np.ndarray  # the targets of the run's loss
    defined: tuple[str, ...]  # the metrics that the run's loss, labels and number of emotions define
    prediction_meaning: str

    @property
    def first_true(self) -> np.ndarray:
        """The most intense emotion of each video. -> (V,) int"""
        return self.targets.argmax(axis=1)

    @property
    def first_predicted(self) -> np.ndarray:
        return self.ranking.argmax(axis=1)

    @property
    def errors(self) -> np.ndarray:
        """Mean absolute error over the emotions of each video. -> (V,)"""
        return np.abs(self.predicted - self.expected).mean(axis=1)

    def select(self, ids: list[str]) -> "EmotionTest":
        """The test of these videos alone."""
        places = {key: place for place, key in enumerate(self.ids)}
        rows = [places[key] for key in ids]
        values = self._asdict()
        arrays = {name: value[rows] for name, value in values.items() if isinstance(value, np.ndarray)}
        return EmotionTest(**{**values, **arrays, "ids": ids})


def emotion_test(run: Run, dataset: Dataset) -> EmotionTest:
    """The predictions and true intensities of a run; the latter come from predictions.jsonl, else from the dataset.
    Raises ValueError if there are no true intensities, or the labels have changed since the test."""
    assert run.results is not None
    lines, emotions = run.predicted, tuple(run.results["emotions"])
    ids = [line["id"] for line in lines]
    if all("true" in line for line in lines):
        targets = np.array([[line["true"][name] for name in emotions] for line in lines], dtype=np.float32)
    elif dataset.test is None:
        reason = f"predictions.jsonl has no true intensities, and the dataset cannot be read: {dataset.missing}"
        raise ValueError(f"{run.folder}: {reason}")
    elif dataset.test.emotions != emotions:
        raise ValueError(f"{run.folder}: the emotions of its test differ from those of the dataset")
    else:
        places = {key: place for place, key in enumerate(dataset.test.ids)}
        if unknown := [key for key in ids if key not in places]:
            counts = f"{len(unknown)} of its {len(ids)} test videos, for example {unknown[0]}"
            raise ValueError(f"{run.folder}: the dataset has no labels for {counts}")
        targets = dataset.test.select([places[key] for key in ids]).intensities
    try:
        view_logits = np.array([line["view_logits"] for line in lines], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{run.folder}: the videos in predictions.jsonl have different numbers of views") from error
    classes_only = bool(run.settings.get("label_path"))
    highest = np.argsort(-targets, axis=1, kind="stable")[:, : 1 if classes_only else 3]
    tops = [[emotions[place] for place in row] for row in highest]
    if differing := [line["id"] for line, top in zip(lines, tops, strict=True) if line["true_top3"] != top]:
        raise ValueError(
            f"{run.folder}: the labels have changed since its test: {len(differing)} of {len(ids)} videos have other "
            f"most intense emotions now, for example {differing[0]}"
        )
    loss = run.settings["loss"]
    task = EmotionTask(loss=loss, classes_only=classes_only)
    logits = metrics.average_views(view_logits, average="logits")
    return EmotionTest(
        ids,
        emotions,
        view_logits.shape[1],
        targets,
        ranking=metrics.average_views(view_logits, average=run.settings.get("test_average", "logits")),
        logits=logits,
        predicted=task.probabilities(logits),
        expected=task.make_targets(torch.from_numpy(targets), smoothing=0.0).numpy().astype(np.float64),
        defined=tuple(
            metric for metric in METRICS if run.results.get(metric) is not None and TOP.get(metric, 0) < len(emotions)
        ),
        prediction_meaning=MEANINGS.get(loss, "intensity"),
    )


def values_per_video(ranking: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """The contribution of each video to each metric that is a mean over videos. (V, K) each -> (V,) by metric"""
    hits = {f"acc{k}": metrics.top_k_hits(ranking, targets, k=k) for k in (1, 3, 5)}
    hits["predicted_in_true_top3"] = metrics.top_k_hits(targets, ranking, k=3)
    return {
        **{metric: 100.0 * values for metric, values in hits.items()},
        "bce": metrics.cross_entropies(logits, targets).mean(axis=1),
        "mean_absolute_error": np.abs(expit(logits) - targets).mean(axis=1),
    }


def statistics_of(test: EmotionTest) -> dict[str, Statistic]:
    """The metrics that a run defines."""
    values = values_per_video(test.ranking, test.logits, test.targets)
    statistics = {metric: bootstrap.mean_of(each) for metric, each in values.items()}
    by_emotion = bootstrap.correlations_of(expit(test.logits), test.targets)
    statistics["mean_correlation"] = bootstrap.mean_over_columns(by_emotion)
    return {metric: statistics[metric] for metric in test.defined}


def emotion_report(run: Run, dataset: Dataset, resampling: Resampling, *, num_examples: int = 0) -> dict[str, Any]:
    """All numbers of a VCE test, and the videos with the smallest and the largest errors.
    Raises ValueError if the test cannot be reconstructed from the run's folder and its dataset."""
    assert run.results is not None
    test = emotion_test(run, dataset)
    targets, num_videos = test.targets, len(test.ids)
    statistics = {"model": statistics_of(test)}
    if dataset.train is not None and dataset.train.emotions == test.emotions:
        ranking, logits = majority_answers(dataset.train.intensities)
        values = values_per_video(*np.broadcast_arrays(ranking, logits, targets))
        statistics["majority_guess"] = {
            metric: bootstrap.mean_of(values[metric]) for metric in test.defined if metric in values
        }
    if "mean_absolute_error" in test.defined:  # the only metric of chance that depends on the videos
        statistics["chance"] = {"mean_absolute_error": bootstrap.mean_of(np.abs(0.5 - targets).mean(axis=1))}
    entries = metric_entries(statistics, num_videos, resampling)
    for metric, entry in entries.items():
        for guess in ("majority_guess", "chance"):
            entry.setdefault(guess, estimate(run.results[guess].get(metric)))
    errors, half = test.errors, min(num_examples, num_videos // 2)
    order = np.argsort(errors, kind="stable")
    examples = [
        {**top_emotions_of(test, row), "error": float(errors[row])} for row in (*order[:half], *order[::-1][:half])
    ]
    # the confusion matrix, without the emotions that are first in neither
    counts = np.zeros((len(test.emotions), len(test.emotions)), int)
    np.add.at(counts, (test.first_true, test.first_predicted), 1)
    present = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    frequent = present[np.argsort(-counts.sum(axis=1)[present], kind="stable")]
    return {
        "num_videos": num_videos + len(run.unreadable),
        "num_unreadable": len(run.unreadable),
        "num_views": test.num_views,
        "method": resampling.method("videos", num_videos),
        "prediction_meaning": test.prediction_meaning,
        "metrics": entries,
        "notes": bootstrap.disagreements(run.results, entries),
        "emotions": emotion_entries(test, resampling),
        "calibration": calibration(test),
        "confusion": {
            "emotions": [test.emotions[k] for k in frequent],
            "counts": counts[np.ix_(frequent, frequent)].tolist(),
        },
        "best": examples[:half],
        "worst": examples[half:],
    }


def emotion_entries(test: EmotionTest, resampling: Resampling) -> dict[str, dict[str, Any]]:
    """For each emotion: correlation of predictions and truth, means, error, and how often it ranks first."""
    predicted, expected = test.predicted, test.expected
    drawn = resampling.draw({"r": bootstrap.correlations_of(predicted, expected)}, len(predicted))["r"]
    pearson = metrics.correlations(predicted, expected)
    entries = {}
    for k, name in enumerate(test.emotions):
        is_first, is_predicted_first = test.first_true == k, test.first_predicted == k
        num_first, num_found = int(is_first.sum()), int(is_predicted_first[is_first].sum())
        has_correlation = np.isfinite(pearson[k])
        entries[name] = {
            "pearson": estimate(float(pearson[k]), drawn[:, k]),
            "spearman": float(spearmanr(predicted[:, k], expected[:, k]).statistic) if has_correlation else None,
            "mean_true": float(expected[:, k].mean()),
            "mean_predicted": float(predicted[:, k].mean()),
            "mean_absolute_error": float(np.abs(predicted - expected)[:, k].mean()),
            "num_first": num_first,
            "num_predicted_first": int(is_predicted_first.sum()),
            "percent_of_first_found": 100.0 * num_found / num_first if num_first else None,
        }
    return entries


def calibration(test: EmotionTest) -> dict[str, Any]:
    """Mean prediction and mean truth per bin: of all emotions in bins of equal width, of each emotion in bins of equal
    count. The calibration error is the mean distance of the two, weighted by the counts."""
    predicted, expected = test.predicted.ravel(), test.expected.ravel()
    overall = binned(predicted, expected, np.minimum((predicted * NUM_BINS).astype(int), NUM_BINS - 1))
    by_emotion = {}
    for name, in_column, true in zip(test.emotions, test.predicted.T, test.expected.T, strict=True):
        bins = np.empty(len(in_column), int)
        parts = np.array_split(np.argsort(in_column, kind="stable"), min(NUM_BINS_PER_EMOTION, len(in_column)))
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


def top_emotions_of(test: EmotionTest, row: int) -> dict[str, Any]:
    """The most intense emotions of a video, true and predicted, with their values."""
    found: dict[str, Any] = {"id": test.ids[row]}
    for name, values, rank_by in (("true", test.expected, test.targets), ("predicted", test.predicted, test.ranking)):
        places = np.argsort(-rank_by[row], kind="stable")[:NUM_TOP_EMOTIONS]
        found[name] = [[test.emotions[place], float(values[row, place])] for place in places]
    return found


def compare_emotions(runs: Sequence[Run], tests: Sequence[EmotionTest], resampling: Resampling) -> dict[str, Any]:
    """All numbers of a comparison of two VCE tests on their common videos, A and B.
    Raises ValueError if the emotions or labels of the tests differ, or they have no common video."""
    a, b = tests
    folders = f"{runs[0].folder} and {runs[1].folder}"
    if a.emotions != b.emotions:
        known = len(set(a.emotions) & set(b.emotions))
        raise ValueError(
            f"{folders} have different emotions: {len(a.emotions)} and {len(b.emotions)}, {known} of them with the "
            "same name"
        )
    shared = set(b.ids)
    ids = [key for key in a.ids if key in shared]
    if not ids:
        raise ValueError(f"{folders} have no common test video: they have {len(a.ids)} and {len(b.ids)}")
    a, b = a.select(ids), b.select(ids)
    differ = np.abs(a.targets - b.targets).max(axis=1) > TOLERANCE
    if differ.any():
        raise ValueError(
            f"{folders} were tested on different labels: {int(differ.sum())} of the {len(ids)} common videos have "
            f"different intensities, for example {ids[int(differ.argmax())]}"
        )
    numbers: dict[str, Any] = {
        "num_common": len(ids),
        "method": resampling.method("videos", len(ids)),
        "metrics": metric_entries({"a": statistics_of(a), "b": statistics_of(b)}, len(ids), resampling),
        "agreement": bootstrap.agreement(a.first_predicted == a.first_true, b.first_predicted == b.first_true),
    }
    if a.prediction_meaning != b.prediction_meaning:
        return numbers | {"emotions": {}, "better_in_a": [], "better_in_b": []}
    of_a, of_b = (bootstrap.correlations_of(test.predicted, test.expected) for test in (a, b))
    in_a, in_b = (statistic(np.ones((1, len(ids))))[0] for statistic in (of_a, of_b))
    drawn = resampling.draw({"gap": lambda counts: of_b(counts) - of_a(counts)}, len(ids))["gap"]
    emotions = {
        name: {"a": float(in_a[k]), "b": float(in_b[k]), "difference": estimate(float(in_b[k] - in_a[k]), drawn[:, k])}
        for k, name in enumerate(a.emotions)
    }
    errors_a, errors_b = a.errors, b.errors
    entries = []
    for row in np.argsort(errors_b - errors_a, kind="stable"):
        top_a, top_b = top_emotions_of(a, row), top_emotions_of(b, row)
        errors = {"error_a": float(errors_a[row]), "error_b": float(errors_b[row])}
        predicted = {"predicted_a": top_a["predicted"], "predicted_b": top_b["predicted"]}
        entries.append({"id": top_a["id"], "true": top_a["true"], **predicted, **errors})
    return numbers | {
        "prediction_meaning": a.prediction_meaning,
        "emotions": emotions,
        "better_in_b": [entry for entry in entries if entry["error_b"] < entry["error_a"]],
        "better_in_a": [entry for entry in entries[::-1] if entry["error_b"] > entry["error_a"]],
    }

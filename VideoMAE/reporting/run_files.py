"""The files of a run's output folder and the labels of its test. V videos, K emotions, S views of a video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from VideoMAE.config import flat
from VideoMAE.data import v2v, vce
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.splits import hold_out
from VideoMAE.data.v2v import Comparison, Pair
from VideoMAE.data.vce import Annotations
from VideoMAE.files import read_complete_json_lines, read_json, read_json_lines

TaskName = Literal["vce", "v2v"]
MAX_STEP_POINTS = 400  # of the curves of steps


class Run(NamedTuple):
    """The flags of a run, by name, and the files it wrote. `results` is None before the test has finished."""

    folder: Path
    name: str
    task: TaskName
    settings: dict[str, Any]
    results: dict[str, Any] | None
    test_lines: list[dict[str, Any]]  # predictions.jsonl or scores.jsonl: one entry per test video
    epochs: list[dict[str, Any]]
    steps: list[dict[str, Any]]

    @property
    def dataset(self) -> Path:
        """The dataset folder that the run used."""
        return Path(self.settings.get("data_dir") or self.settings["data_path"])

    @property
    def unreadable(self) -> dict[str, str]:
        """Test videos without a prediction: id -> reason."""
        return {line["id"]: line["unreadable"] for line in self.test_lines if "unreadable" in line}

    @property
    def predicted(self) -> list[dict[str, Any]]:
        """The entries of the test videos that have a prediction."""
        return [line for line in self.test_lines if "unreadable" not in line]


class Dataset(NamedTuple):
    """The labels of a run's test, or in `missing` the reason why they cannot be read; only one task's are set."""

    paths: dict[str, Path]
    test: Annotations | None = None
    train: Annotations | None = None
    pairs: Sequence[Pair] = ()
    lists: Sequence[Comparison] = ()
    missing: str = ""


def read_run(folder: Path, *, results_prefix: str | None = None) -> Run:
    """Reads the output folder of a run; `results_prefix` overrides the one in its config.json.
    Raises ValueError if the folder is not a run's, has no finished epoch and no results, or a file in it is damaged."""
    config = folder / "config.json"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not config.is_file():
        raise ValueError(f"{folder}: has no config.json, so it is not the output folder of a run")
    settings = flat(read_json(config))
    task: TaskName = "v2v" if "data_dir" in settings else "vce"
    if not {"data_dir", "data_path"} & settings.keys():
        raise ValueError(f"{config}: names no dataset, so it is not the configuration of a run")
    prefix = settings.get("results_prefix", "") if results_prefix is None else results_prefix
    prefix = f"{prefix}_" if prefix else ""
    results_file = folder / f"{prefix}results.json"
    results = read_json(results_file) if results_file.is_file() else None
    lines_file = folder / f"{prefix}{'scores' if task == 'v2v' else 'predictions'}.jsonl"
    test_lines = _read_test_lines(lines_file) if results else []
    epochs, steps = read_complete_json_lines(folder / "log.txt"), read_complete_json_lines(folder / "steps.jsonl")
    if results is None and not epochs:
        raise ValueError(f"{folder}: has neither {results_file.name} nor a finished epoch in log.txt")
    return Run(folder, folder.resolve().name, task, settings, results, test_lines, epochs, steps)


def _read_test_lines(file: Path) -> list[dict[str, Any]]:
    """The entries of predictions.jsonl or scores.jsonl, checked."""
    lines = read_json_lines(file)
    for number, line in enumerate(lines, start=1):
        if not isinstance(line.get("id"), str):
            raise ValueError(f"{file}, entry {number}: has no video id")
        if not {"unreadable", "score", "view_logits"} & line.keys():
            raise ValueError(f"{file}, entry {number}: has no prediction for video {line['id']}")
    if all("unreadable" in line for line in lines):
        raise ValueError(f"{file}: contains no readable video")
    return lines


def curves_of(run: Run) -> dict[str, Any]:
    """The logged values of a run's epochs, and its steps averaged to at most MAX_STEP_POINTS; {} without a log."""
    epochs = [
        {
            "epochs_done": line["epoch"] + 1,
            **{key: value for key, value in line.items() if isinstance(value, (int, float))},
        }
        for line in run.epochs
    ]
    if not epochs:
        return {}
    per_epoch = max(len(run.steps) / len(epochs), 1)
    steps = [{**line, "epoch": (line["step"] + 1) / per_epoch} for line in run.steps]
    parts = np.array_split(np.array(steps, dtype=object), min(len(steps), MAX_STEP_POINTS)) if steps else []
    averaged = [{key: _mean([line.get(key) for line in part]) for key in ("epoch", "loss", "lr")} for part in parts]
    return {"epochs": epochs, "steps": averaged, "num_steps": len(run.steps)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def read_dataset(run: Run, *, data_path: Path | None = None) -> Dataset:
    """Reads the labels of a run's test from its dataset or from `data_path`; errors are returned in `missing`."""
    root = data_path or run.dataset
    exclude = run.settings.get("exclude")
    exclusion = Exclusion(Path(exclude) if exclude and Path(exclude).is_file() else None)
    read = _read_comparisons if run.task == "v2v" else _read_emotions
    try:
        return read(run, root, exclusion)
    except ValueError as error:
        return Dataset({}, missing=str(error))


def _read_emotions(run: Run, root: Path, exclusion: Exclusion) -> Dataset:
    settings = run.settings
    if settings.get("label_path"):
        emotions = vce.read_emotions(root)
        test, train = (
            vce.read_class_list(Path(settings["label_path"]) / name, emotions=emotions, exclusion=exclusion)
            for name in ("test.csv", "train.csv")
        )
    else:
        test, train = (vce.read_annotations(root, split, exclusion=exclusion) for split in ("test", "train"))
        if not settings.get("train_on_all"):
            train, _ = hold_out(train, fraction=settings["val_fraction"])
    return Dataset(dict(zip(test.ids, test.paths, strict=True)), test=test, train=train)


def _read_comparisons(run: Run, root: Path, exclusion: Exclusion) -> Dataset:
    test, lists = (
        v2v.read_comparisons(
            root / f"{split}_labels.json", only_pairs=split == "test", may_be_empty=split == "listwise",
            exclusion=exclusion
        )
        for split in ("test", "listwise")
    )  # fmt: skip
    videos = v2v.videos_of(root, [*test, *lists])
    known = {line["id"] for line in run.test_lines}
    unknown = [key for key in videos.ids if key not in known]
    if unknown and not run.settings.get("exclude"):
        raise ValueError(
            f"{root}: its labels differ from those of the test in {run.folder}, which has no entry for {len(unknown)} "
            f"of {len(videos.ids)} videos, for example {unknown[0]}"
        )
    test, lists = ([entry for entry in entries if known.issuperset(entry)] for entries in (test, lists))
    return Dataset(dict(zip(videos.ids, videos.paths, strict=True)), pairs=v2v.pairs_in(test), lists=lists)


class EmotionTest(NamedTuple):
    """The predictions of a VCE run for its test videos, and the true intensities."""

    ids: list[str]
    view_logits: np.ndarray  # (V, S, K)
    targets: np.ndarray  # (V, K) float32
    emotions: tuple[str, ...]
    classes_only: bool

    def select(self, ids: list[str]) -> EmotionTest:
        """The test of these videos alone."""
        place_of = {key: place for place, key in enumerate(self.ids)}
        rows = [place_of[key] for key in ids]
        return self._replace(ids=ids, view_logits=self.view_logits[rows], targets=self.targets[rows])


def emotion_test(run: Run, dataset: Dataset) -> EmotionTest:
    """The predictions and true intensities of a run; the latter come from predictions.jsonl, else from the dataset.
    Raises ValueError if there are no true intensities, or the labels have changed since the test."""
    assert run.results is not None
    lines, emotions = run.predicted, tuple(run.results["emotions"])
    ids = [line["id"] for line in lines]
    if all("true" in line for line in lines):
        targets = np.array([[line["true"][name] for name in emotions] for line in lines], dtype=np.float32)
    else:
        targets = _intensities_in(dataset, ids, emotions, run)
    try:
        logits = np.array([line["view_logits"] for line in lines], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{run.folder}: the videos in predictions.jsonl have different numbers of views") from error
    classes_only = bool(run.settings.get("label_path"))
    highest = np.argsort(-targets, axis=1, kind="stable")[:, : 1 if classes_only else 3]
    tops = [[emotions[place] for place in row] for row in highest]
    differing = [line["id"] for line, top in zip(lines, tops, strict=True) if line["true_top3"] != top]
    if differing:
        raise ValueError(
            f"{run.folder}: the labels have changed since its test: {len(differing)} of {len(ids)} videos have other "
            f"most intense emotions now, for example {differing[0]}"
        )
    return EmotionTest(ids, logits, targets, emotions, classes_only)


def _intensities_in(dataset: Dataset, ids: Sequence[str], emotions: tuple[str, ...], run: Run) -> np.ndarray:
    """The intensities of these videos in the dataset. -> (V, K)"""
    if dataset.test is None:
        reason = f"predictions.jsonl has no true intensities, and the dataset cannot be read: {dataset.missing}"
        raise ValueError(f"{run.folder}: {reason}")
    if dataset.test.emotions != emotions:
        raise ValueError(f"{run.folder}: the emotions of its test differ from those of the dataset")
    places = {key: place for place, key in enumerate(dataset.test.ids)}
    unknown = [key for key in ids if key not in places]
    if unknown:
        counts = f"{len(unknown)} of its {len(ids)} test videos, for example {unknown[0]}"
        raise ValueError(f"{run.folder}: the dataset has no labels for {counts}")
    return dataset.test.select([places[key] for key in ids]).intensities


class PreferenceTest(NamedTuple):
    """The scores of the readable videos, and the pairs and lists whose videos all have a score."""

    scores: dict[str, float]
    pairs: list[Pair]
    lists: list[Comparison]
    num_pairs_lost: int
    num_lists_lost: int


def preference_test(run: Run, dataset: Dataset) -> PreferenceTest:
    """The scores of a V2V run and the pairs and lists of its test.
    Raises ValueError if the dataset, the only source of pairs and lists, cannot be read."""
    if dataset.missing:
        raise ValueError(f"{run.folder}: the dataset with its pairs and lists cannot be read: {dataset.missing}")
    scores = {line["id"]: float(line["score"]) for line in run.predicted}
    pairs = [pair for pair in dataset.pairs if pair.worse in scores and pair.better in scores]
    lists = [entry for entry in dataset.lists if all(key in scores for key in entry)]
    return PreferenceTest(scores, pairs, lists, len(dataset.pairs) - len(pairs), len(dataset.lists) - len(lists))

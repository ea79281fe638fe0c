"""What a run has left in its folder, and the labels it was tested on. V videos, K emotions, S views of a video."""

from __future__ import annotations

import json
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
from VideoMAE.files import read_complete_json_lines

TaskName = Literal["vce", "v2v"]


class Run(NamedTuple):
    """A run's settings, by the names of their flags, and what it wrote. `results` is None before its test ended."""

    folder: Path
    name: str
    task: TaskName
    settings: dict[str, Any]
    results: dict[str, Any] | None
    tested: list[dict[str, Any]]  # a video a line
    epochs: list[dict[str, Any]]
    steps: list[dict[str, Any]]

    @property
    def dataset(self) -> Path:
        """Where the run found its dataset."""
        return Path(self.settings.get("data_dir") or self.settings["data_path"])

    @property
    def unreadable(self) -> dict[str, str]:
        """Why test videos have no prediction, by id."""
        return {line["id"]: line["unreadable"] for line in self.tested if "unreadable" in line}

    @property
    def read(self) -> list[dict[str, Any]]:
        """The lines of the test videos that have a prediction."""
        return [line for line in self.tested if "unreadable" not in line]


class Dataset(NamedTuple):
    """Where labels were found, or the reason why not; the labels of one task are empty for the other."""

    paths: dict[str, Path]
    test: Annotations | None = None
    train: Annotations | None = None
    pairs: Sequence[Pair] = ()
    lists: Sequence[Comparison] = ()
    missing: str = ""


def read_run(folder: Path, *, results_prefix: str | None = None) -> Run:
    """A run's folder; `results_prefix` wins over the one in its config.json.

    Raises:
        ValueError: it is no run's folder, says nothing yet, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: has no config.json, so it is not the output folder of a run")
    settings = flat(_read_json(folder / "config.json"))
    task: TaskName = "v2v" if "data_dir" in settings else "vce"
    if not {"data_dir", "data_path"} & settings.keys():
        raise ValueError(f"{folder / 'config.json'}: names no dataset, so it is not the configuration of a run")
    prefix = settings.get("results_prefix", "") if results_prefix is None else results_prefix
    prefix = f"{prefix}_" if prefix else ""
    results_file = folder / f"{prefix}results.json"
    results = _read_json(results_file) if results_file.is_file() else None
    tested = _read_tested(folder / f"{prefix}{'scores' if task == 'v2v' else 'predictions'}.jsonl") if results else []
    epochs, steps = read_complete_json_lines(folder / "log.txt"), read_complete_json_lines(folder / "steps.jsonl")
    if results is None and not epochs:
        raise ValueError(f"{folder}: has neither {results_file.name} nor a finished epoch in log.txt to report on")
    return Run(folder, folder.resolve().name, task, settings, results, tested, epochs, steps)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected an object, found {type(content).__name__}")
    return content


def _read_tested(file: Path) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl or scores.jsonl, whole."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            content = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not valid JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("id"), str):
            raise ValueError(f"{file}, line {number}: has no video id")
        if not {"unreadable", "score", "view_logits"} & content.keys():
            raise ValueError(f"{file}, line {number}: says nothing of video {content['id']}")
        lines.append(content)
    if all("unreadable" in line for line in lines):
        raise ValueError(f"{file}: holds no video that could be read")
    return lines


def read_dataset(run: Run, *, data_path: Path | None = None) -> Dataset:
    """The labels that a run was tested on, from its dataset or from `data_path`; `missing` says why there are none."""
    root = data_path or run.dataset
    exclude = run.settings.get("exclude")
    exclusion = Exclusion(Path(exclude) if exclude and Path(exclude).is_file() else None)
    try:
        return (_read_comparisons if run.task == "v2v" else _read_emotions)(run, root, exclusion)
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
            exclusion=exclusion,
        )
        for split in ("test", "listwise")
    )  # fmt: skip
    every = v2v.videos_of(root, [*test, *lists])
    known = {line["id"] for line in run.tested}
    unknown = [key for key in every.ids if key not in known]
    if unknown and not run.settings.get("exclude"):
        raise ValueError(
            f"{root}: its labels are not those of {run.folder}'s test, which knows nothing of {len(unknown)} of "
            f"{len(every.ids)} videos, for instance {unknown[0]}"
        )
    test, lists = ([entry for entry in entries if known.issuperset(entry)] for entries in (test, lists))
    return Dataset(dict(zip(every.ids, every.paths, strict=True)), pairs=v2v.pairs_in(test), lists=lists)


class EmotionTest(NamedTuple):
    """What a model said of each test video, and what is true."""

    ids: list[str]
    view_logits: np.ndarray  # (V, S, K)
    targets: np.ndarray  # (V, K) float32
    emotions: tuple[str, ...]
    classes_only: bool


def emotion_test(run: Run, dataset: Dataset) -> EmotionTest:
    """The predictions of a run beside the true intensities: those that stand beside them, or else the dataset's.

    Raises:
        ValueError: there are no true intensities, or they are not those that the run was tested on.
    """
    assert run.results is not None
    lines, emotions = run.read, tuple(run.results["emotions"])
    ids = [line["id"] for line in lines]
    if all("true" in line for line in lines):
        targets = np.array([[line["true"][name] for name in emotions] for line in lines], dtype=np.float32)
    else:
        targets = _labels_of(ids, emotions, run, dataset)
    try:
        logits = np.array([line["view_logits"] for line in lines], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{run.folder}: predictions.jsonl has videos of different numbers of views") from error
    classes_only = bool(run.settings.get("label_path"))
    num_true = 1 if classes_only else 3
    highest = np.argsort(-targets, axis=1, kind="stable")[:, :num_true]
    differing = [
        line["id"]
        for line, row in zip(lines, highest, strict=True)
        if line["true_top3"] != [emotions[place] for place in row]
    ]
    if differing:
        raise ValueError(
            f"{run.folder}: the labels have changed since its test: {len(differing)} of {len(ids)} videos have other "
            f"most intense emotions now, for instance {differing[0]}"
        )
    return EmotionTest(ids, logits, targets, emotions, classes_only)


def _labels_of(ids: Sequence[str], emotions: tuple[str, ...], run: Run, dataset: Dataset) -> np.ndarray:
    """The intensities of these videos in the dataset. -> (V, K)"""
    if dataset.test is None:
        raise ValueError(
            f"{run.folder}: predictions.jsonl has no true intensities, and the dataset that has them cannot be read: "
            f"{dataset.missing}"
        )
    if dataset.test.emotions != emotions:
        raise ValueError(f"{run.folder}: was tested on other emotions than the dataset has")
    places = {key: place for place, key in enumerate(dataset.test.ids)}
    unknown = [key for key in ids if key not in places]
    if unknown:
        raise ValueError(
            f"{run.folder}: the dataset's labels know nothing of {len(unknown)} of its {len(ids)} test videos, for "
            f"instance {unknown[0]}"
        )
    return dataset.test.select([places[key] for key in ids]).intensities


class PreferenceTest(NamedTuple):
    """The scores of the videos that could be read, and the pairs and lists all of whose videos have one."""

    scores: dict[str, float]
    pairs: list[Pair]
    lists: list[Comparison]
    num_pairs_lost: int
    num_lists_lost: int


def preference_test(run: Run, dataset: Dataset) -> PreferenceTest:
    """The scores of a run beside the pairs and lists of its test.

    Raises:
        ValueError: the dataset, which alone has them, cannot be read.
    """
    if dataset.missing:
        raise ValueError(
            f"{run.folder}: its pairs and lists stand in the dataset only, which cannot be read: {dataset.missing}"
        )
    scores = {line["id"]: float(line["score"]) for line in run.read}
    pairs = [pair for pair in dataset.pairs if pair.worse in scores and pair.better in scores]
    lists = [entry for entry in dataset.lists if all(key in scores for key in entry)]
    return PreferenceTest(scores, pairs, lists, len(dataset.pairs) - len(pairs), len(dataset.lists) - len(lists))

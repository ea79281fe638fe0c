"""The files of a run's output folder and the labels of its test."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np

from VideoMAE.config import flat
from VideoMAE.data import v2v, vce
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.splits import hold_out
from VideoMAE.data.v2v import Comparison, Pair
from VideoMAE.data.vce import Annotations
from VideoMAE.files import read_complete_json_lines, read_json, read_json_lines

MAX_STEP_POINTS = 400  # of the curves of steps


class Run(NamedTuple):
    """The flags of a run, by name, and the files it wrote. `results` is None before the test has finished."""

    folder: Path
    name: str
    task: Literal["vce", "v2v"]
    settings: dict[str, Any]
    results: dict[str, Any] | None
    dataset: Path  # the folder that the run used
    predicted: list[dict[str, Any]]  # the entries of predictions.jsonl or scores.jsonl with a prediction
    unreadable: dict[str, str]  # test videos without a prediction: id -> reason
    epochs: list[dict[str, Any]]
    steps: list[dict[str, Any]]


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
    if not {"data_dir", "data_path"} & settings.keys():
        raise ValueError(f"{config}: names no dataset, so it is not the configuration of a run")
    prefix = settings.get("results_prefix", "") if results_prefix is None else results_prefix
    prefix = f"{prefix}_" if prefix else ""
    results_file = folder / f"{prefix}results.json"
    results, predicted, unreadable = None, [], {}
    if results_file.is_file():
        results = read_json(results_file)
        lines_file = folder / f"{prefix}{'scores' if 'data_dir' in settings else 'predictions'}.jsonl"
        lines = read_json_lines(lines_file)
        for number, line in enumerate(lines, start=1):
            if not isinstance(line.get("id"), str):
                raise ValueError(f"{lines_file}, entry {number}: has no video id")
            if not {"unreadable", "score", "view_logits"} & line.keys():
                raise ValueError(f"{lines_file}, entry {number}: has no prediction for video {line['id']}")
        predicted = [line for line in lines if "unreadable" not in line]
        unreadable = {line["id"]: line["unreadable"] for line in lines if "unreadable" in line}
        if not predicted:
            raise ValueError(f"{lines_file}: contains no readable video")
    epochs, steps = read_complete_json_lines(folder / "log.txt"), read_complete_json_lines(folder / "steps.jsonl")
    if results is None and not epochs:
        raise ValueError(f"{folder}: has neither {results_file.name} nor a finished epoch in log.txt")
    task: Literal["vce", "v2v"] = "v2v" if "data_dir" in settings else "vce"
    dataset = Path(settings.get("data_dir") or settings["data_path"])
    return Run(folder, folder.resolve().name, task, settings, results, dataset, predicted, unreadable, epochs, steps)


def curves_of(run: Run) -> dict[str, Any]:
    """The logged values of a run's epochs, and its steps averaged to at most MAX_STEP_POINTS; {} without a log."""
    if not run.epochs:
        return {}
    epochs = [
        {"epochs_done": line["epoch"] + 1, **{key: line[key] for key in line if isinstance(line[key], (int, float))}}
        for line in run.epochs
    ]
    per_epoch = max(len(run.steps) / len(epochs), 1)
    steps = []
    num_points = min(len(run.steps), MAX_STEP_POINTS)
    for part in np.array_split(np.array(run.steps, dtype=object), num_points) if num_points else []:
        points = [{**line, "epoch": (line["step"] + 1) / per_epoch} for line in part]
        known = {key: [point[key] for point in points if point.get(key) is not None] for key in ("epoch", "loss", "lr")}
        steps.append({key: fmean(values) if values else None for key, values in known.items()})
    return {"epochs": epochs, "steps": steps, "num_steps": len(run.steps)}


def read_dataset(run: Run, *, data_path: Path | None = None) -> Dataset:
    """Reads the labels of a run's test from its dataset or from `data_path`; errors are returned in `missing`."""
    root, settings = data_path or run.dataset, run.settings
    exclude = settings.get("exclude")
    exclusion = Exclusion(Path(exclude) if exclude and Path(exclude).is_file() else None)
    try:
        if run.task == "vce":
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
        compared, lists = (
            v2v.read_comparisons(
                root / f"{split}_labels.json",
                only_pairs=split == "test",
                may_be_empty=split == "listwise",
                exclusion=exclusion,
            )
            for split in ("test", "listwise")
        )
        videos = v2v.videos_of(root, [*compared, *lists])
    except ValueError as error:
        return Dataset({}, missing=str(error))
    known = {line["id"] for line in run.predicted} | run.unreadable.keys()
    unknown = [key for key in videos.ids if key not in known]
    if unknown and not settings.get("exclude"):
        missing = (
            f"{root}: its labels differ from those of the test in {run.folder}, which has no entry for {len(unknown)} "
            f"of {len(videos.ids)} videos, for example {unknown[0]}"
        )
        return Dataset({}, missing=missing)
    compared, lists = ([entry for entry in entries if known.issuperset(entry)] for entries in (compared, lists))
    paths = dict(zip(videos.ids, videos.paths, strict=True))
    return Dataset(paths, pairs=v2v.pairs_in(compared), lists=lists)

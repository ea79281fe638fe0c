"""The report of a run and the comparison of two: their numbers, charts, example videos and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from VideoMAE.cli import counted
from VideoMAE.files import to_jsonable
from VideoMAE.reporting import report_charts
from VideoMAE.reporting.bootstrap import Resampling
from VideoMAE.reporting.charts import Chart
from VideoMAE.reporting.config import ReportSettings, check_settings
from VideoMAE.reporting.emotion_numbers import compare_emotions, emotion_report, emotion_test
from VideoMAE.reporting.page import as_jpegs, draw, read_thumbnails, write_page
from VideoMAE.reporting.preference_numbers import compare_preferences, preference_report, preference_test
from VideoMAE.reporting.run_files import Dataset, Run, curves_of, read_dataset, read_run

NUMBERS_FILE = "report.json"
EXAMPLE_KEYS = (
    "best", "worst", "lists_best", "lists_worst", "pairs_wrong", "pairs_right", "better_in_a", "better_in_b"
)  # fmt: skip


def write_report(settings: ReportSettings) -> Path:
    """Reports on one run, or compares two. -> path of the page
    Raises ValueError if a setting is out of range, or the runs cannot be read or compared."""
    check_settings(settings)
    folders = [settings.run, *([settings.other] if settings.other else [])]
    runs = [read_run(folder.expanduser(), results_prefix=settings.results_prefix) for folder in folders]
    name = "report" if len(runs) == 1 else f"report_against_{runs[0].name}"
    output_dir = (settings.output_dir or runs[-1].folder / name).expanduser()
    for run in runs:
        root = settings.data_path or run.dataset
        if output_dir.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"--output_dir {output_dir} is inside the dataset {root}, which must not be modified")
    report = report_comparison(runs, settings) if len(runs) == 2 else report_run(runs[0], settings)
    return publish(report, output_dir, settings)


class Report(NamedTuple):
    """What a page shows."""

    template: str
    numbers: dict[str, Any]
    charts: list[Chart]
    paths: Mapping[str, Path] = {}  # of the test videos


def report_run(run: Run, settings: ReportSettings) -> Report:
    """Reports on a run. Raises ValueError if the test cannot be reconstructed from the run's folder and its dataset."""
    numbers: dict[str, Any] = {"name": run.name, "run": str(run.folder.resolve()), "task": run.task, "notes": []}
    numbers["curves"] = curves_of(run)
    curves = report_charts.curve_charts({"": numbers["curves"]})
    if run.results is None:
        numbers["notes"].append("The run has not finished its test: this page shows only its curves.")
        return Report("run_unfinished.html", numbers, curves)
    dataset = read_dataset(run, data_path=settings.data_path)
    is_vce = run.task == "vce"
    resampling = Resampling(settings.num_resamples, settings.seed)
    make_numbers = emotion_report if is_vce else preference_report
    test = make_numbers(run, dataset, resampling, num_examples=settings.num_examples)
    numbers |= {"test": test, "unreadable": run.unreadable}
    numbers["notes"] += [*test.pop("notes"), *_notes_on(dataset)]
    charts = [report_charts.metrics_chart(test["metrics"])] if test["metrics"] else []
    charts += report_charts.emotion_charts(test) if is_vce else report_charts.preference_charts(test)
    return Report(f"run_{run.task}.html", numbers, charts + curves, dataset.paths)


def report_comparison(runs: Sequence[Run], settings: ReportSettings) -> Report:
    """Compares two runs.
    Raises ValueError if the runs have different tasks or labels or nothing in common, or one has no test results."""
    a, b = runs
    if a.task != b.task:
        tasks = " and ".join(f"{run.folder} is a {run.task.upper()} run" for run in runs)
        raise ValueError(f"only runs of the same task can be compared: {tasks}")
    untested = [str(run.folder) for run in runs if run.results is None]
    if untested:
        raise ValueError(f"{' and '.join(untested)}: no test results to compare; the test has not finished")
    datasets = [read_dataset(run, data_path=settings.data_path) for run in runs]
    resampling = Resampling(settings.num_resamples, settings.seed)
    if a.task == "vce":
        test = compare_emotions(runs, list(map(emotion_test, runs, datasets)), resampling)
    else:
        test = compare_preferences(runs, list(map(preference_test, runs, datasets)), resampling)
    for key in ("better_in_a", "better_in_b"):
        test[key] = test[key][: settings.num_examples]
    curves = {"a": curves_of(a), "b": curves_of(b)}
    only: dict[str, dict[str, str]] = {}  # the videos with a prediction of one run alone, with the reason
    for run, other, letter, other_letter in ((a, b, "a", "B"), (b, a, "b", "A")):
        shared = {line["id"] for line in other.predicted}
        only[letter] = {
            key: f"{'could not be read' if key in other.unreadable else 'not'} in {other_letter}'s test"
            for key in (line["id"] for line in run.predicted)
            if key not in shared
        }
    numbers: dict[str, Any] = {
        "runs": {letter: {"name": run.name, "run": str(run.folder.resolve())} for letter, run in (("a", a), ("b", b))},
        "task": a.task,
        "notes": _notes_on(datasets[1]),
        "curves": curves,
        "test": test,
        "only": only,
    }
    charts = [
        report_charts.differences_chart(test["metrics"]),
        *report_charts.emotion_differences(test["emotions"]),
        *report_charts.curve_charts({"A": curves["a"], "B": curves["b"]}),
    ]
    return Report("comparison.html", numbers, charts, {**datasets[0].paths, **datasets[1].paths})


def _notes_on(dataset: Dataset) -> list[str]:
    return [f"Thumbnails are missing because the dataset cannot be read: {dataset.missing}."] if dataset.missing else []


def publish(report: Report, output_dir: Path, settings: ReportSettings) -> Path:
    """Writes page, charts and numbers. -> path of the page"""
    numbers = to_jsonable(report.numbers)
    numbers["charts"] = {
        chart.name: {"title": chart.title, "caption": chart.caption, **({"notes": chart.notes} if chart.notes else {})}
        for chart in report.charts
    }
    test = numbers.get("test", {})
    examples = [entry for key in EXAMPLE_KEYS for entry in test.get(key, [])]  # videos, pairs or lists
    ids = [key for entry in examples for key in _ids_in(entry)]
    videos = {key: report.paths[key] for key in ids if key in report.paths}
    thumbnails = {}
    if videos:
        found = read_thumbnails(videos, num_processes=settings.num_processes, limit_seconds=settings.limit_seconds)
        thumbnails = as_jpegs(found.pictures)
        numbers["without_picture"] = found.unreadable
        if found.unreadable:
            key, reason = next(iter(found.unreadable.items()))
            numbers["notes"].append(
                f"{counted(len(found.unreadable), 'example video')} cannot be read and "
                f"{'has' if len(found.unreadable) == 1 else 'have'} no thumbnail, for example {key}: {reason}."
            )
    return write_page(
        output_dir, report.template, drawn=draw(report.charts), numbers_file=NUMBERS_FILE, numbers=numbers, test=test,
        thumbnails=thumbnails
    )  # fmt: skip


def _ids_in(example: Mapping[str, Any]) -> list[str]:
    return example.get("ids") or ([example["id"]] if "id" in example else [example["worse"], example["better"]])

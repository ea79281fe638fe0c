"""The report of a run and the comparison of two: their numbers, charts, example videos and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from VideoMAE.files import to_jsonable
from VideoMAE.reporting import emotion_numbers, preference_numbers, report_charts
from VideoMAE.reporting.bootstrap import Resampling
from VideoMAE.reporting.chart_style import Chart
from VideoMAE.reporting.comparison_numbers import compare_emotions, compare_preferences, videos_only_in
from VideoMAE.reporting.config import ReportSettings, check_settings
from VideoMAE.reporting.formats import count
from VideoMAE.reporting.page import as_jpegs, draw, read_thumbnails, write_page
from VideoMAE.reporting.run_files import Dataset, Run, curves_of, emotion_test, preference_test, read_dataset, read_run

NUMBERS_FILE = "report.json"
MAX_LISTS = 3
EXAMPLE_KEYS = (
    "best", "worst", "lists_best", "lists_worst", "pairs_wrong", "pairs_right", "better_in_a", "better_in_b"
)  # fmt: skip


def write_report(settings: ReportSettings) -> Path:
    """Reports on one run, or compares two. -> path of the page

    Raises:
        ValueError: a setting is out of range, or the runs cannot be read or compared.
    """
    check_settings(settings)
    folders = [settings.run, *([settings.other] if settings.other else [])]
    runs = [read_run(folder.expanduser(), results_prefix=settings.results_prefix) for folder in folders]
    name = "report" if len(runs) == 1 else f"report_against_{runs[0].name}"
    output_dir = (settings.output_dir or runs[-1].folder / name).expanduser()
    for run in runs:
        root = settings.data_path or run.dataset
        if output_dir.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"--output_dir {output_dir} is inside the dataset {root}, which must not be modified")
    return (
        report_comparison(runs, output_dir, settings) if len(runs) == 2 else report_run(runs[0], output_dir, settings)
    )


def report_run(run: Run, output_dir: Path, settings: ReportSettings) -> Path:
    """Writes the report of a run. -> path of the page

    Raises:
        ValueError: the test cannot be reconstructed from the run's folder and its dataset.
    """
    numbers: dict[str, Any] = {"name": run.name, "run": str(run.folder.resolve()), "task": run.task, "notes": []}
    numbers["curves"] = curves_of(run)
    charts: list[Chart] = []
    paths: dict[str, Path] = {}
    template = f"run_{run.task}.html"
    if run.results is None:
        template = "run_unfinished.html"
        numbers["notes"].append("The run has not finished its test: this page shows only its curves.")
    else:
        dataset = read_dataset(run, data_path=settings.data_path)
        test = (_emotion_test if run.task == "vce" else _preference_test)(run, dataset, settings)
        numbers |= {"test": test, "unreadable": run.unreadable}
        numbers["notes"] += [*test.pop("notes"), *_notes_on(dataset)]
        paths = dataset.paths
        of_task = report_charts.emotion_charts if run.task == "vce" else report_charts.preference_charts
        charts = [report_charts.metrics_chart(test["metrics"])] if test["metrics"] else []
        charts += of_task(test)
    charts += report_charts.curve_charts({"": numbers["curves"]})
    return _publish(numbers, charts, output_dir, template, paths, settings)


def report_comparison(runs: Sequence[Run], output_dir: Path, settings: ReportSettings) -> Path:
    """Writes the comparison of two runs. -> path of the page

    Raises:
        ValueError: the runs have different tasks or labels or nothing in common, or one has no test results.
    """
    if runs[0].task != runs[1].task:
        tasks = " and ".join(f"{run.folder} is a {run.task.upper()} run" for run in runs)
        raise ValueError(f"only runs of the same task can be compared: {tasks}")
    untested = [str(run.folder) for run in runs if run.results is None]
    if untested:
        raise ValueError(f"{' and '.join(untested)}: no test results to compare; the test has not finished")
    datasets = [read_dataset(run, data_path=settings.data_path) for run in runs]
    both = list(zip(runs, datasets, strict=True))
    resampling = Resampling(settings.num_resamples, settings.seed)
    if runs[0].task == "vce":
        test = compare_emotions(
            runs,
            [emotion_test(run, dataset) for run, dataset in both],
            resampling,
        )
    else:
        test = compare_preferences(
            runs,
            [preference_test(run, dataset) for run, dataset in both],
            resampling,
        )
    for key in ("better_in_a", "better_in_b"):
        test[key] = test[key][: settings.num_examples]
    by_letter = dict(zip("ab", runs, strict=True))
    numbers: dict[str, Any] = {
        "runs": {letter: {"name": run.name, "run": str(run.folder.resolve())} for letter, run in by_letter.items()},
        "task": runs[0].task,
        "notes": _notes_on(datasets[1]),
        "curves": {letter: curves_of(run) for letter, run in by_letter.items()},
        "test": test,
        "only": {
            "a": videos_only_in(runs[0], runs[1], name_of_other="B"),
            "b": videos_only_in(runs[1], runs[0], name_of_other="A"),
        },
    }
    charts = [
        report_charts.differences_chart(test["metrics"]),
        *report_charts.emotion_differences(test["emotions"]),
        *report_charts.curve_charts({letter.upper(): curves for letter, curves in numbers["curves"].items()}),
    ]
    paths = {**datasets[0].paths, **datasets[1].paths}
    return _publish(numbers, charts, output_dir, "comparison.html", paths, settings)


def _notes_on(dataset: Dataset) -> list[str]:
    return [f"Thumbnails are missing because the dataset cannot be read: {dataset.missing}."] if dataset.missing else []


def _publish(
    numbers: dict[str, Any], charts: Sequence[Chart], output_dir: Path, template: str, paths: Mapping[str, Path],
    settings: ReportSettings
) -> Path:  # fmt: skip
    """Writes page, charts and numbers. -> path of the page"""
    numbers = to_jsonable(numbers)
    numbers["charts"] = {
        chart.name: {"title": chart.title, "caption": chart.caption, **({"notes": chart.notes} if chart.notes else {})}
        for chart in charts
    }
    thumbnails = _thumbnails_of(_example_ids(numbers.get("test", {})), paths, numbers, settings)
    return write_page(
        output_dir, template, drawn=draw(charts), numbers_file=NUMBERS_FILE, numbers=numbers,
        test=numbers.get("test"), thumbnails=thumbnails
    )  # fmt: skip


def _emotion_test(run: Run, dataset: Dataset, settings: ReportSettings) -> dict[str, Any]:
    found = emotion_numbers.evaluate(run, emotion_test(run, dataset))
    numbers = emotion_numbers.emotion_report(run, found, dataset, Resampling(settings.num_resamples, settings.seed))
    videos = numbers.pop("videos")
    half = min(settings.num_examples, len(videos) // 2)
    return {**numbers, "best": videos[:half], "worst": videos[::-1][:half]}


def _preference_test(run: Run, dataset: Dataset, settings: ReportSettings) -> dict[str, Any]:
    found = preference_numbers.evaluate(preference_test(run, dataset))
    numbers = preference_numbers.preference_report(run, found, Resampling(settings.num_resamples, settings.seed))
    pairs, lists = numbers.pop("pairs"), numbers.pop("lists")
    num_lists = min(MAX_LISTS, settings.num_examples, len(lists) // 2)
    wrong = [entry for entry in pairs if entry["margin"] <= 0]
    right = [entry for entry in pairs if entry["margin"] > 0]
    return {
        **numbers,
        "lists_best": lists[:num_lists],
        "lists_worst": lists[::-1][:num_lists],
        "pairs_wrong": wrong[: settings.num_examples],
        "pairs_right": right[::-1][: settings.num_examples],
    }


def _example_ids(test: Mapping[str, Any]) -> list[str]:
    """The videos of all examples, which are videos, pairs or lists."""
    found: list[str] = []
    for entry in (entry for key in EXAMPLE_KEYS for entry in test.get(key, [])):
        found += entry.get("ids") or ([entry["id"]] if "id" in entry else [entry["worse"], entry["better"]])
    return list(dict.fromkeys(found))


def _thumbnails_of(
    ids: list[str], paths: Mapping[str, Path], numbers: dict[str, Any], settings: ReportSettings
) -> dict[str, bytes]:
    """JPEG thumbnails of the readable videos; adds a note about the others."""
    videos = {key: paths[key] for key in ids if key in paths}
    if not videos:
        return {}
    found = read_thumbnails(videos, num_processes=settings.num_processes, limit_seconds=settings.limit_seconds)
    numbers["without_picture"] = found.unreadable
    if found.unreadable:
        key, reason = next(iter(found.unreadable.items()))
        numbers["notes"].append(
            f"{count(len(found.unreadable), 'example video')} cannot be read and "
            f"{'has' if len(found.unreadable) == 1 else 'have'} no thumbnail, for example {key}: {reason}."
        )
    return as_jpegs(found.pictures)

"""The report of a run and the comparison of two: their numbers, charts, example videos and notes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from VideoMAE.cli import counted
from VideoMAE.files import to_jsonable
from VideoMAE.reporting import report_charts
from VideoMAE.reporting.bootstrap import Resampling
from VideoMAE.reporting.chart_style import Chart
from VideoMAE.reporting.emotion_numbers import compare_emotions, emotion_report, emotion_test
from VideoMAE.reporting.page import as_jpegs, draw, read_thumbnails, write_page
from VideoMAE.reporting.preference_numbers import compare_preferences, preference_report, preference_test
from VideoMAE.reporting.run_files import Run, curves_of, read_dataset, read_run

EXAMPLE_KEYS = (
    "best",
    "worst",
    "lists_best",
    "lists_worst",
    "pairs_wrong",
    "pairs_right",
    "better_in_a",
    "better_in_b",
)
NO_THUMBNAILS = "Thumbnails are missing because the dataset cannot be read: {}."


class Report(NamedTuple):
    """What a page shows."""

    template: str
    numbers: dict[str, Any]
    charts: list[Chart]
    paths: Mapping[str, Path] = {}  # of the test videos


def write_report(
    run: Path,
    other: Path | None,
    *,
    output_dir: Path | None,
    data_path: Path | None,
    results_prefix: str | None,
    num_resamples: int,
    seed: int,
    num_examples: int,
    num_processes: int,
    limit_seconds: float,
) -> Path:
    """Reports on one run, or compares two; see ReportSettings. -> path of the page
    Raises ValueError if the runs cannot be read or compared."""
    folders = [run, other] if other else [run]
    runs = [read_run(folder.expanduser(), results_prefix=results_prefix) for folder in folders]
    name = f"report_against_{runs[0].name}" if other else "report"
    output_dir = (output_dir or runs[-1].folder / name).expanduser()
    for root in (data_path or each.dataset for each in runs):
        if output_dir.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"--output_dir {output_dir} is inside the dataset {root}, which must not be modified")
    make_report = report_comparison if other else report_run
    report = make_report(
        *runs, data_path=data_path, resampling=Resampling(num_resamples, seed), num_examples=num_examples
    )
    numbers = to_jsonable(report.numbers)
    numbers["charts"] = {
        chart.name: {"title": chart.title, "caption": chart.caption, **({"notes": chart.notes} if chart.notes else {})}
        for chart in report.charts
    }
    test = numbers.get("test", {})
    ids: list[str] = []
    for entry in (entry for key in EXAMPLE_KEYS for entry in test.get(key, [])):  # videos, pairs or lists
        ids += entry.get("ids") or ([entry["id"]] if "id" in entry else [entry["worse"], entry["better"]])
    videos = {key: report.paths[key] for key in ids if key in report.paths}
    thumbnails = {}
    if videos:
        found = read_thumbnails(videos, num_processes=num_processes, limit_seconds=limit_seconds)
        thumbnails = as_jpegs(found.pictures)
        numbers["without_picture"] = found.unreadable
        if found.unreadable:
            key, reason = next(iter(found.unreadable.items()))
            numbers["notes"].append(
                f"{counted(len(found.unreadable), 'example video')} cannot be read and "
                f"{'has' if len(found.unreadable) == 1 else 'have'} no thumbnail, for example {key}: {reason}."
            )
    return write_page(
        output_dir,
        report.template,
        drawn=draw(report.charts),
        numbers_file="report.json",
        numbers=numbers,
        test=test,
        thumbnails=thumbnails,
    )


def report_run(run: Run, *, data_path: Path | None, resampling: Resampling, num_examples: int) -> Report:
    """Reports on a run. Raises ValueError if the test cannot be reconstructed from the run's folder and its dataset."""
    curves = curves_of(run)
    numbers: dict[str, Any] = {"name": run.name, "run": str(run.folder.resolve()), "task": run.task}
    curve_charts = report_charts.curve_charts({"": curves})
    if run.results is None:
        numbers |= {"notes": ["The run has not finished its test: this page shows only its curves."], "curves": curves}
        return Report("run_unfinished.html", numbers, curve_charts)
    dataset = read_dataset(run, data_path=data_path)
    make_numbers = emotion_report if run.task == "vce" else preference_report
    test = make_numbers(run, dataset, resampling, num_examples=num_examples)
    notes = [*test.pop("notes"), *([NO_THUMBNAILS.format(dataset.missing)] if dataset.missing else [])]
    numbers |= {"notes": notes, "curves": curves, "test": test, "unreadable": run.unreadable}
    charts = [report_charts.metrics_chart(test["metrics"])] if test["metrics"] else []
    charts += report_charts.emotion_charts(test) if run.task == "vce" else report_charts.preference_charts(test)
    return Report(f"run_{run.task}.html", numbers, charts + curve_charts, dataset.paths)


def report_comparison(a: Run, b: Run, *, data_path: Path | None, resampling: Resampling, num_examples: int) -> Report:
    """Compares two runs.
    Raises ValueError if the runs have different tasks or labels or nothing in common, or one has no test results."""
    runs = (a, b)
    if a.task != b.task:
        tasks = " and ".join(f"{run.folder} is a {run.task.upper()} run" for run in runs)
        raise ValueError(f"only runs of the same task can be compared: {tasks}")
    untested = [str(run.folder) for run in runs if run.results is None]
    if untested:
        raise ValueError(f"{' and '.join(untested)}: no test results to compare; the test has not finished")
    datasets = [read_dataset(run, data_path=data_path) for run in runs]
    if a.task == "vce":
        test = compare_emotions(runs, list(map(emotion_test, runs, datasets)), resampling)
    else:
        test = compare_preferences(runs, list(map(preference_test, runs, datasets)), resampling)
    for key in ("better_in_a", "better_in_b"):
        test[key] = test[key][:num_examples]
    only = {}  # the videos with a prediction of one run alone, with the reason
    for run, other, name_of_other in ((a, b, "B"), (b, a, "A")):
        shared = {line["id"] for line in other.predicted}
        only["a" if run is a else "b"] = {
            line["id"]: f"{'could not be read' if line['id'] in other.unreadable else 'not'} in {name_of_other}'s test"
            for line in run.predicted
            if line["id"] not in shared
        }
    curves = {"a": curves_of(a), "b": curves_of(b)}
    missing = datasets[1].missing
    numbers = {
        "runs": {letter: {"name": run.name, "run": str(run.folder.resolve())} for letter, run in (("a", a), ("b", b))},
        "task": a.task,
        "notes": [NO_THUMBNAILS.format(missing)] if missing else [],
        "curves": curves,
        "test": test,
        "only": only,
    }
    charts = [
        *report_charts.comparison_charts(test["metrics"], test["emotions"]),
        *report_charts.curve_charts({"A": curves["a"], "B": curves["b"]}),
    ]
    return Report("comparison.html", numbers, charts, {**datasets[0].paths, **datasets[1].paths})

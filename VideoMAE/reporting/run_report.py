"""The report of one run: its numbers, its charts, its page and what it says of missing things."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from VideoMAE.reporting import emotion_numbers, preference_numbers, run_page
from VideoMAE.reporting.chart_style import Chart
from VideoMAE.reporting.curve_numbers import curves
from VideoMAE.reporting.emotion_charts import emotion_charts
from VideoMAE.reporting.metric_charts import Curves, curve_charts, metrics_chart
from VideoMAE.reporting.metric_numbers import Resampling, plain
from VideoMAE.reporting.page import Drawn, draw, write_files
from VideoMAE.reporting.page_parts import NUMBERS_FILE
from VideoMAE.reporting.preference_charts import preference_charts
from VideoMAE.reporting.run_files import Dataset, Run, emotion_test, preference_test, read_dataset
from VideoMAE.reporting.thumbnails import as_jpegs, read_thumbnails
from VideoMAE.reporting.words import counted, interval, number

PAGE_FILE = "index.html"
THUMBNAILS_BUDGET_BYTES = 1_200_000
NUM_LISTS = 3
EXAMPLES = (
    "best", "worst", "lists_best", "lists_worst", "pairs_wrong", "pairs_right", "better_in_a", "better_in_b",
)  # fmt: skip


@dataclass(frozen=True)
class Looks:
    """How many examples a report shows, and how their pictures are read."""

    num_examples: int
    num_processes: int
    limit_seconds: float


def report_run(run: Run, output_dir: Path, *, data_path: Path | None, resampling: Resampling, looks: Looks) -> Path:
    """Write the report of a run -> its page.

    Raises:
        ValueError: what was tested cannot be told from the run's folder and its dataset.
    """
    numbers: dict[str, Any] = {"name": run.name, "run": str(run.folder.resolve()), "task": run.task, "notes": []}
    numbers["curves"] = curves(run)
    charts: list[Chart] = []
    paths: dict[str, Path] = {}
    if run.results is None:
        numbers["notes"].append("The run has not finished its test: this page has its curves only.")
    else:
        dataset = read_dataset(run, data_path=data_path)
        test = (_emotion_test if run.task == "vce" else _preference_test)(run, dataset, resampling, looks.num_examples)
        numbers |= {"test": test, "unreadable": run.unreadable}
        numbers["notes"] += [*test.pop("notes"), *without_pictures(dataset)]
        paths = dataset.paths
        of_task = emotion_charts if run.task == "vce" else preference_charts
        charts = [metrics_chart(test["metrics"], _headline(test["metrics"])), *of_task(test)]
    charts += curve_charts([Curves("", numbers["curves"])])
    return publish(numbers, charts, output_dir, paths=paths, looks=looks, render=run_page.render)


def without_pictures(dataset: Dataset) -> list[str]:
    """A note where videos cannot be shown."""
    return [f"There are no pictures, since the dataset cannot be read: {dataset.missing}."] if dataset.missing else []


def publish(
    numbers: dict[str, Any],
    charts: Sequence[Chart],
    output_dir: Path,
    *,
    paths: Mapping[str, Path],
    looks: Looks,
    render: Callable[[Mapping[str, Any], Sequence[Drawn], Mapping[str, bytes]], str],
) -> Path:
    """Write page, charts and numbers -> the page."""
    numbers = plain(numbers)
    numbers["charts"] = {
        chart.name: {"title": chart.title, "caption": chart.caption, **({"notes": chart.notes} if chart.notes else {})}
        for chart in charts
    }
    jpegs = pictures_of(shown_ids(numbers.get("test", {})), paths, numbers, looks)
    drawn = draw(charts)
    files = {f"{entry.chart.name}.png": entry.light for entry in drawn}
    files[NUMBERS_FILE] = as_json(numbers)
    files[PAGE_FILE] = render(numbers, drawn, jpegs).encode()
    write_files(output_dir, files)
    return output_dir / PAGE_FILE


def as_json(numbers: Mapping[str, Any]) -> bytes:
    return (json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _emotion_test(run: Run, dataset: Dataset, resampling: Resampling, num_examples: int) -> dict[str, Any]:
    judged = emotion_numbers.judge(run, emotion_test(run, dataset))
    numbers = emotion_numbers.emotion_report(run, judged, dataset, resampling)
    videos = numbers.pop("videos")
    half = min(num_examples, len(videos) // 2)
    return {**numbers, "best": videos[:half], "worst": videos[::-1][:half]}


def _preference_test(run: Run, dataset: Dataset, resampling: Resampling, num_examples: int) -> dict[str, Any]:
    judged = preference_numbers.judge(preference_test(run, dataset))
    numbers = preference_numbers.preference_report(run, judged, resampling)
    pairs, lists = numbers.pop("pairs"), numbers.pop("lists")
    ordered = min(NUM_LISTS, num_examples, len(lists) // 2)
    wrong = [entry for entry in pairs if entry["margin"] <= 0]
    right = [entry for entry in pairs if entry["margin"] > 0]
    return {
        **numbers,
        "lists_best": lists[:ordered],
        "lists_worst": lists[::-1][:ordered],
        "pairs_wrong": wrong[:num_examples],
        "pairs_right": right[::-1][:num_examples],
    }


def _headline(metrics: Mapping[str, Any]) -> str:
    """What the first metric says against guessing."""
    entry = next(iter(metrics.values()))
    model = entry["model"]
    guess = next(entry[key] for key in ("majority_guess", "chance") if key in entry)
    name = entry["title"].capitalize()
    said = f"{name} is {number(model['value'], 1)} %"
    if model["low"] is None:
        return f"{said}; guessing gets {number(guess['value'], 1)} %"
    beats = model["low"] > (guess["high"] or guess["value"])
    verdict = "clearly better than" if beats else "not clearly better than"
    return f"{said} ({interval(model, '%')}), {verdict} guessing ({number(guess['value'], 1)} %)"


def shown_ids(test: Mapping[str, Any]) -> list[str]:
    """The videos that a page shows: those of all examples, which are videos, pairs or lists."""
    entries = [entry for key in EXAMPLES for entry in test.get(key, [])]
    found: list[str] = []
    for entry in entries:
        found += entry.get("ids") or ([entry["id"]] if "id" in entry else [entry["worse"], entry["better"]])
    return list(dict.fromkeys(found))


def pictures_of(ids: list[str], paths: Mapping[str, Path], numbers: dict[str, Any], looks: Looks) -> dict[str, bytes]:
    """JPEG thumbnails of the videos that can be read; a note says how many cannot."""
    wanted = {key: paths[key] for key in ids if key in paths}
    if not wanted:
        return {}
    found = read_thumbnails(wanted, num_processes=looks.num_processes, limit_seconds=looks.limit_seconds)
    numbers["without_picture"] = found.unreadable
    if found.unreadable:
        first = next(iter(found.unreadable.items()))
        numbers["notes"].append(
            f"{counted(len(found.unreadable), 'video')} of those shown cannot be read now and have no picture, for "
            f"instance {first[0]}: {first[1]}."
        )
    return as_jpegs(found.pictures, budget_bytes=THUMBNAILS_BUDGET_BYTES)

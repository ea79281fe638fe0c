"""The report of two runs against each other: its numbers, its charts and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from VideoMAE.reporting.chart_style import Chart
from VideoMAE.reporting.comparison_numbers import compare_emotions, compare_preferences, only_one_has
from VideoMAE.reporting.comparison_page import NAMES, render_comparison
from VideoMAE.reporting.curve_numbers import curves
from VideoMAE.reporting.metric_charts import (
    Curves,
    Row,
    Scale,
    curve_charts,
    differences_chart,
    interval_figure,
    mark_of,
)
from VideoMAE.reporting.metric_numbers import Resampling
from VideoMAE.reporting.run_files import Run, emotion_test, preference_test, read_dataset
from VideoMAE.reporting.run_report import Looks, publish, without_pictures
from VideoMAE.reporting.words import digits_of, number, signed

EMOTION_ROW_INCHES = 0.225
MAX_EMOTIONS = 40


def report_comparison(
    runs: Sequence[Run], output_dir: Path, *, data_path: Path | None, resampling: Resampling, looks: Looks
) -> Path:
    """Write the comparison of two runs -> its page.

    Raises:
        ValueError: they are of two tasks, were tested on different labels or have nothing in common, or one has no
        test results.
    """
    if runs[0].task != runs[1].task:
        tasks = " and ".join(f"{run.folder} is of {run.task.upper()}" for run in runs)
        raise ValueError(f"only runs of the same task can be compared: {tasks}")
    untested = [str(run.folder) for run in runs if run.results is None]
    if untested:
        raise ValueError(f"{' and '.join(untested)}: has no test results to compare; the test has not finished")
    datasets = [read_dataset(run, data_path=data_path) for run in runs]
    both = list(zip(runs, datasets, strict=True))
    if runs[0].task == "vce":
        test = compare_emotions(runs, [emotion_test(run, dataset) for run, dataset in both], resampling)
    else:
        test = compare_preferences(runs, [preference_test(run, dataset) for run, dataset in both], resampling)
    for key in ("better_in_a", "better_in_b"):
        test[key] = test[key][: looks.num_examples]
    numbers: dict[str, Any] = {
        "runs": {
            who: {"name": run.name, "run": str(run.folder.resolve())} for who, run in zip("ab", runs, strict=True)
        },
        "task": runs[0].task,
        "notes": without_pictures(datasets[1]),
        "curves": {who: curves(run) for who, run in zip("ab", runs, strict=True)},
        "test": test,
        "only": {
            "a": only_one_has(runs[0], runs[1], name_of_other=NAMES["b"]),
            "b": only_one_has(runs[1], runs[0], name_of_other=NAMES["a"]),
        },
    }
    charts = [differences_chart(test["metrics"], headline(test["metrics"])), *emotion_differences(test["emotions"])]
    charts += curve_charts([Curves(NAMES[who], numbers["curves"][who]) for who in "ab"])
    paths = {**datasets[0].paths, **datasets[1].paths}
    return publish(numbers, charts, output_dir, paths=paths, looks=looks, render=render_comparison)


def headline(metrics: Mapping[str, Any]) -> str:
    """What the first metric says."""
    entry = next(iter(metrics.values()))
    found = entry["difference"]
    name, digits = entry["title"].capitalize(), digits_of(entry["unit"])
    around = f"{signed(found['low'], digits)} to {signed(found['high'], digits)}"
    if found["low"] <= 0 <= found["high"]:
        return f"{name}: no clear difference, {signed(found['value'], digits)} points ({around})"
    better = "B" if found["value"] > 0 else "A"
    return f"{name}: {better} is better, {signed(found['value'], digits)} points for B ({around})"


def emotion_differences(emotions: Mapping[str, Any]) -> list[Chart]:
    """How much better each emotion's predictions follow the truth."""
    known = [name for name in emotions if emotions[name]["difference"]["value"] is not None]
    if not known:
        return []
    names = sorted(known, key=lambda name: -emotions[name]["difference"]["value"])[:MAX_EMOTIONS]
    first, last = (emotions[name]["difference"]["value"] for name in (names[0], names[-1]))
    title = f"Correlation changes from {names[0]}, {signed(first, 2)}, to {names[-1]}, {signed(last, 2)}"
    rows = [Row(name, [mark_of("", 0, emotions[name]["difference"])]) for name in names]
    scale = Scale("Pearson correlation, B minus A", "")
    clear = sum((emotions[name]["difference"]["low"] or 0) > 0 for name in known)
    worse = sum((emotions[name]["difference"]["high"] or 0) < 0 for name in known)
    caption = (
        f"With 95 % intervals of the paired bootstrap. Of {number(len(known), 0)} emotions, B follows {clear} clearly "
        f"better and {worse} clearly worse."
    )
    return [
        Chart(
            "emotion_differences", title, caption,
            lambda theme: interval_figure(theme, title, {scale: rows}, zero=True, row_inches=EMOTION_ROW_INCHES),
        )
    ]  # fmt: skip

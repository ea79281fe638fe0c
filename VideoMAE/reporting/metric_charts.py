"""Charts of every report: metrics with their intervals, and the curves of training."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from VideoMAE.reporting.chart_style import Chart, Theme, add_legend, label_axes, new_figure, styled, titled_figure
from VideoMAE.reporting.words import number, the_epoch

ROW_INCHES, AXIS_INCHES = 0.36, 0.55
LABEL_LETTERS = 26
ACCURACIES = {"val_acc1": "top-1", "val_acc3": "top-3", "val_acc5": "top-5", "val_pair_accuracy": "pair accuracy"}


class Scale(NamedTuple):
    """What an axis is of: metrics of one unit share one, others each have their own. `label` stands below it."""

    label: str
    what: str


class Mark(NamedTuple):
    """A value with its interval, drawn in a row; `series` is a place among the theme's colours, -1 a grey one."""

    label: str
    series: int
    value: float | None
    low: float | None
    high: float | None


class Row(NamedTuple):
    """A metric by name, and what to draw of it, the most important first."""

    label: str
    marks: list[Mark]


def mark_of(label: str, series: int, estimate: Mapping[str, Any]) -> Mark:
    return Mark(label, series, estimate["value"], estimate["low"], estimate["high"])


def interval_figure(
    theme: Theme,
    title: str,
    groups: Mapping[Scale, Sequence[Row]],
    *,
    zero: bool = False,
    row_inches: float = ROW_INCHES,
) -> Figure:
    """Rows of dots with intervals, one axis for each group; `zero` draws the line of no difference."""
    num_rows = sum(len(rows) for rows in groups.values())
    figure = titled_figure(theme, title, height=0.5 + row_inches * num_rows + AXIS_INCHES * len(groups))
    ratios = [row_inches * len(rows) + 0.1 for rows in groups.values()]
    grid = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for axes, (scale, rows) in zip(grid[:, 0], groups.items(), strict=True):
        draw_rows(styled(axes, theme), theme, rows)
        if zero:
            axes.axvline(0, color=theme.muted, lw=1)
        label_axes(axes, theme, x=scale.label)
    if num_rows and any(mark.label for rows in groups.values() for row in rows for mark in row.marks):
        add_legend(figure, grid[0, 0], theme)
    return figure


def draw_rows(axes: Axes, theme: Theme, rows: Sequence[Row]) -> None:
    named: set[str] = set()
    for place, row in enumerate(rows):
        step = 0.5 / max(len(row.marks), 1)
        for index, mark in enumerate(row.marks):
            if mark.value is None:
                continue
            height = place + (index - (len(row.marks) - 1) / 2) * step
            colour = theme.muted if mark.series < 0 else theme.series[mark.series]
            if mark.low is not None and mark.high is not None:
                axes.plot(
                    [mark.low, mark.high], [height, height], color=colour, lw=2, alpha=0.55, solid_capstyle="round"
                )
            axes.plot(
                [mark.value], [height], ls="", marker="D" if mark.series < 0 else "o", ms=4 if mark.series < 0 else 5.5,
                color=colour, label="" if mark.label in named else mark.label, mec=theme.background, mew=0.6, zorder=3,
            )  # fmt: skip
            named.add(mark.label)
    axes.set_yticks(range(len(rows)), [textwrap.fill(row.label, LABEL_LETTERS) for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def scale_of(entry: Mapping[str, Any]) -> Scale:
    return Scale(entry["unit"], entry["unit"] or entry["title"])


def scale_of_difference(entry: Mapping[str, Any]) -> Scale:
    unit = "percentage points" if entry["unit"] == "%" else entry["unit"]
    return Scale(f"difference, {unit}" if unit else "difference", scale_of(entry).what)


def grouped(rows: Sequence[tuple[Scale, Row]]) -> dict[Scale, list[Row]]:
    """Rows by their scale, in order."""
    groups: dict[Scale, list[Row]] = {}
    for scale, row in rows:
        groups.setdefault(scale, []).append(row)
    return groups


GUESSES = {"model": 0, "majority_guess": 1, "chance": -1}


def metrics_chart(metrics: Mapping[str, Any], title: str) -> Chart:
    """A run's metrics beside those of guesses."""
    answerers = [who for who in GUESSES if any(who in entry for entry in metrics.values())]
    rows = [
        (
            scale_of(entry),
            Row(
                entry["title"],
                [mark_of(who.replace("_", " "), GUESSES[who], entry[who]) for who in answerers if who in entry],
            ),
        )
        for entry in metrics.values()
    ]
    caption = "Dots: the test's values. Lines: 95 % intervals. Of losses and errors, lower is better."
    return Chart("metrics", title, caption, lambda theme: interval_figure(theme, title, grouped(rows)))


def differences_chart(metrics: Mapping[str, Any], title: str) -> Chart:
    """How much higher the second run's metrics are."""
    rows = [
        (scale_of_difference(entry), Row(entry["title"], [mark_of("", 0, entry["difference"])]))
        for entry in metrics.values()
    ]
    caption = (
        "B minus A, with 95 % intervals of the paired bootstrap. Where the interval does not reach 0, other test "
        "videos would hardly turn the difference round. Of losses and errors, lower is better."
    )
    return Chart("differences", title, caption, lambda theme: interval_figure(theme, title, grouped(rows), zero=True))


class Curves(NamedTuple):
    """A run's name in the legend, none if it is alone, and its curves as `curve_numbers.curves` gives them."""

    label: str
    content: Mapping[str, Any]


def curve_charts(runs: Sequence[Curves]) -> list[Chart]:
    """Loss, validation accuracy and learning rate over the epochs, of one run or overlaid of two."""
    runs = [run for run in runs if run.content]
    if not runs:
        return []
    charts = [loss_chart(runs)]
    if any(line.get(name) is not None for run in runs for line in run.content["epochs"] for name in ACCURACIES):
        charts.append(accuracy_chart(runs))
    return [*charts, rate_chart(runs)]


def column(run: Curves, name: str) -> tuple[list[float], list[float]]:
    """A value of the epochs that have it, after how many epochs."""
    lines = [line for line in run.content["epochs"] if line.get(name) is not None]
    return [line["epochs_done"] for line in lines], [line[name] for line in lines]


def step_column(run: Curves, name: str) -> tuple[list[float], list[float]]:
    lines = [line for line in run.content["steps"] if line[name] is not None]
    return [line["epoch"] for line in lines], [line[name] for line in lines]


def named(run: Curves, what: str) -> str:
    return f"{run.label}, {what}" if run.label else what


def loss_chart(runs: Sequence[Curves]) -> Chart:
    found = []
    for run in runs:
        _, losses = column(run, "train_loss")
        who = f"{run.label}: " if run.label else ""
        found.append(f"{who}{number(losses[0], 3)} to {number(losses[-1], 3)}")
    title = f"Training loss, first to last epoch: {'; '.join(found)}"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=2.7)
        for place, run in enumerate(runs):
            axes.plot(*step_column(run, "loss"), color=theme.series[place], lw=0.8, alpha=0.35)
            points = column(run, "train_loss")
            axes.plot(*points, color=theme.series[place], lw=1.8, marker="o", ms=3, label=named(run, "training"))
            held_out = column(run, "val_bce")
            if held_out[0]:
                colour = theme.series[place if len(runs) > 1 else 1]
                axes.plot(*held_out, color=colour, lw=1.6, ls="--", label=named(run, "validation"))
        finish(figure, axes, theme, y="loss")
        return figure

    caption = "Thick: means of the epochs. Thin: steps, a few together."
    if any(column(run, "val_bce")[0] for run in runs):
        caption += " Dashed: cross-entropy of the held-out videos."
    return Chart("curves_loss", title, caption, draw)


def accuracy_chart(runs: Sequence[Curves]) -> Chart:
    names = [name for name in ACCURACIES if column(runs[0], name)[0]]
    chosen = names if len(runs) == 1 else names[:1]
    best = [the_epoch(run.label, ACCURACIES[chosen[0]], *column(run, chosen[0])) for run in runs]
    held_out = "pairs" if chosen[0] == "val_pair_accuracy" else "videos"
    title = f"On held-out {held_out}, {'; '.join(best)}"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=2.7)
        for place, run in enumerate(runs):
            for index, name in enumerate(chosen):
                label = named(run, ACCURACIES[name])
                colour = theme.series[(place + index) % len(theme.series)]
                axes.plot(*column(run, name), color=colour, lw=1.8, marker="o", ms=3.5, label=label)
        finish(figure, axes, theme, y=f"% of held-out {held_out}")
        return figure

    return Chart("curves_validation", title, "The first of these chose the epoch whose weights were tested.", draw)


def rate_chart(runs: Sequence[Curves]) -> Chart:
    peaks = [max(column(run, "lr")[1], default=0.0) for run in runs]
    title = f"Learning rate of the head, up to {' and '.join(f'{peak:.3g}' for peak in dict.fromkeys(peaks))}"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=2.0)
        for place, run in enumerate(runs):
            points = step_column(run, "lr")
            label = run.label or "learning rate"
            axes.plot(*(points if points[0] else column(run, "lr")), color=theme.series[place], lw=1.8, label=label)
        finish(figure, axes, theme, y="learning rate")
        return figure

    return Chart("curves_learning_rate", title, "Earlier layers may learn more slowly (--layer_decay).", draw)


def finish(figure: Figure, axes: Axes, theme: Theme, *, y: str) -> None:
    label_axes(axes, theme, x="epochs", y=y, grid="both")
    axes.margins(x=0.02)
    if len(axes.get_legend_handles_labels()[0]) > 1:
        add_legend(figure, axes, theme)

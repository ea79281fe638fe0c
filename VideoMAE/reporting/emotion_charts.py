"""The charts of a tested VCE run, drawn from its numbers; each title states what its chart finds."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from VideoMAE.reporting.chart_style import (
    WIDE_INCHES,
    Chart,
    Theme,
    add_legend,
    heat_map,
    label_axes,
    new_figure,
    plot_dots,
    sequential,
    styled,
    titled_figure,
)
from VideoMAE.reporting.words import counted, number

MAX_EMOTIONS = 40  # in a chart: of more, those that come first most often
NUM_COLUMNS = 6
NUM_NAMED = 8
NO_BIAS = 0.0005


def emotion_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    """Correlation, calibration and confusion."""
    charts = [overall_calibration(numbers), first_places(numbers), calibration_by_emotion(numbers), confusion(numbers)]
    if any(found["pearson"]["value"] is not None for found in numbers["emotions"].values()):
        charts.insert(1, correlation(numbers))
    return charts


def shown(numbers: Mapping[str, Any]) -> list[str]:
    """The emotions that a chart has room for."""
    found = numbers["emotions"]
    return sorted(found, key=lambda name: -found[name]["num_first"])[:MAX_EMOTIONS]


def correlation(numbers: Mapping[str, Any]) -> Chart:
    found = numbers["emotions"]
    names = sorted(
        (name for name in shown(numbers) if found[name]["pearson"]["value"] is not None),
        key=lambda name: -found[name]["pearson"]["value"],
    )
    values = [found[name]["pearson"]["value"] for name in names]
    best, worst = number(values[0], 2), number(values[-1], 2)
    title = f"{names[0]} is predicted best (r = {best}), {names[-1]} worst ({worst})"
    if len(names) == 1:
        title = f"Predicted and true {names[0]} correlate with r = {number(values[0], 2)}"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=1.1 + 0.225 * len(names))
        places = np.arange(len(names))
        for place, name in enumerate(names):
            low, high = found[name]["pearson"]["low"], found[name]["pearson"]["high"]
            if low is not None:
                axes.plot([low, high], [place, place], color=theme.soft, lw=5, solid_capstyle="round", zorder=1)
        axes.plot(values, places, ls="", marker="o", ms=5.5, color=theme.series[0], label="Pearson", zorder=2)
        plot_dots(axes, theme, [found[name]["spearman"] for name in names], places, label="Spearman (ranks)")
        axes.axvline(0, color=theme.muted, lw=1)
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        label_axes(axes, theme, x="correlation of predicted and true values over videos")
        add_legend(figure, axes, theme)
        return figure

    caption = (
        "How each emotion's predictions go with the truth over the test videos, with 95 % intervals of the Pearson "
        "correlation. Emotions that do not vary in the test are left out."
    )
    return Chart("correlation", title, caption, draw)


def first_places(numbers: Mapping[str, Any]) -> Chart:
    found = numbers["emotions"]
    names = shown(numbers)
    total = sum(entry["num_first"] for entry in found.values())
    true, said = ([100 * found[name][key] / total for name in names] for key in ("num_first", "num_said_first"))
    excess = np.array(said) - np.array(true)
    most, least = names[int(excess.argmax())], names[int(excess.argmin())]
    title = f"Predicted too often: {most} ({_both(found[most])}); too rarely: {least} ({_both(found[least])})"
    if not excess.any():
        title = "Each emotion is predicted to come first as often as it does"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=1.1 + 0.225 * len(names))
        places = np.arange(len(names))
        axes.barh(places, true, 0.78, color=theme.soft, label="true")
        plot_dots(axes, theme, said, places, label="predicted")
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        label_axes(axes, theme, x="% of the test videos")
        add_legend(figure, axes, theme)
        return figure

    caption = "How often each emotion is the most intense one of a test video, and how often it is predicted to be."
    return Chart("first_places", title, caption, draw)


def _both(entry: Mapping[str, Any]) -> str:
    return f"{entry['num_said_first']:,}, truly {entry['num_first']:,}"


def overall_calibration(numbers: Mapping[str, Any]) -> Chart:
    found = numbers["calibration"]["overall"]
    predicted, true, counts = (np.array(found[key]) for key in ("predicted", "true", "counts"))
    bias = found["bias"]
    direction = "too high" if bias > 0 else "too low"
    title = f"Predictions are {number(abs(bias), 3)} {direction} on average; calibration error {found['error']:.3f}"
    if abs(bias) < NO_BIAS:
        title = f"Predictions are right on average; calibration error {found['error']:.3f}"

    def draw(theme: Theme) -> Figure:
        figure = titled_figure(theme, title, height=4.3)
        top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        draw_reliability(styled(top, theme), theme, predicted, true)
        label_axes(top, theme, y=f"true {numbers['says']}", grid="both")
        edges = np.arange(numbers["calibration"]["num_bins"]) / numbers["calibration"]["num_bins"]
        places = np.minimum((predicted * len(edges)).astype(int), len(edges) - 1)
        styled(bottom, theme).bar(
            edges[places], 100 * counts / counts.sum(), 0.9 / len(edges), align="edge", color=theme.soft
        )
        bottom.set_yscale("log")
        bottom.yaxis.set_major_formatter("{x:g}")
        bottom.minorticks_off()
        label_axes(bottom, theme, x=f"predicted {numbers['says']}", y="% of predictions", grid="y")
        return figure

    caption = (
        f"All emotions of all videos, in {numbers['calibration']['num_bins']} bins of the prediction. On the line, "
        "predictions mean what they say. Below, how many there are, on a logarithmic scale. The calibration error is "
        "the mean distance from the line."
    )
    return Chart("calibration", title, caption, draw)


def draw_reliability(axes: Axes, theme: Theme, predicted: np.ndarray, true: np.ndarray, *, size: float = 5.5) -> None:
    """Dots of bins and the line on which both are equal."""
    limit = max(float(np.max(predicted)), float(np.max(true)), 0.05) * 1.06
    axes.plot([0, limit], [0, limit], color=theme.muted, lw=1, ls=":")
    axes.plot(predicted, true, color=theme.series[0], marker="o", ms=size, lw=1.2, mec=theme.background, mew=0.5)
    axes.set_xlim(0, limit)
    axes.set_ylim(0, limit)


def calibration_by_emotion(numbers: Mapping[str, Any]) -> Chart:
    found = numbers["calibration"]["by_emotion"]
    names = sorted(shown(numbers), key=lambda name: -found[name]["error"])
    errors = {name: f"{found[name]['error']:.3f}" for name in names}
    title = f"Worst calibrated: {', '.join(f'{name} ({errors[name]})' for name in names[:3])}"
    num_columns = min(NUM_COLUMNS, len(names))
    num_rows = -(-len(names) // num_columns)

    def draw(theme: Theme) -> Figure:
        figure = titled_figure(theme, title, height=0.5 + 1.32 * num_rows, width=WIDE_INCHES)
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            bins = found[name]
            draw_reliability(styled(axes, theme), theme, np.array(bins["predicted"]), np.array(bins["true"]), size=3.2)
            axes.set_title(textwrap.shorten(name, 22, placeholder="…"), fontsize=7.5, color=theme.ink, pad=3)
            axes.set_box_aspect(1)
            limit = axes.get_xlim()[1]
            ticks = [tick for tick in MaxNLocator(2, steps=[1, 2, 5, 10]).tick_values(0, limit) if tick <= limit]
            axes.set_xticks(ticks)
            axes.set_yticks(ticks[1:])
            axes.tick_params(labelsize=6.5, pad=1)
            axes.grid(color=theme.grid, lw=0.6)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        figure.supxlabel(f"predicted {numbers['says']}", fontsize=8.5, color=theme.muted)
        figure.supylabel(f"true {numbers['says']}", fontsize=8.5, color=theme.muted)
        return figure

    caption = (
        "Each emotion's predictions in bins of equally many videos, the worst calibrated first; each has its own "
        "scale. Above the dotted line predictions are too low, below it too high; where it is flat they say nothing."
    )
    notes = {"Worst": [f"{name}: {errors[name]}" for name in names[:NUM_NAMED]]}
    return Chart("calibration_by_emotion", title, caption, draw, is_wide=True, notes=notes)


def confusion(numbers: Mapping[str, Any]) -> Chart:
    names = numbers["confusion"]["emotions"][:MAX_EMOTIONS]
    counts = np.array(numbers["confusion"]["counts"], dtype=float)[: len(names), : len(names)]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    mistaken = np.where(np.eye(len(names), dtype=bool), 0, counts)
    order = [place for place in np.argsort(-mistaken, axis=None, kind="stable")[:NUM_NAMED] if mistaken.flat[place] > 0]
    pairs = [(int(place) // len(names), int(place) % len(names)) for place in order]
    said = [f"{names[row]} → {names[column]}: {counted(int(counts[row, column]), 'video')}" for row, column in pairs]
    title = "No emotion is taken for another one"
    if pairs:
        row, column = pairs[0]
        title = (
            f"Most often mistaken: {names[row]} for {names[column]}, in {counted(int(counts[row, column]), 'video')}"
        )

    def draw(theme: Theme) -> Figure:
        return heat_map(
            theme, title, shares, names, colours=sequential(theme), norm=Normalize(0, np.nanmax(shares, initial=1)),
            legend="% of the row's videos", x="predicted as most intense", y="truly the most intense",
        )  # fmt: skip

    caption = (
        "Of the videos whose most intense emotion is the row's, how many are predicted to have the column's as theirs; "
        "on the diagonal, those that are right. Emotions that come first in neither are left out, the commonest is on "
        "top; a blank row comes first in predictions only."
    )
    notes = {"Most often": said} if said else {}
    return Chart("confusion", title, caption, draw, is_wide=True, notes=notes)

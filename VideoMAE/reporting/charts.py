"""The kinds of charts of pages.

Each kind is a function that returns a `Chart`, whose `draw(theme)` makes the matplotlib figure. Its first three
arguments are the chart's name (also that of its PNG file), its title, which states the finding, and its caption.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MaxNLocator
from numpy.typing import ArrayLike

from VideoMAE.reporting.chart_style import WIDE_INCHES, Chart, Theme, add_legend, label_axes, new_figure

ROW_INCHES = 0.225  # of charts with one row per emotion
MAX_EMOTIONS = 40  # in one chart

Arguments = ParamSpec("Arguments")


def chart_kind(
    draw: Callable[Concatenate[Theme, str, Arguments], Figure],
) -> Callable[Concatenate[str, str, str, Arguments], Chart]:
    """Makes a drawing function (theme, title, ...) a kind of chart: (name, title, caption, ...) -> Chart"""

    @wraps(draw)
    def make(name: str, title: str, caption: str, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Chart:
        return Chart(name, title, caption, lambda theme: draw(theme, title, *args, **kwargs))

    return make


class Mark(NamedTuple):
    """A value with its interval, as `bootstrap.estimate` returns it; `series` is a color of the theme, -1 for gray."""

    label: str | None
    series: int
    estimate: Mapping[str, Any]


Rows = Mapping[str, Sequence[Mark]]


@chart_kind
def interval_chart(
    theme: Theme, title: str, groups: Sequence[tuple[str, Rows]], *, zero: bool = False, row_inches: float = 0.36
) -> Figure:
    """Dots with intervals in rows, on one axis per group (axis label, rows); `zero` draws a line at 0."""
    heights = [row_inches * len(rows) + 0.1 for _, rows in groups]
    figure, grid = new_figure(
        theme,
        title,
        height=0.5 + sum(heights) + 0.45 * len(groups),
        rows=len(groups),
        gridspec_kw={"height_ratios": heights},
    )
    for axes, (x_label, rows) in zip(grid, groups, strict=True):
        labelled = set()
        for place, marks in enumerate(rows.values()):
            for index, (label, series, estimate) in enumerate(marks):
                value, low, high = (estimate[key] for key in ("value", "low", "high"))
                if value is None:
                    continue
                height = place + (index - (len(marks) - 1) / 2) * 0.5 / len(marks)
                color = theme.muted if series < 0 else theme.series[series]
                if low is not None and high is not None:
                    axes.plot([low, high], [height, height], color=color, lw=2, alpha=0.55, solid_capstyle="round")
                axes.plot(
                    [value],
                    [height],
                    ls="",
                    marker="D" if series < 0 else "o",
                    ms=4 if series < 0 else 5.5,
                    color=color,
                    label=None if label in labelled else label,
                    mec=theme.background,
                    mew=0.6,
                    zorder=3,
                )
                labelled.add(label)
        label_axes(axes, theme, x=x_label, rows=[textwrap.fill(name, 26) for name in rows])
        axes.margins(x=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        if zero:
            axes.axvline(0, color=theme.muted, lw=1)
    add_legend(figure, grid[0], theme)
    return figure


@chart_kind
def bars_and_dots(
    theme: Theme,
    title: str,
    rows: Sequence[str],
    *,
    bars: Mapping[str, ArrayLike],
    dots: Mapping[str, ArrayLike],
    x: str,
) -> Figure:
    """One row per emotion: one or two overlapping bars by label, the last in the foreground, and dots by label."""
    figure, (axes,) = new_figure(theme, title, height=1.1 + ROW_INCHES * len(rows))
    for (label, values), color in zip(bars.items(), (theme.soft, theme.series[0]), strict=False):
        axes.barh(range(len(rows)), values, 0.78, color=color, label=label)
    for label, values in dots.items():
        _dots(axes, theme, values, label)
    label_axes(axes, theme, x=x, rows=rows)
    add_legend(figure, axes, theme)
    return figure


def _dots(axes: Axes, theme: Theme, x: ArrayLike, label: str) -> None:
    """A dot per row in the second color, with a rim that separates it from the bars below."""
    axes.plot(
        x,
        range(np.size(x)),
        ls="",
        marker="o",
        ms=4.6,
        mec=theme.background,
        mew=0.8,
        color=theme.series[1],
        label=label,
        clip_on=False,
        zorder=3,
    )


@chart_kind
def grouped_bars(
    theme: Theme,
    title: str,
    rows: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    x: str,
    y: str = "",
    colors: Mapping[str, int] | None = None,
) -> Figure:
    """Horizontal bars in percent with their values, one bar per row and series; `colors` are indices by series."""
    figure, (axes,) = new_figure(theme, title, height=0.9 + len(rows) * (0.1 + 0.17 * len(series)))
    height = 0.8 / len(series)
    largest = max(max(values) for values in series.values())
    for number, (label, values) in enumerate(series.items()):
        places = np.arange(len(rows)) + (number - (len(series) - 1) / 2) * height
        color = theme.series[colors[label] if colors else number]
        axes.barh(places, values, height=0.88 * height, color=color, label=label if len(series) > 1 else None)
        for place, value in zip(places, values, strict=True):
            if value:
                text = f"{value:.1f}" if value >= 0.1 else "<0.1"
                axes.text(value + 0.012 * largest, place, text, va="center", fontsize=7.5, color=theme.muted)
    axes.set_xlim(0, 1.12 * largest)
    label_axes(axes, theme, x=x, y=y, rows=rows)
    add_legend(figure, axes, theme)
    return figure


@chart_kind
def histogram(
    theme: Theme,
    title: str,
    edges: np.ndarray,
    *,
    x: str,
    y: str,
    filled: Mapping[str, ArrayLike],
    outlined: Mapping[str, ArrayLike] = {},
    marks: Mapping[str, float] = {},
) -> Figure:
    """Histograms over the same bin edges (B + 1,), filled and as outlines; `marks` are vertical lines by label."""
    figure, (axes,) = new_figure(theme, title, height=2.6)
    for label, values in filled.items():
        axes.stairs(np.asarray(values), edges, fill=True, color=theme.soft, label=label)
    for place, (label, values) in enumerate(outlined.items()):
        axes.stairs(np.asarray(values), edges, color=theme.series[place], lw=1.8, label=label)
    for label, value in marks.items():
        axes.axvline(value, color=theme.series[1], lw=1.4)
        axes.text(
            value,
            1.02,
            label,
            transform=axes.get_xaxis_transform(),
            fontsize=7.5,
            color=theme.muted,
            ha="right" if len(marks) > 1 and value == min(marks.values()) else "left",
        )
    label_axes(axes, theme, x=x, y=y, grid="y")
    add_legend(figure, axes, theme)
    return figure


class Line(NamedTuple):
    """A curve; `kind` is a key of LINE_STYLES."""

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    label: str
    series: int
    kind: str = "curve"


LINE_STYLES: dict[str, dict[str, Any]] = {
    "curve": {"lw": 1.8, "marker": "o", "ms": 3},
    "steps": {"lw": 0.8, "alpha": 0.35},
    "dashed": {"lw": 1.6, "ls": "--"},
    "plain": {"lw": 1.8},
}


@chart_kind
def line_chart(
    theme: Theme,
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    height: float = 2.7,
    y_limits: tuple[float | None, float | None] = (None, None),
    level: float | None = None,
    intervals: Sequence[Mapping[str, Any]] = (),
) -> Figure:
    """Curves; `level` is a dotted horizontal line, `intervals` are drawn around the points of the first curve."""
    figure, (axes,) = new_figure(theme, title, height=height)
    for at, entry in zip(lines[0].x, intervals, strict=False):
        if entry["low"] is not None:
            bounds = [entry["low"], entry["high"]]
            axes.plot([at, at], bounds, color=theme.soft, lw=4, solid_capstyle="round", zorder=1)
    for line in lines:
        axes.plot(line.x, line.y, color=theme.series[line.series], label=line.label, **LINE_STYLES[line.kind])
    if level is not None:
        axes.axhline(level, color=theme.muted, lw=1, ls=":")
    axes.set_ylim(*y_limits)
    axes.margins(x=0.02)
    label_axes(axes, theme, x=x, y=y, grid="both")
    if sum(bool(line.label) for line in lines) > 1:
        add_legend(figure, axes, theme)
    return figure


def heat_map(
    name: str,
    title: str,
    caption: str,
    values: np.ndarray,
    names: Sequence[str],
    *,
    limit: float,
    legend: str,
    diverging: bool = False,
    x: str = "",
    y: str = "",
    notes: Mapping[str, list[str]] = {},
) -> Chart:
    """A matrix (K, K) as colors from 0 to `limit`, or from -limit to limit if `diverging`; NaN is blank."""

    def draw(theme: Theme) -> Figure:
        side = max(4.2, ROW_INCHES * len(names))
        figure, (axes,) = new_figure(theme, title, height=side + 1.75, width=max(WIDE_INCHES, side + 2))
        colors: Colormap = LinearSegmentedColormap.from_list("sequential", theme.scale)
        if diverging:
            colors = LinearSegmentedColormap.from_list("diverging", [theme.series[0], theme.background, theme.high])
            colors = colors.with_extremes(bad=theme.grid)
        edges = np.arange(len(names) + 1) - 0.5
        norm = Normalize(-limit if diverging else 0, limit)
        mesh = axes.pcolormesh(edges, edges, values, cmap=colors, norm=norm, edgecolors=theme.background, lw=0.6)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(labelsize=8)
        label_axes(axes, theme, x=x, y=y, grid="")
        _add_color_bar(figure, axes, mesh, theme, legend)
        return figure

    return Chart(name, title, caption, draw, is_wide=True, notes=dict(notes))


@chart_kind
def distribution_rows(
    theme: Theme, title: str, shares: np.ndarray, rows: Sequence[str], means: Sequence[float], *, x: str
) -> Figure:
    """One histogram of [0, 1] per row as colors on a logarithmic scale, and its mean. shares (K, B) in percent"""
    figure, (axes,) = new_figure(theme, title, height=1.1 + ROW_INCHES * len(rows))
    mesh = axes.pcolormesh(
        np.linspace(0, 1, shares.shape[1] + 1),
        np.arange(len(rows) + 1) - 0.5,
        np.ma.masked_equal(shares, 0),
        cmap=LinearSegmentedColormap.from_list("sequential", theme.scale),
        edgecolors=theme.background,
        lw=0.3,
        norm=LogNorm(min(1.0, shares[shares > 0].min()), 100),
    )
    _dots(axes, theme, means, "mean")
    label_axes(axes, theme, x=x, grid="", rows=rows)
    _add_color_bar(figure, axes, mesh, theme, "% of the videos")
    add_legend(figure, axes, theme)
    return figure


def _add_color_bar(figure: Figure, axes: Axes, mesh: ScalarMappable, theme: Theme, label: str) -> None:
    bar = figure.colorbar(mesh, ax=axes, shrink=0.5, aspect=26, pad=0.02, format=FormatStrFormatter("%g"))
    bar.ax.minorticks_off()
    bar.ax.spines["outline"].set_visible(False)
    bar.ax.tick_params(colors=theme.muted, labelcolor=theme.ink, labelsize=8, length=0)
    bar.set_label(label, color=theme.muted, fontsize=8.5)


Bins = Mapping[str, np.ndarray]
"""Mean prediction, mean truth and count of each bin: "predicted", "true", "counts" (B,)."""


@chart_kind
def reliability_chart(theme: Theme, title: str, bins: Bins, *, num_bins: int, quantity: str) -> Figure:
    """A reliability diagram of bins of equal width in [0, 1], with the share of each bin below."""
    ratios = {"height_ratios": [3, 1]}
    figure, (top, bottom) = new_figure(theme, title, height=4.3, rows=2, sharex=True, gridspec_kw=ratios)
    _draw_reliability(top, theme, bins, 5.5)
    label_axes(top, theme, y=f"true {quantity}", grid="both")
    left = np.minimum((bins["predicted"] * num_bins).astype(int), num_bins - 1) / num_bins
    shares = 100 * bins["counts"] / bins["counts"].sum()
    bottom.bar(left, shares, 0.9 / num_bins, align="edge", color=theme.soft)
    bottom.set_yscale("log")
    bottom.yaxis.set_major_formatter("{x:g}")
    bottom.minorticks_off()
    label_axes(bottom, theme, x=f"predicted {quantity}", y="% of predictions", grid="y")
    return figure


@chart_kind
def reliability_grid(theme: Theme, title: str, bins: Mapping[str, Bins], *, quantity: str) -> Figure:
    """A small reliability diagram for each name, in rows of six."""
    num_columns = min(6, len(bins))
    num_rows = -(-len(bins) // num_columns)
    height = 0.5 + 1.32 * num_rows
    figure, grid = new_figure(theme, title, height=height, width=WIDE_INCHES, rows=num_rows, columns=num_columns)
    for axes, (label, entry) in zip(grid, bins.items(), strict=False):
        _draw_reliability(axes, theme, entry, 3.2)
        axes.set_title(textwrap.shorten(label, 22, placeholder="…"), fontsize=7.5, color=theme.ink, pad=3)
        axes.set_box_aspect(1)
        limit = axes.get_xlim()[1]
        ticks = [tick for tick in MaxNLocator(2, steps=[1, 2, 5, 10]).tick_values(0, limit) if tick <= limit]
        axes.set_xticks(ticks)
        axes.set_yticks(ticks[1:])
        axes.tick_params(labelsize=6.5, pad=1)
        axes.grid(color=theme.grid, lw=0.6)
    for axes in grid[len(bins) :]:
        axes.set_visible(False)
    figure.supxlabel(f"predicted {quantity}", fontsize=8.5, color=theme.muted)
    figure.supylabel(f"true {quantity}", fontsize=8.5, color=theme.muted)
    return figure


def _draw_reliability(axes: Axes, theme: Theme, bins: Bins, size: float) -> None:
    limit = max(np.max(bins["predicted"]), np.max(bins["true"]), 0.05) * 1.06
    axes.plot([0, limit], [0, limit], color=theme.muted, lw=1, ls=":")
    axes.plot(
        bins["predicted"],
        bins["true"],
        color=theme.series[0],
        marker="o",
        ms=size,
        lw=1.2,
        mec=theme.background,
        mew=0.5,
    )
    axes.set_xlim(0, limit)
    axes.set_ylim(0, limit)

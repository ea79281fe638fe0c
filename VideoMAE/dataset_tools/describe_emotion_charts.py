"""The charts of emotions, drawn from their numbers; each title states what its chart finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from VideoMAE.dataset_tools.describe_numbers import NUM_BINS
from VideoMAE.reporting.chart_style import (
    Chart,
    Theme,
    add_legend,
    add_scale,
    diverging,
    heat_map,
    label_axes,
    new_figure,
    plot_dots,
    sequential,
)

NUM_NAMED = 8  # pairs of emotions named beside a table
MAX_EMOTIONS = 40  # in a chart: of more, the commonest


def emotion_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    names = shown_emotions(numbers)
    left_out = len(numbers["emotions"]) - len(names)
    note = f" The {left_out} least common emotions are left out." if left_out else ""
    charts = [top_emotions(numbers, names), intensities(numbers, names)]
    if len(names) > 1:
        charts.append(correlation(numbers, names))
    if len(names) > 3:  # of three or fewer, all are always among the three most intense
        charts.append(together_in_top3(numbers, names))
    return [chart._replace(caption=chart.caption + note) for chart in charts]


def shown_emotions(numbers: Mapping[str, Any]) -> list[str]:
    """The commonest emotions, by how often each is the most intense one in training."""
    counts = np.array(numbers["top1_counts"]["train"])
    return [numbers["emotions"][index] for index in np.argsort(-counts, kind="stable")[:MAX_EMOTIONS]]


def places_of(numbers: Mapping[str, Any], names: Sequence[str]) -> list[int]:
    return [numbers["emotions"].index(name) for name in names]


def top_emotions(numbers: Mapping[str, Any], names: Sequence[str]) -> Chart:
    shares = {
        (rank, split): 100 * np.array(counts)[places_of(numbers, names)] / numbers["num_videos"][split]
        for rank in ("top1", "top3")
        for split, counts in numbers[f"{rank}_counts"].items()
    }
    title = f"{names[0]} comes first most often: in {shares['top1', 'train'][0]:.1f} % of the training videos"

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=1.1 + 0.225 * len(names))
        places = np.arange(len(names))
        axes.barh(places, shares["top3", "train"], 0.78, color=theme.soft, label="among the top 3")
        axes.barh(places, shares["top1", "train"], 0.78, color=theme.series[0], label="first")
        plot_dots(axes, theme, shares["top1", "test"], places, label="first, test videos")
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        label_axes(axes, theme, x="% of the videos")
        add_legend(figure, axes, theme)
        return figure

    caption = (
        "Bars: the training videos in which an emotion comes first, as the most intense one, or is among the three "
        "most intense ones. Dots: the test videos in which it comes first."
    )
    return Chart("top_emotions", title, caption, draw)


def intensities(numbers: Mapping[str, Any], names: Sequence[str]) -> Chart:
    found = numbers["intensity"]
    by_mean = sorted(names, key=lambda name: -found[name]["mean"])
    first, last = by_mean[0], by_mean[-1]
    title = f"{first} is felt most (mean {found[first]['mean']:.2f}), {last} least ({found[last]['mean']:.2f})"
    counts = np.array([found[name]["histogram"] for name in by_mean], dtype=float)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=1.1 + 0.225 * len(names))
        edges = np.linspace(0, 1, NUM_BINS + 1), np.arange(len(names) + 1) - 0.5
        lowest = min(1.0, shares[shares > 0].min())
        mesh = axes.pcolormesh(
            *edges, np.ma.masked_equal(shares, 0), cmap=sequential(theme), norm=LogNorm(lowest, 100),
            edgecolors=theme.background, lw=0.3,
        )  # fmt: skip
        means = [found[name]["mean"] for name in by_mean]
        plot_dots(axes, theme, means, range(len(names)), label="mean")
        axes.set_yticks(range(len(names)), by_mean)
        axes.set_ylim(len(names) - 0.5, -0.5)
        label_axes(axes, theme, x="intensity", grid="")
        add_scale(figure, axes, mesh, theme, "% of the videos")
        add_legend(figure, axes, theme)
        return figure

    caption = (
        "A row is the distribution of one emotion's intensities over all videos, in steps of 0.05; the darker, or on a "
        "dark page the brighter, the more videos, on a logarithmic scale. Blank: none."
    )
    return Chart("intensities", title, caption, draw)


def clustered(matrix: np.ndarray) -> np.ndarray:
    """An order of emotions that puts those that rise together side by side. (K, K) -> (K,)"""
    if len(matrix) < 3:
        return np.arange(len(matrix))
    distances = 1 - np.nan_to_num(matrix)
    np.fill_diagonal(distances, 0)
    return leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True))


def correlation(numbers: Mapping[str, Any], names: Sequence[str]) -> Chart:
    places = places_of(numbers, names)
    matrix = np.array(numbers["correlation"], dtype=float)[np.ix_(places, places)]
    order = clustered(matrix)
    matrix, ordered = matrix[np.ix_(order, order)], [names[index] for index in order]
    pairs = np.where(np.triu(np.ones_like(matrix), 1) > 0, matrix, np.nan)
    positive, negative = np.where(pairs > 0, pairs, np.nan), np.where(pairs < 0, -pairs, np.nan)
    together, apart = strongest(positive, ordered, " and ", "{:.2f}"), strongest(negative, ordered, " and ", "−{:.2f}")
    title = f"Closest together, by r: {together[0]}" if together else "No two emotions go together"
    if apart:
        title += f"; furthest apart: {apart[0]}"
    np.fill_diagonal(matrix, np.nan)
    limit = max(0.1, np.nanmax(np.abs(matrix), initial=0.1))

    def draw(theme: Theme) -> Figure:
        return heat_map(
            theme, title, matrix, ordered, colours=diverging(theme), norm=Normalize(-limit, limit),
            legend="correlation of intensities, r",
        )  # fmt: skip

    caption = (
        "Pearson correlation of two emotions' intensities over all videos. Neighbours in the order are those that rise "
        "together (average-linkage clustering)."
    )
    notes = {name: found for name, found in (("Together most", together), ("Apart most", apart)) if found}
    return Chart("correlation", title, caption, draw, is_wide=True, notes=notes)


def strongest(values: np.ndarray, names: Sequence[str], between: str, form: str) -> list[str]:
    """The largest values of a table (K, K) in words, NaN left out: ["Joy and Surprise: 0.41", ...]."""
    order = np.argsort(-values, axis=None, kind="stable")[:NUM_NAMED]
    found = [(int(index) // len(names), int(index) % len(names)) for index in order]
    return [
        f"{names[row]}{between}{names[column]}: {form.format(values[row, column])}"
        for row, column in found
        if np.isfinite(values[row, column])
    ]


def together_in_top3(numbers: Mapping[str, Any], names: Sequence[str]) -> Chart:
    places = places_of(numbers, names)
    counts = np.array(numbers["together_in_top3"], dtype=float)[np.ix_(places, places)]
    own = np.diag(counts)[:, None]
    shares = np.where(own > 0, 100 * counts / np.maximum(own, 1), np.nan)
    np.fill_diagonal(shares, np.nan)
    telling = np.where(own >= max(10, 0.002 * own.max()), shares, np.nan)
    title = "Which emotions share the three first places"
    if np.isfinite(telling).any():
        row, column = map(int, np.unravel_index(np.nanargmax(telling), shares.shape))
        share = f"{telling[row, column]:.0f} %"
        title = f"Where {names[row]} is among the top 3, {names[column]} is too in {share} of the videos"

    def draw(theme: Theme) -> Figure:
        largest = np.nanmax(shares, initial=1)
        return heat_map(
            theme, title, shares, names, colours=sequential(theme), norm=Normalize(0, largest),
            legend="% of the row's videos", x="... has this one too", y="a video with this among its top 3",
        )  # fmt: skip

    caption = (
        "Of the videos that have the row's emotion among their three most intense ones, how many have the column's too."
    )
    notes = {"Most often": strongest(telling, names, " → ", "{:.0f} %")}
    return Chart("together_in_top3", title, caption, draw, is_wide=True, notes=notes)

"""The charts of a tested V2V run, drawn from its numbers; each title states what its chart finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from VideoMAE.reporting.chart_style import Chart, Theme, add_legend, label_axes, new_figure
from VideoMAE.reporting.words import number


def preference_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    return [
        *([scores(numbers)] if numbers["num_pairs"] else []),
        *([margins(numbers)] if numbers["margins"] else []),
    ]


def scores(numbers: Mapping[str, Any]) -> Chart:
    found = numbers["scores"]
    title = (
        f"The preferred video of a pair scores {number(found['mean_margin'], 2)} higher on average; scores vary by "
        f"{number(found['standard_deviation'], 2)}"
    )
    edges = np.array(found["edges"])

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=2.6)
        total = sum(found["better"])
        axes.stairs(
            100 * np.array(found["all"]) / sum(found["all"]), edges, fill=True, color=theme.soft, label="all videos"
        )
        for side, label, place in (("worse", "less preferred of pairs", 1), ("better", "preferred of pairs", 0)):
            axes.stairs(100 * np.array(found[side]) / total, edges, color=theme.series[place], lw=1.8, label=label)
        label_axes(axes, theme, x="score", y="% of each", grid="y")
        add_legend(figure, axes, theme)
        return figure

    caption = "Only differences of scores mean something; their zero is arbitrary. Variation: standard deviation."
    return Chart("scores", title, caption, draw)


def margins(numbers: Mapping[str, Any]) -> Chart:
    bins = numbers["margins"]
    first, last = bins[0]["accuracy"]["value"], bins[-1]["accuracy"]["value"]
    title = (
        f"Of the pairs with the closest scores {number(first, 1)} % are right, of those furthest apart "
        f"{number(last, 1)} %"
    )

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=3.0)
        x = [entry["mean_distance"] for entry in bins]
        for entry in bins:
            found = entry["accuracy"]
            if found["low"] is not None:
                axes.plot(
                    [entry["mean_distance"]] * 2, [found["low"], found["high"]], color=theme.soft, lw=4,
                    solid_capstyle="round", zorder=1,
                )  # fmt: skip
        axes.plot(
            x, [entry["accuracy"]["value"] for entry in bins], color=theme.series[0], marker="o", ms=5, label="right"
        )
        if "promised" in bins[0]:
            promised = [entry["promised"] for entry in bins]
            axes.plot(x, promised, color=theme.series[1], lw=1.5, ls="--", label="promised by the scores")
        axes.axhline(50, color=theme.muted, lw=1, ls=":")
        axes.set_ylim(None, 103)
        label_axes(axes, theme, x="difference of the two scores", y="% of the pairs", grid="both")
        add_legend(figure, axes, theme)
        return figure

    promised = " Dashed: 1 / (1 + exp(−difference)), the chance that training takes such a difference for."
    caption = (
        f"The pairs in {len(bins)} bins of equal number by the difference of their scores, with 95 % intervals. "
        f"Dotted: chance.{promised if 'promised' in bins[0] else ''}"
    )
    return Chart("margins", title, caption, draw)

"""The charts of videos and of comparisons, drawn from their numbers; each title states what its chart finds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from VideoMAE.dataset_tools.describe_numbers import CLIP_SECONDS
from VideoMAE.reporting.chart_style import Chart, Theme, grouped_bars, label_axes, new_figure
from VideoMAE.reporting.page import Strip
from VideoMAE.reporting.thumbnails import HEIGHT, WIDTH

MAX_ROWS, MIN_SHARE = 8, 0.005  # of sizes and frame rates: the others are summed up
GAP, TITLE_HEIGHT = 8, 34  # pixels in the contact sheet
CELL_LEVEL = 240  # of grey, where a thumbnail does not fill its cell or there is none
NAMES_OF_SPLITS = {"train": "training", "test": "test", "listwise": "lists"}
COLOURS = {name: number for number, name in enumerate(NAMES_OF_SPLITS.values())}


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def video_charts(numbers: Mapping[str, Any], seconds: np.ndarray) -> list[Chart]:
    """Durations, sizes and frame rates; `seconds` are the videos' durations."""
    total = numbers["num_videos"]
    rates = numbers["frame_rates"]
    fps, size = next(iter(rates)), next(iter(numbers["sizes"]))
    sizes_found = f"the commonest of {len(numbers['sizes'])} sizes" if len(numbers["sizes"]) > 1 else "the only size"
    return [
        durations(numbers, seconds),
        shares_chart(
            "sizes",
            f"{size.replace('x', ' × ')} is {sizes_found} ({percent(numbers['sizes'][size] / total)})",
            {key.replace("x", " × "): count for key, count in numbers["sizes"].items()},
            "Width × height in pixels.",
        ),
        shares_chart(
            "frame_rates",
            f"{percent(rates[fps] / total)} of the videos have {fps} frames a second",
            {f"{float(key):.2f}".rstrip("0").rstrip(".") + " fps": count for key, count in rates.items()},
            "Frames a second.",
        ),
    ]


def durations(numbers: Mapping[str, Any], seconds: np.ndarray) -> Chart:
    found = numbers["seconds"]["percentiles"]
    title = (
        f"Half of the videos last {found['25']:.1f} to {found['75']:.1f} s; "
        f"{percent(numbers['share_shorter_than_a_clip'])} are shorter than {CLIP_SECONDS:g} s"
    )
    longest = max(np.percentile(seconds, 99.5), 1.0)

    def draw(theme: Theme) -> Figure:
        figure, axes = new_figure(theme, title, height=2.5)
        counts, edges = np.histogram(np.minimum(seconds, longest), bins=40, range=(0, longest))
        axes.bar(edges[:-1], 100 * counts / len(seconds), np.diff(edges) * 0.9, align="edge", color=theme.series[0])
        for value, what in ((CLIP_SECONDS, "a training clip"), (found["50"], "median")):
            axes.axvline(value, color=theme.series[1], lw=1.2)
            axes.text(
                value, 1.02, f"{what}, {value:.1f} s", transform=axes.get_xaxis_transform(), fontsize=7.5,
                color=theme.muted, ha="right" if value == min(CLIP_SECONDS, found["50"]) else "left",
            )  # fmt: skip
        label_axes(axes, theme, x="seconds", y="% of the videos", grid="y")
        return figure

    caption = (
        "VCE's training clips are 16 frames at 4 fps, so 4 s; shorter videos are left out of training. The last bar "
        "holds all that are longer."
    )
    return Chart("durations", title, caption, draw)


def shares_chart(name: str, title: str, counts: Mapping[str, int], caption: str) -> Chart:
    """Bars for the commonest values, and one for all others."""
    total = sum(counts.values())
    rows = {key: count for key, count in list(counts.items())[:MAX_ROWS] if count >= MIN_SHARE * total}
    others = total - sum(rows.values())
    if others:
        rows[f"{len(counts) - len(rows)} others"] = others
    shares = [100 * count / total for count in rows.values()]
    return Chart(
        name, title, caption,
        lambda theme: grouped_bars(theme, title, list(rows), {"videos": shares}, x="% of the videos"),
    )  # fmt: skip


def preference_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    charts = [degrees(numbers["splits"]), component_sizes(numbers["splits"])]
    with_lists = {split: found for split, found in numbers["splits"].items() if set(found["lengths"]) != {"2"}}
    return charts + ([lengths(with_lists)] if with_lists else [])


def binned_shares(counts: Mapping[str, int], bins: Sequence[tuple[int, int]], weight: int = 0) -> list[float]:
    """Percent of {value: how many} in each bin (first, last), each value counted `value ** weight` times."""
    weighted = {int(value): int(value) ** weight * count for value, count in counts.items()}
    total = sum(weighted.values())
    return [100 * sum(count for value, count in weighted.items() if low <= value <= high) / total for low, high in bins]


def named_bins(bins: Sequence[tuple[int, int]]) -> list[str]:
    return [
        str(low) if low == high else f"{low:,} or more" if high >= 10**9 else f"{low:,} to {high:,}"
        for low, high in bins
    ]


def by_split(
    splits: Mapping[str, Any], key: str, bins: Sequence[tuple[int, int]], weight: int = 0
) -> dict[str, list[float]]:
    return {NAMES_OF_SPLITS[split]: binned_shares(found[key], bins, weight) for split, found in splits.items()}


def degrees(splits: Mapping[str, Any]) -> Chart:
    largest = max(int(value) for found in splits.values() for value in found["degrees"])
    bins = [(value, value) for value in range(1, min(largest, 9) + 1)] + ([(10, 10**9)] if largest > 9 else [])
    once = splits["train"]["degrees"].get("1", 0) / splits["train"]["num_videos"]
    title = f"{percent(once)} of the training videos are compared once only"
    series = by_split(splits, "degrees", bins)
    return Chart(
        "degrees", title, "In how many comparisons (pairs or lists) a video stands.",
        lambda theme: grouped_bars(
            theme, title, named_bins(bins), series,
            x="% of the split's videos", y="comparisons of a video", colours=COLOURS,
        ),
    )  # fmt: skip


def component_sizes(splits: Mapping[str, Any]) -> Chart:
    largest = max(found["largest_component"] for found in splits.values())
    smallest = min(int(size) for found in splits.values() for size in found["component_sizes"])
    bins = [(2, 2), (3, 4)]
    while bins[-1][1] < largest:
        bins.append((bins[-1][1] + 1, 2 * bins[-1][1]))
    bins = [(low, high) for low, high in bins if high >= smallest]
    train = splits["train"]
    title = (
        f"The {train['num_videos']:,} training videos fall into {train['num_components']:,} connected components, "
        f"the largest of {train['largest_component']:,} videos"
    )
    series = by_split(splits, "component_sizes", bins, weight=1)
    caption = (
        "Videos that are compared with each other, directly or through others, form a connected component. Whole ones "
        "are held out for validation, so that no video is on both sides."
    )
    return Chart(
        "component_sizes", title, caption,
        lambda theme: grouped_bars(
            theme, title, named_bins(bins), series,
            x="% of the split's videos", y="videos in the component", colours=COLOURS,
        ),
    )  # fmt: skip


def lengths(splits: Mapping[str, Any]) -> Chart:
    present = sorted({int(value) for found in splits.values() for value in found["lengths"]})
    bins = [(value, value) for value in present[:9]] + ([(present[9], 10**9)] if len(present) > 9 else [])
    split = "listwise" if "listwise" in splits else next(iter(splits))
    counts = splits[split]["lengths"]
    commonest = max(counts, key=lambda value: counts[value])
    share = percent(counts[commonest] / splits[split]["num_comparisons"])
    title = f"{share} of the {splits[split]['num_comparisons']:,} lists rank {commonest} videos"
    series = by_split(splits, "lengths", bins)
    return Chart(
        "list_lengths", title, "How many videos a list ranks, from least to most preferred.",
        lambda theme: grouped_bars(
            theme, title, named_bins(bins), series, x="% of the lists", y="videos in the list", colours=COLOURS
        ),
    )  # fmt: skip


def contact_sheet(strips: Sequence[Strip], pictures: Mapping[str, np.ndarray]) -> bytes:
    """All thumbnails as one PNG: a row for each strip, its heading above."""
    num_columns = max(len(strip.pictures) for strip in strips)
    rows: list[np.ndarray] = []
    for strip in strips:
        row = np.full((HEIGHT, num_columns * (WIDTH + GAP) + GAP, 3), 255, np.uint8)
        for column, (key, _) in enumerate(strip.pictures):
            cell = row[:, GAP + column * (WIDTH + GAP) :][:, :WIDTH]
            cell[:] = CELL_LEVEL
            if key in pictures:
                height, width = pictures[key].shape[:2]
                top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
                cell[top : top + height, left : left + width] = pictures[key]
        rows += [np.full((TITLE_HEIGHT, row.shape[1], 3), 255, np.uint8), row]
    rows.append(rows[0][:GAP])
    canvas = np.concatenate(rows)[..., ::-1]
    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for number, strip in enumerate(strips):
        bottom = number * (TITLE_HEIGHT + HEIGHT) + TITLE_HEIGHT - 7
        axes.text(GAP, bottom, strip.heading, fontsize=11, fontweight="bold", va="bottom", color="#1b2430")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()

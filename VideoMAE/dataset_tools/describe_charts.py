"""The charts of a described dataset: each function states what its chart finds in the numbers of `description.json`."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from VideoMAE.dataset_tools.describe_numbers import CLIP_SECONDS
from VideoMAE.reporting import charts
from VideoMAE.reporting.charts import MAX_EMOTIONS, Chart
from VideoMAE.reporting.page import THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH, percent

MAX_ROWS, MIN_SHARE = 8, 0.005  # of sizes and frame rates; the others are summed
NUM_NAMED = 8  # pairs of emotions named beside a heat map
NO_LIMIT = 10**9  # end of an open bin
GAP, TITLE_HEIGHT = 8, 34  # pixels in the contact sheet
CELL_GRAY = 240
SPLIT_NAMES = {"train": "training", "test": "test", "listwise": "lists"}
COLORS = {name: number for number, name in enumerate(SPLIT_NAMES.values())}


def video_charts(numbers: Mapping[str, Any], seconds: Sequence[float]) -> list[Chart]:
    """Durations, sizes and frame rates; `seconds` are the durations of the N videos."""
    total, sizes, rates = numbers["num_videos"], numbers["sizes"], numbers["frame_rates"]
    fps, size = next(iter(rates)), next(iter(sizes))
    found = f"the most common of {len(sizes)} sizes" if len(sizes) > 1 else "the only size"
    return [
        _durations(numbers, seconds),
        _shares(
            "sizes", f"{size.replace('x', ' × ')} is {found} ({percent(sizes[size] / total)})",
            "Width × height in pixels.", {key.replace("x", " × "): count for key, count in sizes.items()}
        ),
        _shares(
            "frame_rates", f"{percent(rates[fps] / total)} of the videos have {fps} frames per second",
            "Frames per second.",
            {f"{float(key):.2f}".rstrip("0").rstrip(".") + " fps": count for key, count in rates.items()}
        )
    ]  # fmt: skip


def _durations(numbers: Mapping[str, Any], seconds: Sequence[float]) -> Chart:
    found = numbers["seconds"]["percentiles"]
    title = (
        f"Half of the videos last {found['25']:.1f} to {found['75']:.1f} s; "
        f"{percent(numbers['share_shorter_than_a_clip'])} are shorter than {CLIP_SECONDS:g} s"
    )
    caption = (
        "VCE's training clips have 16 frames at 4 fps, which is 4 s; shorter videos are not used for training. The "
        "last bar contains all longer videos."
    )
    longest = max(float(np.percentile(seconds, 99.5)), 1.0)
    counts, edges = np.histogram(np.minimum(seconds, longest), bins=40, range=(0, longest))
    marks = {f"training clip, {CLIP_SECONDS:.1f} s": CLIP_SECONDS, f"median, {found['50']:.1f} s": found["50"]}
    return charts.histogram(
        "durations", title, caption, edges, x="seconds", y="% of the videos",
        filled={"": 100 * counts / len(seconds)}, marks=marks
    )  # fmt: skip


def _shares(name: str, title: str, caption: str, counts: Mapping[str, int]) -> Chart:
    """Bars of the most common values, and one for all others."""
    total = sum(counts.values())
    rows = {key: count for key, count in list(counts.items())[:MAX_ROWS] if count >= MIN_SHARE * total}
    others = total - sum(rows.values())
    if others:
        rows[f"{len(counts) - len(rows)} others"] = others
    shares = [100 * count / total for count in rows.values()]
    return charts.grouped_bars(name, title, caption, list(rows), {"videos": shares}, x="% of the videos")


def preference_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    """Degrees, component sizes and list lengths of a V2V dataset."""
    splits = numbers["splits"]
    with_lists = {split: found for split, found in splits.items() if set(found["lengths"]) != {"2"}}
    return [_degrees(splits), _component_sizes(splits), *([_list_lengths(with_lists)] if with_lists else [])]


Bins = Sequence[tuple[int, int]]


def _binned_bars(
    name: str, title: str, caption: str, splits: Mapping[str, Any], key: str, bins: Bins, *, x: str, y: str,
    weight: int = 0
) -> Chart:  # fmt: skip
    """Percent of each split in bins (first, last) of a {value: count}, each value weighted by `value ** weight`."""
    series = {}
    for split, found in splits.items():
        weighted = {int(value): int(value) ** weight * count for value, count in found[key].items()}
        total = sum(weighted.values())
        series[SPLIT_NAMES[split]] = [
            100 * sum(count for value, count in weighted.items() if low <= value <= high) / total for low, high in bins
        ]
    names = [
        str(low) if low == high else f"{low:,} or more" if high >= NO_LIMIT else f"{low:,} to {high:,}"
        for low, high in bins
    ]
    return charts.grouped_bars(name, title, caption, names, series, x=x, y=y, colors=COLORS)


def _degrees(splits: Mapping[str, Any]) -> Chart:
    largest = max(int(value) for found in splits.values() for value in found["degrees"])
    bins = [(value, value) for value in range(1, min(largest, 9) + 1)] + ([(10, NO_LIMIT)] if largest > 9 else [])
    once = splits["train"]["degrees"].get("1", 0) / splits["train"]["num_videos"]
    return _binned_bars(
        "degrees", f"{percent(once)} of the training videos occur in only one comparison",
        "The number of comparisons (pairs or lists) in which a video occurs.", splits, "degrees", bins,
        x="% of the split's videos", y="comparisons per video"
    )  # fmt: skip


def _component_sizes(splits: Mapping[str, Any]) -> Chart:
    largest = max(found["largest_component"] for found in splits.values())
    smallest = min(int(size) for found in splits.values() for size in found["component_sizes"])
    bins = [(2, 2), (3, 4)]
    while bins[-1][1] < largest:
        bins.append((bins[-1][1] + 1, 2 * bins[-1][1]))
    train = splits["train"]
    title = (
        f"The {train['num_videos']:,} training videos form {train['num_components']:,} connected components, "
        f"the largest with {train['largest_component']:,} videos"
    )
    caption = (
        "Videos that are compared with each other, directly or through others, form a connected component. The "
        "validation split consists of whole components, so no video is in both splits."
    )
    return _binned_bars(
        "component_sizes", title, caption, splits, "component_sizes", [bin for bin in bins if bin[1] >= smallest],
        x="% of the split's videos", y="videos in the component", weight=1
    )  # fmt: skip


def _list_lengths(splits: Mapping[str, Any]) -> Chart:
    present = sorted({int(value) for found in splits.values() for value in found["lengths"]})
    bins = [(value, value) for value in present[:9]] + ([(present[9], NO_LIMIT)] if len(present) > 9 else [])
    split = splits["listwise"] if "listwise" in splits else next(iter(splits.values()))
    most_common = max(split["lengths"], key=lambda value: split["lengths"][value])
    share = percent(split["lengths"][most_common] / split["num_comparisons"])
    return _binned_bars(
        "list_lengths", f"{share} of the {split['num_comparisons']:,} lists rank {most_common} videos",
        "The number of videos that a list ranks, from least to most preferred.", splits, "lengths", bins,
        x="% of the lists", y="videos in the list"
    )  # fmt: skip


def emotion_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    """Ranks, intensities and correlations of the emotions of a VCE dataset."""
    names = shown_emotions(numbers)
    found = [_top_emotions(numbers, names), _intensities(numbers, names)]
    if len(names) > 1:
        found.append(_correlation(numbers, names))
    if len(names) > 3:  # of up to three, all are among the three most intense
        found.append(_together_in_top3(numbers, names))
    left_out = len(numbers["emotions"]) - len(names)
    note = f" The {left_out} least common emotions are left out." if left_out else ""
    return [chart._replace(caption=chart.caption + note) for chart in found]


def shown_emotions(numbers: Mapping[str, Any]) -> list[str]:
    """The emotions that fit into a chart: those that are most often the most intense one in the training split."""
    counts = np.array(numbers["top1_counts"]["train"])
    return [numbers["emotions"][index] for index in np.argsort(-counts, kind="stable")[:MAX_EMOTIONS]]


def _places(numbers: Mapping[str, Any], names: Sequence[str]) -> list[int]:
    return [numbers["emotions"].index(name) for name in names]


def _top_emotions(numbers: Mapping[str, Any], names: Sequence[str]) -> Chart:
    top1, top3, test = (
        100 * np.array(numbers[f"{rank}_counts"][split])[_places(numbers, names)] / numbers["num_videos"][split]
        for rank, split in (("top1", "train"), ("top3", "train"), ("top1", "test"))
    )
    title = f"{names[0]} is first most often: in {top1[0]:.1f} % of the training videos"
    caption = (
        "Bars: the training videos in which an emotion is first, as the most intense one, or among the three most "
        "intense ones. Dots: the test videos in which it is first."
    )
    return charts.bars_and_dots(
        "top_emotions", title, caption, names, bars={"in the top 3": top3, "first": top1},
        dots={"first, test videos": test}, x="% of the videos"
    )  # fmt: skip


def _intensities(numbers: Mapping[str, Any], names: Sequence[str]) -> Chart:
    found = numbers["intensity"]
    names = sorted(names, key=lambda name: -found[name]["mean"])
    means = [found[name]["mean"] for name in names]
    title = f"{names[0]} is the most intense on average ({means[0]:.2f}), {names[-1]} the least ({means[-1]:.2f})"
    counts = np.array([found[name]["histogram"] for name in names], dtype=float)
    caption = (
        "Each row is the distribution of one emotion's intensities over all videos, in steps of 0.05, on a logarithmic "
        "color scale. Blank: none."
    )
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    return charts.distribution_rows("intensities", title, caption, shares, names, means, x="intensity")


def _clustered(matrix: np.ndarray) -> np.ndarray:
    """An order that places correlated emotions next to each other. (K, K) -> (K,)"""
    if len(matrix) < 3:
        return np.arange(len(matrix))
    distances = 1 - np.nan_to_num(matrix)
    np.fill_diagonal(distances, 0)
    return leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True))


def _correlation(numbers: Mapping[str, Any], names: Sequence[str]) -> Chart:
    places = _places(numbers, names)
    matrix = np.array(numbers["correlation"], dtype=float)[np.ix_(places, places)]
    order = _clustered(matrix)
    matrix, names = matrix[np.ix_(order, order)], [names[index] for index in order]
    pairs = np.where(np.triu(np.ones_like(matrix), 1) > 0, matrix, np.nan)
    highest = _largest(np.where(pairs > 0, pairs, np.nan), names, " and ", "{:.2f}")
    lowest = _largest(np.where(pairs < 0, -pairs, np.nan), names, " and ", "−{:.2f}")
    title = f"Highest correlation: {highest[0]}" if highest else "No two emotions are positively correlated"
    title += f"; lowest: {lowest[0]}" if lowest else ""
    np.fill_diagonal(matrix, np.nan)
    caption = (
        "Pearson correlation of the intensities of two emotions over all videos. The order places correlated emotions "
        "next to each other (average-linkage clustering)."
    )
    return charts.heat_map(
        "correlation", title, caption, matrix, names, limit=max(0.1, np.nanmax(np.abs(matrix), initial=0.1)),
        legend="correlation of intensities, r", diverging=True,
        notes={heading: found for heading, found in (("Highest", highest), ("Lowest", lowest)) if found}
    )  # fmt: skip


def _largest(values: np.ndarray, names: Sequence[str], between: str, form: str) -> list[str]:
    """The largest values of a matrix (K, K), NaN ignored, as text: ["Joy and Surprise: 0.41", ...]"""
    found = [divmod(int(index), len(names)) for index in np.argsort(-values, axis=None, kind="stable")[:NUM_NAMED]]
    return [
        f"{names[row]}{between}{names[column]}: {form.format(values[row, column])}"
        for row, column in found
        if np.isfinite(values[row, column])
    ]


def _together_in_top3(numbers: Mapping[str, Any], names: Sequence[str]) -> Chart:
    places = _places(numbers, names)
    counts = np.array(numbers["together_in_top3"], dtype=float)[np.ix_(places, places)]
    own = np.diag(counts)[:, None]
    shares = np.where(own > 0, 100 * counts / np.maximum(own, 1), np.nan)
    np.fill_diagonal(shares, np.nan)
    reliable = np.where(own >= max(10, 0.002 * own.max()), shares, np.nan)
    title = "Which emotions occur together in the top 3"
    if np.isfinite(reliable).any():
        row, column = map(int, np.unravel_index(np.nanargmax(reliable), shares.shape))
        title = (
            f"If {names[row]} is in the top 3, {names[column]} is too in {reliable[row, column]:.0f} % of the videos"
        )
    caption = "Of the videos with the row's emotion in the top 3, the share that also has the column's emotion in it."
    return charts.heat_map(
        "together_in_top3", title, caption, shares, names, limit=np.nanmax(shares, initial=1),
        legend="% of the row's videos", x="also in the top 3", y="in the top 3",
        notes={"Most often": _largest(reliable, names, " → ", "{:.0f} %")}
    )  # fmt: skip


def contact_sheet(examples: Mapping[str, Sequence[tuple[str, str]]], pictures: Mapping[str, np.ndarray]) -> bytes:
    """All thumbnails as one PNG file: a row of (video id, caption) under each heading."""
    num_columns = max(map(len, examples.values()))
    width, row_height = num_columns * (THUMBNAIL_WIDTH + GAP) + GAP, TITLE_HEIGHT + THUMBNAIL_HEIGHT
    height = len(examples) * row_height + GAP
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    for row, (heading, entries) in enumerate(examples.items()):
        bottom = height - (row + 1) * row_height
        text_place = (GAP / width, (bottom + THUMBNAIL_HEIGHT + 7) / height)
        figure.text(*text_place, heading, fontsize=11, fontweight="bold", va="bottom", color="#1b2430")
        for column, (key, _) in enumerate(entries):
            cell = np.full((THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH, 3), CELL_GRAY, np.uint8)
            if key in pictures:
                rows, columns = pictures[key].shape[:2]
                top, left = (THUMBNAIL_HEIGHT - rows) // 2, (THUMBNAIL_WIDTH - columns) // 2
                cell[top : top + rows, left : left + columns] = pictures[key][..., ::-1]
            figure.figimage(cell, GAP + column * (THUMBNAIL_WIDTH + GAP), bottom)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()

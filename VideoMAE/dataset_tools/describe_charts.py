"""The charts of a described dataset: each function states what its chart finds in the numbers of `description.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from VideoMAE.reporting import charts
from VideoMAE.reporting.chart_style import Chart
from VideoMAE.reporting.charts import MAX_EMOTIONS
from VideoMAE.reporting.page import percent

CLIP_SECONDS = 4.0  # of VCE's training clips: 16 frames at 4 fps
MAX_ROWS, MIN_SHARE = 8, 0.005  # of sizes and frame rates; the others are summed
NUM_NAMED = 8  # pairs of emotions named beside a heat map
NO_LIMIT = 10**9  # end of an open bin


def video_charts(numbers: Mapping[str, Any], seconds: Sequence[float]) -> list[Chart]:
    """Durations, sizes and frame rates; `seconds` are the durations of the N videos."""
    total, sizes, rates = numbers["num_videos"], numbers["sizes"], numbers["frame_rates"]
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
    durations = charts.histogram(
        "durations",
        title,
        caption,
        edges,
        x="seconds",
        y="% of the videos",
        filled={"": 100 * counts / len(seconds)},
        marks=marks,
    )

    def shares(name: str, title: str, caption: str, counts: Mapping[str, int]) -> Chart:
        """Bars of the most common values, and one for all others."""
        rows = {key: count for key, count in list(counts.items())[:MAX_ROWS] if count >= MIN_SHARE * total}
        others = total - sum(rows.values())
        if others:
            rows[f"{len(counts) - len(rows)} others"] = others
        series = {"videos": [100 * count / total for count in rows.values()]}
        return charts.grouped_bars(name, title, caption, list(rows), series, x="% of the videos")

    fps, size = next(iter(rates)), next(iter(sizes))
    is_the_only = "the only size" if len(sizes) == 1 else f"the most common of {len(sizes)} sizes"
    return [
        durations,
        shares(
            "sizes",
            f"{size.replace('x', ' × ')} is {is_the_only} ({percent(sizes[size] / total)})",
            "Width × height in pixels.",
            {key.replace("x", " × "): count for key, count in sizes.items()},
        ),
        shares(
            "frame_rates",
            f"{percent(rates[fps] / total)} of the videos have {fps} frames per second",
            "Frames per second.",
            {f"{float(key):.2f}".rstrip("0").rstrip(".") + " fps": count for key, count in rates.items()},
        ),
    ]


def preference_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    """Comparisons per video and component sizes of a V2V dataset, in percent of each split's videos."""
    splits = numbers["splits"]
    train = splits["train"]

    def binned_bars(name: str, title: str, caption: str, bins: Sequence[tuple[int, int]], y: str, weight: int) -> Chart:
        """Bars of the bins (first, last) of a {value: count}, each value weighted by `value ** weight`."""
        series = {}
        for split, found in splits.items():
            weighted = {int(value): int(value) ** weight * count for value, count in found[name].items()}
            series[{"train": "training", "test": "test", "listwise": "lists"}[split]] = [
                100 * sum(count for value, count in weighted.items() if low <= value <= high) / sum(weighted.values())
                for low, high in bins
            ]
        rows = [
            str(low) if low == high else f"{low:,} or more" if high >= NO_LIMIT else f"{low:,} to {high:,}"
            for low, high in bins
        ]
        return charts.grouped_bars(name, title, caption, rows, series, x="% of the split's videos", y=y)

    most = max(int(value) for found in splits.values() for value in found["degrees"])
    degrees = [(value, value) for value in range(1, min(most, 9) + 1)] + ([(10, NO_LIMIT)] if most > 9 else [])
    once = percent(train["degrees"].get("1", 0) / train["num_videos"])
    largest = max(found["largest_component"] for found in splits.values())
    smallest = min(int(size) for found in splits.values() for size in found["component_sizes"])
    sizes = [(2, 2), (3, 4)]
    while sizes[-1][1] < largest:
        sizes.append((sizes[-1][1] + 1, 2 * sizes[-1][1]))
    title = (
        f"The {train['num_videos']:,} training videos form {train['num_components']:,} connected components, "
        f"the largest with {train['largest_component']:,} videos"
    )
    caption = (
        "Videos that are compared with each other, directly or through others, form a connected component. The "
        "validation split consists of whole components, so no video is in both splits."
    )
    return [
        binned_bars(
            "degrees",
            f"{once} of the training videos occur in only one comparison",
            "The number of comparisons (pairs or lists) in which a video occurs.",
            degrees,
            "comparisons per video",
            0,
        ),
        binned_bars(
            "component_sizes",
            title,
            caption,
            [bin for bin in sizes if bin[1] >= smallest],
            "videos in the component",
            1,
        ),
    ]


def shown_emotions(numbers: Mapping[str, Any]) -> list[str]:
    """The emotions that fit into a chart: those that are most often the most intense one in the training split."""
    counts = np.array(numbers["top1_counts"]["train"])
    return [numbers["emotions"][index] for index in np.argsort(-counts, kind="stable")[:MAX_EMOTIONS]]


def emotion_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    """Ranks, intensities, correlations and common occurrence of the emotions of a VCE dataset."""
    names = shown_emotions(numbers)
    places = [numbers["emotions"].index(name) for name in names]
    top1, top3, test = (
        100 * np.array(numbers[f"{rank}_counts"][split])[places] / numbers["num_videos"][split]
        for rank, split in (("top1", "train"), ("top3", "train"), ("top1", "test"))
    )
    title = f"{names[0]} is first most often: in {top1[0]:.1f} % of the training videos"
    caption = (
        "Bars: the training videos in which an emotion is first, as the most intense one, or among the three most "
        "intense ones. Dots: the test videos in which it is first."
    )
    top_emotions = charts.bars_and_dots(
        "top_emotions",
        title,
        caption,
        names,
        bars={"in the top 3": top3, "first": top1},
        dots={"first, test videos": test},
        x="% of the videos",
    )

    intensity = numbers["intensity"]
    ranked = sorted(names, key=lambda name: -intensity[name]["mean"])
    means = [intensity[name]["mean"] for name in ranked]
    title = f"{ranked[0]} is the most intense on average ({means[0]:.2f}), {ranked[-1]} the least ({means[-1]:.2f})"
    caption = (
        "Each row is the distribution of one emotion's intensities over all videos, in steps of 0.05, on a logarithmic "
        "color scale. Blank: none."
    )
    counts = np.array([intensity[name]["histogram"] for name in ranked], dtype=float)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    intensities = charts.distribution_rows("intensities", title, caption, shares, ranked, means, x="intensity")

    found = [top_emotions, intensities]
    if len(names) > 1:
        found.append(_correlation(np.array(numbers["correlation"], float)[np.ix_(places, places)], names))
    if len(names) > 3:  # of up to three, all are among the three most intense
        found.append(_together_in_top3(np.array(numbers["together_in_top3"], float)[np.ix_(places, places)], names))
    left_out = len(numbers["emotions"]) - len(names)
    note = f" The {left_out} least common emotions are left out." if left_out else ""
    return [chart._replace(caption=chart.caption + note) for chart in found]


def _correlation(matrix: np.ndarray, names: Sequence[str]) -> Chart:
    """Heat map of the (K, K) correlations; average-linkage clustering places correlated emotions side by side."""
    distances = 1 - np.nan_to_num(matrix)
    np.fill_diagonal(distances, 0)
    order = leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True))
    matrix, names = matrix[np.ix_(order, order)], [names[index] for index in order]
    pairs = np.where(np.triu(np.ones_like(matrix), 1) > 0, matrix, np.nan)
    highest = _largest(np.where(pairs > 0, pairs, np.nan), names, " and ", "{:.2f}")
    lowest = _largest(np.where(pairs < 0, -pairs, np.nan), names, " and ", "−{:.2f}")
    title = f"Highest correlation: {highest[0]}" if highest else "No two emotions are positively correlated"
    caption = (
        "Pearson correlation of the intensities of two emotions over all videos. The order places correlated emotions "
        "next to each other (average-linkage clustering)."
    )
    np.fill_diagonal(matrix, np.nan)
    return charts.heat_map(
        "correlation",
        title + (f"; lowest: {lowest[0]}" if lowest else ""),
        caption,
        matrix,
        names,
        limit=max(0.1, np.nanmax(np.abs(matrix), initial=0.1)),
        legend="correlation of intensities, r",
        diverging=True,
        notes={heading: found for heading, found in (("Highest", highest), ("Lowest", lowest)) if found},
    )


def _largest(values: np.ndarray, names: Sequence[str], between: str, form: str) -> list[str]:
    """The largest values of a matrix (K, K), NaN ignored, as text: ["Joy and Surprise: 0.41", ...]"""
    places = [divmod(int(index), len(names)) for index in np.argsort(-values, axis=None, kind="stable")[:NUM_NAMED]]
    return [
        f"{names[row]}{between}{names[column]}: {form.format(values[row, column])}"
        for row, column in places
        if np.isfinite(values[row, column])
    ]


def _together_in_top3(counts: np.ndarray, names: Sequence[str]) -> Chart:
    """Heat map of the (K, K) numbers of videos with both emotions in the top 3; the diagonal counts each alone."""
    own = np.diag(counts)[:, None]
    shares = np.where(own > 0, 100 * counts / np.maximum(own, 1), np.nan)
    np.fill_diagonal(shares, np.nan)
    reliable = np.where(own >= max(10, 0.002 * own.max()), shares, np.nan)
    title = "Which emotions occur together in the top 3"
    if np.isfinite(reliable).any():
        row, column = divmod(int(np.nanargmax(reliable)), len(names))
        title = (
            f"If {names[row]} is in the top 3, {names[column]} is too in {reliable[row, column]:.0f} % of the videos"
        )
    caption = "Of the videos with the row's emotion in the top 3, the share that also has the column's emotion in it."
    most_often = _largest(reliable, names, " → ", "{:.0f} %")
    return charts.heat_map(
        "together_in_top3",
        title,
        caption,
        shares,
        names,
        limit=np.nanmax(shares, initial=1),
        legend="% of the row's videos",
        x="also in the top 3",
        y="in the top 3",
        notes={"Most often": most_often},
    )

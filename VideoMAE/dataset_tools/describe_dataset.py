"""Describe a dataset in the layout of VCE or V2V before training on it: a page, its charts, and every number.

    emodiversity describe vce_dataset --output_dir description

writes `index.html`, a self-contained page; the charts as PNG files; and `description.json`. VCE: intensity and
frequency of each emotion, which emotions occur together, the metrics of guessing, example videos. V2V: the graph of the
comparisons, their consistency, the most and the least preferred videos. Both: durations, sizes and frame rates, from
metadata.json or else from the video files.

Unreadable videos are listed and have no thumbnail; the exit status is then 1.
"""

import itertools
import logging
import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from VideoMAE import cli
from VideoMAE.data.v2v import Comparison, connected_groups, num_contradictions, pairs_in
from VideoMAE.data.vce import Annotations
from VideoMAE.dataset_tools import describe_charts
from VideoMAE.dataset_tools.programs import (
    check_ranges,
    first_names,
    ids_in,
    kind_of,
    num_cores,
    read_emotions,
    read_preferences,
    read_videos,
)
from VideoMAE.files import read_json, to_jsonable
from VideoMAE.reporting.page import PAGE_FILE, as_jpegs, draw, percent, read_thumbnails, write_page
from VideoMAE.video.check import check_videos

logger = logging.getLogger("describe_dataset")

NUMBERS_FILE = "description.json"
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
NUM_BINS = 20  # of intensities


@dataclass(frozen=True)
class Settings:
    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]
    """Dataset folder in the layout of VCE or V2V; not modified."""
    output_dir: Path
    """Folder for the page, the charts and the numbers; replaces the files of an earlier description."""
    num_thumbnails: int = 6
    """Thumbnails per emotion; for V2V, twice as many of the most and of the least preferred videos. 0: none."""
    max_probed: int = 2000
    """Maximum number of videos to open among those missing in metadata.json; a random sample if there are more."""
    num_processes: int = field(default_factory=num_cores)
    """Processes that read videos."""


class VideoFacts(NamedTuple):
    """Properties of one video, from metadata.json or from the file."""

    seconds: float
    width: int
    height: int
    fps: float


def percentiles(values: np.ndarray) -> dict[str, float]:
    return {str(q): float(value) for q, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def emotion_numbers(splits: Mapping[str, Annotations]) -> dict[str, Any]:
    """Intensities of all splits together, ranks by split, and the metrics of guesses on the test split."""
    from VideoMAE.training.results import chance, majority_guess  # deferred: importing torch takes seconds
    from VideoMAE.training.tasks import EmotionTask

    names, train, test = splits["train"].emotions, splits["train"].intensities, splits["test"].intensities
    intensities = np.concatenate([found.intensities for found in splits.values()]).astype(np.float64)
    ranked = {split: np.argsort(-found.intensities, axis=1, kind="stable") for split, found in splits.items()}
    top1_counts, top3_counts = (
        {split: np.bincount(order[:, :k].ravel(), minlength=len(names)).tolist() for split, order in ranked.items()}
        for k in (1, 3)
    )
    varying = np.where(np.ptp(intensities, axis=0) > 0, intensities, np.nan)
    in_top3 = np.zeros(intensities.shape)
    np.put_along_axis(in_top3, np.concatenate(list(ranked.values()))[:, :3], 1, axis=1)
    task = EmotionTask(loss="bce")
    most_common = np.argsort(-np.bincount(train.argmax(axis=1), minlength=len(names)), kind="stable")[:3]
    return {
        "emotions": list(names),
        "num_videos": {split: len(found.ids) for split, found in splits.items()},
        "top1_counts": top1_counts,
        "top3_counts": top3_counts,
        "intensity": {
            name: {
                "mean": float(values.mean()),
                "standard_deviation": float(values.std()),
                "percentiles": percentiles(values),
                "share_of_zeros": float(np.mean(values == 0)),
                "histogram": np.histogram(values, bins=NUM_BINS, range=(0, 1))[0].tolist(),
            }
            for name, values in zip(names, intensities.T, strict=True)
        },
        # (K, K): Pearson correlation, None if an emotion is constant; number of videos with both in the top 3
        "correlation": to_jsonable(np.atleast_2d(np.corrcoef(varying, rowvar=False))),
        "together_in_top3": (in_top3.T @ in_top3).astype(int).tolist(),
        "guesses": {
            "majority_emotions": [names[index] for index in most_common],
            "majority_guess": majority_guess(task, train, test),
            "chance": chance(task, test),
        },
    }


def preference_numbers(splits: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """The comparison graph of each split, the number of videos in two splits, and the record of each video.

    A record is how often a video was preferred to another, and another to it, over all pairs that the comparisons
    imply; sorted by the smoothed share of wins, (wins + 1) / (wins + losses + 2), the most preferred first.
    """

    def counts_of(values: Iterable[int]) -> dict[str, int]:
        return {str(value): count for value, count in sorted(Counter(values).items())}

    graphs = {}
    for split, entries in splits.items():
        degrees = Counter(itertools.chain.from_iterable(entries))
        sizes = [len(group) for group in connected_groups(entries)]
        cycles = [len(group) for group in connected_groups(entries, strong=True) if len(group) > 1]
        graphs[split] = {
            "num_comparisons": len(entries),
            "num_pairs": len(pairs_in(entries)),
            "num_videos": len(degrees),
            "num_components": len(sizes),
            "largest_component": max(sizes),
            "num_contradictions": num_contradictions(entries),
            "num_videos_in_cycles": sum(cycles),
            "lengths": counts_of(map(len, entries)),
            "degrees": counts_of(degrees.values()),
            "component_sizes": counts_of(sizes),
        }
    videos = {split: set(ids_in(entries)) for split, entries in splits.items()}
    pairs = pairs_in(list(itertools.chain(*splits.values())))
    wins, losses = Counter(pair.better for pair in pairs), Counter(pair.worse for pair in pairs)
    ranked = sorted(wins | losses, key=lambda key: (-(wins[key] + 1) / (wins[key] + losses[key] + 2), key))
    return {
        "splits": graphs,
        "num_videos": len(set().union(*videos.values())),
        "num_shared_videos": {f"{a} and {b}": len(videos[a] & videos[b]) for a, b in itertools.combinations(videos, 2)},
        "records": {key: (wins[key], losses[key]) for key in ranked},
    }


def emotion_examples(
    numbers: Mapping[str, Any], splits: Mapping[str, Annotations], count: int
) -> dict[str, list[tuple[str, str]]]:
    """The videos (id, caption) with the highest intensity of each emotion."""
    ids = [key for found in splits.values() for key in found.ids]
    intensities = np.concatenate([found.intensities for found in splits.values()])
    examples = {}
    for name in sorted(describe_charts.shown_emotions(numbers), key=numbers["emotions"].index):
        column = intensities[:, numbers["emotions"].index(name)]
        highest = np.argsort(-column, kind="stable")[:count]
        examples[name] = [(ids[index], f"{column[index]:.2f}") for index in highest]
    return examples


def find_facts(
    root: Path, videos: Mapping[str, Path], settings: Settings
) -> tuple[dict[str, VideoFacts], dict[str, str]]:
    """Duration, size and frame rate by id, from metadata.json or else from the files; and unreadable videos."""
    metadata = read_json(root / "metadata.json") if (root / "metadata.json").is_file() else {}
    facts = {}
    for key in videos:
        try:
            entry = metadata[key]
            size = int(entry["width"]), int(entry["height"])
            found = VideoFacts(float(entry["duration"]), *size, float(Fraction(entry["frame_rate"])))
        except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
            continue
        if all(math.isfinite(value) and value > 0 for value in found):
            facts[key] = found
    missing = [key for key in videos if key not in facts]
    if len(missing) > settings.max_probed:
        drawn = np.random.default_rng(0).choice(len(missing), settings.max_probed, replace=False)
        logger.info("probing %d of %d videos without metadata (--max_probed)", len(drawn), len(missing))
        missing = [missing[index] for index in sorted(drawn)]
    probed = {key: videos[key] for key in missing}
    check = check_videos(probed, num_processes=settings.num_processes, describe="probing videos")
    for key, info in check.infos.items():
        facts[key] = VideoFacts(info.duration_seconds, info.width, info.height, info.fps)
    return {key: facts[key] for key in videos if key in facts}, check.unreadable


def video_numbers(facts: Mapping[str, VideoFacts]) -> dict[str, Any]:
    """Durations, sizes and frame rates of at least one video."""
    seconds = np.array([entry.seconds for entry in facts.values()])
    return {
        "num_videos": len(facts),
        "total_hours": float(seconds.sum() / 3600),
        "seconds": {"mean": float(seconds.mean()), "percentiles": percentiles(seconds)},
        "share_shorter_than_a_clip": float(np.mean(seconds < describe_charts.CLIP_SECONDS)),
        "sizes": dict(Counter(f"{entry.width}x{entry.height}" for entry in facts.values()).most_common()),
        "frame_rates": dict(Counter(f"{entry.fps:.6g}" for entry in facts.values()).most_common()),
    }


def run(settings: Settings) -> bool:
    """Writes page, charts and numbers. -> whether all opened videos are readable"""
    check_ranges(settings, num_thumbnails=0, max_probed=0, num_processes=1)
    root, output_dir = settings.root.expanduser().resolve(), settings.output_dir.expanduser().resolve()
    if output_dir.is_relative_to(root):
        raise ValueError(f"--output_dir {output_dir} is inside the dataset {root}, which must not be modified")
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output_dir {output_dir} is a file")
    kind = kind_of(root)
    logger.info("%s: reading labels in the layout of %s", root, kind.upper())
    if kind == "vce":
        emotions = read_emotions(root)
        if emotions["train"].emotions != emotions["test"].emotions:
            raise ValueError(f"{root}: training and test labels have different emotions")
        label_numbers = emotion_numbers(emotions)
        charts = describe_charts.emotion_charts(label_numbers)
        examples = emotion_examples(label_numbers, emotions, settings.num_thumbnails)
        firsts = dict(zip(label_numbers["emotions"], label_numbers["top1_counts"]["train"], strict=True))
        num_train = len(emotions["train"].ids)
        notes = {name: f"first in {percent(firsts[name] / num_train)} of the training videos" for name in examples}
    else:
        label_numbers = preference_numbers(read_preferences(root))
        charts = describe_charts.preference_charts(label_numbers)
        records, count = label_numbers["records"].items(), 2 * settings.num_thumbnails
        ranked = [(key, f"preferred {wins} of {wins + losses} times") for key, (wins, losses) in records]
        examples = {"Most preferred": ranked[:count], "Least preferred": ranked[::-1][:count]}
        notes = dict.fromkeys(examples, "")
    videos = read_videos(root, kind)
    facts, unreadable = find_facts(root, videos, settings)
    shown = {key: videos[key] for entries in examples.values() for key, _ in entries}
    thumbnails = read_thumbnails(shown, num_processes=settings.num_processes, limit_seconds=30)
    unreadable |= thumbnails.unreadable
    numbers = {
        "kind": kind,
        "root": str(root),
        **label_numbers,
        "videos": video_numbers(facts) if facts else None,
        "num_videos_without_facts": len(videos) - len(facts),
        "unreadable": unreadable,
        "examples": examples,
    }
    if facts:
        charts += describe_charts.video_charts(numbers["videos"], [entry.seconds for entry in facts.values()])
    write_page(
        output_dir,
        f"dataset_{kind}.html",
        drawn=draw(charts),
        numbers_file=NUMBERS_FILE,
        numbers=numbers,
        name=root.name,
        example_notes=notes,
        thumbnails=as_jpegs(thumbnails.pictures),
    )
    logger.info("wrote %s", settings.output_dir / PAGE_FILE)
    if unreadable:
        listed = f"{len(unreadable)} of the opened videos cannot be read: {first_names(list(unreadable))}"
        sys.stderr.write(f"error: {listed}; see {NUMBERS_FILE}\n")
    return not unreadable


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="the description is incomplete")

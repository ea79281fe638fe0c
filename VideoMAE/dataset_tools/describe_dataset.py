"""Look at a dataset in the layout of VCE or V2V before training on it: one page, its charts, and every number.

    python data_prep/describe_dataset.py vce_dataset --output_dir description

writes `index.html`, which holds everything it shows and opens offline; the charts and the contact sheet as PNG files;
and `description.json`. VCE: how intense and how common each emotion is, which ones go together, what answering the
commonest emotions gets, examples of each. V2V: how comparisons connect the videos, how long and how consistent they
are, the most and the least preferred videos. Both: durations, sizes and frame rates, from metadata.json, or from the
files of videos that it does not tell of.

A video that cannot be read is named, on the page too, and has no thumbnail; the exit status is then 1.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from VideoMAE.cli import show_messages
from VideoMAE.data.v2v import videos_of
from VideoMAE.dataset_tools.describe_charts import contact_sheet, percent, preference_charts, video_charts
from VideoMAE.dataset_tools.describe_emotion_charts import emotion_charts, shown_emotions
from VideoMAE.dataset_tools.describe_numbers import (
    VideoFacts,
    emotion_numbers,
    facts_from_metadata,
    preference_numbers,
    preference_records,
    video_numbers,
)
from VideoMAE.dataset_tools.describe_report import render
from VideoMAE.dataset_tools.read_labels import emotion_names, kind_of, read_emotions, read_preferences
from VideoMAE.files import read_json
from VideoMAE.reporting.chart_style import Chart
from VideoMAE.reporting.page import Picture, Strip, draw, write_files
from VideoMAE.reporting.thumbnails import Thumbnails, as_jpegs, read_thumbnails
from VideoMAE.video.check import check_videos

logger = logging.getLogger("describe_dataset")

PAGE_FILE, NUMBERS_FILE, SHEET_FILE = "index.html", "description.json", "contact_sheet.png"
THUMBNAILS_BUDGET_BYTES = 1_200_000
NUM_NAMED = 10


@dataclass(frozen=True)
class Settings:
    """What to describe, and where to write."""

    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]
    """Folder in the layout of VCE or V2V; only read."""
    output_dir: Path
    """Folder for the page, the charts and the numbers; files of an earlier description are replaced."""
    num_thumbnails: int = 6
    """Thumbnails of each emotion; of V2V, twice as many of the most and of the least preferred. 0: none."""
    max_probed: int = 2000
    """How many videos that metadata.json does not tell of are looked into, drawn at random from them."""
    num_processes: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that read videos."""
    limit_seconds: float = 30.0
    """A video whose reading takes longer counts as unreadable."""


class Content(NamedTuple):
    """What the labels say: numbers, their charts, which videos to show, and where every video lies."""

    numbers: dict[str, Any]
    charts: list[Chart]
    strips: list[Strip]
    videos: dict[str, Path]


def checked(settings: Settings) -> tuple[Path, Path]:
    """The absolute root and output folder. Raises ValueError for settings that cannot be."""
    root, output_dir = settings.root.expanduser().resolve(), settings.output_dir.expanduser().resolve()
    for name, least in (("num_thumbnails", 0), ("max_probed", 0), ("num_processes", 1), ("limit_seconds", 1)):
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(settings, name)}")
    if output_dir.is_relative_to(root):
        raise ValueError(f"--output_dir {output_dir} lies in the dataset {root}, which is only read")
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output_dir {output_dir} is a file")
    return root, output_dir


def describe_emotions(root: Path, num_thumbnails: int) -> Content:
    splits = read_emotions(root)
    names = emotion_names(splits["train"])
    if any(emotion_names(found) != names for found in splits.values()):
        raise ValueError(f"{root}: training and test labels have different emotions")
    numbers = emotion_numbers(splits)
    ids = [key for found in splits.values() for key in found.ids]
    paths = [path for found in splits.values() for path in found.paths]
    intensities = np.concatenate([found.intensities for found in splits.values()])
    strips = []
    for name in sorted(shown_emotions(numbers), key=names.index):
        column = intensities[:, names.index(name)]
        highest = np.argsort(-column, kind="stable")[:num_thumbnails]
        share = numbers["top1_counts"]["train"][names.index(name)] / len(splits["train"].ids)
        note = f"first in {percent(share)} of the training videos"
        strips.append(Strip(name, note, [Picture(ids[index], f"{column[index]:.2f}") for index in highest]))
    return Content(numbers, emotion_charts(numbers), strips, dict(zip(ids, paths, strict=True)))


def describe_preferences(root: Path, num_thumbnails: int) -> Content:
    splits = read_preferences(root)
    numbers = preference_numbers(splits)
    comparisons = [entry for entries in splits.values() for entry in entries]
    every = videos_of(root, comparisons)
    records = preference_records(comparisons)
    numbers["records"] = {key: list(record) for key, record in records.items()}
    pictures = [
        Picture(key, f"preferred {record.wins} of {record.wins + record.losses} times")
        for key, record in records.items()
    ]
    strips = [
        Strip("Most preferred", "", pictures[: 2 * num_thumbnails]),
        Strip("Least preferred", "", pictures[::-1][: 2 * num_thumbnails]),
    ]
    return Content(numbers, preference_charts(numbers), strips, dict(zip(every.ids, every.paths, strict=True)))


def find_facts(
    root: Path, videos: Mapping[str, Path], settings: Settings
) -> tuple[dict[str, VideoFacts], dict[str, str]]:
    """Duration, size and frame rate by id, and why some have none: from metadata.json, else from the files."""
    metadata = read_json(root / "metadata.json") if (root / "metadata.json").is_file() else {}
    known = {key: facts_from_metadata(metadata.get(key)) for key in videos}
    facts = {key: found for key, found in known.items() if found is not None}
    lacking = [key for key in videos if key not in facts]
    if len(lacking) > settings.max_probed:
        drawn = np.random.default_rng(0).choice(len(lacking), settings.max_probed, replace=False)
        logger.info("looking into %d of %d videos without metadata (--max_probed)", len(drawn), len(lacking))
        lacking = [lacking[index] for index in sorted(drawn)]
    check = check_videos(
        {key: videos[key] for key in lacking}, num_processes=settings.num_processes,
        limit_seconds=settings.limit_seconds, describe="looking into videos",
    )  # fmt: skip
    probed = {
        key: VideoFacts(info.duration_seconds, info.width, info.height, info.fps) for key, info in check.infos.items()
    }
    return {key: facts.get(key) or probed[key] for key in videos if key in facts or key in probed}, check.unreadable


def look_at(content: Content, settings: Settings) -> Thumbnails:
    shown = {picture.video_id for strip in content.strips for picture in strip.pictures}
    videos = {key: path for key, path in content.videos.items() if key in shown}
    logger.info("reading the middle frames of %d videos", len(videos))
    return read_thumbnails(videos, num_processes=settings.num_processes, limit_seconds=settings.limit_seconds)


def describe(settings: Settings) -> dict[str, Any]:
    """Write page, charts and numbers -> the numbers."""
    root, output_dir = checked(settings)
    kind = kind_of(root)
    logger.info("%s: reading the labels of a dataset like %s", root, kind.upper())
    content = (describe_emotions if kind == "vce" else describe_preferences)(root, settings.num_thumbnails)
    facts, unreadable = find_facts(root, content.videos, settings)
    thumbnails = look_at(content, settings)
    numbers = {
        "kind": kind,
        "root": str(root),
        **content.numbers,
        "videos": video_numbers(facts),
        "num_videos_without_facts": len(content.videos) - len(facts),
        "unreadable": {**unreadable, **thumbnails.unreadable},
        "examples": {strip.heading: [list(picture) for picture in strip.pictures] for strip in content.strips},
    }
    charts = draw(content.charts)
    if facts:
        charts += draw(video_charts(numbers["videos"], np.array([entry.seconds for entry in facts.values()])))
    jpegs = as_jpegs(thumbnails.pictures, budget_bytes=THUMBNAILS_BUDGET_BYTES)
    files = {f"{drawn.chart.name}.png": drawn.light for drawn in charts}
    if thumbnails.pictures:
        files[SHEET_FILE] = contact_sheet(content.strips, thumbnails.pictures)
    files[NUMBERS_FILE] = (json.dumps(numbers, indent=1, ensure_ascii=False) + "\n").encode()
    files[PAGE_FILE] = render(numbers, charts, content.strips, jpegs).encode()
    write_files(output_dir, files)
    return numbers


def main() -> int:
    settings = tyro.cli(Settings, description=__doc__, config=(tyro.conf.OmitArgPrefixes,), use_underscores=True)
    show_messages(sys.stdout)
    try:
        bad = list(describe(settings)["unreadable"])
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped\n")
        return 1
    logger.info("wrote %s", settings.output_dir / PAGE_FILE)
    if bad:
        others = f" and {len(bad) - NUM_NAMED} more" if len(bad) > NUM_NAMED else ""
        named = ", ".join(bad[:NUM_NAMED])
        sys.stderr.write(
            f"error: {len(bad)} of the videos looked at cannot be read: {named}{others}; {NUMBERS_FILE} says why\n"
        )
        return 1
    return 0

"""Describe a dataset in the layout of VCE or V2V before training on it: a page, its charts, and every number.

    python data_prep/describe_dataset.py vce_dataset --output_dir description

writes `index.html`, a self-contained page; the charts and a contact sheet as PNG files; and `description.json`. VCE:
intensity and frequency of each emotion, their correlations, the metrics of guessing, example videos. V2V: the graph of
the comparisons, their lengths and consistency, the most and the least preferred videos. Both: durations, sizes and
frame rates, from metadata.json or else from the video files.

Unreadable videos are listed and have no thumbnail; the exit status is then 1.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from VideoMAE import cli
from VideoMAE.dataset_tools import describe_charts, describe_numbers
from VideoMAE.dataset_tools.programs import check_ranges, first_names, num_cores
from VideoMAE.dataset_tools.read_labels import kind_of, read_emotions, read_preferences, read_videos
from VideoMAE.files import read_json
from VideoMAE.reporting.charts import Chart
from VideoMAE.reporting.page import PAGE_FILE, as_jpegs, draw, percent, read_thumbnails, write_bytes, write_page
from VideoMAE.video.check import check_videos

logger = logging.getLogger("describe_dataset")

NUMBERS_FILE, CONTACT_SHEET_FILE = "description.json", "contact_sheet.png"


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
    limit_seconds: float = 30.0
    """Time limit for reading one video; a slower video is unreadable."""


class Content(NamedTuple):
    """What the labels give: numbers, charts, example videos (id, caption) by heading, notes on them."""

    numbers: dict[str, Any]
    charts: list[Chart]
    examples: dict[str, list[tuple[str, str]]]
    example_notes: dict[str, str]


def describe_emotions(root: Path, num_thumbnails: int) -> Content:
    splits = read_emotions(root)
    names = splits["train"].emotions
    if any(found.emotions != names for found in splits.values()):
        raise ValueError(f"{root}: training and test labels have different emotions")
    numbers = describe_numbers.emotion_numbers(splits)
    ids = [key for found in splits.values() for key in found.ids]
    intensities = np.concatenate([found.intensities for found in splits.values()])
    examples, notes = {}, {}
    for name in sorted(describe_charts.shown_emotions(numbers), key=names.index):
        column = intensities[:, names.index(name)]
        highest = np.argsort(-column, kind="stable")[:num_thumbnails]
        share = numbers["top1_counts"]["train"][names.index(name)] / len(splits["train"].ids)
        examples[name] = [(ids[index], f"{column[index]:.2f}") for index in highest]
        notes[name] = f"first in {percent(share)} of the training videos"
    return Content(numbers, describe_charts.emotion_charts(numbers), examples, notes)


def describe_preferences(root: Path, num_thumbnails: int) -> Content:
    splits = read_preferences(root)
    numbers = describe_numbers.preference_numbers(splits)
    comparisons = [entry for entries in splits.values() for entry in entries]
    records = numbers["records"] = describe_numbers.preference_records(comparisons)
    ranked = [(key, f"preferred {wins} of {wins + losses} times") for key, (wins, losses) in records.items()]
    examples = {"Most preferred": ranked[: 2 * num_thumbnails], "Least preferred": ranked[::-1][: 2 * num_thumbnails]}
    return Content(numbers, describe_charts.preference_charts(numbers), examples, dict.fromkeys(examples, ""))


def find_facts(
    root: Path, videos: Mapping[str, Path], settings: Settings
) -> tuple[dict[str, describe_numbers.VideoFacts], dict[str, str]]:
    """Duration, size and frame rate by id, from metadata.json or else from the files; and unreadable videos."""
    metadata = read_json(root / "metadata.json") if (root / "metadata.json").is_file() else {}
    facts = {key: found for key in videos if (found := describe_numbers.facts_from_metadata(metadata.get(key)))}
    missing = [key for key in videos if key not in facts]
    if len(missing) > settings.max_probed:
        drawn = np.random.default_rng(0).choice(len(missing), settings.max_probed, replace=False)
        logger.info("probing %d of %d videos without metadata (--max_probed)", len(drawn), len(missing))
        missing = [missing[index] for index in sorted(drawn)]
    check = check_videos(
        {key: videos[key] for key in missing}, num_processes=settings.num_processes,
        limit_seconds=settings.limit_seconds, describe="probing videos"
    )  # fmt: skip
    for key, info in check.infos.items():
        facts[key] = describe_numbers.VideoFacts(info.duration_seconds, info.width, info.height, info.fps)
    return {key: facts[key] for key in videos if key in facts}, check.unreadable


def describe(settings: Settings) -> dict[str, Any]:
    """Writes page, charts and numbers. -> the numbers"""
    check_ranges(settings, num_thumbnails=0, max_probed=0, num_processes=1, limit_seconds=1)
    root, output_dir = settings.root.expanduser().resolve(), settings.output_dir.expanduser().resolve()
    if output_dir.is_relative_to(root):
        raise ValueError(f"--output_dir {output_dir} is inside the dataset {root}, which must not be modified")
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output_dir {output_dir} is a file")
    kind = kind_of(root)
    logger.info("%s: reading labels in the layout of %s", root, kind.upper())
    content = (describe_emotions if kind == "vce" else describe_preferences)(root, settings.num_thumbnails)
    videos = read_videos(root, kind)
    facts, unreadable = find_facts(root, videos, settings)
    shown = {key: videos[key] for entries in content.examples.values() for key, _ in entries}
    thumbnails = read_thumbnails(shown, num_processes=settings.num_processes, limit_seconds=settings.limit_seconds)
    numbers = {
        "kind": kind,
        "root": str(root),
        **content.numbers,
        "videos": describe_numbers.video_numbers(facts),
        "num_videos_without_facts": len(videos) - len(facts),
        "unreadable": {**unreadable, **thumbnails.unreadable},
        "examples": content.examples,
    }
    charts = list(content.charts)
    if facts:
        charts += describe_charts.video_charts(numbers["videos"], [entry.seconds for entry in facts.values()])
    if thumbnails.pictures:
        write_bytes(
            output_dir / CONTACT_SHEET_FILE, describe_charts.contact_sheet(content.examples, thumbnails.pictures)
        )
    write_page(
        output_dir, f"dataset_{kind}.html", drawn=draw(charts), numbers_file=NUMBERS_FILE, numbers=numbers,
        name=root.name, example_notes=content.example_notes, thumbnails=as_jpegs(thumbnails.pictures)
    )  # fmt: skip
    return numbers


def run(settings: Settings) -> bool:
    """Describes the dataset. -> whether all opened videos are readable"""
    unreadable = list(describe(settings)["unreadable"])
    logger.info("wrote %s", settings.output_dir / PAGE_FILE)
    if unreadable:
        listed = f"{len(unreadable)} of the opened videos cannot be read: {first_names(unreadable)}"
        sys.stderr.write(f"error: {listed}; see {NUMBERS_FILE}\n")
    return not unreadable


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="the description is incomplete")

"""Bring your own videos into the layout of VCE or V2V, from a CSV file.

    python data_prep/import_csv.py ratings.csv --output_dir my_dataset

One line a video with a column `path` (relative to --videos_dir, by default the folder of the CSV file) or `id` (the
file is ID.mp4, or of another ending), and one column per emotion, of any name, with an intensity from 0 to 1:

    path,calm,joy,fear
    beach/01.mp4,0.9,0.4,0

makes VCE's layout, and an `emotions.json` with the names, in alphabetical order, which the run program follows. Columns
`better` and `worse`, each a path or an id, one line a pair, make V2V's:

    better,worse
    beach/01.mp4,traffic.mp4

Videos are linked (hard links, or symbolic ones to another file system) or, with --copy, copied. The split into
training and test is drawn from --seed; pairs are split so that no video is on both sides. Bad lines, those of
unreadable videos too, are all named; with any nothing is made, unless --skip_bad_lines.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from VideoMAE.data.v2v import Pair, hold_out_connected
from VideoMAE.data.vce import EMOTIONS_FILE
from VideoMAE.dataset_tools.csv_table import Table
from VideoMAE.dataset_tools.label_checks import top_emotions
from VideoMAE.dataset_tools.programs import num_cores, run_program, write_json
from VideoMAE.dataset_tools.video_checks import metadata_entry
from VideoMAE.video.check import check_videos

logger = logging.getLogger("import_csv")


@dataclass(frozen=True)
class Settings:
    """What to read, and what to make of it."""

    csv: Annotated[Path, tyro.conf.Positional]
    """The CSV file, with a header; comma, semicolon or tab between the columns."""
    output_dir: Path
    """Folder to make; one that holds anything is refused."""
    videos_dir: Path | None = None
    """Folder that paths and ids are relative to. None: that of the CSV file."""
    copy: bool = False
    """Copy the videos instead of linking them."""
    test_fraction: float = 0.2
    """Share of the videos, or at most of the pairs, that become the test split."""
    seed: int = 0
    """Another seed gives another split."""
    skip_bad_lines: bool = False
    """Make the dataset of the good lines; the exit status still is 1."""
    num_workers: int = field(default_factory=num_cores)
    """Videos opened at the same time."""
    probe_seconds: float = 30.0
    """A video that takes longer to open is given up."""
    report: Path | None = None
    """JSON file for the counts and the bad lines."""


def label_files(table: Table, settings: Settings) -> dict[str, Any]:
    """Form the files of a dataset's labels -> contents by name."""
    if table.is_pairs:
        pairs = [Pair(*line.ids) for line in table.lines]
        try:
            split = hold_out_connected(pairs, fraction=settings.test_fraction, seed=settings.seed)
        except ValueError as error:
            raise ValueError(
                f"--test_fraction {settings.test_fraction:g} of {len(pairs)} pairs leaves a split empty: pairs that "
                "share videos stay together, and no whole group of them fits; pass another one"
            ) from error
        comparisons = {"train": split.train, "test": split.held_out, "listwise": []}
        return {f"{name}_labels.json": {"comparisons": entries} for name, entries in comparisons.items()}
    num_videos = len(table.lines)
    num_test = round(settings.test_fraction * num_videos)
    if not 0 < num_test < num_videos:
        raise ValueError(f"--test_fraction {settings.test_fraction:g} of {num_videos} videos leaves a split empty")
    is_test = np.random.default_rng(settings.seed).permutation(num_videos) < num_test
    labels: dict[str, Any] = {"train_labels.json": {}, "test_labels.json": {}, EMOTIONS_FILE: table.emotions}
    for line, in_test in zip(table.lines, is_test, strict=True):
        labels["test_labels.json" if in_test else "train_labels.json"][line.ids[0]] = {
            "emotions": line.intensities,
            "file": f"videos/{line.ids[0]}.mp4",
            "topK": top_emotions(line.intensities),
        }
    return labels


def place(source: Path, target: Path, *, copy: bool) -> None:
    """Copy a file, or link it: hard, or by its absolute path where it lies on another file system."""
    source = source.resolve()
    if copy:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source)


def run(settings: Settings) -> bool:
    """Make the dataset, whole or not at all; name the bad lines -> whether there were none."""
    output_dir = settings.output_dir.expanduser().resolve()
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise ValueError(f"--output_dir {output_dir} exists and is not empty")
    table = Table(settings.csv, settings.videos_dir or settings.csv.parent)
    named = {key: table.sources[key] for line in table.lines for key in line.ids}
    check = check_videos(named, num_processes=settings.num_workers, limit_seconds=settings.probe_seconds)
    table.drop_unreadable(check.unreadable)
    for number, reason in sorted(table.bad_lines.items()):
        logger.info("%s, line %d: %s", settings.csv, number, reason)
    used = list(dict.fromkeys(key for line in table.lines for key in line.ids))
    if table.bad_lines and not (settings.skip_bad_lines and used):
        _report(settings, table, num_videos=0)
        raise ValueError(
            f"{settings.csv}: {len(table.bad_lines)} bad lines; {output_dir} was not made"
            + (" (--skip_bad_lines makes it of the others)" if used else "")
        )
    files = label_files(table, settings)
    files["metadata.json"] = {key: metadata_entry(check.infos[key], f"videos/{key}.mp4") for key in used}
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}.partial-") as partial:
        root = Path(partial) / output_dir.name
        (root / "videos").mkdir(parents=True)
        for key in used:
            place(table.sources[key], root / "videos" / f"{key}.mp4", copy=settings.copy)
        for name, content in files.items():
            write_json(root / name, content)
        root.replace(output_dir)
    _report(settings, table, num_videos=len(used))
    kind = "V2V" if table.is_pairs else f"VCE, {len(table.emotions)} emotions"
    logger.info(
        "%s (%s): %d lines, %d videos, %d bad lines", output_dir, kind, len(table.lines), len(used),
        len(table.bad_lines),
    )  # fmt: skip
    return not table.bad_lines


def _report(settings: Settings, table: Table, *, num_videos: int) -> None:
    if settings.report:
        counts = {"num_lines": len(table.lines), "num_videos": num_videos, "emotions": table.emotions}
        write_json(settings.report, {"fine": not table.bad_lines, **counts, "bad_lines": table.bad_lines})


def main() -> int:
    return run_program(run, Settings, __doc__)

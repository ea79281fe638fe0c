"""Import your own videos and ratings from a CSV file into the layout of VCE or V2V.

    python data_prep/import_csv.py ratings.csv --output_dir my_dataset

For VCE's layout, the file has one line per video with a column `path` (relative to --videos_dir, by default the folder
of the CSV file) or `id` (the file is ID.mp4, or has another suffix), and one column per emotion, with any name and
intensities from 0 to 1:

    path,calm,joy,fear
    beach/01.mp4,0.9,0.4,0

An `emotions.json` with the names in alphabetical order is written too; the training program reads it. For V2V's layout,
the file has the columns `better` and `worse`, each with a path or an id, and one line per pair:

    better,worse
    beach/01.mp4,traffic.mp4

Videos are linked (hard links, or symbolic links to another file system) or, with --copy, copied. The split into
training and test is random with --seed; pairs are split so that no video is in both. All bad lines are listed,
including those of unreadable videos; if there are any, nothing is made unless --skip_bad_lines is given.
"""

import contextlib
import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.data.v2v import Pair, connected_groups, hold_out_connected, video_file_of
from VideoMAE.data.vce import EMOTIONS_FILE
from VideoMAE.dataset_tools.label_checks import is_id, label_entry
from VideoMAE.dataset_tools.programs import Link, num_cores, place_video, refuse_non_empty
from VideoMAE.dataset_tools.video_checks import metadata_entry
from VideoMAE.files import new_folder, write_json
from VideoMAE.video.check import check_videos

logger = logging.getLogger("import_csv")

VIDEO_COLUMNS = ("path", "file", "video")
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Settings:
    csv: Annotated[Path, tyro.conf.Positional]
    """CSV file with a header, delimited by comma, semicolon or tab."""
    output_dir: Path
    """Folder to create; must not exist or be empty."""
    videos_dir: Path | None = None
    """Folder that paths and ids are relative to. None: that of the CSV file."""
    copy: bool = False
    """Copy the videos instead of linking them."""
    test_fraction: float = 0.2
    """Fraction of the videos, or at most of the pairs, in the test split."""
    seed: int = 0
    """Seed of the split."""
    skip_bad_lines: bool = False
    """Make the dataset from the valid lines; the exit status is 1 nevertheless."""
    num_workers: int = field(default_factory=num_cores)
    """Number of worker processes."""
    probe_seconds: float = 30.0
    """Time limit for reading a video; a video that exceeds it counts as unreadable."""
    report: Path | None = None
    """JSON file for the counts and the bad lines."""


class Line(NamedTuple):
    """A valid line: a video and its intensities, or the worse and the better video of a pair."""

    number: int
    ids: tuple[str, ...]
    intensities: dict[str, float]


class Table:
    """A CSV file about the videos of a folder: its valid lines, and the reasons of the bad lines by number.

    Raises ValueError if there are no lines, or columns are missing.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        self.folder = folder
        self.sources: dict[str, Path] = {}
        self.bad_lines: dict[int, str] = {}
        self.lines: list[Line] = []
        self._first_line: dict[str, int] = {}
        rows = _read_rows(file)
        if len(rows) < 2:
            raise ValueError(f"{file}: expected a header and at least one line")
        self.columns = [name.strip() for name in rows[0][1]]
        self.is_pairs = {"better", "worse"} <= set(self.columns)
        self.emotions = [] if self.is_pairs else self._emotion_columns(file)
        for number, cells in rows[1:]:
            try:
                self.lines.append(self._line(number, [cell.strip() for cell in cells]))
            except ValueError as error:
                self.bad_lines[number] = str(error)

    def _emotion_columns(self, file: Path) -> list[str]:
        """The names of the emotions, in alphabetical order."""
        emotions = [name for name in self.columns if name not in ("id", *VIDEO_COLUMNS)]
        if len(emotions) == len(self.columns):
            raise ValueError(f"{file}: has no column 'path' or 'id' (and no columns 'better' and 'worse')")
        if len(emotions) < 2 or "" in emotions or len(set(self.columns)) < len(self.columns):
            raise ValueError(f"{file}: expected two or more columns of emotions, all named and all different")
        return sorted(emotions)

    def _line(self, number: int, cells: Sequence[str]) -> Line:
        if len(cells) != len(self.columns):
            raise ValueError(f"{counted(len(cells), 'cell')}, the header has {len(self.columns)}")
        row = dict(zip(self.columns, cells, strict=True))
        if self.is_pairs:
            worse, better = self._video(row["worse"]), self._video(row["better"])
            if worse == better:
                raise ValueError(f"compares {worse} with itself")
            return Line(number, (worse, better), {})
        path = next((row[name] for name in VIDEO_COLUMNS if row.get(name)), "")
        intensities = {name: _intensity(name, row[name]) for name in self.emotions}
        key = self._video(path or row.get("id", ""), key=row.get("id"))
        if self._first_line.setdefault(key, number) != number:
            raise ValueError(f"duplicate video {key}, see line {self._first_line[key]}")
        return Line(number, (key,), intensities)

    def _video(self, cell: str, *, key: str | None = None) -> str:
        """The id of the video that a cell names."""
        source = self._find(cell)
        key = key or source.stem
        if not is_id(key):
            raise ValueError(f"invalid id {key!r}: expected printable characters without / and #")
        if self.sources.setdefault(key, source) != source:
            raise ValueError(f"{source} and {self.sources[key]} would have the same id; add a column 'id'")
        return key

    def _find(self, cell: str) -> Path:
        if not cell:
            raise ValueError("names no video")
        if (self.folder / cell).is_file():
            return (self.folder / cell).resolve()
        found = self._by_stem.get(cell, [])
        if not found:
            raise ValueError(f"no such video: {self.folder / cell}")
        if len(found) > 1:
            raise ValueError(f"{len(found)} files are named {cell}, with different suffixes; write the path")
        return found[0]

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        files = sorted(filter(Path.is_file, self.folder.iterdir()), key=lambda path: path.stem)
        return {stem: [*map(Path.resolve, paths)] for stem, paths in groupby(files, key=lambda path: path.stem)}

    def video_ids(self) -> list[str]:
        """The videos of the valid lines."""
        return list(dict.fromkeys(key for line in self.lines for key in line.ids))

    def drop_unreadable(self, unreadable: dict[str, str]) -> None:
        """Turns the lines with unreadable videos into bad lines."""
        for line in self.lines:
            for key in line.ids:
                if key in unreadable:
                    self.bad_lines[line.number] = f"{self.sources[key]}: {unreadable[key]}"
        self.lines = [line for line in self.lines if line.number not in self.bad_lines]


def _read_rows(file: Path) -> list[tuple[int, list[str]]]:
    """The non-blank lines of a CSV file with their numbers."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            header = opened.readline()
            opened.seek(0)
            reader = csv.reader(opened, delimiter=max(DELIMITERS, key=header.count), strict=True)
            return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except FileNotFoundError as error:
        raise ValueError(f"{file}: no such file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: not a CSV file in UTF-8: {error}") from error


def _intensity(name: str, cell: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(cell) <= 1:
            return float(cell)
    raise ValueError(f"{name} is {cell!r}, not a number in [0, 1]")


def label_files(table: Table, settings: Settings) -> dict[str, Any]:
    """The label files of the dataset, content by name. Raises ValueError if a split is empty."""
    empty = f"--test_fraction {settings.test_fraction:g} of {{}} leaves a split empty"
    if table.is_pairs:
        pairs = [Pair(*line.ids) for line in table.lines]
        try:
            split = hold_out_connected(pairs, fraction=settings.test_fraction, seed=settings.seed)
        except ValueError as error:
            num_groups = len(connected_groups(pairs))
            raise ValueError(
                f"{empty.format(counted(len(pairs), 'pair'))}: no video may be in both, and the pairs form "
                f"{counted(num_groups, 'group')} without common videos; add groups or pass a larger --test_fraction"
            ) from error
        comparisons = {"train": split.train, "test": split.held_out, "listwise": []}
        return {f"{name}_labels.json": {"comparisons": entries} for name, entries in comparisons.items()}
    num_videos = len(table.lines)
    num_test = round(settings.test_fraction * num_videos)
    if not 0 < num_test < num_videos:
        raise ValueError(empty.format(counted(num_videos, "video")))
    is_test = np.random.default_rng(settings.seed).permutation(num_videos) < num_test
    labels: dict[str, Any] = {"train_labels.json": {}, "test_labels.json": {}, EMOTIONS_FILE: table.emotions}
    for line, in_test in zip(table.lines, is_test, strict=True):
        key = line.ids[0]
        labels["test_labels.json" if in_test else "train_labels.json"][key] = label_entry(line.intensities, key)
    return labels


def run(settings: Settings) -> bool:
    """Makes the dataset, completely or not at all, and lists the bad lines -> whether there are none."""
    output_dir = settings.output_dir.expanduser().resolve()
    refuse_non_empty(output_dir)
    table = Table(settings.csv, settings.videos_dir or settings.csv.parent)
    sources = {key: table.sources[key] for key in table.video_ids()}
    check = check_videos(sources, num_processes=settings.num_workers, limit_seconds=settings.probe_seconds)
    table.drop_unreadable(check.unreadable)
    for number, reason in sorted(table.bad_lines.items()):
        logger.info("%s, line %d: %s", settings.csv, number, reason)
    ids, bad = table.video_ids(), counted(len(table.bad_lines), "bad line")
    is_made = not table.bad_lines or (settings.skip_bad_lines and bool(ids))
    if is_made:
        files = label_files(table, settings)
        files["metadata.json"] = {key: metadata_entry(check.infos[key], video_file_of(key)) for key in ids}
        ways: tuple[Link, ...] = ("copy",) if settings.copy else ("hard", "symbolic")
        with new_folder(output_dir) as folder:
            for key in ids:
                place_video(table.sources[key], folder / video_file_of(key), *ways)
            for name, content in files.items():
                write_json(folder / name, content, indent=4)
    if settings.report:
        counts = {"num_lines": len(table.lines), "num_videos": len(ids) if is_made else 0, "emotions": table.emotions}
        write_json(settings.report, {"fine": not table.bad_lines, **counts, "bad_lines": table.bad_lines}, indent=4)
    if not is_made:
        remedy = "; pass --skip_bad_lines to use the other lines" if ids else ""
        raise ValueError(f"{settings.csv}: {bad}; {output_dir} was not made{remedy}")
    kind = "V2V" if table.is_pairs else f"VCE, {len(table.emotions)} emotions"
    lines, videos = counted(len(table.lines), "line"), counted(len(ids), "video")
    logger.info("%s (%s): %s, %s, %s", output_dir, kind, lines, videos, bad)
    return not table.bad_lines


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="nothing was made")

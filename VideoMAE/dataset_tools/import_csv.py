"""Import your own videos and ratings from a CSV file into the layout of VCE or V2V.

    python data_prep/import_csv.py ratings.csv --output_dir my_dataset

For VCE's layout, the file has one line per video. The video is read from the column `path`, `file` or `video` (relative
to --videos_dir, by default the folder of the CSV file) or, without one of them, from `id` (the file is ID.mp4, or has
another suffix); a column `id` beside them names the video in the dataset. Every other column is an emotion, with any
name and intensities from 0 to 1; `emotions.json` is written with the names in alphabetical order:

    path,calm,joy,fear
    beach/01.mp4,0.9,0.4,0

For V2V's layout, the file has the columns `better` and `worse`, each with a path or an id, and one line per pair:

    better,worse
    beach/01.mp4,traffic.mp4

Videos are linked (hard links, or symbolic links to another file system) or, with --copy, copied. The split into
training and test is random with --seed; pairs are split so that no video is in both. All bad lines are listed,
including those of unreadable videos; if there are any, nothing is made unless --skip_bad_lines is given.
"""

import csv
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.data.v2v import Pair, connected_groups, hold_out_connected, video_file_of
from VideoMAE.data.vce import EMOTIONS_FILE
from VideoMAE.dataset_tools.label_checks import is_id, label_entry
from VideoMAE.dataset_tools.programs import Link, ids_in, metadata_entry, num_cores, place_video, refuse_non_empty
from VideoMAE.files import new_folder, write_json
from VideoMAE.video.check import check_videos

logger = logging.getLogger("import_csv")

VIDEO_COLUMNS = ("path", "file", "video")


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


class Table:
    """A CSV file about the videos of a folder: its valid lines and the reasons of the bad ones, by number.

    Raises ValueError if there are no lines, columns are missing or hold text, or there is no such folder.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[int, tuple[str, ...]] = {}  # the video of each line, or the worse and the better one
        self.bad_lines: dict[int, str] = {}
        self.intensities: dict[str, dict[str, float]] = {}  # by video
        self.sources: dict[str, Path] = {}
        try:
            with file.open(encoding="utf-8-sig", newline="") as opened:
                delimiter = max(",;\t", key=opened.readline().count)
                opened.seek(0)
                reader = csv.reader(opened, delimiter=delimiter, strict=True)
                rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
        except FileNotFoundError as error:
            raise ValueError(f"{file}: no such file") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{file}: not a CSV file in UTF-8: {error}") from error
        rows = [(number, cells) for number, cells in rows if any(cells)]
        if len(rows) < 2:
            raise ValueError(f"{file}: expected a header and at least one line")
        columns = rows.pop(0)[1]
        self.is_pairs = {"better", "worse"} <= set(columns)
        self.emotions = [] if self.is_pairs else sorted(name for name in columns if name not in ("id", *VIDEO_COLUMNS))
        if len(self.emotions) == len(columns):
            raise ValueError(f"{file}: has no column 'path' or 'id' (and no columns 'better' and 'worse')")
        if not self.is_pairs and (len(self.emotions) < 2 or len(set(columns) - {""}) < len(columns)):
            raise ValueError(f"{file}: expected two or more columns of emotions, all named and all different")
        texts = []
        for name in self.emotions:
            cells = [row[columns.index(name)] for _, row in rows if len(row) == len(columns)]
            bad = [cell for cell in cells if cell and math.isnan(number_in(cell))]
            if len(bad) > max(1, len(cells) / 2):
                texts.append(f"column {name!r} has text, not a number, in {counted(len(bad), 'line')} ({bad[0]!r})")
        if texts:
            raise ValueError(f"{file}: {'; '.join(texts)}; remove such columns, or write numbers in [0, 1]")
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder; pass the folder of the videos as --videos_dir")
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in filter(Path.is_file, folder.iterdir()):
            self._by_stem[path.stem].append(path)
        for number, cells in rows:
            try:
                if len(cells) != len(columns):
                    raise ValueError(f"{counted(len(cells), 'cell')}, the header has {len(columns)}")
                self._add_line(number, dict(zip(columns, cells, strict=True)))
            except ValueError as error:
                self.bad_lines[number] = str(error)

    def _add_line(self, number: int, row: Mapping[str, str]) -> None:
        if self.is_pairs:
            worse, better = self._video(row["worse"]), self._video(row["better"])
            if worse == better:
                raise ValueError(f"compares {worse} with itself")
            self.lines[number] = (worse, better)
            return
        intensities = {name: number_in(row[name]) for name in self.emotions}
        for name, value in intensities.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {row[name]!r}, not a number in [0, 1]")
        cells = [row[name] for name in (*VIDEO_COLUMNS, "id") if row.get(name)]
        key = self._video(cells[0] if cells else "", key=row.get("id"))
        if key in self.intensities:
            first = next(line for line, ids in self.lines.items() if ids == (key,))
            raise ValueError(f"duplicate video {key}, see line {first}")
        self.lines[number], self.intensities[key] = (key,), intensities

    def _video(self, cell: str, *, key: str | None = None) -> str:
        """The id of the video that a cell names by its path or its file name without suffix."""
        if not cell:
            raise ValueError("names no video")
        path = self.folder / cell
        found = [path] if path.is_file() else self._by_stem.get(cell, [])
        if not found:
            raise ValueError(f"no such video: {path}")
        if len(found) > 1:
            raise ValueError(f"{len(found)} files are named {cell}, with different suffixes; write the path")
        source = found[0].resolve()
        key = key or source.stem
        if not is_id(key):
            raise ValueError(f"invalid id {key!r}: expected printable characters without / and #")
        if self.sources.setdefault(key, source) != source:
            raise ValueError(f"{source} and {self.sources[key]} would have the same id; add a column 'id'")
        return key


def number_in(cell: str) -> float:
    """The number in a cell; NaN if it holds something else."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def label_files(table: Table, settings: Settings) -> dict[str, Any]:
    """The label files of the dataset, content by name. Raises ValueError if a split is empty."""
    empty = f"--test_fraction {settings.test_fraction:g} of {{}} leaves a split empty"
    if table.is_pairs:
        pairs = [Pair(*ids) for ids in table.lines.values()]
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
    for (key,), in_test in zip(table.lines.values(), is_test, strict=True):
        labels["test_labels.json" if in_test else "train_labels.json"][key] = label_entry(table.intensities[key], key)
    return labels


def run(settings: Settings) -> bool:
    """Makes the dataset, completely or not at all, and lists the bad lines -> whether there are none."""
    output_dir = settings.output_dir.expanduser().resolve()
    refuse_non_empty(output_dir)
    table = Table(settings.csv, settings.videos_dir or settings.csv.parent)
    sources = {key: table.sources[key] for key in ids_in(table.lines.values())}
    check = check_videos(sources, num_processes=settings.num_workers, limit_seconds=settings.probe_seconds)
    for number, ids in list(table.lines.items()):
        for key in ids:
            if key in check.unreadable:
                table.bad_lines[number] = f"{sources[key]}: {check.unreadable[key]}"
                table.lines.pop(number, None)
    for number, reason in sorted(table.bad_lines.items()):
        logger.info("%s, line %d: %s", settings.csv, number, reason)
    keys, bad = ids_in(table.lines.values()), counted(len(table.bad_lines), "bad line")
    is_made = not table.bad_lines or (settings.skip_bad_lines and bool(keys))
    if is_made:
        files = label_files(table, settings)
        files["metadata.json"] = {key: metadata_entry(check.infos[key], video_file_of(key)) for key in keys}
        ways: tuple[Link, ...] = ("copy",) if settings.copy else ("hard", "symbolic")
        with new_folder(output_dir) as folder:
            for key in keys:
                place_video(sources[key], folder / video_file_of(key), *ways)
            for name, content in files.items():
                write_json(folder / name, content, indent=4)
    if settings.report:
        counts = {"num_lines": len(table.lines), "num_videos": len(keys) if is_made else 0, "emotions": table.emotions}
        write_json(settings.report, {"fine": not table.bad_lines, **counts, "bad_lines": table.bad_lines}, indent=4)
    if not is_made:
        remedy = "; pass --skip_bad_lines to use the other lines" if keys else ""
        raise ValueError(f"{settings.csv}: {bad}; {output_dir} was not made{remedy}")
    kind = "V2V" if table.is_pairs else f"VCE, {len(table.emotions)} emotions"
    lines, videos = counted(len(table.lines), "line"), counted(len(keys), "video")
    logger.info("%s (%s): %s, %s, %s", output_dir, kind, lines, videos, bad)
    return not table.bad_lines


main = partial(cli.run, run, Settings, description=__doc__, when_stopped="nothing was made")

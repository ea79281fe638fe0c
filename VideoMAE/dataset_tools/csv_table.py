"""One's own CSV file about videos: a column of videos and columns of emotions, or two columns, `better` and `worse`."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from VideoMAE.dataset_tools.label_checks import is_id

VIDEO_COLUMNS = ("path", "file", "video")
DELIMITERS = ",;\t"


class Line(NamedTuple):
    """A good line: one video and its intensities, or the worse and the better video of a pair and none."""

    number: int
    ids: tuple[str, ...]
    intensities: dict[str, float]


class Table:
    """A CSV file about the videos of a folder: its columns, its good lines, the reasons of the bad ones by number.

    Raises ValueError when there are no lines, or not the columns of either kind.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        self.folder = folder
        self.sources: dict[str, Path] = {}
        self.bad_lines: dict[int, str] = {}
        self.lines: list[Line] = []
        self._first_line: dict[str, int] = {}
        self._by_stem: dict[str, list[Path]] | None = None
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
        """The names of the emotions, in alphabetical order as the published ones."""
        emotions = [name for name in self.columns if name not in ("id", *VIDEO_COLUMNS)]
        if len(emotions) == len(self.columns):
            raise ValueError(f"{file}: has no column 'path' or 'id' (and no columns 'better' and 'worse')")
        if len(emotions) < 2 or "" in emotions or len(set(self.columns)) < len(self.columns):
            raise ValueError(f"{file}: expected two or more columns of emotions, all named and all different")
        return sorted(emotions)

    def _line(self, number: int, cells: Sequence[str]) -> Line:
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells, the header has {len(self.columns)}")
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
            raise ValueError(f"video {key} stands on line {self._first_line[key]} too")
        return Line(number, (key,), intensities)

    def _video(self, cell: str, *, key: str | None = None) -> str:
        """The id of the video that a cell names."""
        source = self._find(cell)
        key = key or source.stem
        if not is_id(key):
            raise ValueError(f"{key!r} is no id: expected printable characters without / and #")
        if self.sources.setdefault(key, source) != source:
            raise ValueError(f"{source} and {self.sources[key]} would have the same id; name them in a column 'id'")
        return key

    def _find(self, cell: str) -> Path:
        if not cell:
            raise ValueError("names no video")
        if (self.folder / cell).is_file():
            return (self.folder / cell).resolve()
        if self._by_stem is None:
            self._by_stem = defaultdict(list)
            for path in sorted(self.folder.iterdir()):
                if path.is_file():
                    self._by_stem[path.stem].append(path.resolve())
        found = self._by_stem.get(cell, [])
        if len(found) != 1:
            raise ValueError(
                f"{len(found)} files are called {cell} and differ in their endings"
                if found
                else f"no such video: {self.folder / cell}"
            )
        return found[0]

    def drop_unreadable(self, unreadable: dict[str, str]) -> None:
        """Count the lines of videos that cannot be read as bad ones."""
        for line in self.lines:
            for key in line.ids:
                if key in unreadable:
                    self.bad_lines[line.number] = f"{self.sources[key]}: {unreadable[key]}"
        self.lines = [line for line in self.lines if line.number not in self.bad_lines]


def _read_rows(file: Path) -> list[tuple[int, list[str]]]:
    """The lines of a CSV file that are not blank, with their numbers."""
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
    try:
        value = float(cell)
    except ValueError as error:
        raise ValueError(f"{name} is {cell!r}, not a number") from error
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {cell}, not in [0, 1]")
    return value

"""VCE: labels with the intensity of each emotion. N videos, K emotions."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from VideoMAE.data.exclusion import Exclusion
from VideoMAE.files import read_json, read_text

EMOTIONS: tuple[str, ...] = (
    "Admiration",
    "Adoration",
    "Aesthetic Appreciation",
    "Amusement",
    "Anger",
    "Anxiety",
    "Awe (or Wonder)",
    "Awkwardness",
    "Boredom",
    "Calmness",
    "Confusion",
    "Craving",
    "Disgust",
    "Empathic Pain",
    "Entrancement",
    "Excitement",
    "Fear",
    "Horror",
    "Interest",
    "Joy",
    "Nostalgia",
    "Relief",
    "Romance",
    "Sadness",
    "Satisfaction",
    "Sexual Desire",
    "Surprise",
)
"""VCE's 27 emotions, sorted; the order of its target vectors."""

EMOTIONS_FILE = "emotions.json"
MISSING_LABELS = "is --data_path the folder of the dataset?"


class Annotations(NamedTuple):
    """Videos and the intensities of their emotions."""

    ids: list[str]
    paths: list[Path]
    intensities: np.ndarray  # (N, K) float32 in [0, 1]
    classes_only: bool = False  # the labels are classes, not intensities: rows are one-hot
    emotions: tuple[str, ...] = EMOTIONS

    def select(self, keep: Sequence[int] | np.ndarray) -> "Annotations":
        """The rows at these positions."""
        return self._replace(
            ids=[self.ids[i] for i in keep],
            paths=[self.paths[i] for i in keep],
            intensities=self.intensities[np.asarray(keep, dtype=np.int64)],
        )


def read_emotions(root: Path) -> tuple[str, ...]:
    """The emotions of a dataset in the order of its target vectors, from emotions.json, otherwise VCE's 27."""
    file = root / EMOTIONS_FILE
    if not file.is_file():
        return EMOTIONS
    names = read_json(file, expect=list)
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{file}: expected a list of emotion names")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"{file}: expected two or more distinct emotion names")
    return tuple(names)


def read_annotations(root: Path, split: str, *, exclusion: Exclusion | None = None) -> Annotations:
    """Reads the labels of a split ("train" or "test") of a VCE folder, -> N rows. Excluded videos are not checked.

    Raises:
        ValueError: the file or the entry of a video is malformed.
    """
    file, emotions = root / f"{split}_labels.json", read_emotions(root)
    entries = read_json(file, convert=partial(_compact, emotions=emotions), hint=MISSING_LABELS)
    if isinstance(entries.get("comparisons"), list):
        raise ValueError(f"{file}: contains comparisons (V2V), not emotions; train with run_v2v_finetuning (train-v2v)")
    if exclusion is not None:
        entries = {key: entry for key, entry in entries.items() if exclusion.keeps([key], split=split)}
    if not entries:
        raise ValueError(f"{file}: contains {'only excluded' if exclusion and exclusion.ids else 'no'} videos")
    ids = list(entries)
    paths = [video_path(root, entry, where=f"{file}: video {key}") for key, entry in entries.items()]
    intensities = np.empty((len(ids), len(emotions)), dtype=np.float32)
    for row, (key, entry) in enumerate(entries.items()):
        found = entry.get("emotions")
        if not isinstance(found, np.ndarray):
            raise ValueError(f"{file}: video {key}: {_fault(found, emotions)}")
        intensities[row] = found
    outside = ~((intensities >= 0) & (intensities <= 1))  # NaN too
    if outside.any():
        row, emotion = np.argwhere(outside)[0]
        value = intensities[row, emotion]
        raise ValueError(f"{file}: video {ids[row]}: the intensity of {emotions[emotion]} is {value:g}, not in [0, 1]")
    return Annotations(ids, paths, intensities, emotions=emotions)


def _compact(entry: dict[str, Any], *, emotions: Sequence[str]) -> np.ndarray | dict[str, Any]:
    """Converts an emotions object to an array, which takes a tenth of the memory; returns other objects unchanged."""
    if entry.keys() != frozenset(emotions) or not set(map(type, entry.values())) <= {float, int}:
        return entry
    try:
        return np.array([entry[name] for name in emotions], dtype=np.float32)
    except OverflowError:
        return entry


def _fault(intensities: Any, emotions: Sequence[str]) -> str:
    """What is wrong with an emotions object that `_compact` did not convert."""
    if not isinstance(intensities, dict):
        return "has no 'emotions' object"
    if len(intensities) != len(emotions):
        return f"has {len(intensities)} emotions, expected {len(emotions)}"
    for name, value in intensities.items():
        if name not in emotions:
            return f"unknown emotion {name!r}"
        if isinstance(value, bool) or not isinstance(value, (float, int)):
            return f"the intensity of {name} is {value!r}, not a number"
        if not 0 <= value <= 1:
            return f"the intensity of {name} is {str(value)[:20]}, not in [0, 1]"
    raise AssertionError("_compact converts well-formed emotions objects")


def video_path(root: Path, entry: Any, *, where: str) -> Path:
    """The path of an entry's video. Raises ValueError, which begins with `where`, unless it is in the dataset."""
    file = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(file, str) or not file:
        raise ValueError(f"{where}: has no 'file'")
    if file.startswith(("/", "\\")) or ".." in file.split("/"):
        raise ValueError(f"{where}: 'file' is {file!r}, outside the dataset folder")
    return root / file


def read_class_list(
    file: Path, *, emotions: tuple[str, ...] = EMOTIONS, exclusion: Exclusion | None = None
) -> Annotations:
    """Reads the labels of a file with lines `PATH CLASS`, without excluded videos, -> N one-hot rows.

    The id of a video is its file name without suffix, or its path if two file names are equal.

    Raises:
        ValueError: the file cannot be read, or a line is malformed or a duplicate.
    """
    line_of_path: dict[Path, int] = {}
    classes = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not (label.isascii() and label.isdigit()) or int(label) >= len(emotions):
            expected = f"expected 'PATH CLASS' with a class below {len(emotions)}"
            raise ValueError(f"{file}, line {number}: {expected}: {line!r}")
        if Path(path) in line_of_path:
            raise ValueError(f"{file}, line {number}: {path} is a duplicate of line {line_of_path[Path(path)]}")
        line_of_path[Path(path)] = number
        classes.append(int(label))
    if not line_of_path:
        raise ValueError(f"{file}: contains no videos")
    paths = list(line_of_path)
    ids = [path.stem for path in paths]
    if len(set(ids)) < len(ids):
        ids = [str(path) for path in paths]
    one_hot = np.eye(len(emotions), dtype=np.float32)[classes]
    annotations = Annotations(ids, paths, one_hot, classes_only=True, emotions=emotions)
    kept = [row for row, key in enumerate(ids) if exclusion is None or exclusion.keeps([key], split=file.stem)]
    return annotations.select(kept)

"""VCE: the annotations on disk, and datasets over them.

N annotated videos, K emotions, T frames, H W pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from VideoMAE.data.exclusion import Exclusion
from VideoMAE.files import read_json
from VideoMAE.video.reader import UnreadableVideoError

EMOTIONS: tuple[str, ...] = (
    "Admiration", "Adoration", "Aesthetic Appreciation", "Amusement", "Anger", "Anxiety", "Awe (or Wonder)",
    "Awkwardness", "Boredom", "Calmness", "Confusion", "Craving", "Disgust", "Empathic Pain", "Entrancement",
    "Excitement", "Fear", "Horror", "Interest", "Joy", "Nostalgia", "Relief", "Romance", "Sadness", "Satisfaction",
    "Sexual Desire", "Surprise",
)  # fmt: skip
"""VCE's 27 emotion names in alphabetical order, which is the order of its target vectors."""

EMOTIONS_FILE = "emotions.json"
MISSING_LABELS = "is --data_path the folder of the dataset?"


class Annotations(NamedTuple):
    """Videos and how intensely each evokes each emotion; one row a video, one column an emotion.

    `classes_only`: the labels name only the most intense emotion, so that rows are one-hot and intensities unknown.
    """

    ids: list[str]
    paths: list[Path]
    intensities: np.ndarray  # (N, K) float32 in [0, 1]
    classes_only: bool = False
    emotions: tuple[str, ...] = EMOTIONS

    def select(self, keep: Sequence[int] | np.ndarray) -> "Annotations":
        """The rows at these positions."""
        return self._replace(
            ids=[self.ids[i] for i in keep],
            paths=[self.paths[i] for i in keep],
            intensities=self.intensities[np.asarray(keep, dtype=np.int64)],
        )


def read_emotions(root: Path) -> tuple[str, ...]:
    """The emotion names of a dataset, in the order of its target vectors: those of its emotions.json, a list of names,
    or VCE's 27 where there is no such file. -> K names

    Raises:
        ValueError: the file holds something else.
    """
    file = Path(root) / EMOTIONS_FILE
    if not file.is_file():
        return EMOTIONS
    names = read_json(file, expect=list)
    if not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{file}: expected a list of emotion names")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"{file}: expected two or more different emotion names")
    return tuple(names)


def read_annotations(root: Path, split: str, *, exclusion: Exclusion | None = None) -> Annotations:
    """The labels of a split ("train" or "test") of a VCE folder, without those of excluded ids, which may be
    malformed. -> N rows

    Raises:
        ValueError: the file is missing, empty, not JSON or not of the published form; the sentence names file, id and
        reason.
    """
    file = Path(root) / f"{split}_labels.json"
    emotions = read_emotions(root)
    entries = read_json(file, convert=lambda entry: _compact(entry, emotions), hint=MISSING_LABELS)
    if exclusion is not None:
        entries = {key: entry for key, entry in entries.items() if exclusion.keeps([key], split=split)}
    if not entries:
        raise ValueError(f"{file}: holds no videos" + (" but excluded ones" if exclusion and exclusion.ids else ""))
    ids = list(entries)
    root_path = Path(root)
    paths = [video_path(root_path, entry, where=f"{file}: video {key}") for key, entry in entries.items()]
    intensities = np.empty((len(ids), len(emotions)), dtype=np.float32)
    for row, (key, entry) in enumerate(entries.items()):
        intensities[row] = _as_vector(entry, emotions, where=f"{file}: video {key}")
    outside = ~((intensities >= 0) & (intensities <= 1))  # NaN too
    if outside.any():
        row, emotion = np.argwhere(outside)[0]
        raise ValueError(
            f"{file}: video {ids[row]}: the intensity of {emotions[emotion]} is {intensities[row, emotion]:g}, "
            "not in [0, 1]"
        )
    return Annotations(ids, paths, intensities, emotions=emotions)


def _compact(entry: dict[str, Any], emotions: Sequence[str]) -> np.ndarray | dict[str, Any]:
    """An emotions object as an array, which takes a tenth of the memory; anything else unchanged."""
    if entry.keys() != frozenset(emotions) or not set(map(type, entry.values())) <= {float, int}:
        return entry
    try:
        return np.array([entry[name] for name in emotions], dtype=np.float32)
    except OverflowError:
        return entry


def _as_vector(entry: Any, emotions: Sequence[str], *, where: str) -> np.ndarray:
    intensities = entry.get("emotions") if isinstance(entry, dict) else None
    if isinstance(intensities, np.ndarray):
        return intensities
    if not isinstance(intensities, dict):
        raise ValueError(f"{where}: has no 'emotions' object")
    if len(intensities) != len(emotions):
        raise ValueError(f"{where}: has {len(intensities)} emotions, expected {len(emotions)}")
    for name, value in intensities.items():
        if name not in emotions:
            raise ValueError(f"{where}: unknown emotion {name!r}")
        if isinstance(value, bool) or not isinstance(value, (float, int)):
            raise ValueError(f"{where}: the intensity of {name} is {value!r}, not a number")
        if not 0 <= value <= 1:
            raise ValueError(f"{where}: the intensity of {name} is {str(value)[:20]}, not in [0, 1]")
    raise AssertionError("a well-formed emotions object was not taken as a vector")


def video_path(root: Path, entry: Any, *, where: str) -> Path:
    """The video file an entry names, inside `root`.

    Raises:
        ValueError: the entry names none, or one outside the dataset folder.
    """
    file = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(file, str) or not file:
        raise ValueError(f"{where}: has no 'file'")
    if file.startswith(("/", "\\")) or ".." in file.split("/"):
        raise ValueError(f"{where}: 'file' is {file!r}, which leads outside the dataset folder")
    return root / file


def read_class_list(
    file: Path, *, emotions: tuple[str, ...] = EMOTIONS, exclusion: Exclusion | None = None
) -> Annotations:
    """The labels of a csv file with lines `PATH CLASS`, without those of excluded ids. -> N one-hot rows

    The id of a video is its file name without ending, or the whole path where two files have one name. Raises
    ValueError with file, line number and reason.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error
    seen: dict[Path, int] = {}
    classes = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not (label.isascii() and label.isdigit()) or int(label) >= len(emotions):
            raise ValueError(
                f"{file}, line {number}: expected 'PATH CLASS' with a class below {len(emotions)}: {line!r}"
            )
        if Path(path) in seen:
            raise ValueError(f"{file}, line {number}: {path} stands on line {seen[Path(path)]} too")
        seen[Path(path)] = number
        classes.append(int(label))
    if not seen:
        raise ValueError(f"{file}: holds no videos")
    paths = list(seen)
    ids = [path.stem for path in paths]
    if len(set(ids)) < len(ids):
        ids = [str(path) for path in paths]
    one_hot = np.eye(len(emotions), dtype=np.float32)[classes]
    annotations = Annotations(ids, paths, one_hot, classes_only=True, emotions=emotions)
    if exclusion is None:
        return annotations
    return annotations.select([row for row, key in enumerate(ids) if exclusion.keeps([key], split=file.stem)])


class Sample(NamedTuple):
    """One video's part of a batch.

    `clips` is None for a video that could not be read in evaluation; `skipped` holds the reason of each video that
    failed.
    """

    position: int
    clips: Tensor | None  # (views, 3, T, H, W) float32
    targets: Tensor  # intensities (K,) float32
    skipped: dict[str, str]


class SampleKey(NamedTuple):
    """What a sampler hands to a training dataset: which video in which epoch, so that a draw depends on nothing
    else."""

    position: int
    epoch: int


MakeClips = Callable[[Path, np.random.Generator], Tensor]


class TrainDataset(Dataset[Sample]):
    """Random clips. `dataset[SampleKey(index, epoch)]` is the same at every call, in every worker, at every world size.

    A video that fails although it passed the check is named in `skipped`, and the next one takes its place.
    """

    def __init__(self, annotations: Annotations, *, make_clips: MakeClips, seed: int) -> None:
        self.annotations = annotations
        self.make_clips = make_clips
        self.seed = seed

    def __len__(self) -> int:
        return len(self.annotations.ids)

    def __getitem__(self, key: SampleKey) -> Sample:
        skipped: dict[str, str] = {}
        for offset in range(len(self)):
            index = (key.position + offset) % len(self)
            try:
                clips = self.make_clips(
                    self.annotations.paths[index], np.random.default_rng((self.seed, key.epoch, index))
                )
            except UnreadableVideoError as error:
                skipped[self.annotations.ids[index]] = error.reason
                continue
            return Sample(index, clips, torch.from_numpy(self.annotations.intensities[index]), skipped)
        raise ValueError(f"none of the {len(self)} training videos can be read: {next(iter(skipped.values()))}")


class EvaluationDataset(Dataset[Sample]):
    """Clips of each video, the same at every call. An unreadable video gives none, and its reason; nothing takes its
    place."""

    def __init__(self, annotations: Annotations, *, make_clips: MakeClips, seed: int) -> None:
        self.annotations = annotations
        self.make_clips = make_clips
        self.seed = seed

    def __len__(self) -> int:
        return len(self.annotations.ids)

    def __getitem__(self, index: int) -> Sample:
        targets = torch.from_numpy(self.annotations.intensities[index])
        try:
            clips = self.make_clips(self.annotations.paths[index], np.random.default_rng((self.seed, index)))
        except UnreadableVideoError as error:
            return Sample(index, None, targets, {self.annotations.ids[index]: error.reason})
        return Sample(index, clips, targets, {})

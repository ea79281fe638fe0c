"""V2V: which of several videos feels better, as pairs and as longer lists; the comparisons on disk and a dataset.

A comparison is a tuple of video ids from least to most preferred. P comparisons, T frames, H W pixels.
"""

import itertools
import json
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.utils.data import Dataset

from VideoMAE.data.clips import joined
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.vce import MISSING_LABELS, Annotations, MakeClips, SampleKey, video_path
from VideoMAE.files import read_json
from VideoMAE.video.reader import UnreadableVideoError

logger = logging.getLogger(__name__)


class Pair(NamedTuple):
    """Two video ids; the second is preferred."""

    worse: str
    better: str


Comparison = tuple[str, ...]
"""Two or more video ids from least to most preferred; of exactly two, a `Pair`."""


def read_comparisons(
    file: Path, *, only_pairs: bool, may_be_empty: bool = False, split: str = "", exclusion: Exclusion | None = None
) -> list[Comparison]:
    """The comparisons of a label file, `{"comparisons": [[worse, better], ...]}`, without those that hold an excluded
    id, which may be malformed. -> P comparisons

    Raises:
        ValueError: the file is missing, empty, not JSON or not of the published form; the sentence names file, number
        of the entry (from 1) and reason.
    """
    content = read_json(file, hint=MISSING_LABELS)
    entries = content.get("comparisons")
    if not isinstance(entries, list):
        raise ValueError(f'{file}: has no list "comparisons"')
    kept = [
        checked_comparison(entry, where=f"{file}: comparison {number}", only_pairs=only_pairs)
        for number, entry in enumerate(entries, start=1)
        if exclusion is None or not isinstance(entry, list) or exclusion.keeps(entry, split=split)
    ]
    if not kept and not may_be_empty:
        raise ValueError(f"{file}: holds no comparisons" + (" but those of excluded videos" if entries else ""))
    return kept


def checked_comparison(entry: Any, *, where: str, only_pairs: bool) -> Comparison:
    """An entry of a label file as a comparison.

    Raises:
        ValueError: it is none; the sentence begins with `where`.
    """
    if not isinstance(entry, list):
        raise ValueError(f"{where}: is {json.dumps(entry)[:80]}, not a list of video ids")
    for key in entry:
        if not isinstance(key, str) or not key:
            raise ValueError(f"{where}: {json.dumps(key)[:80]} is not a video id: ids are strings")
        video_path(Path(), {"file": _file_of(key)}, where=where)
    if len(entry) < 2 or (only_pairs and len(entry) != 2):
        raise ValueError(
            f"{where}: holds {len(entry)} video ids ({', '.join(entry) or 'none'}), expected "
            f"{'2, the preferred one last' if only_pairs else '2 or more, from least to most preferred'}"
        )
    if len(set(entry)) < len(entry):
        twice = next(key for key in entry if entry.count(key) > 1)
        raise ValueError(f"{where}: video {twice} stands in it twice")
    return Pair(*entry) if len(entry) == 2 else tuple(entry)


def _file_of(key: str) -> str:
    return f"videos/{key}.mp4"


def check_metadata(root: Path, comparisons: Sequence[Comparison], *, file: Path) -> None:
    """Every video of `file` must have an entry in metadata.json, where the dataset has one.

    Raises:
        ValueError: some have none; the first is named with its comparison.
    """
    metadata = root / "metadata.json"
    if not metadata.is_file():
        return
    known = read_json(metadata).keys()
    unknown = [(entry, key) for entry in comparisons for key in entry if key not in known]
    if unknown:
        entry, key = unknown[0]
        others = len({key for _, key in unknown}) - 1
        raise ValueError(
            f"{file}: comparison {named(entry)}: video {key} has no entry in {metadata}"
            + (f" (nor have {others} other videos)" if others else "")
        )


def videos_of(root: Path, comparisons: Iterable[Comparison]) -> Annotations:
    """The distinct videos of comparisons in order of appearance, without emotions of their own (K = 0)."""
    ids = list(dict.fromkeys(key for entry in comparisons for key in entry))
    return Annotations(ids, [root / _file_of(key) for key in ids], np.zeros((len(ids), 0), np.float32), emotions=())


def pairs_in(comparisons: Iterable[Comparison]) -> list[Pair]:
    """Every pair that the comparisons say something of: a < b < c -> (a, b), (a, c), (b, c)."""
    return [Pair(*pair) for entry in comparisons for pair in itertools.combinations(entry, 2)]


def num_contradictions(comparisons: Iterable[Comparison]) -> int:
    """How many pairs of videos stand in the comparisons both ways round."""
    said = set(pairs_in(comparisons))
    return sum((pair.better, pair.worse) in said for pair in said) // 2


def without(comparisons: Sequence[Comparison], unreadable: Iterable[str]) -> tuple[list[Comparison], list[Comparison]]:
    """Splits comparisons into whole ones and those lost with an unreadable video. -> (whole, lost)"""
    bad = set(unreadable)
    whole = [bad.isdisjoint(entry) for entry in comparisons]
    return (
        [entry for entry, is_whole in zip(comparisons, whole, strict=True) if is_whole],
        [entry for entry, is_whole in zip(comparisons, whole, strict=True) if not is_whole],
    )


def named(comparison: Comparison) -> str:
    """A comparison for people: 00012 < 00345."""
    return " < ".join(comparison)


def components_of(comparisons: Sequence[Comparison], *, strong: bool = False) -> dict[str, int]:
    """The number of each video's connected component, in the graph with videos as vertices and edges from worse to
    better.

    `strong`: strongly connected components; one of several videos contains a cycle of preferences.
    """
    position = {key: index for index, key in enumerate(dict.fromkeys(itertools.chain.from_iterable(comparisons)))}
    edges = [
        (position[worse], position[better]) for entry in comparisons for worse, better in itertools.pairwise(entry)
    ]
    rows, columns = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(len(position), len(position)))
    _, component = connected_components(graph, connection="strong" if strong else "weak")
    return dict(zip(position, component.tolist(), strict=True))


def connected_groups(comparisons: Sequence[Comparison], *, strong: bool = False) -> list[list[str]]:
    """The videos of each component of `components_of`; components and videos in order of first appearance."""
    groups: dict[int, list[str]] = {}
    for key, component in components_of(comparisons, strong=strong).items():
        groups.setdefault(component, []).append(key)
    return list(groups.values())


class HeldOut(NamedTuple):
    """Comparisons for training and for validation, which share no video, and the size of their largest component."""

    train: list[Comparison]
    held_out: list[Comparison]
    num_components: int
    largest: int


def hold_out_connected(comparisons: Sequence[Comparison], *, fraction: float, seed: int) -> HeldOut:
    """Holds out whole connected components of the videos, see `components_of`.

    Components come in an order drawn from `seed`; each is held out if at most `fraction` of the comparisons then are,
    so that no video is on both sides. Order within each side stays.

    Raises:
        ValueError: one side would be empty.
    """
    component_of_video = components_of(comparisons)
    component = np.array([component_of_video[entry[0]] for entry in comparisons])
    sizes = np.bincount(component)
    num_components = len(sizes)
    wanted = math.floor(round(fraction * len(comparisons), 6))
    chosen, num_held_out = set(), 0
    for candidate in np.random.default_rng(seed).permutation(num_components):
        if num_held_out + sizes[candidate] <= wanted:
            chosen.add(candidate)
            num_held_out += int(sizes[candidate])
    if not 0 < num_held_out < len(comparisons):
        raise ValueError(
            f"--val_fraction {fraction:g} of {len(comparisons)} comparisons leaves training or validation empty: their "
            f"videos form {num_components} connected components, of {sizes.min()} to {sizes.max()} comparisons, and "
            "only whole ones can be held out; pass another --val_fraction, or --select_on test"
        )
    is_held_out = [index in chosen for index in component]
    return HeldOut(
        train=[entry for entry, out in zip(comparisons, is_held_out, strict=True) if not out],
        held_out=[entry for entry, out in zip(comparisons, is_held_out, strict=True) if out],
        num_components=num_components,
        largest=int(sizes.max()),
    )


class ComparisonSample(NamedTuple):
    """One comparison's part of a batch: its videos' clips from least to most preferred.

    A comparison with a video that could not be read has weight 0 and a blank clip in that video's place; `skipped`
    holds the reason.
    """

    position: int
    clips: Tensor  # (videos, 3, T, H, W) float32
    weight: float
    skipped: dict[str, str]


class ComparisonBatch(NamedTuple):
    """What the loader yields: the clips of P comparisons, one after the other. B = all their videos."""

    clips: Tensor  # (B, 3, T, H, W), see loaders.Batch
    lengths: tuple[int, ...]  # (P,): videos in each comparison
    weights: Tensor  # (P,) float32: 0 for a comparison that is lost, else 1
    indices: Tensor  # (P,) int64, positions in the dataset
    skipped: dict[str, str]


def collate_comparisons(samples: Sequence[ComparisonSample]) -> ComparisonBatch:
    """Puts samples together. -> ComparisonBatch"""
    return ComparisonBatch(
        clips=joined([sample.clips for sample in samples]),
        lengths=tuple(len(sample.clips) for sample in samples),
        weights=torch.tensor([sample.weight for sample in samples]),
        indices=torch.tensor([sample.position for sample in samples]),
        skipped={key: reason for sample in samples for key, reason in sample.skipped.items()},
    )


class ComparisonDataset(Dataset[ComparisonSample]):
    """The clips of each comparison's videos. `dataset[SampleKey(index, epoch)]` is the same at every call, in every
    worker, at every world size.

    A video that fails although it passed the check costs its comparison, never another one; `blank`, a batch of one
    clip, takes its place.
    """

    def __init__(
        self,
        comparisons: Sequence[Comparison],
        root: Path,
        *,
        make_clips: MakeClips,
        blank: Tensor,
        seed: int,
    ) -> None:
        self.comparisons = comparisons
        self.root = root
        self.make_clips = make_clips
        self.blank = blank
        self.seed = seed

    def __len__(self) -> int:
        return len(self.comparisons)

    def __getitem__(self, key: SampleKey) -> ComparisonSample:
        clips: list[Tensor] = []
        skipped: dict[str, str] = {}
        for place, video in enumerate(self.comparisons[key.position]):
            rng = np.random.default_rng((self.seed, key.epoch, key.position, place))
            try:
                clips.append(self.make_clips(self.root / _file_of(video), rng))
            except UnreadableVideoError as error:
                skipped[video] = error.reason
                clips.append(self.blank)
        return ComparisonSample(key.position, joined(clips), 0.0 if skipped else 1.0, skipped)

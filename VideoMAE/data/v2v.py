"""V2V: labels that order videos by pleasantness.

A comparison is a tuple of video ids from least to most preferred. P comparisons.
"""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from VideoMAE.cli import counted
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.vce import MISSING_LABELS, Annotations, video_path
from VideoMAE.files import read_json


class Pair(NamedTuple):
    """Two video ids; the second is preferred."""

    worse: str
    better: str


Comparison = tuple[str, ...]
"""Two or more video ids from least to most preferred; two ids are a `Pair`."""


def read_comparisons(
    file: Path, *, only_pairs: bool, may_be_empty: bool = False, split: str = "", exclusion: Exclusion | None = None
) -> list[Comparison]:
    """Reads a label file `{"comparisons": [[worse, better], ...]}`, -> P comparisons.

    Comparisons with excluded ids are dropped without being checked.

    Raises:
        ValueError: the file or an entry is not of this form; names the number of the entry, from 1.
    """
    entries = read_json(file, hint=MISSING_LABELS).get("comparisons")
    if not isinstance(entries, list):
        raise ValueError(f'{file}: has no list "comparisons"')
    comparisons = [
        parse_comparison(entry, where=f"{file}: comparison {number}", only_pairs=only_pairs)
        for number, entry in enumerate(entries, start=1)
        if exclusion is None or not isinstance(entry, list) or exclusion.keeps(entry, split=split)
    ]
    if not comparisons and not may_be_empty:
        raise ValueError(f"{file}: contains {'only excluded' if entries else 'no'} comparisons")
    return comparisons


def parse_comparison(entry: Any, *, where: str, only_pairs: bool) -> Comparison:
    """Checks an entry of a label file. Raises ValueError, which begins with `where`, if it is not a comparison."""
    if not isinstance(entry, list):
        raise ValueError(f"{where}: {json.dumps(entry)[:80]} is not a list of video ids")
    for key in entry:
        if not isinstance(key, str) or not key:
            raise ValueError(f"{where}: {json.dumps(key)[:80]} is not a video id, which is a non-empty string")
        video_path(Path(), {"file": video_file_of(key)}, where=where)
    if len(entry) < 2 or (only_pairs and len(entry) != 2):
        raise ValueError(
            f"{where}: has {counted(len(entry), 'video id')} ({', '.join(entry) or 'none'}), expected "
            f"{'2, the preferred one last' if only_pairs else '2 or more, from least to most preferred'}"
        )
    if len(set(entry)) < len(entry):
        duplicate = next(key for key in entry if entry.count(key) > 1)
        raise ValueError(f"{where}: duplicate video {duplicate}")
    return Pair(*entry) if len(entry) == 2 else tuple(entry)


def video_file_of(key: str) -> str:
    """The path of a video inside the dataset folder."""
    return f"videos/{key}.mp4"


def check_metadata(root: Path, comparisons: Sequence[Comparison], *, file: Path) -> None:
    """Raises ValueError if metadata.json, if there is one, lacks a video of the comparisons of `file`."""
    metadata = root / "metadata.json"
    if not metadata.is_file():
        return
    known = read_json(metadata).keys()
    missing = [(key, entry) for entry in comparisons for key in entry if key not in known]
    if missing:
        key, entry = missing[0]
        absent = counted(len(dict(missing)), "video")
        raise ValueError(f"{file}: {absent} not in {metadata}, first {key} of comparison {comparison_name(entry)}")


def videos_of(root: Path, comparisons: Iterable[Comparison]) -> Annotations:
    """The distinct videos of comparisons in order of appearance, without emotions (K = 0)."""
    ids = list(dict.fromkeys(key for entry in comparisons for key in entry))
    paths = [root / video_file_of(key) for key in ids]
    return Annotations(ids, paths, np.zeros((len(ids), 0), np.float32), emotions=())


def pairs_in(comparisons: Iterable[Comparison]) -> list[Pair]:
    """Every ordered pair of the comparisons: a < b < c -> (a, b), (a, c), (b, c)."""
    return [Pair(*pair) for entry in comparisons for pair in itertools.combinations(entry, 2)]


def num_contradictions(comparisons: Iterable[Comparison]) -> int:
    """The number of pairs that the comparisons contain in both orders."""
    pairs = set(pairs_in(comparisons))
    return sum((pair.better, pair.worse) in pairs for pair in pairs) // 2


def without_videos(
    comparisons: Sequence[Comparison], unreadable: Iterable[str]
) -> tuple[list[Comparison], list[Comparison]]:
    """Separates the comparisons with an unreadable video, -> (complete, lost)."""
    bad = set(unreadable)
    complete = [entry for entry in comparisons if bad.isdisjoint(entry)]
    return complete, [entry for entry in comparisons if not bad.isdisjoint(entry)]


def comparison_name(comparison: Comparison) -> str:
    """A comparison as text: 00012 < 00345."""
    return " < ".join(comparison)


def components_of(comparisons: Sequence[Comparison], *, strong: bool = False) -> dict[str, int]:
    """The number of each video's connected component, in the graph with edges from worse to better videos.

    `strong`: strongly connected components; one of several videos contains a cycle of preferences.
    """
    position = {key: index for index, key in enumerate(dict.fromkeys(itertools.chain.from_iterable(comparisons)))}
    edges = [[position[key] for key in edge] for entry in comparisons for edge in itertools.pairwise(entry)]
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
    """Training and validation comparisons without common videos, and the components of all of them."""

    train: list[Comparison]
    held_out: list[Comparison]
    num_components: int
    largest: int  # comparisons in the largest component


def hold_out_connected(comparisons: Sequence[Comparison], *, fraction: float, seed: int) -> HeldOut:
    """Holds out connected components of the videos, so that no video is in both parts.

    The components are visited in random order; each is held out if the held-out comparisons stay within `fraction`.

    Raises:
        ValueError: one part would be empty.
    """
    component_of_video = components_of(comparisons)
    component = np.array([component_of_video[entry[0]] for entry in comparisons])
    sizes = np.bincount(component)
    num_components = len(sizes)
    limit = math.floor(round(fraction * len(comparisons), 6))
    chosen, num_held_out = set(), 0
    for candidate in np.random.default_rng(seed).permutation(num_components):
        if num_held_out + sizes[candidate] <= limit:
            chosen.add(candidate)
            num_held_out += int(sizes[candidate])
    if not 0 < num_held_out < len(comparisons):
        raise ValueError(
            f"--val_fraction {fraction:g} of {len(comparisons)} comparisons leaves training or validation empty, "
            f"because only whole connected components of the videos are held out: there are {num_components}, the "
            f"smallest with {counted(int(sizes.min()), 'comparison')}; pass a larger --val_fraction or --select_on test"
        )
    numbered = list(zip(comparisons, component, strict=True))
    return HeldOut(
        train=[entry for entry, number in numbered if number not in chosen],
        held_out=[entry for entry, number in numbered if number in chosen],
        num_components=num_components,
        largest=int(sizes.max()),
    )

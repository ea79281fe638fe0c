"""What the dataset tools share: which kind of dataset a folder holds, its labels, and the graph of its comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from VideoMAE.data import vce
from VideoMAE.data.v2v import Comparison, pairs_in, read_comparisons
from VideoMAE.data.vce import Annotations
from VideoMAE.files import read_json

VCE_SPLITS = ("train", "test")
V2V_SPLITS = ("train", "test", "listwise")

Kind = Literal["vce", "v2v"]


def label_file(root: Path, split: str) -> Path:
    return root / f"{split}_labels.json"


def kind_of(root: Path) -> Kind:
    """Whether the training labels of a dataset folder are emotions of videos (vce) or comparisons (v2v).

    Raises ValueError: no such folder, or its train_labels.json is missing or damaged.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    if not label_file(root, "train").is_file():
        raise ValueError(f"{root}: has no train_labels.json, so it is no folder in the layout of VCE or V2V")
    return "v2v" if isinstance(read_json(label_file(root, "train")).get("comparisons"), list) else "vce"


def read_emotions(root: Path) -> dict[str, Annotations]:
    """The annotations of a VCE folder by split. Raises ValueError as `vce.read_annotations` does."""
    return {split: vce.read_annotations(root, split) for split in VCE_SPLITS}


def read_preferences(root: Path) -> dict[str, list[Comparison]]:
    """The comparisons of a V2V folder by split, without "listwise" where it has no lists.

    Raises ValueError as `read_comparisons` does.
    """
    lists = label_file(root, "listwise")
    has_lists = lists.is_file() and read_json(lists).get("comparisons") != []
    splits = V2V_SPLITS if has_lists else V2V_SPLITS[:2]
    return {split: read_comparisons(label_file(root, split), only_pairs=False) for split in splits}


def ids_in(comparisons: Iterable[Comparison]) -> list[str]:
    """The distinct videos of comparisons, in order of appearance."""
    return list(dict.fromkeys(itertools.chain.from_iterable(comparisons)))


def components(comparisons: Sequence[Comparison], *, strong: bool = False) -> list[list[str]]:
    """The connected components of the graph whose vertices are videos and whose edges run from worse to better.

    `strong`: only videos that lead to each other along the edges belong together; several of them are a contradiction.
    """
    ids = ids_in(comparisons)
    place = {key: index for index, key in enumerate(ids)}
    edges = np.array([(place[worse], place[better]) for worse, better in pairs_in(comparisons)]).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(ids), len(ids)))
    count, numbers = connected_components(graph, directed=True, connection="strong" if strong else "weak")
    members: list[list[str]] = [[] for _ in range(count)]
    for key, number in zip(ids, numbers, strict=True):
        members[number].append(key)
    return members

"""Reading of dataset folders: their kind and their labels by split."""

import contextlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from VideoMAE.data import vce
from VideoMAE.data.v2v import Comparison, read_comparisons, videos_of
from VideoMAE.data.vce import Annotations
from VideoMAE.files import read_json

VCE_SPLITS = ("train", "test")
V2V_SPLITS = ("train", "test", "listwise")

Kind = Literal["vce", "v2v"]


def label_file(root: Path, split: str) -> Path:
    return root / f"{split}_labels.json"


def kind_of(root: Path) -> Kind:
    """Whether a dataset folder holds comparisons (v2v) or emotions of videos (vce); damaged files are skipped.

    Raises ValueError if the folder is missing or has no label file.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    files = [label_file(root, split) for split in VCE_SPLITS if label_file(root, split).is_file()]
    if label_file(root, "listwise").exists():
        return "v2v"
    if not files:
        missing = "has no train_labels.json and no test_labels.json"
        raise ValueError(f"{root}: {missing}; expected a dataset in the layout of VCE or V2V")
    for file in files:
        with contextlib.suppress(ValueError):
            return "v2v" if "comparisons" in read_json(file) else "vce"
    return "vce"


def read_emotions(root: Path) -> dict[str, Annotations]:
    """The annotations of a VCE folder by split. Raises ValueError as `vce.read_annotations`."""
    return {split: vce.read_annotations(root, split) for split in VCE_SPLITS}


def read_preferences(root: Path) -> dict[str, list[Comparison]]:
    """The comparisons of a V2V folder by split, without "listwise" if it has no lists.

    Raises ValueError as `read_comparisons`.
    """
    lists = label_file(root, "listwise")
    has_lists = lists.is_file() and read_json(lists).get("comparisons") != []
    splits = V2V_SPLITS if has_lists else V2V_SPLITS[:2]
    return {split: read_comparisons(label_file(root, split), only_pairs=False) for split in splits}


def read_videos(root: Path, kind: Kind) -> dict[str, Path]:
    """The video of each id in the labels."""
    if kind == "vce":
        sources = list(read_emotions(root).values())
    else:
        sources = [videos_of(root, itertools.chain(*read_preferences(root).values()))]
    return {key: path for found in sources for key, path in zip(found.ids, found.paths, strict=True)}


def ids_in(comparisons: Iterable[Comparison]) -> list[str]:
    """The distinct videos of comparisons, in order of appearance."""
    return list(dict.fromkeys(itertools.chain.from_iterable(comparisons)))

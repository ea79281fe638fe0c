"""Datasets of real-looking films in the exact layout of VCE and V2V: 12 s, 30 fps, H.264, 426 x 320 pixels."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarking import ROOT, write_film

sys.path.insert(1, str(ROOT / "tests/helpers"))

from vce_files import make_entry

from VideoMAE.dataset_tools import build_metadata


class Footage(NamedTuple):
    """Two dataset folders with the same films."""

    vce: Path
    v2v: Path


def make_footage(
    root: Path, *, num_films: int = 4, seconds: float = 12, width: int = 426, height: int = 320
) -> Footage:
    """Films of different seeds; in VCE two thirds train and the others test, in V2V neighbours are compared.

    Films are drawn once: those of V2V are hard links.
    """
    vce, v2v = root / "vce_dataset", root / "v2v_dataset"
    ids = [f"{number:05d}" for number in range(num_films)]
    num_train = max(num_films * 2 // 3, 2)
    for folder in (vce, v2v):
        (folder / "videos").mkdir(parents=True)
    for seed, key in enumerate(ids):
        film = write_film(vce / "videos" / f"{key}.mp4", seconds=seconds, width=width, height=height, seed=seed)
        (v2v / "videos" / film.name).hardlink_to(film)
    pairs = [list(pair) for pair in zip(ids[:num_train], ids[1:num_train], strict=False)]
    test = ids[-2:]
    labels = {
        vce / "train_labels.json": {key: make_entry(key, i, num_levels=3) for i, key in enumerate(ids[:num_train])},
        vce / "test_labels.json": {key: make_entry(key, i, num_levels=3) for i, key in enumerate(ids[num_train:])},
        v2v / "train_labels.json": {"comparisons": pairs},
        v2v / "test_labels.json": {"comparisons": [test]},
        v2v / "listwise_labels.json": {"comparisons": [test]},
    }
    build_metadata.run(build_metadata.Settings(vce, num_workers=1, probe_seconds=60))
    labels[v2v / "metadata.json"] = json.loads((vce / "metadata.json").read_text())
    for file, content in labels.items():
        file.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    return Footage(vce, v2v)

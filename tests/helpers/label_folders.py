"""Dataset folders of many labels whose videos are empty files, for tools that only look at labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from VideoMAE.data.vce import EMOTIONS


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def draw_intensities(num_videos: int, *, seed: int = 0) -> np.ndarray:
    """Intensities in steps of 1/40, so that some are equal; low emotions in the alphabet come first most often."""
    rng = np.random.default_rng(seed)
    values = rng.beta(1, 6, (num_videos, len(EMOTIONS)))
    top = np.minimum(rng.geometric(0.2, num_videos) - 1, len(EMOTIONS) - 1)
    values[np.arange(num_videos), top] = rng.uniform(0.7, 1, num_videos)
    return np.rint(40 * values) / 40


def make_vce_labels(root: Path, num_videos: Mapping[str, int]) -> Path:
    """Both label files, metadata.json and empty videos; ids count on from split to split."""
    first = 0
    for number, (split, count) in enumerate(num_videos.items()):
        entries = {}
        for index, row in enumerate(draw_intensities(count, seed=number), start=first):
            emotions = dict(zip(EMOTIONS, row.tolist(), strict=True))
            top = sorted(emotions, key=lambda name: -emotions[name])[:3]
            entries[f"{index:05d}"] = {"emotions": emotions, "file": f"videos/{index:05d}.mp4", "topK": top}
        root.mkdir(exist_ok=True)
        (root / f"{split}_labels.json").write_text(json.dumps(entries), encoding="utf-8")
        first += count
    add_videos(root, [f"{index:05d}" for index in range(first)])
    return root


def make_v2v_labels(root: Path, comparisons: Mapping[str, Sequence[Sequence[str]]]) -> Path:
    """The label files, metadata.json and empty videos."""
    root.mkdir(exist_ok=True)
    for split, entries in comparisons.items():
        content = {"comparisons": [list(entry) for entry in entries]}
        (root / f"{split}_labels.json").write_text(json.dumps(content), encoding="utf-8")
    add_videos(root, {key for entries in comparisons.values() for entry in entries for key in entry})
    return root


def add_videos(root: Path, ids: Iterable[str]) -> None:
    (root / "videos").mkdir(exist_ok=True)
    for key in ids:
        (root / "videos" / f"{key}.mp4").write_bytes(key.encode())
    entry = {"duration": "5.000000", "frame_rate": "30/1", "height": 240, "width": 320, "number_of_frames": "150"}
    (root / "metadata.json").write_text(json.dumps(dict.fromkeys(sorted(ids), entry)), encoding="utf-8")


def draw_comparisons(sizes: Sequence[int], *, first: int, seed: int = 0) -> list[list[str]]:
    """Pairs over groups of videos of these sizes, each connected by a random tree and a few pairs more."""
    rng = np.random.default_rng(seed)
    pairs = []
    for size in sizes:
        ids = [f"{first + index:05d}" for index in rng.permutation(size)]
        pairs += [[ids[rng.integers(index)], ids[index]] for index in range(1, size)]
        pairs += [[ids[index] for index in sorted(rng.choice(size, 2, replace=False))] for _ in range(size // 4)]
        first += size
    return [pairs[index] for index in rng.permutation(len(pairs))]


def connected_groups(entries: Iterable[Sequence[str]]) -> list[set[str]]:
    """Connected components by merging sets, one comparison after the other."""
    groups: list[set[str]] = []
    for entry in entries:
        touched = [group for group in groups if not group.isdisjoint(entry)]
        groups = [group for group in groups if group.isdisjoint(entry)] + [set(entry).union(*touched)]
    return groups

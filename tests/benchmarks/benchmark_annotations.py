"""Opening VCE's 61,046 labels: seconds and additional memory, beside json.loads of the same files.

python tests/benchmarks/benchmark_annotations.py
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from benchmarking import peak_memory_mb, say, say_ratio, say_times, time_interleaved

from VideoMAE.data.vce import EMOTIONS, read_annotations

NUM_VIDEOS = {"train": 50_000, "test": 11_046}


def write_labels(root: Path) -> None:
    """Label files of the published form and size; intensities are n/240, such as 0.4416666666666667."""
    rng = random.Random(0)
    first = 0
    for split, num_videos in NUM_VIDEOS.items():
        entries = {}
        for video in range(first, first + num_videos):
            emotions = {name: rng.randrange(241) / 240 for name in EMOTIONS}
            top = sorted(emotions, key=lambda name: -emotions[name])[:3]
            entries[f"{video:05d}"] = {"emotions": emotions, "file": f"videos/{video:05d}.mp4", "topK": top}
        (root / f"{split}_labels.json").write_text(json.dumps(entries), encoding="utf-8")
        first += num_videos


def read_all(root: Path) -> list[Any]:
    return [read_annotations(root, split) for split in NUM_VIDEOS]


def load_all(root: Path) -> list[Any]:
    return [json.loads((root / f"{split}_labels.json").read_text(encoding="utf-8")) for split in NUM_VIDEOS]


def prepare(function: Callable[[Path], Any], root: Path) -> Callable[[], Any]:
    return partial(function, root)


def main(*, repeats: int = 5) -> None:
    """Time both in turn; measure the memory of each in a process of its own.

    Args:
        repeats: timed calls of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_labels(root)
        size_mb = sum(file.stat().st_size for file in root.iterdir()) / 1e6
        say(f"{sum(NUM_VIDEOS.values()):,} labels, {size_mb:.0f} MB of JSON")
        seconds = time_interleaved(
            {"read_annotations": partial(read_all, root), "json.loads": partial(load_all, root)}, repeats=repeats
        )
        say_times(seconds)
        say(f"read_annotations: {median(seconds['read_annotations']):.2f} s, median (target: below 3 s)")
        say_ratio("time, read_annotations / json.loads", seconds["read_annotations"], seconds["json.loads"], "none")
        for name, function in {"read_annotations": read_all, "json.loads": load_all}.items():
            say(f"additional memory, {name}: {peak_memory_mb(prepare, function, root):.0f} MB (target: below 300 MB)")


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

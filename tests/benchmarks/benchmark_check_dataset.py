"""Checking a dataset of VCE's size: seconds by the clock of data_prep/check_dataset.py, first and again.

python tests/benchmarks/benchmark_check_dataset.py

The 61,046 videos are hard links to a few small ones, so that files, not bytes, are counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from benchmark_annotations import write_labels
from benchmarking import ROOT, say

sys.path.insert(0, str(ROOT / "tests/helpers"))

import video_files

NUM_KINDS = 8


def write_dataset(root: Path) -> int:
    """Labels, metadata and linked videos -> how many."""
    write_labels(root)
    (root / "videos").mkdir()
    kinds = [video_files.write_moving_video(root / f"{i}.mp4", 60, seed=i) for i in range(NUM_KINDS)]
    files = [
        entry["file"]
        for split in ("train", "test")
        for entry in json.loads((root / f"{split}_labels.json").read_text(encoding="utf-8")).values()
    ]
    for number, file in enumerate(files):
        os.link(kinds[number % NUM_KINDS], root / file)
    metadata = {"codec_name": "h264", "duration": "2.000000", "frame_rate": "30/1", "height": 48, "width": 64}
    entries = {Path(file).stem: {**metadata, "file": file, "number_of_frames": "60"} for file in files}
    (root / "metadata.json").write_text(json.dumps(entries), encoding="utf-8")
    return len(files)


def main(*, num_workers: int = 2) -> None:
    """Time a first and a second check.

    Args:
        num_workers: videos read at the same time.
    """
    with tempfile.TemporaryDirectory() as folder:
        num_videos = write_dataset(Path(folder))
        command = [sys.executable, str(ROOT / "data_prep/check_dataset.py"), folder, "--num_workers", str(num_workers)]
        for what in ("first", "again"):
            start = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True)
            seconds = time.monotonic() - start
            say(f"{what}: {num_videos:,} videos, {seconds:.1f} s, {done.stdout.splitlines()[-1:]}")


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

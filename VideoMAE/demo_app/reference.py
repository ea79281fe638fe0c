"""The test videos of the demo's runs: their scores and mean intensities, results, and example videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from VideoMAE.config import flat
from VideoMAE.files import read_json, read_json_lines
from VideoMAE.video.search import find_videos

NUM_EXAMPLES = 8


class Reference(NamedTuple):
    """The test videos of the runs.

    `scores` (V,) is sorted, and empty without a V2V run; `mean_intensities` by emotion is empty without a VCE run.
    """

    scores: np.ndarray
    mean_intensities: dict[str, float]
    num_intensities: int
    facts: list[str]
    is_synthetic: bool = False  # the runs were trained on the videos of make_sample.py

    def percentile(self, score: float) -> float:
        """The percentage of the test videos with a lower score; equal scores count half."""
        below = np.searchsorted(self.scores, score, "left") + np.searchsorted(self.scores, score, "right")
        return 50.0 * float(below) / len(self.scores)

    def rank_of(self, score: float) -> str:
        """`More pleasant than 83 % of the 106 test videos`"""
        if not len(self.scores):
            return "Pleasantness (no test scores beside the checkpoint to compare with)"
        return f"More pleasant than {self.percentile(score):.0f} % of the {len(self.scores)} test videos"


def read_reference(checkpoints: Sequence[Path]) -> Reference:
    """Reads the results beside the checkpoints (folders of runs, or files in them); missing files are skipped.
    Raises ValueError if a results file is damaged."""
    folders = list(map(_run_folder, checkpoints))
    scores = [line["score"] for folder in folders for line in _test_lines(folder, "score")]
    intensities = [line["predicted"] for folder in folders for line in _test_lines(folder, "predicted")]
    emotions = intensities[0] if intensities else {}
    means = {name: float(np.mean([entry[name] for entry in intensities])) for name in emotions}
    facts = [fact for folder in folders for fact in _facts(folder)]
    roots = filter(None, map(_dataset_of, folders))
    is_synthetic = any((root.parent / "make_sample.json").is_file() for root in roots)
    return Reference(np.sort(np.asarray(scores, dtype=np.float64)), means, len(intensities), facts, is_synthetic)


def find_examples(checkpoints: Sequence[Path], folder: Path | None) -> list[Path]:
    """Up to `NUM_EXAMPLES` videos of `folder`, or else test videos of the runs, sorted by score if it is known.
    Raises ValueError if `folder` is not a folder, or contains no video."""
    if folder is not None:
        if not folder.is_dir():
            raise ValueError(f"--examples {folder}: no such folder")
        files = find_videos([folder]).paths
        if not files:
            raise ValueError(f"--examples {folder}: contains no video file")
        return files[:NUM_EXAMPLES]
    for run in map(_run_folder, reversed(checkpoints)):  # the V2V run, which has scores, is usually the last
        root, lines = _dataset_of(run), sorted(_test_lines(run, "score"), key=lambda line: line["score"])
        ids = [line["id"] for line in lines or _test_lines(run, "predicted")]
        if ids and root is not None:
            chosen = np.linspace(0, len(ids) - 1, min(NUM_EXAMPLES, len(ids))).round().astype(int)
            files = [root / "videos" / f"{ids[place]}.mp4" for place in chosen]
            if found := [path for path in files if path.is_file()]:
                return found
    return []


def _run_folder(checkpoint: Path) -> Path:
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def _dataset_of(folder: Path) -> Path | None:
    """The dataset folder in the config.json of a run."""
    settings = flat(_read_if_present(folder / "config.json"))
    root = settings.get("data_dir") or settings.get("data_path")
    return Path(root) if root else None


def _facts(folder: Path) -> list[str]:
    """The test results of a run as text."""
    results = _read_if_present(folder / "results.json")
    facts = []
    if "acc3" in results:
        facts.append(f"top-3 accuracy {results['acc3']:.0f} % on {results.get('num_videos', 'its')} test videos")
    if results.get("pair_accuracy") is not None:
        facts.append(f"{results['pair_accuracy']:.0f} % of the test pairs in the correct order")
    return facts


def _read_if_present(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _test_lines(folder: Path, key: Literal["score", "predicted"]) -> list[dict[str, Any]]:
    """The entries of a run's readable test videos, which have `key`; [] without their file."""
    file = folder / {"score": "scores.jsonl", "predicted": "predictions.jsonl"}[key]
    lines = [line for line in read_json_lines(file) if key in line] if file.is_file() else []
    if not all(isinstance(line.get("id"), str) for line in lines):
        raise ValueError(f"{file}: an entry has no video id")
    return lines

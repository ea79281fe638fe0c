"""The test videos of the demo's runs: their scores and mean intensities, results, and example videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


class _RunFolder(NamedTuple):
    """The dataset folder of a run, its results, and the entries of its readable test videos, all empty if missing."""

    dataset: Path | None
    results: dict[str, Any]
    with_score: list[dict[str, Any]]
    with_intensities: list[dict[str, Any]]


def _read_run_folder(checkpoint: Path) -> _RunFolder:
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    config, results = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in ("config.json", "results.json")
    )
    settings = flat(config)
    root = settings.get("data_dir") or settings.get("data_path")
    entries = []
    for name, key in (("scores.jsonl", "score"), ("predictions.jsonl", "predicted")):
        file = folder / name
        entries.append([line for line in read_json_lines(file) if key in line] if file.is_file() else [])
        if not all(isinstance(line.get("id"), str) for line in entries[-1]):
            raise ValueError(f"{file}: an entry has no video id")
    return _RunFolder(Path(root) if root else None, results, *entries)


def read_reference(checkpoints: Sequence[Path]) -> Reference:
    """Reads the results beside the checkpoints (folders of runs, or files in them); missing files are skipped.
    Raises ValueError if a results file is damaged."""
    runs = list(map(_read_run_folder, checkpoints))
    scores = [line["score"] for run in runs for line in run.with_score]
    intensities = [line["predicted"] for run in runs for line in run.with_intensities]
    emotions = intensities[0] if intensities else {}
    means = {name: float(np.mean([entry[name] for entry in intensities])) for name in emotions}
    facts = []
    for _, results, *_ in runs:
        if "acc3" in results:
            facts.append(f"top-3 accuracy {results['acc3']:.0f} % on {results.get('num_videos', 'its')} test videos")
        if results.get("pair_accuracy") is not None:
            facts.append(f"{results['pair_accuracy']:.0f} % of the test pairs in the correct order")
    is_synthetic = any(run.dataset and (run.dataset.parent / "make_sample.json").is_file() for run in runs)
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
    for run in map(_read_run_folder, reversed(checkpoints)):  # the V2V run, which has scores, is usually the last
        lines = sorted(run.with_score, key=lambda line: line["score"]) or run.with_intensities
        if lines and run.dataset is not None:
            chosen = np.linspace(0, len(lines) - 1, min(NUM_EXAMPLES, len(lines))).round().astype(int)
            files = [run.dataset / "videos" / f"{lines[place]['id']}.mp4" for place in chosen]
            if found := [path for path in files if path.is_file()]:
                return found
    return []

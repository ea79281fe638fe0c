"""What a run knows of its test videos: scores and intensities to compare a new video with, examples, how good it is."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from VideoMAE.config import flat
from VideoMAE.video.search import find_videos

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 8


class Reference(NamedTuple):
    """Test videos of the given runs.

    `scores` (V,), rising, is empty without a V2V run; `mean_intensities` by emotion is empty without a VCE run.
    """

    scores: np.ndarray
    mean_intensities: dict[str, float]
    num_intensities: int
    facts: list[str]
    is_drawn: bool = False  # the runs learned from make_sample.py's drawn videos, not from real ones

    def percentile(self, score: float) -> float:
        """How many percent of the test videos a score is above; equals count half."""
        below = np.searchsorted(self.scores, score, "left") + np.searchsorted(self.scores, score, "right")
        return 50.0 * float(below) / len(self.scores)

    def in_words(self, score: float) -> str:
        """`more pleasant than 83 % of the 106 test videos`"""
        if not len(self.scores):
            return "no test scores lie beside the checkpoint to compare it with"
        return f"more pleasant than {self.percentile(score):.0f} % of the {len(self.scores)} test videos"


def read_reference(checkpoints: Sequence[Path]) -> Reference:
    """What lies beside the checkpoints (folders of runs, or files in them); what is missing stays empty.

    Raises:
        ValueError: a file of results is there and is not what a run writes.
    """
    scores: list[float] = []
    intensities: list[Mapping[str, float]] = []
    facts = []
    for folder in map(run_folder, checkpoints):
        scores += [line["score"] for line in _lines(folder / "scores.jsonl", "score")]
        intensities += [line["predicted"] for line in _lines(folder / "predictions.jsonl", "predicted")]
        facts += _facts(folder)
    emotions = intensities[0] if intensities else {}
    means = {name: float(np.mean([entry[name] for entry in intensities])) for name in emotions}
    is_drawn = any((root.parent / "make_sample.json").is_file() for root in filter(None, map(_dataset, checkpoints)))
    return Reference(np.sort(np.asarray(scores, dtype=np.float64)), means, len(intensities), facts, is_drawn)


def run_folder(checkpoint: Path) -> Path:
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def _dataset(checkpoint: Path) -> Path | None:
    """The dataset that a run learned from, where its settings lie beside the checkpoint."""
    settings = flat(_json(run_folder(checkpoint) / "config.json"))
    root = settings.get("data_dir") or settings.get("data_path")
    return Path(root) if root else None


def find_examples(checkpoints: Sequence[Path], folder: Path | None) -> list[Path]:
    """Up to `NUM_EXAMPLES` videos to pick from: of `folder`, else test videos of the runs, from the least to the most
    pleasant where scores are known.

    Raises:
        ValueError: `folder` is no folder, or holds no video.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ValueError(f"--examples {folder}: no such folder")
        files = find_videos([folder]).paths
        if not files:
            raise ValueError(f"--examples {folder}: holds no video file")
        return files[:NUM_EXAMPLES]
    for checkpoint in reversed(checkpoints):  # the V2V run, which orders them, is commonly the last
        run, root = run_folder(checkpoint), _dataset(checkpoint)
        ids = [line["id"] for line in sorted(_lines(run / "scores.jsonl", "score"), key=lambda line: line["score"])]
        ids = ids or [line["id"] for line in _lines(run / "predictions.jsonl", "predicted")]
        if not ids or root is None:
            continue
        chosen = np.linspace(0, len(ids) - 1, min(NUM_EXAMPLES, len(ids))).round().astype(int)
        found = [root / "videos" / f"{ids[place]}.mp4" for place in chosen]
        found = [path for path in found if path.is_file()]
        if found:
            return found
    return []


def _facts(folder: Path) -> list[str]:
    """How well the run did on its test videos, in words."""
    results = _json(folder / "results.json")
    facts = []
    if "acc3" in results:
        facts.append(f"top-3 accuracy {results['acc3']:.0f} % on {results.get('num_videos', 'its')} test videos")
    if results.get("pair_accuracy") is not None:
        facts.append(f"the more pleasant of two videos found in {results['pair_accuracy']:.0f} % of the test pairs")
    return facts


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _lines(path: Path, key: str) -> list[dict[str, Any]]:
    """The entries of a file of results that have `key`; those of unreadable videos have not."""
    if not path.is_file():
        return []
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [entry for entry in entries if key in entry and isinstance(entry["id"], str)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: is not a run's file of results: {error}") from error

"""Output folders of tested runs without any training: drawn predictions, written by what writes real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from VideoMAE.cli import parse_flags
from VideoMAE.config import V2VConfig, VCEConfig, to_json
from VideoMAE.engine_for_finetuning import write_results
from VideoMAE.training import results
from VideoMAE.training.tasks import EmotionTask

EMOTIONS = ("Joy", "Awe <b>&amp;", "Fear", "Calm", "Boredom")
HOSTILE = '<img src=x onerror="alert(1)">'


def make_labels(root: Path, *, num_train: int = 40, num_test: int = 30, seed: int = 0) -> Path:
    """A VCE dataset of five emotions without videos; the last test video's id is markup."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True)
    (root / "emotions.json").write_text(json.dumps(EMOTIONS))
    first = 0
    for split, count in (("train", num_train), ("test", num_test)):
        ids = [f"{first + index:05d}" for index in range(count)]
        if split == "test":
            ids[-1] = HOSTILE
        entries = {
            key: {"emotions": dict(zip(EMOTIONS, row, strict=True)), "file": f"videos/{number:05d}.mp4"}
            for number, (key, row) in enumerate(zip(ids, rng.random((count, 5)).round(3).tolist(), strict=True))
        }
        (root / f"{split}_labels.json").write_text(json.dumps(entries))
        first += count
    return root


def read_test(root: Path) -> tuple[list[str], np.ndarray]:
    entries = json.loads((root / "test_labels.json").read_text())
    rows = [[entry["emotions"][name] for name in EMOTIONS] for entry in entries.values()]
    return list(entries), np.array(rows, dtype=np.float32)


def make_vce_results(
    folder: Path, data: Path, *flags: str, noise: float = 1.0, seed: int = 0, left_out: Sequence[str] = ()
) -> Path:
    """A run tested on `data`: predictions that follow the truth but for noise, and of the last video are its contrary;
    the videos `left_out` are unreadable."""
    config = parse_flags(VCEConfig, ["--data_path", str(data), "--output_dir", str(folder), *flags])
    ids, targets = read_test(data)
    readable = [place for place, key in enumerate(ids) if key not in left_out]
    targets, named = targets[readable], [ids[place] for place in readable]
    rng = np.random.default_rng(seed)
    logits = (2 * targets[:, None] - 1 + noise * rng.standard_normal((len(named), 3, 5))).astype(np.float32)
    logits[-1] = 4 - 8 * targets[-1]
    train = np.array(
        [[*entry["emotions"].values()] for entry in json.loads((data / "train_labels.json").read_text()).values()]
    )[:36]
    task = EmotionTask(loss=config.loss)
    average = config.data.test_average
    measured = results.emotion_results(task, logits, targets, training=train, average=average)
    reasons = {key: f"no <i>frames</i> in {key}" for key in left_out}
    measured |= {"num_videos": len(ids), "num_unreadable": len(reasons), "unreadable": reasons, "emotions": EMOTIONS}
    lines: list[dict[str, Any]] = results.prediction_lines(
        task, logits, targets, ids=named, emotions=EMOTIONS, average=average
    )
    lines += [{"id": key, "unreadable": reason} for key, reason in reasons.items()]
    return write_run(folder, to_json(config), measured, lines, "predictions.jsonl")


def make_v2v_results(
    folder: Path, data: Path, *flags: str, noise: float = 0.5, seed: int = 0, left_out: Sequence[str] = ()
) -> Path:
    """A run tested on the pairs and lists of `data`, whose videos are better the higher their ids."""
    config = parse_flags(V2VConfig, ["--data_dir", str(data), "--results_path", str(folder), *flags])
    pairs, lists = (
        [tuple(entry) for entry in json.loads((data / f"{split}_labels.json").read_text())["comparisons"]]
        for split in ("test", "listwise")
    )
    ids = sorted({key for entry in [*pairs, *lists] for key in entry})
    rng = np.random.default_rng(seed)
    drawn = {key: float(place / 6 + noise * rng.standard_normal()) for place, key in enumerate(ids)}
    scores = {key: score for key, score in drawn.items() if key not in left_out}
    reasons = dict.fromkeys(left_out, "the file is empty")
    measured = results.preference_results(scores, pairs, lists)
    measured |= {"num_videos": len(ids), "num_unreadable": len(reasons), "unreadable": reasons}
    lines: list[dict[str, Any]] = [{"id": key, "score": score} for key, score in scores.items()]
    lines += [{"id": key, "unreadable": reason} for key, reason in reasons.items()]
    return write_run(folder, to_json(config), measured, lines, "scores.jsonl")


def write_run(
    folder: Path, config: dict[str, Any], measured: dict[str, Any], lines: list[dict[str, Any]], name: str
) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_results(folder, measured, lines, lines_name=name)
    return folder

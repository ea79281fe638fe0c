"""The labels of a dataset of VCE's or V2V's form, checked entry by entry; nothing stops at the first fault."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from VideoMAE.data.vce import EMOTIONS_FILE, read_emotions, video_path
from VideoMAE.dataset_tools.check_report import Report

PUBLISHED_VIDEOS = {"train": 50_000, "test": 11_046}
NUM_TOP = 3  # emotions in 'topK'
LONGEST_ID = 200  # characters, so that ID.mp4 is a file name everywhere

Files = dict[str, str]
"""What the labels say where each video lies: id to the file's path in the dataset folder."""


class Repeating(dict[str, Any]):
    """A JSON object with keys that stand in it more than once; the last value of each is kept."""

    repeated: tuple[str, ...] = ()


def read_object(file: Path, report: Report) -> dict[str, Any] | None:
    """Read a JSON file whose content is an object; what is wrong with it is reported -> content, or None."""

    def keeping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) == len(pairs):
            return entry
        repeating = Repeating(entry)
        keys = [key for key, _ in pairs]
        repeating.repeated = tuple(key for key in entry if keys.count(key) > 1)
        return repeating

    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=keeping) if text.strip() else None
    except FileNotFoundError:
        report.add("missing_file", file.name)
        return None
    except (OSError, ValueError, RecursionError) as error:
        report.add("malformed_file", f"{file.name}: not valid JSON (truncated?): {error}")
        return None
    if not isinstance(content, dict):
        found = "the file is empty" if content is None and not text.strip() else f"found {type(content).__name__}"
        report.add("malformed_file", f"{file.name}: expected a JSON object, {found}")
        return None
    if isinstance(content, Repeating):
        for key in content.repeated:
            report.add("duplicate_key", f"{file.name}: {key!r} stands twice", key)
    return content


def is_id(key: str) -> bool:
    """Whether a text can be an id: part of a file name, fit for a line of an --exclude file."""
    is_plain = key.isprintable() and not set(key) & set("/\\#") and key == key.strip() and not key.startswith(".")
    return is_plain and 0 < len(key) <= LONGEST_ID


def check_id(key: str, where: str, report: Report) -> bool:
    """Whether an id can be one; reported if not."""
    if not is_id(key):
        report.add("bad_id", f"{where}: {key!r} is no id: expected a part of a file name without / and #")
    return is_id(key)


def check_vce(root: Path, report: Report) -> Files:
    """Check the labels of a VCE folder -> the files that its usable labels name."""
    try:
        emotions = read_emotions(root)
    except ValueError as error:
        report.add("malformed_file", str(error))
        return {}
    files: Files = {}
    split_of: dict[str, str] = {}
    for split in PUBLISHED_VIDEOS:
        name = f"{split}_labels.json"
        entries = read_object(root / name, report)
        if entries is None:
            continue
        if not entries:
            report.add("malformed_file", f"{name}: holds no videos")
        if not (root / EMOTIONS_FILE).exists() and len(entries) != PUBLISHED_VIDEOS[split]:
            report.add("counts", f"{name}: {len(entries):,} videos, the published file has {PUBLISHED_VIDEOS[split]:,}")
        for key, entry in entries.items():
            if not check_id(key, name, report):
                continue
            if key in split_of:
                report.add("several_splits", f"{key} is in {split_of[key]} and {split}", key)
            split_of[key] = split
            file = _check_file(root, key, entry, name, report)
            if file:
                files.setdefault(key, file)
            _check_emotions(key, entry, emotions, name, report)
    by_file: dict[str, str] = {}
    for key, file in files.items():
        if by_file.setdefault(file, key) != key:
            text = f"{by_file[file]} ({split_of[by_file[file]]}) and {key} ({split_of[key]}) both name {file}"
            report.add("same_video", text, key)
    return files


def _check_file(root: Path, key: str, entry: Any, name: str, report: Report) -> str | None:
    """The file that a label names, in the dataset folder -> its path there, or None."""
    try:
        video_path(root, entry, where=f"{name}: {key}")
    except ValueError as error:
        report.add("bad_file_name", str(error), key)
        return None
    return str(entry["file"])


def _check_emotions(key: str, entry: Any, emotions: Sequence[str], name: str, report: Report) -> None:
    intensities = entry.get("emotions") if isinstance(entry, dict) else None
    if not isinstance(intensities, dict):
        report.add("bad_emotions", f"{name}: {key}: has no 'emotions' object", key)
        return
    if isinstance(intensities, Repeating):
        report.add("duplicate_key", f"{name}: {key}: {', '.join(intensities.repeated)} stands twice", key)
        return
    if intensities.keys() != set(emotions):
        missing = [emotion for emotion in emotions if emotion not in intensities]
        unknown = [repr(emotion) for emotion in intensities if emotion not in emotions]
        parts = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        said = f"{len(intensities)} emotions, expected {len(emotions)}: {'; '.join(parts)}"
        report.add("bad_emotions", f"{name}: {key}: {said}", key)
        return
    bad = [(emotion, value) for emotion, value in intensities.items() if not _is_intensity(value)]
    if bad:
        said = ", ".join(f"{emotion} is {json.dumps(value)[:40]}" for emotion, value in bad)
        report.add("bad_intensity", f"{name}: {key}: {said}", key)
        return
    wrong = top_k_fault(entry.get("topK"), intensities)
    if wrong:
        report.add("bad_top_k", f"{name}: {key}: {wrong}", key)


def _is_intensity(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1  # not NaN, not a bool


def top_emotions(intensities: Mapping[str, float]) -> list[str]:
    """The most intense emotions, most intense first, in alphabetical order among equals."""
    return sorted(sorted(intensities), key=lambda name: -intensities[name])[:NUM_TOP]


def top_k_fault(top: Any, intensities: Mapping[str, float]) -> str | None:
    """What is wrong with a label's 'topK': any order of equal intensities is right; None: nothing."""
    expected = top_emotions(intensities)
    if not isinstance(top, list) or not all(isinstance(name, str) for name in top):
        return f"'topK' is {json.dumps(top)[:80]}, expected {len(expected)} names"
    unknown = [name for name in top if name not in intensities]
    if unknown or len(set(top)) != len(top) or len(top) != len(expected):
        return f"'topK' is {top}, expected {len(expected)} different emotions"
    if [intensities[name] for name in top] != [intensities[name] for name in expected]:
        return f"'topK' is {top}, the intensities say {expected}"
    return None

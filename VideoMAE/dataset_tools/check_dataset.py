"""Check a dataset of VCE's or V2V's form before a long run.

    python data_prep/check_dataset.py vce_dataset --decode ends

looks at labels, pairs and lists, metadata.json and every video, and says all that is wrong, or "fine". Each video is
read in a process that can be killed, so that a file which hangs its decoder is named like any other bad one. What is
known of a video is remembered in the dataset's folder by path, size and time of change: a second check, or one that
was stopped, reads only what is new.

Exit status 0 means fine; 1, that there are problems. `--write_exclude FILE` writes the ids of the bad videos, which the
run programs take as `--exclude FILE`. What a run takes without harm is said "by the way": counts that differ from the
published ones, unusual but readable videos, preferences that contradict each other or run in circles, as people's do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from VideoMAE.data.exclusion import format_excluded
from VideoMAE.dataset_tools.check_report import Report
from VideoMAE.dataset_tools.comparison_checks import check_v2v
from VideoMAE.dataset_tools.label_checks import Files, check_vce, read_object
from VideoMAE.dataset_tools.programs import num_cores, run_program, write_json, write_text
from VideoMAE.dataset_tools.video_checks import (
    PROBES,
    cache_file,
    find_unlabelled,
    malformed_metadata,
    metadata_differences,
    oddities,
)
from VideoMAE.video.check import check_videos
from VideoMAE.video.reader import VideoInfo

logger = logging.getLogger("check_dataset")

MAX_IDS_SHOWN = 200
CHECKS = {"vce": check_vce, "v2v": check_v2v}


@dataclass(frozen=True)
class Settings:
    """What to check, and how thoroughly."""

    root: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset."""
    kind: Literal["vce", "v2v"] | None = None
    """Form of its labels; None: found from the files."""
    decode: Literal["none", "first", "ends", "all"] = "none"
    """Frames of each video that are really decoded as in training; none: its index and first frame are read."""
    decode_seconds: float = 30.0
    """A video that takes longer is given up, and its process killed."""
    num_workers: int = field(default_factory=num_cores)
    """Videos read at the same time."""
    report: Path | None = None
    """JSON file for everything that was found."""
    write_exclude: Path | None = None
    """File for the ids of the bad videos, for --exclude of the run programs."""


def find_kind(root: Path) -> str:
    """Tell the form of a dataset's labels -> "vce" or "v2v".

    Raises ValueError when there is nothing to tell it from.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    if (root / "listwise_labels.json").exists():
        return "v2v"
    found = [root / f"{split}_labels.json" for split in ("train", "test") if (root / f"{split}_labels.json").exists()]
    if not found:
        raise ValueError(f"{root}: holds no train_labels.json and no test_labels.json; is it the folder of a dataset?")
    for file in found:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return "v2v" if isinstance(content, dict) and "comparisons" in content else "vce"
    return "vce"


def check_dataset(
    settings: Settings, *, kind: str, probe_function: Callable[[Path], VideoInfo] | None = None
) -> Report:
    """Check everything -> what was found."""
    root, report = settings.root, Report()
    files = CHECKS[kind](root, report)
    check = check_videos(
        {file: root / file for file in files.values()},
        num_processes=settings.num_workers,
        limit_seconds=settings.decode_seconds,
        cache=cache_file(root, settings.decode) if root.is_dir() else None,
        probe_function=probe_function or PROBES[settings.decode],
    )
    for key, file in files.items():
        if file in check.unreadable:
            report.add("unreadable", f"{key} ({file}): {check.unreadable[file]}", key)
        elif oddities(check.infos[file]):
            report.add("unusual_video", f"{key}: {'; '.join(oddities(check.infos[file]))}", key)
    check_metadata(root, files, check.infos, report, needed=kind == "v2v")
    find_unlabelled(root, set(files.values()), report)
    return report


def check_metadata(root: Path, files: Files, infos: dict[str, VideoInfo], report: Report, *, needed: bool) -> None:
    """Compare metadata.json with the labels and the readable files; `needed`: a run refuses a video without entry."""
    entries: dict[str, Any] | None = read_object(root / "metadata.json", report)
    if entries is None:
        return
    for key, file in files.items():
        if key not in entries:
            report.add("no_metadata", key, key, excluded=needed)
            continue
        malformed = malformed_metadata(entries[key], file)
        if malformed:
            report.add("bad_metadata", f"{key}: {malformed}", key)
        elif file in infos:
            differences = metadata_differences(entries[key], infos[file])
            if differences:
                report.add("metadata_differs", f"{key}: {'; '.join(differences)}", key)


def run(settings: Settings) -> bool:
    """Check, say and write what was found -> whether the dataset is fine."""
    for name in ("num_workers", "decode_seconds"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"--{name} {getattr(settings, name):g}: must be above 0")
    kind = settings.kind or find_kind(settings.root)
    if not settings.root.is_dir():
        raise ValueError(f"{settings.root}: no such folder")
    report = check_dataset(settings, kind=kind)
    text, bad_ids = report.to_text(), report.bad_ids()
    if text:
        logger.info("%s\n", text)
    if settings.report:
        write_json(settings.report, {"root": str(settings.root), "kind": kind, **report.to_json()})
        logger.info("%s: everything that was found", settings.report)
    if settings.write_exclude:
        write_text(settings.write_exclude, format_excluded(bad_ids))
        logger.info("%s: %d ids, for --exclude", settings.write_exclude, len(bad_ids))
    if not report.problems:
        logger.info("%s (%s): fine", settings.root, kind)
        return True
    if 0 < len(bad_ids) <= MAX_IDS_SHOWN:
        logger.info("bad ids: %s", " ".join(bad_ids))
    others = sum(not finding.excluded for finding in report.problems)
    logger.info(
        "%s (%s): %d problems; excluding the %d bad ids leaves %d", settings.root, kind, len(report.problems),
        len(bad_ids), others,
    )  # fmt: skip
    return False


def main() -> int:
    return run_program(run, Settings, __doc__)

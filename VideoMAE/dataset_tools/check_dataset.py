"""Check a dataset in the layout of VCE or V2V before a long run.

    python data_prep/check_dataset.py vce_dataset --decode ends

checks labels, comparisons, metadata.json and every video, and prints all defects, or "fine". Videos are read in worker
processes that can be killed, so that a file which hangs its decoder is reported like any other. Results are cached in
the dataset folder by path, size and modification time: a repeated or interrupted check reads only new files.

The exit status is 0 without problems and 1 otherwise. `--write_exclude FILE` writes the ids of bad videos for the
training programs' `--exclude FILE`. Notes do not affect the exit status: counts that differ from the published dataset,
unusual but readable videos, contradictory or cyclic preferences, which are normal in human ratings.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.data.exclusion import format_excluded
from VideoMAE.dataset_tools.label_checks import Report, check_v2v, check_vce, read_object
from VideoMAE.dataset_tools.programs import check_ranges, num_cores
from VideoMAE.dataset_tools.read_labels import kind_of
from VideoMAE.dataset_tools.video_checks import PROBES, cache_file, malformed_metadata, metadata_differences, oddities
from VideoMAE.files import write_json, write_text
from VideoMAE.video.check import check_videos
from VideoMAE.video.reader import VideoInfo

logger = logging.getLogger("check_dataset")

MAX_IDS_SHOWN = 200


@dataclass(frozen=True)
class Settings:
    root: Annotated[Path, tyro.conf.Positional]
    """Dataset folder."""
    kind: Literal["vce", "v2v"] | None = None
    """Layout of the labels. None: detected from the files."""
    decode: Literal["none", "first", "ends", "all"] = "none"
    """Frames of each video that are decoded as in training. none: only its index and first frame are read."""
    decode_seconds: float = 30.0
    """Time limit per video; a video that exceeds it counts as unreadable."""
    num_workers: int = field(default_factory=num_cores)
    """Number of worker processes."""
    report: Path | None = None
    """JSON file for all findings."""
    write_exclude: Path | None = None
    """File for the ids of bad videos, for --exclude of the training programs."""


def check_dataset(settings: Settings, *, kind: str) -> Report:
    """Checks the labels, the videos and metadata.json."""
    root, report = settings.root, Report()
    files = (check_vce if kind == "vce" else check_v2v)(root, report)
    check = check_videos(
        {file: root / file for file in files.values()},
        num_processes=settings.num_workers,
        limit_seconds=settings.decode_seconds,
        cache=cache_file(root, settings.decode),
        probe_function=PROBES[settings.decode],
    )
    for key, file in files.items():
        if file in check.unreadable:
            report.add("unreadable", f"{key} ({file}): {check.unreadable[file]}", key)
        elif unusual := oddities(check.infos[file]):
            report.add("unusual_video", f"{key}: {'; '.join(unusual)}", key)
    check_metadata(root, files, check.infos, report, required=kind == "v2v")
    labelled = set(files.values())
    for path in sorted((root / "videos").glob("[!.]*")):
        if f"videos/{path.name}" not in labelled:
            report.add("unlabelled", f"videos/{path.name}", path.stem)
    return report


def check_metadata(
    root: Path, files: dict[str, str], infos: dict[str, VideoInfo], report: Report, *, required: bool
) -> None:
    """Compares metadata.json with labels and videos; `required`: a run rejects a video that has no entry."""
    entries = read_object(root / "metadata.json", report)
    if entries is None:
        return
    for key, file in files.items():
        if key not in entries:
            report.add("no_metadata", key, key, excluded=required)
        elif malformed := malformed_metadata(entries[key], file):
            report.add("bad_metadata", f"{key}: {malformed}", key)
        elif file in infos and (differences := metadata_differences(entries[key], infos[file])):
            report.add("metadata_differs", f"{key}: {'; '.join(differences)}", key)


def run(settings: Settings) -> bool:
    """Checks a dataset, prints and writes the findings -> whether there are no problems."""
    check_ranges(settings, above_0=("num_workers", "decode_seconds"))
    kind = settings.kind or kind_of(settings.root)
    if not settings.root.is_dir():
        raise ValueError(f"{settings.root}: no such folder")
    report = check_dataset(settings, kind=kind)
    text, bad_ids, num_problems = report.to_text(), report.bad_ids(), len(report.problems)
    if text:
        logger.info("%s\n", text)
    if settings.report:
        write_json(settings.report, {"root": str(settings.root), "kind": kind, **report.to_json()}, indent=4)
        logger.info("%s: all findings", settings.report)
    if settings.write_exclude:
        write_text(settings.write_exclude, format_excluded(bad_ids))
        logger.info("%s: %s for --exclude", settings.write_exclude, counted(len(bad_ids), "id"))
    if not num_problems:
        logger.info("%s (%s): fine", settings.root, kind)
        return True
    if 0 < len(bad_ids) <= MAX_IDS_SHOWN:
        logger.info("bad ids: %s", " ".join(bad_ids))
    remaining = sum(not finding.excluded for finding in report.problems)
    problems, ids = counted(num_problems, "problem"), counted(len(bad_ids), "bad id")
    logger.info("%s (%s): %s; excluding %s leaves %d", settings.root, kind, problems, ids, remaining)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="the results so far are cached")

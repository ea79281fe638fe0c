"""Make metadata.json of a dataset from its videos, in the published form.

    python data_prep/build_metadata.py my_dataset

opens every file of `videos/`, in processes that can be killed, and writes for each its codec, duration, frame rate,
size and number of frames. A file that cannot be read gets no entry, is named, and makes the exit status 1; the others
are written. What is known of a video is remembered in the dataset's folder, so that a build which was stopped goes on.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from VideoMAE.dataset_tools.programs import num_cores, run_program, write_json
from VideoMAE.dataset_tools.video_checks import cache_file, metadata_entry
from VideoMAE.video.check import check_videos

logger = logging.getLogger("build_metadata")


@dataclass(frozen=True)
class Settings:
    """Of what to make it."""

    root: Annotated[Path, tyro.conf.Positional]
    """Folder of the dataset, with videos/."""
    num_workers: int = field(default_factory=num_cores)
    """Videos opened at the same time."""
    probe_seconds: float = 30.0
    """A video that takes longer is given up, and its process killed."""
    overwrite: bool = False
    """Replace a metadata.json of other content."""
    report: Path | None = None
    """JSON file for the counts and the unreadable files."""


def build_metadata(root: Path, *, num_workers: int, probe_seconds: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Open the videos of a dataset -> entries by id, and the reasons of the unreadable ones by file.

    Raises ValueError when there are none, or when two have the same id.
    """
    folder = root / "videos"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not names:
        raise ValueError(f"{folder}: holds no videos")
    file_of: dict[str, str] = {}
    for name in names:
        other = file_of.setdefault(Path(name).stem, f"videos/{name}")
        if other != f"videos/{name}":
            raise ValueError(f"{root}: {other} and videos/{name} would have the same id; rename one")
    check = check_videos(
        {file: root / file for file in file_of.values()},
        num_processes=num_workers,
        limit_seconds=probe_seconds,
        cache=cache_file(root, "none"),
    )
    entries = {key: metadata_entry(check.infos[file], file) for key, file in file_of.items() if file in check.infos}
    return entries, check.unreadable


def run(settings: Settings) -> bool:
    """Write metadata.json, name the unreadable files -> whether there were none."""
    for name in ("num_workers", "probe_seconds"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"--{name} {getattr(settings, name):g}: must be above 0")
    file = settings.root / "metadata.json"
    entries, unreadable = build_metadata(
        settings.root, num_workers=settings.num_workers, probe_seconds=settings.probe_seconds
    )
    for name, reason in unreadable.items():
        logger.info("unreadable: %s: %s", name, reason)
    if not entries:
        raise ValueError(f"{settings.root}: none of its {len(unreadable)} videos can be read")
    if file.exists() and not settings.overwrite and not _holds(file, entries):
        raise ValueError(f"{file} exists with other content; pass --overwrite to replace it")
    write_json(file, entries)
    if settings.report:
        counts = {"root": str(settings.root), "num_videos": len(entries), "unreadable": unreadable}
        write_json(settings.report, {"fine": not unreadable, **counts})
    logger.info("%s: %d videos, %d unreadable ones left out", file, len(entries), len(unreadable))
    return not unreadable


def _holds(file: Path, entries: dict[str, Any]) -> bool:
    """Tell whether a file holds just these entries; one that is damaged does not."""
    try:
        return json.loads(file.read_text(encoding="utf-8")) == entries
    except ValueError:
        return False


def main() -> int:
    return run_program(run, Settings, __doc__)

"""Create metadata.json of a dataset from its videos, in the published format.

    python data_prep/build_metadata.py my_dataset

reads every file of `videos/`, in worker processes that can be killed, and writes its codec, duration, frame rate, size
and number of frames. Unreadable files get no entry, are listed, and set the exit status to 1. Results are cached in the
dataset folder, so that an interrupted build continues.
"""

import json
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.dataset_tools.programs import check_ranges, metadata_entry, num_cores, write_new_files
from VideoMAE.files import write_json
from VideoMAE.video.check import check_videos

logger = logging.getLogger("build_metadata")


@dataclass(frozen=True)
class Settings:
    root: Annotated[Path, tyro.conf.Positional]
    """Dataset folder, with videos/."""
    num_workers: int = field(default_factory=num_cores)
    """Number of worker processes."""
    probe_seconds: float = 30.0
    """Time limit per video; a video that exceeds it counts as unreadable."""
    overwrite: bool = False
    """Replace a metadata.json with other content."""
    report: Path | None = None
    """JSON file for the number of videos and the unreadable files."""


def run(settings: Settings) -> bool:
    """Writes metadata.json and lists the unreadable files -> whether there are none."""
    check_ranges(settings, above_0=("num_workers", "probe_seconds"))
    root, folder = settings.root, settings.root / "videos"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    file_of: dict[str, str] = {}
    for name in sorted(path.name for path in folder.glob("[!.]*")):
        other = file_of.setdefault(Path(name).stem, f"videos/{name}")
        if other != f"videos/{name}":
            raise ValueError(f"{root}: {other} and videos/{name} would have the same id; rename one")
    if not file_of:
        raise ValueError(f"{folder}: holds no videos")
    videos, cache = {file: root / file for file in file_of.values()}, root / ".checked_videos.decode_none.json"
    check = check_videos(videos, num_processes=settings.num_workers, limit_seconds=settings.probe_seconds, cache=cache)
    for name, reason in check.unreadable.items():
        logger.info("unreadable: %s: %s", name, reason)
    entries = {key: metadata_entry(check.infos[file], file) for key, file in file_of.items() if file in check.infos}
    if not entries:
        raise ValueError(f"{root}: none of its {counted(len(file_of), 'video')} can be read")
    file, num_bad = root / "metadata.json", len(check.unreadable)
    write_new_files({file: json.dumps(entries, indent=4) + "\n"}, overwrite=settings.overwrite)
    if settings.report:
        counts = {"root": str(root), "num_videos": len(entries), "unreadable": check.unreadable}
        write_json(settings.report, {"fine": not num_bad, **counts}, indent=4)
    logger.info("%s: %s, %d unreadable and left out", file, counted(len(entries), "video"), num_bad)
    return not num_bad


main = partial(cli.run, run, Settings, description=__doc__, when_stopped="the results so far are cached")

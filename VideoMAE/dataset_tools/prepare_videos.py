"""Re-encode the videos of a VCE or V2V dataset, so that training decodes them several times as fast.

    python data_prep/prepare_videos.py vce_dataset vce_prepared

creates the same folder for --data_path of the training programs: identical labels, a new metadata.json, and videos that
are upright, without sound and edit lists, at a constant frame rate. Videos are encoded in worker processes that can be
killed; a file that cannot be read or hangs is listed and sets the exit status to 1. After an interruption, also by a
full disk or `kill -9`, the same command resumes the work and retries the listed files. `prepared.json` has the settings
and totals, `prepared_videos.jsonl` one line per copy with its source, checksum and PSNR.

Each copy stores which frames of its source it contains, and the training programs use the frame numbers and rate of the
source: --sampling_rate, --train_fps and --num_frames select the same moments as before. By default every frame is kept.
`--every 2` keeps half of them; the nearest one replaces the others, up to 33 ms away at 30 fps (n / 2 frames with
`--every n`; with 4, test views of every 4th frame are exact). `--evenly 16` keeps only V2V's 16 evenly spaced frames;
reading others is an error. Videos with a variable rate keep their frames, at equal intervals.

Copies are fast to decode because they have more key frames than the originals (one about every 8 s) and no B-frames,
CABAC and deblocking (x264's fastdecode); docs/loading.md has measurements. Encoding is deterministic.
"""

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from VideoMAE import cli, files
from VideoMAE.cli import counted
from VideoMAE.data.vce import EMOTIONS_FILE
from VideoMAE.dataset_tools.programs import check_ranges, kind_of, metadata_entry, num_cores, read_videos
from VideoMAE.runtime.folder_lock import LOCK_NAME, hold_folder, release_folders
from VideoMAE.video.check import run_in_processes
from VideoMAE.video.copy_video import Copied, Recipe, copy_video
from VideoMAE.video.prepared_copy import FORMAT_VERSION
from VideoMAE.video.reader import VideoInfo

logger = logging.getLogger("prepare_videos")

SETTINGS_FILE = "prepared.json"
JOURNAL = "prepared_videos.jsonl"
UNFINISHED = ".unfinished"  # folder of the copies that are being made


@dataclass(frozen=True)
class Settings:
    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Dataset folder in the layout of VCE or V2V; it is only read."""
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Folder to create or to resume."""
    recipe: Recipe = Recipe()
    encode_seconds: float = 600.0
    """Time limit per video; a video that exceeds it counts as unreadable."""
    num_workers: int = field(default_factory=num_cores)
    """Number of worker processes; does not change the result."""


def checked(settings: Settings) -> tuple[Path, Path]:
    """The absolute source and target. Raises ValueError for invalid settings."""
    recipe = settings.recipe
    check_ranges(recipe, short_side=16, gop=1, crf=1, every=1, evenly=2)
    check_ranges(settings, num_workers=1, above_0=["encode_seconds"])
    if recipe.crf > 51:
        raise ValueError(f"--crf {recipe.crf:g}: must be at most 51")
    if recipe.evenly is not None and recipe.every > 1:
        raise ValueError(f"--evenly {recipe.evenly}: excludes --every")
    src, dst = settings.src.expanduser().resolve(), settings.dst.expanduser().resolve()
    if dst.is_relative_to(src):
        raise ValueError(f"DST {dst} is {'' if dst == src else 'inside '}the source {src}, which is only read")
    if src.is_relative_to(dst):
        raise ValueError(f"the source {src} is inside DST {dst}; choose another DST")
    if (src / SETTINGS_FILE).is_file():
        raise ValueError(f"{src} is a prepared copy; copy its source instead")
    if (dst / "videos").is_symlink():
        raise ValueError(f"{dst / 'videos'} is a link, possibly to a source; delete it first")
    return src, dst


def refuse_foreign(root: Path, identity: Mapping[str, Any]) -> None:
    """Raises ValueError unless a folder is new, empty, or was made with these settings."""
    if (root / SETTINGS_FILE).is_file():
        with files.remedy("choose another DST, or delete it first"):
            saved = files.read_json(root / SETTINGS_FILE)
            old, new = ({**entry, **(entry.get("settings") or {}), "settings": 0} for entry in (saved, identity))
            texts = [
                f"with {name} {old.get(name)}, not {value}" for name, value in new.items() if old.get(name) != value
            ]
            if texts:
                raise ValueError(f"{root} was made {' and '.join(texts)}")
    elif root.is_dir():
        others = [path.name for path in root.iterdir() if path.name != LOCK_NAME and not files.is_temporary(path)]
        if others:
            reason = f"contains files that prepare_videos.py did not make ({others[0]})"
            raise ValueError(f"{root} {reason}; choose another DST")
    elif root.exists() or root.is_symlink():
        raise ValueError(f"{root} is not a folder; choose another DST")


@contextlib.contextmanager
def prepared_folder(root: Path, identity: Mapping[str, Any]) -> Iterator[None]:
    """Creates or resumes the folder of the copies, locked for the block. Raises ValueError if that is impossible."""
    refuse_foreign(root, identity)
    hold_folder(root, remedy="choose another DST")
    unfinished = root / UNFINISHED
    try:
        refuse_foreign(root, identity)  # another process may have created it in the meantime
        files.clear_leftovers(root)
        if not (root / SETTINGS_FILE).is_file():
            files.write_json(root / SETTINGS_FILE, {**identity, "complete": False}, indent=4)
        shutil.rmtree(unfinished, ignore_errors=True)
        with files.write_errors_name(unfinished):
            unfinished.mkdir(exist_ok=True)  # an orphaned worker process may still write in it
        yield
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        release_folders()


def is_done(root: Path, entry: Mapping[str, Any], source: Path) -> bool:
    """Whether the copy of a journal's entry is complete, and its source has not changed or is gone."""
    with contextlib.suppress(KeyError, OSError):
        is_complete = (root / entry["file"]).stat().st_size == entry["bytes"]
        if not is_complete or not source.exists():
            return is_complete
        status = source.stat()
        return [status.st_size, status.st_mtime_ns] == [entry["source_bytes"], entry["source_modified_ns"]]
    return False


def add_copy(root: Path, file: str, copied: Copied) -> dict[str, Any]:
    """Renames a finished copy, then appends it to the journal: a crash costs at most one copy. -> its entry"""
    target, journal = root / file, root / JOURNAL
    with files.write_errors_name(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(copied.temporary, target)
    entry = {"file": file, **copied._asdict(), "info": copied.info._asdict()}
    del entry["temporary"]
    with files.write_errors_name(journal), journal.open("a", encoding="utf-8") as opened:
        opened.write(files.json_line(entry))
    return entry


def copy_all(root: Path, entries: dict[str, Any], sources: Mapping[str, Path], settings: Settings) -> dict[str, str]:
    """Adds the missing copies to `entries` -> reasons of failures by file. Raises ValueError if it cannot write."""
    bad: dict[str, str] = {}
    tasks = [(file, path) for file, path in sources.items() if file not in entries]
    copy = partial(copy_video, recipe=settings.recipe, folder=root / UNFINISHED)
    stream = run_in_processes(tasks, min(settings.num_workers, len(tasks)), settings.encode_seconds, copy)
    seconds = 0.5 if sys.stderr.isatty() else 60.0  # between the lines of a log file
    with contextlib.closing(stream):
        for file, result, _ in tqdm(
            stream,
            desc="preparing",
            unit="video",
            total=len(sources),
            initial=len(entries),
            mininterval=seconds,
            maxinterval=2 * seconds,
        ):
            if isinstance(result, OSError):
                done = f"{len(entries)} of {len(sources)} videos are done; repeat the command to resume"
                raise ValueError(f"{root}: cannot be written: {result}; {done}")
            if isinstance(result, Copied):
                entries[file] = add_copy(root, file, result)
            else:
                bad[file] = result
    return dict(sorted(bad.items()))


def run(settings: Settings) -> bool:
    """Copies the dataset and prints a summary -> whether every video was copied."""
    src, dst = checked(settings)
    kind = kind_of(src)
    file_of = {key: path.relative_to(src).as_posix() for key, path in read_videos(src, kind).items()}
    sources = {file: src / file for file in file_of.values()}
    identity = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "source": str(src),
        "settings": settings.recipe._asdict(),
    }
    with prepared_folder(dst, identity):
        for name in ("train_labels.json", "test_labels.json", "listwise_labels.json", EMOTIONS_FILE):
            if (src / name).is_file():
                files.write_atomically(dst / name, partial(shutil.copyfile, src / name))
        found = {entry.get("file"): entry for entry in files.read_complete_json_lines(dst / JOURNAL)}
        entries = {file: found[file] for file in sources if file in found and is_done(dst, found[file], sources[file])}
        files.write_json_lines(dst / JOURNAL, entries.values())
        num_before = len(entries)
        bad = copy_all(dst, entries, sources, settings)
        if not entries:
            raise ValueError(f"{src}: none of its {len(bad)} videos can be copied: {next(iter(bad.values()))}")
        metadata = files.read_json(src / "metadata.json") if (src / "metadata.json").is_file() else {}
        for key, file in file_of.items():  # a video without a copy keeps its entry: runs require one for every video
            if file in entries:
                metadata[key] = metadata_entry(VideoInfo(**entries[file]["info"]), file)
        files.write_json(dst / "metadata.json", {key: metadata[key] for key in file_of if key in metadata}, indent=4)
        totals = {name: sum(entry[name] for entry in entries.values()) for name in ("bytes", "source_bytes")}
        psnr_db = {file: entry["psnr_db"] for file, entry in entries.items()}
        worst = min(psnr_db, key=psnr_db.__getitem__)
        similarity = {"mean": fmean(psnr_db.values()), "least": psnr_db[worst], "least_of": worst}
        results = {"num_videos": len(entries), **totals, "psnr_db": similarity, "unreadable": bad}
        files.write_json(dst / SETTINGS_FILE, {**identity, "complete": not bad, **results}, indent=4)
    for file, reason in bad.items():
        logger.info("bad: %s: %s", file, reason)
    size, source_size = totals["bytes"], totals["source_bytes"]
    logger.info(
        "%s (%s): %s copied, %d of them before, %d bad; %.1f MB, %.2f x the sources' %.1f MB",
        dst,
        kind,
        counted(len(entries), "video"),
        num_before,
        len(bad),
        size / 1e6,
        size / source_size,
        source_size / 1e6,
    )
    logger.info("compared with the scaled sources: PSNR %.1f dB (lowest %.1f, %s)", *similarity.values())
    return not bad


main = partial(cli.run, run, Settings, description=__doc__, when_stopped="repeat the command to resume")

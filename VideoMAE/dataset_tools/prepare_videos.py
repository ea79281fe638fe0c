"""Copy a dataset of VCE's or V2V's form, its videos encoded anew so that training reads them several times as fast.

    python data_prep/prepare_videos.py vce_dataset vce_prepared

makes the same folder again, for --data_path of the run programs: labels byte by byte, metadata.json written anew,
videos upright, without sound and edit lists, at a constant frame rate. Videos are encoded in processes that can be
killed; a file that cannot be read or hangs is named, and makes the exit status 1. The same command goes on where one
was stopped, by a full disk or by `kill -9`, and tries the named files again. `prepared.json` has the settings and
totals, `prepared_videos.jsonl` a line for each video: what it was made from, its checksum, and how like it is.

Time. A copy's file says which of the source's frames it holds, and the run programs go on counting the source's frames
at the source's rate: --sampling_rate, --train_fps and --num_frames name the same moments as before. By default every
frame is held, and so the very same ones are read. `--every 2` keeps half of them: the nearest kept one stands for
another, at most 33 ms away at 30 frames a second (n / 2 frames with `--every n`; with 4, test views of every 4th
frame are exact). `--evenly 16` keeps just what V2V's 16 evenly spaced frames are; other frames are refused. Of a
video with a variable rate the frames stay the same and their times become even, as the run programs see them anyway.

Why so. Of a training window 16 of 64 frames are looked at, of a video for V2V 16. Originals have a key frame every
8 s or so (250 frames), so that most of what is decoded is not looked at. On a film of 12 s, 426 x 320 (CPU time of one
core; tests/benchmarks/benchmark_prepared.py), opening and decoding took 0.119 s a window, a V2V item 0.200 s. Copies:

    --gop               1       4       8
    window, s       0.016   0.023   0.024
    V2V item, s     0.021   0.027   0.035
    size            3.2     2.1     1.7     x the film, at --crf 21: SSIM 0.97, PSNR 41 dB (--gop 1: 0.95, 38 dB)

Key frames are dear to decode as well as large, so that 8 reads windows about as fast as 4. B-frames need later frames
first: none. CABAC and deblocking are left out (x264's fastdecode): half the decoding time, a sixth more bytes. MJPEG
was as quick as --gop 1 at twice the size and a lower PSNR. Preset medium took twice as long as veryfast, for the same
likeness at the same size. x264 is set to give the same bytes from the same source and settings.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from VideoMAE.data.v2v import videos_of
from VideoMAE.data.vce import EMOTIONS_FILE
from VideoMAE.dataset_tools.prepared_folder import SETTINGS_FILE, PreparedFolder
from VideoMAE.dataset_tools.programs import num_cores, run_program, write_json
from VideoMAE.dataset_tools.read_labels import Kind, kind_of, read_emotions, read_preferences
from VideoMAE.dataset_tools.video_checks import metadata_entry
from VideoMAE.files import read_json
from VideoMAE.runtime.folder_lock import release_folders
from VideoMAE.video.check import run_in_processes
from VideoMAE.video.copy_video import CannotWrite, Copied, Recipe, copy_video
from VideoMAE.video.prepared_copy import FORMAT_VERSION

logger = logging.getLogger("prepare_videos")

Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
LABEL_FILES = ("train_labels.json", "test_labels.json", "listwise_labels.json", EMOTIONS_FILE)
SECONDS_BETWEEN_LINES = 60.0  # of progress, in a file


@dataclass(frozen=True)
class Settings:
    """What to copy, and how."""

    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Folder in the layout of VCE or V2V; it is only read."""
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Folder to make, or to go on with."""
    short_side: int = 256
    """Pixels of the shorter side; smaller videos keep their size."""
    gop: int = 8
    """Frames from one key frame to the next; 1 is quickest to read and largest."""
    crf: float = 21.0
    """x264's constant quality, 1 to 51; less is better and larger."""
    preset: Preset = "veryfast"
    """How long x264 searches."""
    every: int = 1
    """Keep every n-th frame and the last. The nearest kept one stands for the others."""
    evenly: int | None = None
    """Keep so many frames instead, evenly over the whole video: what V2V's --num_frames takes, and of no other use."""
    encode_seconds: float = 600.0
    """A video that takes longer is given up, and its process killed."""
    num_workers: int = field(default_factory=num_cores)
    """Videos encoded at the same time; never changes the result."""

    def recipe(self) -> Recipe:
        return Recipe(self.short_side, self.gop, self.crf, self.preset, self.every, self.evenly)


def checked(settings: Settings) -> tuple[Path, Path]:
    """The absolute source and target. Raises ValueError for settings that cannot be."""
    for name, least in (("short_side", 16), ("gop", 1), ("crf", 1), ("every", 1), ("num_workers", 1)):
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} {getattr(settings, name):g}: must be at least {least}")
    if settings.crf > 51:
        raise ValueError(f"--crf {settings.crf:g}: must be at most 51")
    if settings.encode_seconds <= 0:
        raise ValueError(f"--encode_seconds {settings.encode_seconds:g}: must be above 0")
    if settings.evenly is not None and (settings.evenly < 2 or settings.every > 1):
        raise ValueError(f"--evenly {settings.evenly}: must be at least 2, and goes without --every")
    src, dst = settings.src.expanduser().resolve(), settings.dst.expanduser().resolve()
    if dst.is_relative_to(src):
        raise ValueError(f"DST {dst} {'is' if dst == src else 'lies in'} the source {src}, which is only read")
    if src.is_relative_to(dst):
        raise ValueError(f"the source {src} lies in DST {dst}; choose another DST")
    if (src / SETTINGS_FILE).is_file():
        raise ValueError(f"{src} is a prepared copy itself; copy what it was made from")
    if (dst / "videos").is_symlink():
        raise ValueError(f"{dst / 'videos'} is a link, and what it leads to might be a source; delete it first")
    return src, dst


def ids_and_files(src: Path, kind: Kind) -> dict[str, str]:
    """Where the labels say that each video lies, id to file. Raises ValueError as reading the labels does."""
    if kind == "v2v":
        every = [videos_of(src, [entry for entries in read_preferences(src).values() for entry in entries])]
    else:
        every = list(read_emotions(src).values())
    return {
        key: path.relative_to(src).as_posix()
        for found in every
        for key, path in zip(found.ids, found.paths, strict=True)
    }


def copy_all(folder: PreparedFolder, files: Mapping[str, Path], settings: Settings) -> dict[str, str]:
    """Copy what is not done -> the reasons of the videos that could not be, by file.

    Raises ValueError when the target cannot be written.
    """
    bad: dict[str, str] = {}
    tasks = [(file, path) for file, path in files.items() if file not in folder.entries]
    copy = partial(copy_video, recipe=settings.recipe(), folder=folder.unfinished)
    stream = run_in_processes(tasks, min(settings.num_workers, len(tasks)), settings.encode_seconds, copy)
    with contextlib.closing(stream), progress(len(files), len(folder.entries)) as bar:
        for answer in stream:
            if isinstance(answer.result, CannotWrite):
                raise ValueError(
                    f"{folder.root}: cannot be written: {answer.result.reason}; {len(folder.entries)} of {len(files)} "
                    "videos are done, and the same command goes on"
                )
            if isinstance(answer.result, Copied):
                folder.take(answer.video_id, answer.result)
            else:
                bad[answer.video_id] = answer.result
            bar.update()
    return dict(sorted(bad.items()))


def progress(total: int, done: int) -> tqdm:
    """How many videos are done and how long the others will take; in a file a line a minute."""
    seconds = 0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    return tqdm(desc="preparing", unit="video", total=total, initial=done, mininterval=seconds, maxinterval=2 * seconds)


def metadata(src: Path, files: Mapping[str, str], folder: PreparedFolder) -> dict[str, Any]:
    """metadata.json of the copy. A video without a copy keeps its source's entry, as a run asks every video for one."""
    known = read_json(src / "metadata.json") if (src / "metadata.json").is_file() else {}
    infos = folder.infos()
    entries = {
        key: metadata_entry(infos[file], file) if file in infos else known.get(key) for key, file in files.items()
    }
    return {key: entry for key, entry in entries.items() if entry is not None}


def totals(folder: PreparedFolder) -> dict[str, Any]:
    """Sizes and qualities of all copies together."""
    entries = list(folder.entries.values())
    measures: dict[str, Any] = {"num_videos": len(entries)}
    for name in ("bytes", "source_bytes"):
        measures[name] = sum(entry[name] for entry in entries)
    for name in ("ssim", "psnr_db"):
        values = {entry["file"]: entry[name] for entry in entries}
        worst = min(values, key=lambda file: values[file])
        measures[name] = {"mean": fmean(values.values()), "least": values[worst], "least_of": worst}
    return measures


def run(settings: Settings) -> bool:
    """Copy, say what came of it -> whether every video could be copied."""
    src, dst = checked(settings)
    kind = kind_of(src)
    file_of = ids_and_files(src, kind)
    files = {file: src / file for file in file_of.values()}
    identity = {
        "format_version": FORMAT_VERSION, "kind": kind, "source": str(src), "settings": settings.recipe()._asdict(),
    }  # fmt: skip
    try:
        folder = PreparedFolder(dst, identity)
        try:
            for name in LABEL_FILES:
                if (src / name).is_file():
                    folder.copy_of(src / name)
            folder.remember(files)
            num_before = len(folder.entries)
            bad = copy_all(folder, files, settings)
            if not folder.entries:
                raise ValueError(f"{src}: none of its {len(bad)} videos can be copied: {next(iter(bad.values()))}")
            write_json(dst / "metadata.json", metadata(src, file_of, folder))
            found = totals(folder)
            folder.write_settings(complete=not bad, **found, unreadable=bad)
        finally:
            folder.close()
    finally:
        release_folders()
    say(dst, kind, found, bad, num_before)
    return not bad


def say(dst: Path, kind: Kind, found: Mapping[str, Any], bad: Mapping[str, str], num_before: int) -> None:
    for file, reason in bad.items():
        logger.info("bad: %s: %s", file, reason)
    logger.info(
        "%s (%s): %d videos copied, %d of them before, %d bad; %.1f MB, the sources %.1f MB (x %.2f)",
        dst, kind, found["num_videos"], num_before, len(bad), found["bytes"] / 1e6, found["source_bytes"] / 1e6,
        found["bytes"] / found["source_bytes"],
    )  # fmt: skip
    logger.info(
        "against the sources made as small: SSIM %.4f (least %.4f, %s), PSNR %.1f dB (least %.1f, %s)",
        *found["ssim"].values(), *found["psnr_db"].values(),
    )  # fmt: skip


def main() -> int:
    return run_program(run, Settings, __doc__, if_stopped="what is done is kept, and the same command goes on")

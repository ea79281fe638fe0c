"""Re-encode the videos of a VCE or V2V dataset, so that training decodes them several times as fast.

    python data_prep/prepare_videos.py vce_dataset vce_prepared

creates the same folder for --data_path of the training programs: identical labels, a new metadata.json, and videos that
are upright, without sound and edit lists, at a constant frame rate. Videos are encoded in worker processes that can be
killed; a file that cannot be read or hangs is listed and sets the exit status to 1. If the program is interrupted, by a
full disk or by `kill -9`, the same command resumes it and retries the listed files. `prepared.json` has the settings
and totals, `prepared_videos.jsonl` one line per video with its source, checksum and similarity.

Each copy stores which frames of its source it contains, and the training programs use the frame numbers and rate of the
source: --sampling_rate, --train_fps and --num_frames select the same moments as before. By default every frame is kept.
`--every 2` keeps half of them; the nearest one replaces the others, up to 33 ms away at 30 fps (n / 2 frames with
`--every n`; with 4, test views of every 4th frame are exact). `--evenly 16` keeps only V2V's 16 evenly spaced frames;
reading others is an error. Videos with a variable rate keep their frames, at equal intervals.

Original videos have a key frame about every 8 s (250 frames), so most frames that are decoded for a clip are discarded.
Measured on a video of 12 s, 426 x 320 (CPU time of one core; tests/benchmarks/benchmark_prepared.py), where the
original took 0.119 s per training window of 16 frames and 0.200 s per V2V item:

    --gop               1       4       8
    window, s       0.016   0.023   0.024
    V2V item, s     0.021   0.027   0.035
    size            3.2     2.1     1.7     x the original, at --crf 21: SSIM 0.97, PSNR 41 dB (--gop 1: 0.95, 38 dB)

B-frames, CABAC and deblocking are off (x264's fastdecode): half the decoding time for a sixth more bytes. Encoding is
deterministic.
"""

import contextlib
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.data.vce import EMOTIONS_FILE
from VideoMAE.dataset_tools.prepared_folder import SETTINGS_FILE, PreparedFolder
from VideoMAE.dataset_tools.programs import check_ranges, num_cores
from VideoMAE.dataset_tools.read_labels import kind_of, read_videos
from VideoMAE.dataset_tools.video_checks import metadata_entry
from VideoMAE.files import read_json, write_atomically, write_json
from VideoMAE.runtime.folder_lock import release_folders
from VideoMAE.video.check import run_in_processes
from VideoMAE.video.copy_video import CannotWrite, Copied, Recipe, copy_video
from VideoMAE.video.prepared_copy import FORMAT_VERSION
from VideoMAE.video.reader import VideoInfo

logger = logging.getLogger("prepare_videos")

Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
LABEL_FILES = ("train_labels.json", "test_labels.json", "listwise_labels.json", EMOTIONS_FILE)
SECONDS_BETWEEN_LINES = 60.0  # of the progress in a log file


@dataclass(frozen=True)
class Settings:
    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Dataset folder in the layout of VCE or V2V; it is only read."""
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Folder to create or to resume."""
    short_side: int = 256
    """Shorter side in pixels; smaller videos keep their size."""
    gop: int = 8
    """Frames from one key frame to the next; 1 is the fastest to read and the largest."""
    crf: float = 21.0
    """x264's constant rate factor, 1 to 51; lower is better and larger."""
    preset: Preset = "veryfast"
    """x264's preset."""
    every: int = 1
    """Keep every n-th frame and the last. The nearest one replaces the others."""
    evenly: int | None = None
    """Keep this many evenly spaced frames instead: only for V2V runs with the same --num_frames."""
    encode_seconds: float = 600.0
    """Time limit per video; a video that exceeds it counts as unreadable."""
    num_workers: int = field(default_factory=num_cores)
    """Number of worker processes; does not change the result."""

    def recipe(self) -> Recipe:
        return Recipe(self.short_side, self.gop, self.crf, self.preset, self.every, self.evenly)


def checked(settings: Settings) -> tuple[Path, Path]:
    """The absolute source and target. Raises ValueError for invalid settings."""
    check_ranges(settings, short_side=16, gop=1, crf=1, every=1, evenly=2, num_workers=1, above_0=["encode_seconds"])
    if settings.crf > 51:
        raise ValueError(f"--crf {settings.crf:g}: must be at most 51")
    if settings.evenly is not None and settings.every > 1:
        raise ValueError(f"--evenly {settings.evenly}: excludes --every")
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


def copy_all(folder: PreparedFolder, files: Mapping[str, Path], settings: Settings) -> dict[str, str]:
    """Makes the missing copies -> the reasons of the failures, by file.

    Raises ValueError if the target cannot be written.
    """
    bad: dict[str, str] = {}
    tasks = [(file, path) for file, path in files.items() if file not in folder.entries]
    copy = partial(copy_video, recipe=settings.recipe(), folder=folder.unfinished)
    stream = run_in_processes(tasks, min(settings.num_workers, len(tasks)), settings.encode_seconds, copy)
    seconds = 0.5 if sys.stderr.isatty() else SECONDS_BETWEEN_LINES
    progress = tqdm(
        desc="preparing", unit="video", total=len(files), initial=len(folder.entries), mininterval=seconds,
        maxinterval=2 * seconds,
    )  # fmt: skip
    with contextlib.closing(stream), progress:
        for video in stream:
            if isinstance(video.result, CannotWrite):
                done = f"{len(folder.entries)} of {len(files)} videos are done; repeat the command to resume"
                raise ValueError(f"{folder.root}: cannot be written: {video.result.reason}; {done}")
            if isinstance(video.result, Copied):
                folder.add(video.video_id, video.result)
            else:
                bad[video.video_id] = video.result
            progress.update()
    return dict(sorted(bad.items()))


def metadata(src: Path, files: Mapping[str, str], folder: PreparedFolder) -> dict[str, Any]:
    """metadata.json of the copy. A video without a copy keeps its entry, since runs require one for every video."""
    existing = read_json(src / "metadata.json") if (src / "metadata.json").is_file() else {}
    copied = {
        key: metadata_entry(VideoInfo(**folder.entries[file]["info"]), file)
        for key, file in files.items()
        if file in folder.entries
    }
    return {key: (copied.get(key) or existing[key]) for key in files if key in copied or key in existing}


def totals(folder: PreparedFolder) -> dict[str, Any]:
    """Total sizes and mean and lowest similarity of all copies."""
    entries = list(folder.entries.values())
    sums = {name: sum(entry[name] for entry in entries) for name in ("bytes", "source_bytes")}
    similarity = {}
    for name in ("ssim", "psnr_db"):
        worst = min(entries, key=itemgetter(name))
        mean = fmean(entry[name] for entry in entries)
        similarity[name] = {"mean": mean, "least": worst[name], "least_of": worst["file"]}
    return {"num_videos": len(entries), **sums, **similarity}


def run(settings: Settings) -> bool:
    """Copies the dataset and prints a summary -> whether every video was copied."""
    src, dst = checked(settings)
    kind = kind_of(src)
    file_of = {key: path.relative_to(src).as_posix() for key, path in read_videos(src, kind).items()}
    files = {file: src / file for file in file_of.values()}
    identity = {
        "format_version": FORMAT_VERSION, "kind": kind, "source": str(src), "settings": settings.recipe()._asdict(),
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(release_folders)
        folder = PreparedFolder(dst, identity)
        stack.callback(folder.remove_unfinished)
        for name in LABEL_FILES:
            if (src / name).is_file():
                write_atomically(dst / name, partial(shutil.copyfile, src / name))
        folder.load_journal(files)
        num_before = len(folder.entries)
        bad = copy_all(folder, files, settings)
        if not folder.entries:
            raise ValueError(f"{src}: none of its {len(bad)} videos can be copied: {next(iter(bad.values()))}")
        write_json(dst / "metadata.json", metadata(src, file_of, folder), indent=4)
        found = totals(folder)
        folder.write_settings(complete=not bad, **found, unreadable=bad)
    for file, reason in bad.items():
        logger.info("bad: %s: %s", file, reason)
    logger.info(
        "%s (%s): %s copied, %d of them before, %d bad; %.1f MB, %.2f x the sources' %.1f MB",
        dst, kind, counted(found["num_videos"], "video"), num_before, len(bad), found["bytes"] / 1e6,
        found["bytes"] / found["source_bytes"], found["source_bytes"] / 1e6,
    )  # fmt: skip
    logger.info(
        "compared with the scaled sources: SSIM %.4f (lowest %.4f, %s), PSNR %.1f dB (lowest %.1f, %s)",
        *found["ssim"].values(), *found["psnr_db"].values(),
    )  # fmt: skip
    return not bad


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="repeat the command to resume")

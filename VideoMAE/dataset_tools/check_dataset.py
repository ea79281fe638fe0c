"""Check a dataset in the layout of VCE or V2V before a long run.

    python data_prep/check_dataset.py vce_dataset --decode ends

checks labels, comparisons, metadata.json and every video, and prints all defects, or "fine". Videos are read in worker
processes that can be killed, so that a file which hangs its decoder is reported like any other. Results are cached in
the dataset folder by path, size and modification time: a repeated or interrupted check reads only new files.

The exit status is 0 without problems and 1 otherwise. `--write_exclude FILE` writes the ids of bad videos for the
training programs' `--exclude FILE`. Notes do not affect the exit status: counts that differ from those of the published
VCE (labels of its 27 emotions) or V2V (about as many comparisons), unusual but readable videos, contradictory or cyclic
preferences, which are normal in human ratings.
"""

import logging
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.data.exclusion import format_excluded
from VideoMAE.dataset_tools.label_checks import Report, check_labels, read_object
from VideoMAE.dataset_tools.programs import Kind, check_ranges, kind_of, metadata_entry, num_cores
from VideoMAE.files import write_json, write_text
from VideoMAE.video.check import check_videos
from VideoMAE.video.container import find_later_size
from VideoMAE.video.reader import Video, VideoInfo, probe

logger = logging.getLogger("check_dataset")


@dataclass(frozen=True)
class Settings:
    root: Annotated[Path, tyro.conf.Positional]
    """Dataset folder."""
    kind: Kind | None = None
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


def decode(path: Path, *, chosen: str) -> VideoInfo:
    """Decodes the frames chosen by --decode, and looks for another frame size among the key frames."""
    with Video(path, size=(32, 32)) as video:  # small frames, so that a whole video fits in memory
        held, info = video.frames_held, video.info
        video.frames_at({"first": held[:1], "ends": held[[0, -1]], "all": held}[chosen])
    return info if chosen == "first" else info._replace(later_size=find_later_size(path, info))


def check_dataset(settings: Settings, *, kind: str) -> Report:
    """Checks the labels, the videos and metadata.json."""
    root, report = settings.root, Report()
    files = check_labels(root, kind, report)
    check = check_videos(
        {file: root / file for file in files.values()},
        num_processes=settings.num_workers,
        limit_seconds=settings.decode_seconds,
        cache=root / f".checked_videos.decode_{settings.decode}.json",
        probe_function=probe if settings.decode == "none" else partial(decode, chosen=settings.decode),
    )
    for key, file in files.items():
        if file in check.unreadable:
            report.add("unreadable", f"{key} ({file}): {check.unreadable[file]}", key)
            continue
        info = check.infos[file]
        odd = {
            "one frame": info.num_frames == 1,
            f"odd size {info.width} x {info.height}": info.width % 2 or info.height % 2,
            f"rotated by {info.rotation} degrees": info.rotation,
            f"declares {info.num_overstated} more frames than its {info.num_frames}": info.num_overstated,
            f"changes its size to {info.later_size}, read as {info.width} x {info.height}": info.later_size,
            f"pixel format {info.pixel_format}": info.pixel_format not in ("yuv420p", "yuvj420p"),
        }
        if any(odd.values()):
            report.add("unusual_video", f"{key}: {'; '.join(text for text, is_so in odd.items() if is_so)}", key)
    metadata = read_object(root / "metadata.json", report)
    for key, file in files.items():
        if metadata is None:
            break
        if key not in metadata:
            report.add("no_metadata", key, key, excluded=kind == "v2v")  # a run on V2V rejects such a video
        elif defect := metadata_defect(metadata[key], file, check.infos.get(file)):
            report.add(defect[0], f"{key}: {defect[1]}", key)
    labelled = set(files.values())
    for path in sorted((root / "videos").glob("[!.]*")):
        if f"videos/{path.name}" not in labelled:
            report.add("unlabelled", f"videos/{path.name}", path.stem)
    return report


def metadata_defect(entry: Any, file: str, info: VideoInfo | None) -> tuple[str, str] | None:
    """The kind and the description of what is wrong with an entry of metadata.json; None if nothing is.

    Tolerated: a few frames hidden by an edit list, a longer sound track, exchanged sides of a rotated video.
    """
    if not isinstance(entry, dict):
        return "bad_metadata", "is not an object"
    for name in ("codec_name", "duration", "file", "frame_rate", "number_of_frames", "height", "width"):
        value, is_size = entry.get(name), name in ("height", "width")
        if type(value) is not (int if is_size else str):
            return "bad_metadata", f"'{name}' is {value!r}, expected a {'number' if is_size else 'string'}"
    if entry["file"] != file:
        return "bad_metadata", f"'file' is {entry['file']!r}, in the label it is {file!r}"
    numbers = {}
    for name in ("duration", "frame_rate", "number_of_frames"):
        try:
            numbers[name] = float(Fraction(entry[name]))
        except (ValueError, ZeroDivisionError, OverflowError):
            return "bad_metadata", f"'{name}' is {entry[name]!r}, expected a number"
    if info is None:
        return None
    size, more_frames = (entry["width"], entry["height"]), numbers["number_of_frames"] - info.num_frames
    off_by_frames = min(abs(more_frames), abs(more_frames - info.num_overstated))
    same = {
        "codec_name": entry["codec_name"] == info.codec,
        "duration": abs(numbers["duration"] - info.duration_seconds) <= max(0.5, 0.02 * info.duration_seconds),
        "frame_rate": abs(numbers["frame_rate"] / info.fps - 1) <= 0.02,
        "number_of_frames": off_by_frames <= max(2, 0.01 * info.num_frames),
    }
    found = metadata_entry(info, file)
    differences = [f"{name} is {entry[name]}, in the video {found[name]}" for name in same if not same[name]]
    if size != (info.width, info.height) and not (info.rotation % 180 and size == (info.height, info.width)):
        differences.append(f"size is {size[0]} x {size[1]}, in the video {info.width} x {info.height}")
    return ("metadata_differs", "; ".join(differences)) if differences else None


def run(settings: Settings) -> bool:
    """Checks a dataset, prints and writes the findings -> whether there are no problems."""
    check_ranges(settings, above_0=("num_workers", "decode_seconds"))
    kind = settings.kind or kind_of(settings.root)
    if not settings.root.is_dir():
        raise ValueError(f"{settings.root}: no such folder")
    report = check_dataset(settings, kind=kind)
    text, num_problems = report.to_text(), len(report.problems)
    reasons = {key: finding.text for finding in reversed(report.problems) if finding.excluded for key in finding.ids}
    bad_ids = dict(sorted(reasons.items()))
    if text:
        logger.info("%s\n", text)
    if settings.report:
        content: dict[str, Any] = {"root": str(settings.root), "kind": kind, "fine": not num_problems}
        for name, findings in (("problems", report.problems), ("remarks", report.notes)):
            content[name] = [{"kind": found.kind, "text": found.text, "ids": found.ids} for found in findings]
        write_json(settings.report, {**content, "bad_ids": list(bad_ids)}, indent=4)
        logger.info("%s: all findings", settings.report)
    if settings.write_exclude:
        write_text(settings.write_exclude, format_excluded(bad_ids))
        logger.info("%s: %s for --exclude", settings.write_exclude, counted(len(bad_ids), "id"))
    if not num_problems:
        logger.info("%s (%s): fine", settings.root, kind)
        return True
    if 0 < len(bad_ids) <= 200:
        logger.info("bad ids: %s", " ".join(bad_ids))
    remaining = sum(not finding.excluded for finding in report.problems)
    problems, ids = counted(num_problems, "problem"), counted(len(bad_ids), "bad id")
    logger.info("%s (%s): %s; excluding %s leaves %d", settings.root, kind, problems, ids, remaining)
    return False


main = partial(cli.run, run, Settings, description=__doc__, when_stopped="the results so far are cached")

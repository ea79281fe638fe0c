"""The videos of a dataset: really decoded, each in a process that can be killed, and compared with metadata.json.

Imports no torch, so that the processes start at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from VideoMAE.dataset_tools.check_report import Report
from VideoMAE.video.container import find_later_size
from VideoMAE.video.reader import Video, VideoInfo, probe

DECODE_SIZE = (32, 32)  # small frames, so that a whole video fits in memory
EIGHT_BIT_FORMATS = ("yuv420p", "yuvj420p")
METADATA_FIELDS = {
    "codec_name": str,
    "duration": str,
    "file": str,
    "frame_rate": str,
    "height": int,
    "number_of_frames": str,
    "width": int,
}


def decode_first(path: Path) -> VideoInfo:
    """Read a video's first frame as training would."""
    return _decode(path, lambda frames: frames[:1])


def decode_ends(path: Path) -> VideoInfo:
    """Read a video's first and last frame, and the size of its key frames."""
    return _with_later_size(path, _decode(path, lambda frames: frames[[0, -1]]))


def decode_all(path: Path) -> VideoInfo:
    """Read every frame of a video, and the size of its key frames."""
    return _with_later_size(path, _decode(path, lambda frames: frames))


def _decode(path: Path, choose: Callable[[np.ndarray], np.ndarray]) -> VideoInfo:
    with Video(path, size=DECODE_SIZE) as video:
        video.frames_at(choose(video.frames_held))
        return video.info


def _with_later_size(path: Path, info: VideoInfo) -> VideoInfo:
    return info._replace(later_size=find_later_size(path, info))


PROBES: dict[str, Callable[[Path], VideoInfo]] = {
    "none": probe,
    "first": decode_first,
    "ends": decode_ends,
    "all": decode_all,
}


def cache_file(root: Path, decode: str) -> Path:
    """Where what is known of a dataset's videos is remembered between checks."""
    return root / f".checked_videos.decode_{decode}.json"


def metadata_entry(info: VideoInfo, file: str) -> dict[str, str | int]:
    """A video's entry of metadata.json."""
    rate = Fraction(info.fps).limit_denominator(1001)
    return {
        "codec_name": info.codec,
        "duration": f"{info.duration_seconds:.6f}",
        "file": file,
        "frame_rate": f"{rate.numerator}/{rate.denominator}",
        "height": info.height,
        "number_of_frames": str(info.num_frames),
        "width": info.width,
    }


def malformed_metadata(entry: Any, file: str) -> str | None:
    """What is wrong with the form of an entry of metadata.json; None: nothing."""
    if not isinstance(entry, dict):
        return "is no object"
    for name, of_type in METADATA_FIELDS.items():
        if type(entry.get(name)) is not of_type:
            return f"'{name}' is {entry.get(name)!r}, expected a {'number' if of_type is int else 'string'}"
    if entry["file"] != file:
        return f"'file' is {entry['file']!r}, the label's is {file!r}"
    for name in ("duration", "frame_rate", "number_of_frames"):
        try:
            Fraction(entry[name])
        except (ValueError, ZeroDivisionError):
            return f"'{name}' is {entry[name]!r}, which is no number"
    return None


def metadata_differences(entry: Mapping[str, Any], info: VideoInfo) -> list[str]:
    """In what a well-formed entry of metadata.json and its file disagree, each in words.

    A few frames that an edit list hides, a sound track that is a bit longer and an upright or lying size are allowed.
    """
    found = metadata_entry(info, entry["file"])
    sizes = [(info.width, info.height)] + ([(info.height, info.width)] if info.rotation % 180 else [])
    frames, seconds = float(Fraction(entry["number_of_frames"])), float(Fraction(entry["duration"]))
    off_by_frames = min(abs(frames - info.num_frames), abs(frames - info.num_frames - info.num_overstated))
    compared = [
        ("codec_name", entry["codec_name"] == info.codec),
        ("duration", abs(seconds - info.duration_seconds) <= max(0.5, 0.02 * info.duration_seconds)),
        ("frame_rate", abs(float(Fraction(entry["frame_rate"])) / info.fps - 1) <= 0.02),
        ("number_of_frames", off_by_frames <= max(2, 0.01 * info.num_frames)),
    ]
    differences = [f"{name} {entry[name]} there, {found[name]} in the file" for name, same in compared if not same]
    if (entry["width"], entry["height"]) not in sizes:
        differences.append(f"{entry['width']} x {entry['height']} there, {info.width} x {info.height} in the file")
    return differences


def oddities(info: VideoInfo) -> list[str]:
    """What is unusual about a video that can be read, each in words."""
    odd = {
        "one frame": info.num_frames == 1,
        f"an odd size, {info.width} x {info.height}": bool(info.width % 2 or info.height % 2),
        f"rotated by {info.rotation} degrees": bool(info.rotation),
        f"declares {info.num_overstated} frames more than the {info.num_frames} it has": bool(info.num_overstated),
        f"changes its size to {info.later_size}, which is read as {info.width} x {info.height}": bool(info.later_size),
        f"pixels of the form {info.pixel_format}": info.pixel_format not in EIGHT_BIT_FORMATS,
    }
    return [text for text, is_so in odd.items() if is_so]


def find_unlabelled(root: Path, labelled: set[str], report: Report) -> None:
    """Say which files of videos/ no label names."""
    folder = root / "videos"
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries if not entry.name.startswith(".")):
            if f"videos/{name}" not in labelled:
                report.add("unlabelled", f"videos/{name}", Path(name).stem)

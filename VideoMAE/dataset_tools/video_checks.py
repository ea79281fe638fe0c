"""Checks of single videos: decoding, unusual properties, and comparison with metadata.json.

Imports no torch, so that worker processes start quickly.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from VideoMAE.video.container import find_later_size
from VideoMAE.video.reader import Video, VideoInfo, probe

DECODE_SIZE = (32, 32)  # small frames, so that a whole video fits in memory
EIGHT_BIT_FORMATS = ("yuv420p", "yuvj420p")
METADATA_FIELDS = {
    **dict.fromkeys(("codec_name", "duration", "file", "frame_rate", "number_of_frames"), str),
    **dict.fromkeys(("height", "width"), int),
}


def decode(path: Path, *, chosen: slice | list[int], find_size_changes: bool = True) -> VideoInfo:
    """Decodes the chosen frames of a video, and looks for another frame size among its key frames."""
    with Video(path, size=DECODE_SIZE) as video:
        video.frames_at(video.frames_held[chosen])
        info = video.info
    return info._replace(later_size=find_later_size(path, info)) if find_size_changes else info


PROBES: dict[str, Callable[[Path], VideoInfo]] = {
    "none": probe,
    "first": partial(decode, chosen=slice(1), find_size_changes=False),
    "ends": partial(decode, chosen=[0, -1]),
    "all": partial(decode, chosen=slice(None)),
}


def cache_file(root: Path, decode: str) -> Path:
    """The cache of a dataset's check."""
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
    """What is wrong with the format of an entry of metadata.json; None if nothing is."""
    if not isinstance(entry, dict):
        return "is not an object"
    for name, of_type in METADATA_FIELDS.items():
        if type(entry.get(name)) is not of_type:
            return f"'{name}' is {entry.get(name)!r}, expected a {'number' if of_type is int else 'string'}"
    if entry["file"] != file:
        return f"'file' is {entry['file']!r}, in the label it is {file!r}"
    for name in ("duration", "frame_rate", "number_of_frames"):
        try:
            Fraction(entry[name])
        except (ValueError, ZeroDivisionError):
            return f"'{name}' is {entry[name]!r}, expected a number"
    return None


def metadata_differences(entry: Mapping[str, Any], info: VideoInfo) -> list[str]:
    """The differences between a well-formed entry of metadata.json and its video, one text each.

    Tolerated: a few frames hidden by an edit list, a slightly longer sound track, exchanged width and height of a
    rotated video.
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
    differences = [f"{name} is {entry[name]}, in the video {found[name]}" for name, same in compared if not same]
    if (entry["width"], entry["height"]) not in sizes:
        differences.append(f"size is {entry['width']} x {entry['height']}, in the video {info.width} x {info.height}")
    return differences


def oddities(info: VideoInfo) -> list[str]:
    """The unusual properties of a readable video, one text each."""
    odd = {
        "one frame": info.num_frames == 1,
        f"odd size {info.width} x {info.height}": bool(info.width % 2 or info.height % 2),
        f"rotated by {info.rotation} degrees": bool(info.rotation),
        f"declares {info.num_overstated} more frames than its {info.num_frames}": bool(info.num_overstated),
        f"changes its size to {info.later_size}, read as {info.width} x {info.height}": bool(info.later_size),
        f"pixel format {info.pixel_format}": info.pixel_format not in EIGHT_BIT_FORMATS,
    }
    return [text for text, is_so in odd.items() if is_so]

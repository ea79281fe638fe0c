"""Re-encodes a video for random access and verifies the copy. Imports no torch, so that workers start quickly."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from VideoMAE.files import sha256_of
from VideoMAE.video.container import UnreadableVideoError, VideoInfo, decoded, probe
from VideoMAE.video.decoders import scaling_graph
from VideoMAE.video.encoder import COLOUR_ATTRIBUTES, encode_h264
from VideoMAE.video.prepared_copy import CopiedVideo

NUM_COMPARED = 8  # frames of each video, evenly spaced from the first to the last
UNKNOWN_COLOUR = dict(zip(COLOUR_ATTRIBUTES, (2, 0, 2, 2), strict=True))
FLIPS = {90: (("transpose", "cclock"),), 180: (("hflip",), ("vflip",)), 270: (("transpose", "clock"),)}

Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]

# x264's look-ahead is not deterministic where it uses AVX-512. Without the options that need it, the same source and
# settings give the same bytes, so that checksums can verify a repeated copy. With groups this short, the look-ahead
# has no benefit. fastdecode disables features that are slow to decode (CABAC, deblocking).
ENCODER_OPTIONS = {
    "tune": "fastdecode",
    "bf": "0",
    "sc_threshold": "0",
    "mbtree": "0",
    "weightp": "none",
    "b_strategy": "0",
    "threads": "1",
}


class Recipe(NamedTuple):
    """How videos are copied."""

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


class Copied(NamedTuple):
    """A finished copy under a temporary name, and its entry of the journal."""

    temporary: str
    source_bytes: int
    source_modified_ns: int
    source_size: tuple[int, int]  # width, height
    info: VideoInfo  # of the copy; number of frames and rate are those of its source
    num_held: int
    bytes: int
    sha256: str
    psnr_db: float  # mean over NUM_COMPARED frames, luma, against the scaled source


def copy_video(path: Path, *, recipe: Recipe, folder: Path) -> Copied | OSError:
    """Copies a video to a temporary file in `folder` and verifies it; returns an OSError if that cannot be written.

    Raises UnreadableVideoError if the source cannot be decoded completely, or the copy differs from what was encoded.
    """
    source_info, status = probe(path), path.stat()
    copy = folder / f"{os.getpid()}.mp4"
    source = CopiedVideo(source_info.num_frames, source_info.fps, recipe.every, recipe.evenly)
    try:
        compared = _encode(path, source, recipe, copy)
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:  # also PyAV's
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return OSError("the disk is full" if is_full else error.strerror or str(error))
    info, num_decoded, squared_errors = probe(copy), 0, []
    num_held, (num_rows, width) = len(source.held()), compared[0].shape
    height = num_rows * 2 // 3  # the luma; below it are the two planes of chroma
    for position, frame in enumerate(decoded(copy)):
        num_decoded += 1
        if position in compared:
            luma = frame.to_ndarray()[:height].astype(float)
            squared_errors.append(np.square(luma - compared[position][:height]).mean())
    found = (info.num_frames, info.fps, num_decoded, info.width, info.height)
    expected = (source.num_frames, source.fps, num_held, width, height)
    if found != expected:
        reason = f"the copy has (num_frames, fps, num_held, width, height) {found}, expected {expected}"
        raise UnreadableVideoError(copy, reason)
    psnr_db = float(10 * np.log10(255**2 / max(np.mean(squared_errors), 1e-4)))
    return Copied(
        str(copy),
        status.st_size,
        status.st_mtime_ns,
        (source_info.width, source_info.height),
        info,
        num_held,
        copy.stat().st_size,
        sha256_of(copy),
        psnr_db,
    )


def scaled_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """The even (height, width) whose shorter side is `short_side`; not larger than the source, and at least 2."""
    scale = min(1.0, short_side / min(height, width))
    height, width = (max(2, min(round(side * scale / 2), side // 2) * 2) for side in (height, width))
    return height, width


def _encode(path: Path, source: CopiedVideo, recipe: Recipe, target: Path) -> dict[int, np.ndarray]:
    """Writes the copy -> planes (3/2 H, W) of the frames to compare it with, by their position in it."""
    held = source.held()
    position_of = {number: position for position, number in enumerate(held.tolist())}
    wanted = set(np.linspace(0, len(held) - 1, NUM_COMPARED).astype(int).tolist())
    compared: dict[int, np.ndarray] = {}

    def scaled_frames() -> Iterator[VideoFrame]:
        """The frames of the copy: all of the first one's size, upright, in 8-bit 4:2:0."""
        num_frames, size, graph_input = 0, None, None
        for number, frame in enumerate(decoded(path)):
            num_frames = number + 1
            if number not in position_of:
                continue
            size = size or scaled_size(frame.height, frame.width, short_side=recipe.short_side)
            shape = (frame.height, frame.width, frame.format.name)
            if shape != graph_input:
                graph_input, then = shape, FLIPS.get(frame.rotation % 360, ())
                pixel_format = "yuvj420p" if frame.format.name == "yuvj420p" else "yuv420p"  # j: full range
                graph = scaling_graph(frame, size, pixel_format=pixel_format, flags="bicubic", then=then)
            colors = [getattr(frame, name) for name in UNKNOWN_COLOUR]
            for name, unknown in UNKNOWN_COLOUR.items():  # keeps the filters from converting colors
                setattr(frame, name, unknown)
            frame.pts = None
            graph.vpush(frame)
            small = graph.vpull()
            for name, value in zip(UNKNOWN_COLOUR, colors, strict=True):
                setattr(small, name, value)
            if position_of[number] in wanted:
                compared[position_of[number]] = small.to_ndarray()
            yield small
        if num_frames != source.num_frames:
            raise UnreadableVideoError(path, f"it has {num_frames} frames, its index lists {source.num_frames}")

    group = {"g": str(recipe.gop), "keyint_min": str(recipe.gop)}
    encode_h264(
        target,
        scaled_frames(),
        fps=Fraction(source.fps * len(held) / source.num_frames).limit_denominator(1001),
        options={**ENCODER_OPTIONS, **group, "crf": f"{recipe.crf:g}", "preset": recipe.preset},
        comment=source.to_comment(),
    )
    return compared

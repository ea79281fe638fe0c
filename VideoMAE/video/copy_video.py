"""Re-encodes a video for random access, verifies the copy, and measures its similarity to the source.

Does not import torch, so that worker processes start quickly.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from VideoMAE.files import sha256_of
from VideoMAE.video.container import UnreadableVideoError, VideoInfo, decoded, probe
from VideoMAE.video.decoders import scaling_graph
from VideoMAE.video.encoder import COLOUR_ATTRIBUTES, encode_h264
from VideoMAE.video.prepared_copy import CopiedVideo

NUM_COMPARED = 8  # frames of each video, evenly spaced from the first to the last
FULL_RANGE = "yuvj420p"
UNKNOWN_COLOUR = dict(zip(COLOUR_ATTRIBUTES, (2, 0, 2, 2), strict=True))
FLIPS = {90: (("transpose", "cclock"),), 180: (("hflip",), ("vflip",)), 270: (("transpose", "clock"),)}

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
    """How videos are copied; see prepare_videos.Settings."""

    short_side: int
    gop: int
    crf: float
    preset: str
    every: int
    evenly: int | None


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
    ssim: float
    psnr_db: float


class CannotWrite(NamedTuple):
    """The target folder cannot be written, so no other video can be copied either."""

    reason: str


def copy_video(path: Path, *, recipe: Recipe, folder: Path) -> Copied | CannotWrite:
    """Copies a video to a temporary file in `folder` and verifies it.

    Raises:
        UnreadableVideoError: the source cannot be decoded completely, or the copy differs from what was encoded.
    """
    source_info = probe(path)
    status = path.stat()
    temporary = folder / f"{os.getpid()}.mp4"
    source = CopiedVideo(source_info.num_frames, source_info.fps, recipe.every, recipe.evenly)
    try:
        compared = _encode(path, source, recipe, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
    except UnreadableVideoError:
        raise
    except OSError as error:  # also PyAV's
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return CannotWrite("the disk is full")
        return CannotWrite(error.strerror or str(error))
    info = _verify(temporary, source, next(iter(compared.values())))
    ssim, psnr_db = similarity(compared, temporary)
    size = (source_info.width, source_info.height)
    return Copied(
        str(temporary), status.st_size, status.st_mtime_ns, size, info, len(source.held()), temporary.stat().st_size,
        sha256_of(temporary), ssim, psnr_db,
    )  # fmt: skip


def scaled_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """The even (height, width) whose shorter side is `short_side`; not larger than the source, and at least 2."""
    scale = min(1.0, short_side / min(height, width))

    def even(side: int) -> int:
        return max(2, min(round(side * scale / 2), side // 2) * 2)

    return even(height), even(width)


class Shrinker:
    """Scales frames to the size of the first one, upright, in 8-bit 4:2:0."""

    def __init__(self, short_side: int) -> None:
        self.short_side = short_side
        self.size: tuple[int, int] | None = None
        self.shape: tuple[int, int, str] | None = None
        self.graph = Graph()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        if self.size is None:
            self.size = scaled_size(frame.height, frame.width, short_side=self.short_side)
        shape = (frame.height, frame.width, frame.format.name)
        if shape != self.shape:
            pixel_format = FULL_RANGE if frame.format.name == FULL_RANGE else "yuv420p"
            then = FLIPS.get(frame.rotation % 360, ())
            self.graph = scaling_graph(frame, self.size, pixel_format=pixel_format, flags="bicubic", then=then)
            self.shape = shape
        colors = [getattr(frame, name) for name in UNKNOWN_COLOUR]
        for name, unknown in UNKNOWN_COLOUR.items():  # keeps the filters from converting colors
            setattr(frame, name, unknown)
        frame.pts = None
        self.graph.vpush(frame)
        small = self.graph.vpull()
        for name, value in zip(UNKNOWN_COLOUR, colors, strict=True):
            setattr(small, name, value)
        return small


def _encode(path: Path, source: CopiedVideo, recipe: Recipe, target: Path) -> dict[int, VideoFrame]:
    """Writes the copy -> the frames to compare it with, by their position in it."""
    held = source.held()
    wanted = set(np.linspace(0, len(held) - 1, NUM_COMPARED).astype(int).tolist())
    compared: dict[int, VideoFrame] = {}

    def frames() -> Iterator[VideoFrame]:
        position_of = {number: position for position, number in enumerate(held.tolist())}
        shrink, num_frames = Shrinker(recipe.short_side), 0
        for number, frame in enumerate(decoded(path)):
            num_frames = number + 1
            position = position_of.get(number)
            if position is None:
                continue
            small = shrink(frame)
            if position in wanted:
                compared[position] = small
            yield small
        if num_frames != source.num_frames:
            raise UnreadableVideoError(path, f"it has {num_frames} frames, its index lists {source.num_frames}")

    group = {"g": str(recipe.gop), "keyint_min": str(recipe.gop)}
    encode_h264(
        target,
        frames(),
        fps=Fraction(source.fps * len(held) / source.num_frames).limit_denominator(1001),
        options={**ENCODER_OPTIONS, **group, "crf": f"{recipe.crf:g}", "preset": recipe.preset},
        comment=source.to_comment(),
    )
    return compared


def _verify(copy: Path, source: CopiedVideo, like: VideoFrame) -> VideoInfo:
    """Probes the copy and decodes it completely -> its VideoInfo."""
    info = probe(copy)
    num_decoded = sum(1 for _ in decoded(copy))
    found = (info.num_frames, info.fps, num_decoded, info.width, info.height)
    expected = (source.num_frames, source.fps, len(source.held()), like.width, like.height)
    if found != expected:
        raise UnreadableVideoError(
            copy, f"the copy has (num_frames, fps, num_held, width, height) {found}, expected {expected}"
        )
    return info


def similarity(compared: dict[int, VideoFrame], copy: Path) -> tuple[float, float]:
    """Mean SSIM (luma and chroma) and PSNR (luma, dB) of a copy against the scaled frames of its source.

    Source: ffmpeg's filters ssim and psnr.
    """
    copies = {position: frame for position, frame in enumerate(decoded(copy)) if position in compared}
    ssim = _mean_measure("ssim", "lavfi.ssim.All", compared, copies)
    mean_squared_error = _mean_measure("psnr", "lavfi.psnr.mse.y", compared, copies)
    return ssim, float(10 * np.log10(255**2 / max(mean_squared_error, 1e-4)))


def _mean_measure(name: str, key: str, references: dict[int, VideoFrame], copies: dict[int, VideoFrame]) -> float:
    """The mean over all frame pairs of what a filter with two inputs stores under `key`.

    The filter `metadata` writes the values to a file: PyAV exposes them only from version 18, which needs Python 3.11.
    """
    first = next(iter(references.values()))
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as values_file:
        graph = Graph()
        graph.threads = 1
        inputs = [
            graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=Fraction(1))
            for _ in range(2)
        ]
        escaped = re.sub(r"([\\':])", r"\\\1", values_file.name)  # separators of filter options
        compare, write = graph.add(name, ""), graph.add("metadata", f"print:key={key}:file={escaped}")
        sink = graph.add("buffersink")
        for number, node in enumerate(inputs):
            node.link_to(compare, 0, number)
        compare.link_to(write)
        write.link_to(sink)
        graph.configure()
        for pts, position in enumerate(references):
            for node, frame in zip(inputs, (references[position], copies[position]), strict=True):
                frame.pts, frame.time_base = pts, Fraction(1)
                node.push(frame)
            graph.vpull()
        del graph, inputs, compare, write, sink  # the filter closes its file with the graph
        values = [float(line.split("=")[1]) for line in values_file if line.startswith(f"{key}=")]
    assert len(values) == len(references)
    return float(np.mean(values))

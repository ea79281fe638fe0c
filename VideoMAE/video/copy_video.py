"""One video encoded anew for random access, checked, and measured against its source.

Imports no torch, so that the processes that copy start at once.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from VideoMAE.video.container import UnreadableVideoError, VideoInfo, decoded, probe
from VideoMAE.video.prepared_copy import COMMENT, CopiedVideo

NUM_COMPARED = 8  # frames of each video, evenly from the first to the last
FULL_RANGE = "yuvj420p"
UNKNOWN_COLOUR = {"colorspace": 2, "color_range": 0, "color_primaries": 2, "color_trc": 2}
FLIPS = {90: ["transpose=cclock"], 180: ["hflip", "vflip"], 270: ["transpose=clock"]}

# x264's look-ahead gives other bytes from run to run where it uses AVX-512; without what needs it, the same source and
# settings give the same bytes, so that checksums tell whether a copy made again is the same. At so short groups the
# look-ahead gains nothing. fastdecode leaves out what is costly to decode (CABAC, deblocking).
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
    """How videos are copied; prepare_videos.Settings says what each means."""

    short_side: int
    gop: int
    crf: float
    preset: str
    every: int
    evenly: int | None


class Copied(NamedTuple):
    """A finished copy that has no name yet, and what is to be remembered of it."""

    temporary: str
    source_bytes: int
    source_modified_ns: int
    source_size: tuple[int, int]  # width, height
    info: VideoInfo  # of the copy, on its source's time
    num_held: int
    bytes: int
    sha256: str
    ssim: float
    psnr_db: float


class CannotWrite(NamedTuple):
    """The target, not the video, is at fault: nothing else can be written either."""

    reason: str


def copy_video(path: Path, *, recipe: Recipe, folder: Path) -> Copied | CannotWrite:
    """Copy a video to a temporary file in a folder -> what is to be remembered of the copy.

    Raises UnreadableVideoError when the source is no whole video, or the copy does not hold what it should.
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
    except OSError as error:  # PyAV's too
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return CannotWrite("the disk is full")
        return CannotWrite(error.strerror or str(error))
    info = _checked(temporary, source, next(iter(compared.values())))
    ssim, psnr_db = quality(compared, temporary)
    size = (source_info.width, source_info.height)
    return Copied(
        str(temporary), status.st_size, status.st_mtime_ns, size, info, len(source.held()), temporary.stat().st_size,
        sha256_of(temporary), ssim, psnr_db,
    )  # fmt: skip


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def scaled_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """The even (height, width) whose shorter side is `short_side`; never larger than the source, but 2 at least."""
    scale = min(1.0, short_side / min(height, width))

    def even(side: int) -> int:
        return max(2, min(round(side * scale / 2), side // 2) * 2)

    return even(height), even(width)


class Shrinker:
    """Makes frames small, upright and 8-bit 4:2:0; knows the turn and the size of the first, which all get."""

    def __init__(self, short_side: int) -> None:
        self.short_side = short_side
        self.size: tuple[int, int] | None = None
        self.shape: tuple[int, int, str] | None = None
        self.graph = Graph()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        turns = frame.rotation % 360
        if self.size is None:
            self.size = scaled_size(frame.height, frame.width, short_side=self.short_side)
        shape = (frame.height, frame.width, frame.format.name)
        if shape != self.shape:
            self.graph, self.shape = self._graph(frame, turns), shape
        colours = [getattr(frame, name) for name in UNKNOWN_COLOUR]
        for (
            name,
            unknown,
        ) in UNKNOWN_COLOUR.items():  # said to be unknown, so that the filters leave the values as they are
            setattr(frame, name, unknown)
        frame.pts = None
        self.graph.vpush(frame)
        small = self.graph.vpull()
        for name, value in zip(UNKNOWN_COLOUR, colours, strict=True):
            setattr(small, name, value)
        return small

    def _graph(self, frame: VideoFrame, turns: int) -> Graph:
        assert self.size is not None
        height, width = self.size
        graph = Graph()
        graph.threads = 1
        pixel_format = FULL_RANGE if frame.format.name == FULL_RANGE else "yuv420p"
        flips = [graph.add(*flip.split("=")) for flip in FLIPS.get(turns, [])]
        graph.link_nodes(
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)),
            graph.add("scale", f"{width}:{height}:flags=bicubic"),
            graph.add("format", pixel_format),
            *flips,
            graph.add("buffersink"),
        ).configure()
        return graph


def _encode(path: Path, source: CopiedVideo, recipe: Recipe, target: Path) -> dict[int, VideoFrame]:
    """Write the copy -> the frames that it is compared with, by their places in it."""
    held = source.held()
    place_of = {number: place for place, number in enumerate(held.tolist())}
    wanted = set(np.linspace(0, len(held) - 1, NUM_COMPARED).astype(int).tolist())
    shrink, compared, num_frames = Shrinker(recipe.short_side), {}, 0
    rate = Fraction(source.fps * len(held) / source.num_frames).limit_denominator(1001)
    with av.open(str(target), "w", format="mp4") as container:
        container.metadata[COMMENT] = source.to_comment()
        stream = None
        for number, frame in enumerate(decoded(path)):
            num_frames = number + 1
            place = place_of.get(number)
            if place is None:
                continue
            small = shrink(frame)
            if stream is None:
                stream = _stream(container, recipe, rate, small)
            small.pts, small.time_base = place, 1 / rate
            small.pict_type = PictureType.NONE  # the source's key frames would become the copy's
            if place in wanted:
                compared[place] = small
            container.mux(stream.encode(small))
        if num_frames != source.num_frames:
            raise UnreadableVideoError(path, f"it has {num_frames} frames, its index {source.num_frames}")
        assert stream is not None
        container.mux(stream.encode(None))
    return compared


def _stream(container: av.container.OutputContainer, recipe: Recipe, rate: Fraction, like: VideoFrame) -> VideoStream:
    """A stream for frames like this one; colours are to be understood as the source's are."""
    group = {"g": str(recipe.gop), "keyint_min": str(recipe.gop)}
    quality_options = {"crf": f"{recipe.crf:g}", "preset": recipe.preset}
    stream = container.add_stream("libx264", rate=rate, options={**ENCODER_OPTIONS, **group, **quality_options})
    stream.width, stream.height, stream.pix_fmt = like.width, like.height, like.format.name
    context = stream.codec_context
    context.time_base, context.thread_count = 1 / rate, 1
    for name in UNKNOWN_COLOUR:
        setattr(context, name, getattr(like, name))
    return stream


def _checked(copy: Path, source: CopiedVideo, like: VideoFrame) -> VideoInfo:
    """Read the copy as a run would, and decode it whole -> what it holds, on its source's time."""
    info = probe(copy)
    num_decoded = sum(1 for _ in decoded(copy))
    found = (info.num_frames, info.fps, num_decoded, info.width, info.height)
    expected = (source.num_frames, source.fps, len(source.held()), like.width, like.height)
    if found != expected:
        raise UnreadableVideoError(copy, f"its copy has (frames, fps, held, width, height) {found}, not {expected}")
    return info


def quality(compared: dict[int, VideoFrame], copy: Path) -> tuple[float, float]:
    """Structural similarity (over luma and chroma) and peak signal-to-noise ratio (of luma, in dB), each the mean over
    the compared frames, of a copy against its source made as small. Source: ffmpeg's filters ssim and psnr."""
    ours = {place: frame for place, frame in enumerate(decoded(copy)) if place in compared}
    ssim = _measured("ssim", "lavfi.ssim.All", compared, ours)
    mean_squared_error = _measured("psnr", "lavfi.psnr.mse.y", compared, ours)
    return ssim, float(10 * np.log10(255**2 / max(mean_squared_error, 1e-4)))


def _measured(name: str, key: str, theirs: dict[int, VideoFrame], ours: dict[int, VideoFrame]) -> float:
    """The mean of what a filter of two inputs notes of each pair of frames under `key`. The filter `metadata` writes it
    to a file, since PyAV hands it over only from version 18 on, which needs Python 3.11."""
    one = next(iter(theirs.values()))
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as notes:
        graph = Graph()
        graph.threads = 1
        inputs = [
            graph.add_buffer(width=one.width, height=one.height, format=one.format, time_base=Fraction(1))
            for _ in range(2)
        ]
        file = re.sub(r"([\\':])", r"\\\1", notes.name)  # what separates a filter's options
        compare, write = graph.add(name, ""), graph.add("metadata", f"print:key={key}:file={file}")
        sink = graph.add("buffersink")
        for place, node in enumerate(inputs):
            node.link_to(compare, 0, place)
        compare.link_to(write)
        write.link_to(sink)
        graph.configure()
        for pts, place in enumerate(theirs):
            for node, frame in zip(inputs, (theirs[place], ours[place]), strict=True):
                frame.pts, frame.time_base = pts, Fraction(1)
                node.push(frame)
            graph.vpull()
        del graph, inputs, compare, write, sink  # the filter closes its file with the graph
        values = [float(line.split("=")[1]) for line in notes if line.startswith(f"{key}=")]
    assert len(values) == len(theirs)
    return float(np.mean(values))

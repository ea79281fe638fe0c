"""Decoders: sources of the frames at sorted, distinct indices, (T,) int64 -> (T, H, W, 3) uint8 RGB.

decord is imported on first use. PyAV is also imported by container.py and encoder.py.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from VideoMAE.video.container import IndexedFile, UnreadableVideoError, decoded

DecoderName = Literal["decord", "pyav"]
# Upright height and width of every frame returned. If a video changes its size, all decoders scale later frames to it.
Size = tuple[int, int]

PROGRESSIVE = 1  # FFmpeg's AV_FIELD_PROGRESSIVE
# The fraction of frames that decord may replace with their neighbors before it fails: less than one frame.
FAULT_TOLERANCE_OF_DECORD = 1e-9
# Number of frames that decord decodes at once when frames are requested one by one.
FRAMES_AT_ONCE = 16


def require_decoder(decoder: DecoderName) -> None:
    """Raises ValueError, with the remedy, if the decoder's package is not installed or cannot be loaded."""
    if decoder == "pyav":
        return
    try:
        import decord  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError("--decoder decord: not installed; pip install decord, or use --decoder pyav") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(
            f"--decoder decord: cannot be loaded ({_cause(error)}); pip install the version that constraints.txt "
            "lists, or use --decoder pyav"
        ) from error


def _cause(error: BaseException) -> str:
    """The first line of a C++ error message, without source locations."""
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", first_line)


class SequentialSource:
    """PyAV, starting at the first frame: correct for every kind of file."""

    def __init__(self, path: Path, size: Size) -> None:
        self._path = path
        self._to_rgb = RGBConverter(size)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.stack(list(self.iterate(indices)))

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """The frames, one after the other -> (H, W, 3) uint8 each."""
        wanted = set(indices.tolist())
        for i, frame in enumerate(decoded(self._path)):
            if i in wanted:
                yield self._to_rgb(frame)
                wanted.remove(i)
            if not wanted:
                return
        raise UnreadableVideoError(self._path, f"it ends before frame {indices[-1]}")


class PyAVSource(SequentialSource):
    """PyAV, starting at the entry before each group of requested frames; the file must stay open.

    H.264 frames that are neither requested nor referenced by another frame are skipped, which saves a third of the time
    with B-frames; so is everything after the last requested frame. The frames are bit-identical to full decoding.
    """

    def __init__(self, file: IndexedFile, size: Size) -> None:
        super().__init__(file.path, size)
        self._context, self._compressed = file.stream.codec_context, file.compressed
        self._times = np.sort([packet.pts for packet in file.packets])
        self._entries = np.array([position for position, packet in enumerate(file.packets) if packet.is_entry])
        self._position_of = {packet.pts: position for position, packet in enumerate(file.packets)}
        self._can_skip = file.info.codec == "h264" and getattr(self._context, "field_order", 0) == PROGRESSIVE

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        times = self._times[indices].tolist()
        groups: dict[int, list[int]] = {}
        for time in times:
            nearest = np.searchsorted(self._entries, self._position_of[time], side="right") - 1
            groups.setdefault(int(self._entries[nearest]), []).append(time)
        frames = itertools.chain.from_iterable(itertools.starmap(self._decode_group, groups.items()))
        num_decoded = 0
        with suppress(av.error.FFmpegError):
            for time, frame in zip(times, frames, strict=False):
                if frame.pts != time:
                    break
                yield self._to_rgb(frame)
                num_decoded += 1
        if num_decoded < len(indices):  # the sequential source finds where the damage begins
            yield from super().iterate(indices[num_decoded:])

    def _decode_group(self, start: int, times: list[int]) -> Iterator[VideoFrame]:
        """The frames at these times, in the group that begins with packet `start`; fewer if the decoder omits some."""
        wanted = set(times)
        stop = max(self._position_of[time] for time in times) + 1
        self._context.flush_buffers()
        for packet in self._compressed[start:stop]:
            if self._can_skip:
                self._context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from (frame for frame in packet.decode() if frame.pts in wanted)
        yield from (frame for frame in self._context.decode(None) if frame.pts in wanted)


class DecordSource:
    """decord, which seeks to the key frame before each run of indices and decodes ahead in its own thread."""

    def __init__(self, path: Path, size: Size, *, scales: bool) -> None:  # scales: unless it is the first frame's size
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self._decord, self._path, self._size, self._scales = decord, path, size, scales
        self._reader = self._open()
        self.num_frames = len(self._reader)

    def _open(self) -> Any:
        height, width = self._size if self._scales else (-1, -1)
        try:
            return self._decord.VideoReader(
                str(self._path), width=width, height=height, num_threads=1, fault_tol=FAULT_TOLERANCE_OF_DECORD
            )
        except (self._decord.DECORDError, RuntimeError, AssertionError, UnicodeError) as error:
            raise UnreadableVideoError(self._path, f"decord cannot open it ({_cause(error)})") from error

    def read(self, indices: np.ndarray) -> np.ndarray:
        try:
            return self._reader.get_batch(indices).asnumpy()
        except (self._decord.DECORDError, self._decord.DECORDLimitReachedError, RuntimeError):
            # decord reads ahead in a thread, so damage after the requested frames makes some calls fail, including
            # later ones. PyAV stops at the last requested frame and determines whether the frames are readable.
            self._reader = self._open()
            return SequentialSource(self._path, self._size).read(indices)

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(indices), FRAMES_AT_ONCE):
            yield from self.read(indices[start : start + FRAMES_AT_ONCE])


def decode_with_decord(path: Path, indices: np.ndarray, size: Size, *, scales: bool) -> None:
    """Opens a file with decord, decodes these of its frames and discards them; PyAV where decord cannot open it.

    This is the lower bound of any loader's decoding time, without the checks of `Video`. The frames may be wrong for
    files that decord does not support.
    """
    try:
        source = DecordSource(path, size, scales=scales)
        source.read(indices[indices < source.num_frames])
    except UnreadableVideoError:
        SequentialSource(path, size).read(indices)


class RGBConverter:
    """Converts frames to upright RGB, scaled as decord scales them (bilinear, in YUV) -> (H, W, 3) uint8."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._graphs: dict[tuple, Graph] = {}

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, frame.rotation)
        if kind not in self._graphs:
            size = self._size[::-1] if frame.rotation // 90 % 2 else self._size
            self._graphs[kind] = scaling_graph(frame, size, pixel_format="rgb24", flags="bilinear")
        graph = self._graphs[kind]
        graph.vpush(frame)
        return np.rot90(graph.vpull().to_ndarray(), frame.rotation // 90)


def scaling_graph(
    frame: VideoFrame, size: Size, *, pixel_format: str, flags: str, then: tuple[tuple[str, ...], ...] = ()
) -> Graph:
    """A single-threaded filter graph that scales frames like this one and converts their pixel format.

    `flags` is FFmpeg's name of the interpolation; `then` has further filters, each with its arguments.
    """
    graph = Graph()
    graph.threads = 1
    time_base = frame.time_base or Fraction(1, 1000)  # required; no filter reads it
    graph.link_nodes(
        graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base),
        graph.add("scale", f"{size[1]}:{size[0]}:flags={flags}"),
        graph.add("format", pixel_format),
        *(graph.add(*filter_arguments) for filter_arguments in then),
        graph.add("buffersink"),
    ).configure()
    return graph

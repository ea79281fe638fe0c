"""Who decodes the frames: sources that give the frames at rising, distinct indices, (T,) -> (T, H, W, 3) uint8 RGB.

The only module besides container.py that imports decoders; decord and torchcodec when they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame

from VideoMAE.video.container import OpenFile, UnreadableVideoError, decoded

DecoderName = Literal["decord", "torchcodec", "pyav"]

# The share of frames that decord may replace by their neighbours before it fails: less than one frame.
FAULT_TOLERANCE_OF_DECORD = 1e-9
# How many frames decord and torchcodec hand over in one piece where they are asked for one after the other.
FRAMES_AT_ONCE = 16

Size = tuple[int, int]
"""Height and width, upright, that every frame is given. Where no size is asked for it is that of the first frame: later
frames of a video that changes its size are scaled to it, whatever decodes them."""


class Source(Protocol):
    """Reads rising, distinct indices: all at once, or one after the other, (H, W, 3) uint8 each."""

    def read(self, indices: np.ndarray) -> np.ndarray: ...

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]: ...


class _InPieces:
    """One frame after the other for decoders that are asked for many at once and go on where they are."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(indices), FRAMES_AT_ONCE):
            yield from self.read(indices[start : start + FRAMES_AT_ONCE])


def require_decoder(decoder: DecoderName) -> None:
    """Imports the decoder's package.

    Raises:
        ValueError: it is not installed, or lacks a library; says how to get it.
    """
    try:
        if decoder == "decord":
            import decord  # noqa: F401
        elif decoder == "torchcodec":
            import torchcodec.decoders

            if getattr(torchcodec, "ffmpeg_major_version", 0) is None:
                raise ImportError("it finds no FFmpeg libraries, or is made for another torch")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--decoder {decoder}: not installed; pip install {decoder}, or take --decoder pyav"
        ) from error
    except (ImportError, OSError, RuntimeError) as error:
        advice = "apt-get install ffmpeg, " if decoder == "torchcodec" else ""
        raise ValueError(
            f"--decoder {decoder}: cannot be loaded ({_cause(error)}); {advice}pip install the {decoder} that "
            "constraints.txt names, or take --decoder pyav"
        ) from error


class DecordSource(_InPieces):
    """decord, which seeks to the key frame before each run of indices and decodes ahead in a thread of its own."""

    def __init__(self, path: Path, size: Size, *, scales: bool) -> None:
        """`scales`: `size` differs from the size of the first frame; otherwise decord chooses it by itself."""
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
            # It reads ahead in a thread, so that damage after the frames asked for makes it fail now and then, also
            # in later calls. PyAV, which stops at the last of them, decides.
            self._reader = self._open()
            return SequentialSource(self._path, self._size).read(indices)


class TorchcodecSource(_InPieces):
    """torchcodec with an index of its own, on the FFmpeg libraries of the system; only for frames that have the size
    already, since its scaling differs from decord's by 3 levels of 255 on average."""

    def __init__(self, path: Path, size: Size) -> None:
        from torchcodec.decoders import VideoDecoder

        self._path, self._size = path, size
        try:
            self._decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu")
        except (RuntimeError, ValueError) as error:
            raise UnreadableVideoError(path, f"torchcodec cannot open it ({_cause(error)})") from error
        self.num_frames = len(self._decoder)

    def read(self, indices: np.ndarray) -> np.ndarray:
        with suppress(RuntimeError, IndexError):
            frames = self._decoder.get_frames_at(indices.tolist()).data.numpy()
            if frames.shape[1:3] == self._size:
                return frames
        return SequentialSource(self._path, self._size).read(indices)  # which says from where on it is damaged


class PyAVSource:
    """PyAV, from the entry before each group of wanted frames on; needs the file to stay open.

    H.264 frames that are not wanted and that no other frame refers to are not decoded, which with B-frames saves
    a third of the time; neither is what follows the last wanted frame. The other frames are the same to the bit.
    """

    def __init__(self, file: OpenFile, size: Size) -> None:
        self._file, self._size = file, size
        self._times = np.sort([packet.pts for packet in file.packets])
        self._entries = np.array([place for place, packet in enumerate(file.packets) if packet.is_entry])
        self._place_of = {packet.pts: place for place, packet in enumerate(file.packets)}
        self._may_skip = file.info.codec == "h264" and file.is_progressive
        self._to_rgb = RGBConverter(size)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.stack(list(self.iterate(indices)))

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        num_given = 0
        with suppress(av.error.FFmpegError):
            for frame in self._in_turn(self._times[indices].tolist()):
                yield frame
                num_given += 1
        if num_given < len(indices):  # the other source says from where on it is damaged
            yield from SequentialSource(self._file.path, self._size).iterate(indices[num_given:])

    def _in_turn(self, times: list[int]) -> Iterator[np.ndarray]:
        """The frames of these times, up to the first that the decoder does not give."""
        groups: dict[int, list[int]] = {}
        for time in times:
            nearest = np.searchsorted(self._entries, self._place_of[time], side="right") - 1
            groups.setdefault(int(self._entries[nearest]), []).append(time)
        for start, wanted in groups.items():
            coming = self._group(start, set(wanted))
            for time in wanted:
                frame = next(coming, None)
                if frame is None or frame.pts != time:
                    return
                yield self._to_rgb(frame)

    def _group(self, start: int, wanted: set[int]) -> Iterator[VideoFrame]:
        """The wanted frames of the group that begins with packet `start`."""
        stop = max(self._place_of[time] for time in wanted) + 1
        context = self._file.stream.codec_context
        context.flush_buffers()
        for packet in self._file.compressed[start:stop]:
            if self._may_skip:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from (frame for frame in packet.decode() if frame.pts in wanted)
        yield from (frame for frame in context.decode(None) if frame.pts in wanted)


class SequentialSource:
    """PyAV, from the first frame on: right for every kind."""

    def __init__(self, path: Path, size: Size) -> None:
        self._path, self._size = path, size

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.stack(list(self.iterate(indices)))

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        wanted = set(indices.tolist())
        to_rgb = RGBConverter(self._size)
        for i, frame in enumerate(decoded(self._path)):
            if i in wanted:
                yield to_rgb(frame)
                wanted.remove(i)
            if not wanted:
                return
        raise UnreadableVideoError(self._path, f"it ends before frame {indices[-1]}")


class RGBConverter:
    """Frames upright, scaled as decord scales them (bilinear, before the change to RGB) -> (H, W, 3) uint8."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._graphs: dict[tuple, Graph] = {}

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, frame.rotation)
        if kind not in self._graphs:
            self._graphs[kind] = self._make_graph(frame)
        graph = self._graphs[kind]
        graph.vpush(frame)
        return np.rot90(graph.vpull().to_ndarray(), frame.rotation // 90)

    def _make_graph(self, frame: VideoFrame) -> Graph:
        height, width = self._size
        if frame.rotation // 90 % 2:
            height, width = width, height
        graph = Graph()
        graph.threads = 1
        time_base = frame.time_base or Fraction(1, 1000)  # no filter reads it, but there must be one
        graph.link_nodes(
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base),
            graph.add("scale", f"{width}:{height}:flags=bilinear"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ).configure()
        return graph


def _cause(error: BaseException) -> str:
    """What a C++ message says, without the places in the source that it names."""
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", first_line)

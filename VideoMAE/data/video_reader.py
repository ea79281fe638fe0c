"""Reading video files: the only module that imports a decoder.

decord decodes the ordinary kind: an H.264 mp4 with 8-bit 4:2:0 pixels, upright, every sample shown, closed groups of
pictures. On other kinds decord 0.6 silently returns wrong frames, so they are recognised on opening and decoded by PyAV
from their first frame on: frame `i` is the i-th frame that a player shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import decord
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# Without this a playlist named .mp4 could make the demuxer open network addresses.
DEMUXER_OPTIONS = {"protocol_whitelist": "file"}
# decord keeps time stamps in 32 bits and may never return when one is larger (its issue 269, pull request 341).
MAX_TIMESTAMP_OF_DECORD = 2**31 - 1
# The share of frames that decord may replace by their neighbours before it fails: less than one frame.
FAULT_TOLERANCE_OF_DECORD = 1e-9
# How many frames decord hands over in one piece where they are asked for one after the other.
FRAMES_AT_ONCE = 16


class UnreadableVideoError(ValueError):
    """A file that cannot be read as a video; `path` says which, `reason` why.

    The reason may be left out because a DataLoader rebuilds a worker's exception from its text alone.
    """

    def __init__(self, path: str | Path, reason: str = "") -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"cannot read video {self.path}: {self.reason}" if self.reason else self.path


class VideoInfo(NamedTuple):
    """What a video holds as a player shows it: cut by its edit list, and upright; then what is unusual about the file.

    `rotation` is in degrees, `num_overstated` the frames that the container declares and does not hold.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    codec: str
    duration_seconds: float
    pixel_format: str = "yuv420p"
    rotation: int = 0
    num_overstated: int = 0


class _Packet(NamedTuple):
    pts: int | None
    is_keyframe: bool
    is_hidden: bool


def probe(path: str | Path) -> VideoInfo:
    """Read a video's index and first frame, which takes milliseconds -> VideoInfo.

    Raises UnreadableVideoError: no such file, a folder, an empty file, not a video, cut off, no video stream, no
    frames, a first frame that cannot be decoded. Kinds without an index of their frames are decoded whole.
    """
    with _opened(path) as (container, stream):
        head, first_frame = _read_until_first_frame(path, container.demux(stream))
        return _info(path, stream, head, first_frame)


class Video:
    """An open video; close it, or use it as a context manager.

    `size` is (height, width): frames are squashed to it while decoding (bilinear). Raises UnreadableVideoError as
    `probe` does. One decoding thread: the data loader's workers are the parallelism. Not for sharing between processes.
    """

    def __init__(self, path: str | Path, *, size: tuple[int, int] | None = None) -> None:
        with _opened(path) as (container, stream):
            demuxed = container.demux(stream)
            packets, first_frame = _read_until_first_frame(path, demuxed)
            self.info = _info(path, stream, packets, first_frame)
            packets += [_as_packet(packet) for packet in demuxed if packet.size]
            is_for_decord = _decord_is_right(container, stream, packets, first_frame)
        self.path = Path(path)
        self.num_frames, self.fps = self.info.num_frames, self.info.fps
        self._size = size or (self.info.height, self.info.width)
        self._source: _DecordSource | _SequentialSource | None = _SequentialSource(path, size)
        if is_for_decord:
            source = _DecordSource(path, size)
            if source.num_frames == self.num_frames:
                self._source = source

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the decoder; closing twice is harmless."""
        self._source = None

    def frames_at(self, indices: np.ndarray) -> np.ndarray:
        """RGB frames at (T,) integer indices, in any order and with repeats -> (T, H, W, 3) uint8.

        Each distinct frame is decoded once. Raises ValueError for an index outside 0 to num_frames - 1, and
        UnreadableVideoError when a frame cannot be decoded: no other frame ever stands in for it.
        """
        if self._source is None:
            raise ValueError(f"video {self.path} is closed")
        distinct, places = np.unique(np.asarray(indices, dtype=np.int64), return_inverse=True)
        if not len(distinct):
            return np.empty((0, *self._size, 3), np.uint8)
        if distinct[0] < 0 or distinct[-1] >= self.num_frames:
            wrong = distinct[0] if distinct[0] < 0 else distinct[-1]
            raise ValueError(f"{self.path} has frames 0 to {self.num_frames - 1}; frame {wrong} was asked for")
        return self._source.read(distinct)[places]

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """RGB frames at rising, distinct indices one after the other -> (H, W, 3) uint8 each.

        The video is decoded once, and few frames are held at a time. Raises as `frames_at` does.
        """
        if self._source is None:
            raise ValueError(f"video {self.path} is closed")
        yield from self._source.iterate(indices)


class _DecordSource:
    """Reads rising, distinct indices; seeks to the key frame before each run of them."""

    def __init__(self, path: str | Path, size: tuple[int, int] | None) -> None:
        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._size = path, size
        self._reader = self._open()
        self.num_frames = len(self._reader)

    def _open(self) -> Any:
        height, width = self._size or (-1, -1)
        try:
            return decord.VideoReader(
                str(self._path), width=width, height=height, num_threads=1, fault_tol=FAULT_TOLERANCE_OF_DECORD
            )
        except (decord.DECORDError, RuntimeError, AssertionError, UnicodeError) as error:
            raise UnreadableVideoError(self._path, f"decord cannot open it ({_cause(error)})") from error

    def read(self, indices: np.ndarray) -> np.ndarray:
        try:
            return self._reader.get_batch(indices).asnumpy()
        except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError):
            # It reads ahead in a thread, so that damage after the frames asked for makes it fail now and then, also
            # in later calls. PyAV, which stops at the last of them, decides.
            self._reader = self._open()
            return _SequentialSource(self._path, self._size).read(indices)

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(indices), FRAMES_AT_ONCE):
            yield from self.read(indices[start : start + FRAMES_AT_ONCE])


class _SequentialSource:
    """Reads rising, distinct indices; decodes from the first frame on."""

    def __init__(self, path: str | Path, size: tuple[int, int] | None) -> None:
        self._path, self._size = path, size

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.stack(list(self.iterate(indices)))

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        wanted = set(indices.tolist())
        for i, frame in enumerate(_decoded(self._path)):
            if i in wanted:
                yield _to_rgb(frame, self._size)
                wanted.remove(i)
            if not wanted:
                return
        raise UnreadableVideoError(self._path, f"it ends before frame {indices[-1]}")


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Container and video stream; every failure of demuxer and decoder becomes an UnreadableVideoError."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # reading from a named pipe would wait for ever
            raise UnreadableVideoError(path, "it is a folder" if Path(path).is_dir() else "it is not a regular file")
        if Path(path).stat().st_size == 0:
            raise UnreadableVideoError(path, "the file is empty")
        with av.open(str(path), metadata_errors="ignore", options=DEMUXER_OPTIONS) as container:
            stream = _video_stream(path, container)
            needed_bytes = max((entry.pos + entry.size for entry in _index(stream)), default=0)
            if needed_bytes > container.size:
                reason = f"it is cut off: its frames need {needed_bytes} bytes, it has {container.size}"
                raise UnreadableVideoError(path, reason)
            yield container, stream
    except FileNotFoundError as error:
        raise UnreadableVideoError(path, "no such file") from error
    except av.error.InvalidDataError as error:
        raise UnreadableVideoError(path, "it is not a video, or it is damaged or cut off (invalid data)") from error
    except (av.error.FFmpegError, OSError) as error:
        raise UnreadableVideoError(path, (error.strerror or str(error)).lower()) from error


def _video_stream(path: str | Path, container: InputContainer) -> VideoStream:
    """The first stream that is a film and not a cover picture; the others are not read."""
    if container.format.name in ("image2", "tty") or container.format.name.endswith("_pipe"):
        raise UnreadableVideoError(path, "it is a picture or a text, not a video")
    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not films:
        raise UnreadableVideoError(path, "it has no video stream")
    if films[0].codec_context is None:
        raise UnreadableVideoError(path, "there is no decoder for its video stream")
    films[0].codec_context.thread_count = 1
    for stream in container.streams:
        if stream.index != films[0].index:
            stream.discard = Discard.all
    return films[0]


def _index(stream: VideoStream) -> list:
    """The mp4's list of samples; empty where that is not the whole: other containers, fragments, older PyAV."""
    is_whole = stream.frames > 0 and "mp4" in stream.container.format.name.split(",")
    return list(getattr(stream, "index_entries", ())) if is_whole else []


def _as_packet(packet: av.Packet) -> _Packet:
    return _Packet(packet.pts, packet.is_keyframe, packet.is_discard)


def _read_until_first_frame(path: str | Path, demuxed: Iterator[av.Packet]) -> tuple[list[_Packet], VideoFrame]:
    """The packets that the decoder takes before it gives its first frame, and that frame."""
    packets: list[_Packet] = []
    try:
        for packet in demuxed:
            packets += [_as_packet(packet)] if packet.size else []
            for frame in packet.decode():
                return packets, frame
    except av.error.InvalidDataError as error:
        raise UnreadableVideoError(path, "its first frame cannot be decoded (invalid data)") from error
    raise UnreadableVideoError(path, "none of its frames can be decoded" if packets else "it has no frames")


def _info(path: str | Path, stream: VideoStream, head: list[_Packet], first_frame: VideoFrame) -> VideoInfo:
    entries = _index(stream)
    times, num_frames = [entry.timestamp for entry in entries], sum(not entry.is_discard for entry in entries)
    # A cut before an open group leaves frames that need what was cut away: counted in the index, dropped by decoders.
    shown = [packet.pts for packet in head if packet.pts is not None and not packet.is_hidden]
    if not times or not head[0].is_keyframe or min(shown) < (first_frame.pts or 0):
        times = [frame.pts for frame in _decoded(path) if frame.pts is not None]
        num_frames = len(times)
    if not times or stream.time_base is None:
        raise UnreadableVideoError(path, "its frames have no time stamps")
    fps = _mean_fps(times, stream.time_base, stream.average_rate)
    height, width = first_frame.height, first_frame.width
    if first_frame.rotation % 180:
        height, width = width, height
    return VideoInfo(
        num_frames,
        fps,
        height,
        width,
        stream.codec_context.name,
        num_frames / fps,
        stream.codec_context.pix_fmt or "unknown",
        first_frame.rotation % 360,
        max(stream.frames - len(entries), 0) if entries else 0,
    )


def _mean_fps(times: list[int], time_base: Fraction, declared_fps: Fraction | None) -> float:
    """The declared rate, which is exact, where the time stamps agree with it to 0.5 %; else the time stamps' rate."""
    span_seconds = (max(times) - min(times)) * time_base
    fps = (len(times) - 1) / span_seconds if span_seconds else declared_fps or Fraction(1)
    return float(declared_fps if declared_fps and abs(fps / declared_fps - 1) < 0.005 else fps)


def _decord_is_right(
    container: InputContainer, stream: VideoStream, packets: list[_Packet], first_frame: VideoFrame
) -> bool:
    """Whether decord 0.6 returns the frames asked for; the comments say what it does on the other kinds."""
    return (
        "mp4" in container.format.name.split(",")  # MPEG-TS: starts at the second key frame
        and stream.codec_context.name == "h264"
        and stream.codec_context.pix_fmt in ("yuv420p", "yuvj420p")  # 10 bits: wrong colours
        and len(container.streams.video) == 1  # several: picks one by itself
        and not first_frame.rotation  # 90 degrees: a fourth channel, and batches fail
        and not any(
            packet.is_hidden for packet in packets
        )  # cut by an edit list: shifted frames, the last one repeated
        and _has_closed_groups(packets)  # open groups: shifted frames after a seek
    )


def _has_closed_groups(packets: list[_Packet]) -> bool:
    """Whether every key frame parts the packets: those read before it are shown before it, those after it after it."""
    group_start, latest = None, -1
    for packet in packets:
        if packet.pts is None or packet.pts > MAX_TIMESTAMP_OF_DECORD:
            return False
        if packet.is_keyframe:
            group_start = packet.pts
        if group_start is None or packet.pts <= (latest if packet.is_keyframe else group_start):
            return False
        latest = max(latest, packet.pts)
    return len({packet.pts for packet in packets}) == len(packets)


def _decoded(path: str | Path) -> Iterator[VideoFrame]:
    num_decoded = 0
    with _opened(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                yield frame
                num_decoded += 1
        except av.error.InvalidDataError as error:
            reason = f"it cannot be decoded beyond its first {num_decoded} frames (invalid data)"
            raise UnreadableVideoError(path, reason) from error


def _to_rgb(frame: VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
    """Upright frame, scaled as decord scales it (bilinear, before the change to RGB) -> (H, W, 3) uint8."""
    quarter_turns = frame.rotation // 90
    height, width = size or (frame.height, frame.width)
    if size and quarter_turns % 2:
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
    graph.vpush(frame)
    return np.rot90(graph.vpull().to_ndarray(), quarter_turns)


def _cause(error: BaseException) -> str:
    """What a C++ message says, without the places in the source that it names."""
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", first_line)

"""Opens and indexes video files with PyAV: number and times of the frames, their size, and the random access points.

decoders.py decodes the pixels.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from VideoMAE.video.prepared_copy import CopiedVideo, copied_video

# Otherwise a playlist named .mp4 could make the demuxer open network addresses.
DEMUXER_OPTIONS = {"protocol_whitelist": "file"}
PROGRESSIVE = 1  # FFmpeg's AV_FIELD_PROGRESSIVE
H264_SLICE, H264_IDR_SLICE = 1, 5
MAX_HELD_BYTES = 2**28


class UnreadableVideoError(ValueError):
    """A file that cannot be read as a video.

    `reason` is optional because a DataLoader rebuilds a worker's exception from its text alone.
    """

    def __init__(self, path: str | Path, reason: str = "") -> None:
        super().__init__(str(path), reason)
        self.path, self.reason = str(path), reason

    def __str__(self) -> str:
        return f"cannot read video {self.path}: {self.reason}" if self.reason else self.path


class VideoInfo(NamedTuple):
    """Properties of a video as a player shows it: with its edit list applied, and upright.

    `rotation` is in degrees. `num_overstated` counts the frames that the container declares but does not contain.
    `size_bytes` and `modified_ns` identify the version of the file. `later_size`: see `find_later_size`.
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
    size_bytes: int = 0
    modified_ns: int = 0
    later_size: str = ""

    def is_current(self, path: str | Path) -> bool:
        """Whether the file has the size and modification time that it had when it was probed."""
        return (self.size_bytes, self.modified_ns) == _stamp(path)


class Packet(NamedTuple):
    """One compressed frame, in decoding order.

    `is_entry`: a random access point, after which no frame refers to anything before it. Not every frame that the
    container marks as a key frame is one.
    """

    pts: int | None
    dts: int | None
    is_keyframe: bool
    is_entry: bool
    is_hidden: bool


@dataclass(frozen=True)
class IndexedFile:
    """A file that is open for decoding, with its index."""

    path: Path
    container: InputContainer
    stream: VideoStream
    info: VideoInfo
    packets: list[Packet]
    compressed: list[av.Packet]
    """The packets' data; empty for a file larger than MAX_HELD_BYTES."""
    copied: CopiedVideo | None
    """For a prepared copy, the video it was made from; `info` then has that video's number of frames and rate."""

    @property
    def num_held(self) -> int:
        """Number of frames that the file contains."""
        return self.info.num_frames if self.copied is None else len(self.copied.held())

    @property
    def is_progressive(self) -> bool:
        return getattr(self.stream.codec_context, "field_order", 0) == PROGRESSIVE

    @property
    def is_mp4(self) -> bool:
        return _is_mp4(self.stream)


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file -> (container, video stream). Demuxer and decoder errors become UnreadableVideoError."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # reading a named pipe would block
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


def decoded(path: str | Path) -> Iterator[VideoFrame]:
    """Decodes every frame that a player shows, in order.

    Raises:
        UnreadableVideoError: a frame cannot be decoded.
    """
    num_decoded = 0
    with opened(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                yield frame
                num_decoded += 1
        except av.error.InvalidDataError as error:
            reason = f"it cannot be decoded beyond its first {num_decoded} frames (invalid data)"
            raise UnreadableVideoError(path, reason) from error


def probe(path: str | Path) -> VideoInfo:
    """Reads a video's index and decodes its first frame, in milliseconds -> VideoInfo.

    Formats without an index are decoded completely. For a prepared copy, the number of frames and the rate are those
    of its source.

    Raises:
        UnreadableVideoError: the file is missing, empty, truncated or not a video, or its first frame is damaged.
    """
    with opened(path) as (container, stream):
        head, first_frame = _read_until_first_frame(path, container.demux(stream))
        return _info(path, stream, [_as_packet(packet, stream) for packet in head], first_frame)


def index_file(path: str | Path, container: InputContainer, stream: VideoStream, info: VideoInfo | None) -> IndexedFile:
    """Reads every packet. `info` is an earlier result of `probe`; the file is probed again if it has changed."""
    demuxed = container.demux(stream)
    head: list[av.Packet] = []
    if info is None or not info.is_current(path):
        head, first_frame = _read_until_first_frame(path, demuxed)
        info = _info(path, stream, [_as_packet(packet, stream) for packet in head], first_frame)
    packets, compressed = [], []
    for packet in itertools.chain(head, demuxed):
        if packet.size:
            packets.append(_as_packet(packet, stream))
            compressed += [packet] if container.size <= MAX_HELD_BYTES else []
    return IndexedFile(Path(path), container, stream, info, packets, compressed, _copied(path, stream))


def _video_stream(path: str | Path, container: InputContainer) -> VideoStream:
    """The first video stream that is not a cover picture; the other streams are discarded."""
    if container.format.name in ("image2", "tty") or container.format.name.endswith("_pipe"):
        raise UnreadableVideoError(path, "it is an image or a text file, not a video")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise UnreadableVideoError(path, "it has no video stream")
    if streams[0].codec_context is None:
        raise UnreadableVideoError(path, "there is no decoder for its video stream")
    streams[0].codec_context.thread_count = 1
    for stream in container.streams:
        if stream.index != streams[0].index:
            stream.discard = Discard.all
    return streams[0]


def _is_mp4(stream: VideoStream) -> bool:
    return "mp4" in stream.container.format.name.split(",")


def _index(stream: VideoStream) -> list:
    """The mp4's sample table; empty where it is incomplete: other containers, fragmented files, old PyAV."""
    is_whole = stream.frames > 0 and _is_mp4(stream)
    return list(getattr(stream, "index_entries", ())) if is_whole else []


def _as_packet(packet: av.Packet, stream: VideoStream) -> Packet:
    is_entry = packet.is_keyframe and (stream.codec_context.name != "h264" or _is_idr(packet, stream))
    return Packet(packet.pts, packet.dts, packet.is_keyframe, is_entry, packet.is_discard)


def _is_idr(packet: av.Packet, stream: VideoStream) -> bool:
    """Whether an H.264 frame resets the decoder (IDR). Other frames that a container marks as key frames may begin a
    gradual refresh, or precede frames that refer to earlier ones. Unknown layouts count as IDR."""
    layout = stream.codec_context.extradata
    if not layout or layout[0] != 1:  # no avcC record: start codes in place of lengths, as in MPEG-TS
        return True
    content, length_bytes, offset = memoryview(packet), (layout[4] & 3) + 1, 0
    while offset + length_bytes < len(content):
        unit_type = content[offset + length_bytes] & 31
        if unit_type in (H264_SLICE, H264_IDR_SLICE):
            return unit_type == H264_IDR_SLICE
        offset += length_bytes + int.from_bytes(content[offset : offset + length_bytes], "big")
    return False


def _read_until_first_frame(path: str | Path, demuxed: Iterator[av.Packet]) -> tuple[list[av.Packet], VideoFrame]:
    """The packets up to the first frame, and that frame."""
    packets: list[av.Packet] = []
    try:
        for packet in demuxed:
            packets += [packet] if packet.size else []
            for frame in packet.decode():
                return packets, frame
    except av.error.InvalidDataError as error:
        raise UnreadableVideoError(path, "its first frame cannot be decoded (invalid data)") from error
    raise UnreadableVideoError(path, "none of its frames can be decoded" if packets else "it has no frames")


def _info(path: str | Path, stream: VideoStream, head: list[Packet], first_frame: VideoFrame) -> VideoInfo:
    entries = _index(stream)
    times, num_frames = [entry.timestamp for entry in entries], sum(not entry.is_discard for entry in entries)
    # A cut before an open group leaves frames that refer to removed ones: the index counts them, decoders drop them.
    shown = [packet.pts for packet in head if packet.pts is not None and not packet.is_hidden]
    if not times or not head[0].is_keyframe or min(shown) < (first_frame.pts or 0):
        times = [frame.pts for frame in decoded(path) if frame.pts is not None]
        num_frames = len(times)
    if not times or stream.time_base is None:
        raise UnreadableVideoError(path, "its frames have no time stamps")
    fps = _mean_fps(times, stream.time_base, stream.average_rate)
    copied = _copied(path, stream)
    if copied is not None:
        if len(copied.held()) != num_frames:
            raise UnreadableVideoError(path, f"it contains {num_frames} of the {len(copied.held())} frames of the copy")
        num_frames, fps = copied.num_frames, copied.fps
    height, width = _upright_size(first_frame)
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
        *_stamp(path),
    )


def _upright_size(frame: VideoFrame) -> tuple[int, int]:
    return (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)


def find_later_size(path: str | Path, info: VideoInfo) -> str:
    """The first size among a video's key frames that differs from the first frame's, as "128 x 96" (width x height); ""
    if there is none before the end or the first damaged frame."""
    with suppress(UnreadableVideoError), opened(path) as (container, stream):
        if _copied(path, stream) is not None:  # always of one size
            return ""
        stream.codec_context.skip_frame = "NONKEY"
        for height, width in map(_upright_size, container.decode(stream)):
            if (height, width) != (info.height, info.width):
                return f"{width} x {height}"
    return ""


def _copied(path: str | Path, stream: VideoStream) -> CopiedVideo | None:
    """The source of a prepared copy; None for other videos."""
    try:
        return copied_video(stream.container.metadata)
    except ValueError as error:
        raise UnreadableVideoError(path, str(error)) from error


def _stamp(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _mean_fps(times: list[int], time_base: Fraction, declared_fps: Fraction | None) -> float:
    """The declared rate, which is exact, if the time stamps agree with it within 0.5 %; otherwise their mean rate."""
    span_seconds = (max(times) - min(times)) * time_base
    fps = (len(times) - 1) / span_seconds if span_seconds else declared_fps or Fraction(1)
    return float(declared_fps if declared_fps and abs(fps / declared_fps - 1) < 0.005 else fps)

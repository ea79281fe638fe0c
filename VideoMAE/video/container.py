"""Opens and indexes video files with PyAV: number, times and size of the frames, and the random access points."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


class IndexedFile(NamedTuple):
    """A file that is open for decoding, with its index.

    `num_held` counts the frames in the file. `compressed`, the packets' data, is empty for a file larger than
    MAX_HELD_BYTES. `copied` is the video from which a prepared copy was made; `info` then has that video's number of
    frames and rate.
    """

    path: Path
    container: InputContainer
    stream: VideoStream
    info: VideoInfo
    num_held: int
    packets: list[Packet]
    compressed: list[av.Packet]
    copied: CopiedVideo | None


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file -> (container, its first video stream that is not a cover picture).

    The other streams are discarded. Demuxer and decoder errors become UnreadableVideoError.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # reading a named pipe would block
            raise UnreadableVideoError(path, "it is a folder" if Path(path).is_dir() else "it is not a regular file")
        if Path(path).stat().st_size == 0:
            raise UnreadableVideoError(path, "the file is empty")
        with av.open(str(path), metadata_errors="ignore", options=DEMUXER_OPTIONS) as container:
            if container.format.name in ("image2", "tty") or container.format.name.endswith("_pipe"):
                raise UnreadableVideoError(path, "it is an image or a text file, not a video")
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise UnreadableVideoError(path, "it has no video stream")
            if streams[0].codec_context is None:
                raise UnreadableVideoError(path, "there is no decoder for its video stream")
            streams[0].codec_context.thread_count = 1
            for stream in container.streams:
                if stream.index != streams[0].index:
                    stream.discard = Discard.all
            needed_bytes = max((entry.pos + entry.size for entry in _sample_table(streams[0])), default=0)
            if needed_bytes > container.size:
                reason = f"it is cut off: its frames need {needed_bytes} bytes, it has {container.size}"
                raise UnreadableVideoError(path, reason)
            yield container, streams[0]
    except FileNotFoundError as error:
        raise UnreadableVideoError(path, "no such file") from error
    except av.error.InvalidDataError as error:
        raise UnreadableVideoError(path, "it is not a video, or it is damaged or cut off (invalid data)") from error
    except (av.error.FFmpegError, OSError) as error:
        raise UnreadableVideoError(path, (error.strerror or str(error)).lower()) from error


def _sample_table(stream: VideoStream) -> list:
    """The mp4's index; empty where it is incomplete: other containers, fragmented files, old PyAV."""
    is_complete = stream.frames > 0 and "mp4" in stream.container.format.name.split(",")
    return list(getattr(stream, "index_entries", ())) if is_complete else []


def decoded(path: str | Path) -> Iterator[VideoFrame]:
    """Decodes every frame that a player shows, in order. Raises UnreadableVideoError."""
    num_decoded = 0
    with opened(path) as (container, stream):
        try:
            for frame in container.decode(stream):
                yield frame
                num_decoded += 1
        except av.error.InvalidDataError as error:
            frames = "1 frame" if num_decoded == 1 else f"{num_decoded} frames"
            reason = f"it cannot be decoded beyond its first {frames} (invalid data)"
            raise UnreadableVideoError(path, reason) from error


def probe(path: str | Path) -> VideoInfo:
    """Reads a video's index and decodes its first frame, in milliseconds -> VideoInfo.

    Formats without an index are decoded completely. For a prepared copy, the number of frames and the rate are those
    of its source. Raises UnreadableVideoError if the file is missing, empty, truncated or not a video, or its first
    frame is damaged.
    """
    with opened(path) as (container, stream):
        return _read_info(path, stream, container.demux(stream))[0]


def index_file(path: str | Path, container: InputContainer, stream: VideoStream, info: VideoInfo | None) -> IndexedFile:
    """Reads every packet. `info` is an earlier result of `probe`; the file is probed again if it has changed."""
    demuxed = container.demux(stream)
    head: list[av.Packet] = []
    if info is None or (info.size_bytes, info.modified_ns) != _version(path):
        info, head = _read_info(path, stream, demuxed)
    packets, compressed = [], []
    for packet in itertools.chain(head, demuxed):
        if packet.size:
            is_entry = packet.is_keyframe and (stream.codec_context.name != "h264" or _is_idr(packet, stream))
            packets.append(Packet(packet.pts, packet.dts, packet.is_keyframe, is_entry, packet.is_discard))
            compressed += [packet] if container.size <= MAX_HELD_BYTES else []
    copied = _copied(path, stream)
    num_held = info.num_frames if copied is None else len(copied.held())
    return IndexedFile(Path(path), container, stream, info, num_held, packets, compressed, copied)


def _version(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _copied(path: str | Path, stream: VideoStream) -> CopiedVideo | None:
    """The source of a prepared copy; None for other videos."""
    try:
        return copied_video(stream.container.metadata)
    except ValueError as error:
        raise UnreadableVideoError(path, str(error)) from error


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


def _read_info(
    path: str | Path, stream: VideoStream, demuxed: Iterator[av.Packet]
) -> tuple[VideoInfo, list[av.Packet]]:
    """Reads up to the first decoded frame -> the video's properties, and the packets read."""
    head: list[av.Packet] = []
    try:
        for packet in demuxed:
            head += [packet] if packet.size else []
            if frames := packet.decode():
                break
        else:
            raise UnreadableVideoError(path, "none of its frames can be decoded" if head else "it has no frames")
    except av.error.InvalidDataError as error:
        raise UnreadableVideoError(path, "its first frame cannot be decoded (invalid data)") from error
    first_frame, context, entries = frames[0], stream.codec_context, _sample_table(stream)
    times, num_frames = [entry.timestamp for entry in entries], sum(not entry.is_discard for entry in entries)
    # A cut before an open group leaves frames that refer to removed ones: the index counts them, decoders drop them.
    shown = [packet.pts for packet in head if packet.pts is not None and not packet.is_discard]
    if not times or not head[0].is_keyframe or min(shown) < (first_frame.pts or 0):
        times = [frame.pts for frame in decoded(path) if frame.pts is not None]
        num_frames = len(times)
    if not times or stream.time_base is None:
        raise UnreadableVideoError(path, "its frames have no time stamps")
    span_seconds, declared_fps = (max(times) - min(times)) * stream.time_base, stream.average_rate
    exact_fps = (len(times) - 1) / span_seconds if span_seconds else declared_fps or Fraction(1)
    # The declared rate is exact, but not always right.
    fps = float(declared_fps if declared_fps and abs(exact_fps / declared_fps - 1) < 0.005 else exact_fps)
    copied = _copied(path, stream)
    if copied is not None:
        if len(copied.held()) != num_frames:
            raise UnreadableVideoError(path, f"it contains {num_frames} of the {len(copied.held())} frames of the copy")
        num_frames, fps = copied.num_frames, copied.fps
    num_overstated = max(stream.frames - len(entries), 0) if entries else 0
    info = VideoInfo(
        num_frames,
        fps,
        *_upright_size(first_frame),
        context.name,
        num_frames / fps,
        context.pix_fmt or "unknown",
        first_frame.rotation % 360,
        num_overstated,
        *_version(path),
    )
    return info, head


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

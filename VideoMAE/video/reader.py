"""Reading of video files: `probe` returns a file's properties, `Video` its frames at any indices.

Frame `i` is the i-th frame that a player shows, with every decoder. decord 0.6 silently returns wrong frames for all
but ordinary files: H.264 in mp4 with 8-bit 4:2:0 pixels, upright, every sample shown, closed groups of pictures. Other
files are recognized on opening, and PyAV decodes them. A prepared copy (prepared_copy.py) has the frame numbers of its
source.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from VideoMAE.video.container import IndexedFile, Packet, UnreadableVideoError, VideoInfo, index_file, opened, probe
from VideoMAE.video.decoders import DecoderName, DecordSource, PyAVSource, SequentialSource, require_decoder

__all__ = ["DecoderName", "UnreadableVideoError", "Video", "VideoInfo", "VideoOpener", "probe", "require_decoder"]

# decord stores time stamps in 32 bits and may hang when one is larger (its issue 269, pull request 341).
MAX_TIMESTAMP_OF_DECORD = 2**31 - 1
# Codecs that can be decoded from every entry if all groups of pictures are closed.
CODECS_WITH_ENTRIES = ("h264", "hevc", "vp9", "av1", "libdav1d", "mpeg4")


@dataclass(frozen=True)
class VideoOpener:
    """Opens videos with one decoder; `infos` by path, from a check of the dataset, saves probing them again."""

    decoder: DecoderName = "decord"
    infos: Mapping[str, VideoInfo] = field(default_factory=dict)

    def __call__(self, path: str | Path, *, size: tuple[int, int] | None = None) -> Video:
        return Video(path, size=size, decoder=self.decoder, info=self.infos.get(str(path)))


class Video:
    """An open video; close it, or use it as a context manager. Decodes on one thread; do not share between processes.

    Args:
        size: (height, width) to which frames are scaled while decoding, bilinear, without keeping the aspect ratio.
            None: the first frame's size, to which later frames of another size are scaled.
        decoder: used for files that it decodes correctly, PyAV for others; the frames are bit-identical.
        info: an earlier result of `probe`; if the file has not changed since, it is not probed again.

    Raises UnreadableVideoError as `probe` does, and ValueError as `require_decoder` does.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int] | None = None,
        decoder: DecoderName = "decord",
        info: VideoInfo | None = None,
    ) -> None:
        self.path = Path(path)
        self._closing = ExitStack()
        self._source: DecordSource | SequentialSource | None = None
        with ExitStack() as stack:
            file = index_file(path, *stack.enter_context(opened(path)), info)
            self.info, self._copied = file.info, file.copied
            self.num_frames, self.fps = file.info.num_frames, file.info.fps
            self._size = size or (file.info.height, file.info.width)
            require_decoder(decoder)
            is_copy = file.copied is not None and has_entries(file)  # PyAV is by far the fastest for its short groups
            if decoder == "decord" and not is_copy and is_supported_by_decord(file):
                source = DecordSource(file.path, self._size, scales=size is not None)
                self._source = source if source.num_frames == file.num_held else None
            if self._source is None and has_entries(file):
                self._source, self._closing = PyAVSource(file, self._size), stack.pop_all()
        self._source = self._source or SequentialSource(file.path, self._size)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the decoder; may be called twice."""
        self._source = None
        self._closing.close()

    @property
    def frames_held(self) -> np.ndarray:
        """The indices of the frames that the file contains: all, except in a prepared copy. -> (M,) int64"""
        return np.arange(self.num_frames) if self._copied is None else self._copied.held()

    def frames_at(self, indices: np.ndarray) -> np.ndarray:
        """RGB frames at (T,) indices in any order, repeats allowed -> (T, H, W, 3) uint8.

        Each distinct frame is decoded once. Raises ValueError for an index outside 0 to num_frames - 1, and
        UnreadableVideoError if a frame cannot be decoded: it is never replaced by another one.
        """
        positions = self.positions_in_file(indices)
        if not len(positions):
            return np.empty((0, *self._size, 3), np.uint8)
        distinct, inverse = np.unique(positions, return_inverse=True)
        frames = self._opened_source().read(distinct)
        return frames if np.array_equal(distinct, positions) else frames[inverse]

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """RGB frames at sorted indices, one after the other -> (H, W, 3) uint8 each.

        The video is decoded once, with few frames in memory. Raises as `frames_at`.
        """
        distinct, repeats = np.unique(self.positions_in_file(indices), return_counts=True)
        for frame, times in zip(self._opened_source().iterate(distinct), repeats, strict=True):
            yield from itertools.repeat(frame, times)

    def positions_in_file(self, indices: np.ndarray) -> np.ndarray:
        """The positions in the file of frames at (T,) indices, which differ only in a prepared copy -> (T,) int64"""
        wanted = np.asarray(indices, dtype=np.int64)
        wrong = wanted[(wanted < 0) | (wanted >= self.num_frames)]
        if len(wrong):
            raise ValueError(f"{self.path} has frames 0 to {self.num_frames - 1}; frame {wrong.min()} was requested")
        try:
            return wanted if self._copied is None else self._copied.positions(wanted)
        except ValueError as error:
            raise UnreadableVideoError(self.path, str(error)) from error

    def _opened_source(self) -> DecordSource | SequentialSource:
        if self._source is None:
            raise ValueError(f"video {self.path} is closed")
        return self._source


def has_entries(file: IndexedFile) -> bool:
    """Whether frames can be decoded from the preceding entry."""
    return (
        "mp4" in file.container.format.name.split(",")
        and file.info.codec in CODECS_WITH_ENTRIES
        and len(file.packets) == len(file.compressed) == file.num_held
        and not any(packet.is_hidden for packet in file.packets)
        and has_closed_groups(file.packets)
    )


def is_supported_by_decord(file: IndexedFile) -> bool:
    """Whether decord 0.6 returns the requested frames: an upright H.264 mp4 with one video stream, 8-bit 4:2:0 pixels,
    closed groups of pictures and every sample shown."""
    return (
        file.info.codec == "h264"
        and file.info.pixel_format in ("yuv420p", "yuvj420p")  # 10 bits: wrong colors
        and len(file.container.streams.video) == 1  # otherwise decord makes its own choice
        and not file.info.rotation  # 90 degrees: a fourth channel, which breaks batches
        and has_entries(file)  # edit lists: shifted frames, the last one repeated
        and all(packet.is_entry for packet in file.packets if packet.is_keyframe)  # open groups: shifted frames
        and all((packet.pts or 0) <= MAX_TIMESTAMP_OF_DECORD for packet in file.packets)
    )


def has_closed_groups(packets: list[Packet]) -> bool:
    """Whether every entry separates the packets: those decoded before it are also shown before it."""
    group_start, latest = None, -1
    for packet in packets:
        if packet.pts is None or packet.dts is None:
            return False
        if packet.is_entry:
            group_start = packet.pts
        if group_start is None or packet.pts <= (latest if packet.is_entry else group_start):
            return False
        latest = max(latest, packet.pts)
    return len({packet.pts for packet in packets}) == len(packets)

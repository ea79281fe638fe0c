"""Reading video files: what a file holds (`probe`), and its frames at any indices (`Video`).

Frame `i` is the i-th frame that a player shows, whatever decodes it. decord (H.264), torchcodec and PyAV read the
ordinary kind alike: an mp4 with 8-bit 4:2:0 pixels, upright, every sample shown, closed groups of pictures. On other
kinds decord 0.6 silently returns wrong frames, so they are recognised on opening, and PyAV decodes them. A prepared
copy (prepared_copy.py) answers as the video that it was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from VideoMAE.video.container import OpenFile, Packet, UnreadableVideoError, VideoInfo, learn, opened, probe
from VideoMAE.video.decoders import (
    DecoderName,
    DecordSource,
    PyAVSource,
    SequentialSource,
    Source,
    TorchcodecSource,
    require_decoder,
)

__all__ = ["DecoderName", "UnreadableVideoError", "Video", "VideoInfo", "VideoOpener", "probe", "require_decoder"]


# decord keeps time stamps in 32 bits and may never return when one is larger (its issue 269, pull request 341).
MAX_TIMESTAMP_OF_DECORD = 2**31 - 1
# Codecs whose decoding may begin at every entry of closed groups.
CODECS_WITH_ENTRIES = ("h264", "hevc", "vp9", "av1", "libdav1d", "mpeg4")


@dataclass(frozen=True)
class VideoOpener:
    """Opens videos with one decoder, sparing what a check of the dataset has learned: `infos`, by path."""

    decoder: DecoderName = "decord"
    infos: Mapping[str, VideoInfo] = field(default_factory=dict)

    def __call__(self, path: str | Path, *, size: tuple[int, int] | None = None) -> Video:
        return Video(path, size=size, decoder=self.decoder, known=self.infos.get(str(path)))


class Video:
    """An open video; close it, or use it as a context manager.

    `size` is (height, width): frames are squashed to it while decoding (bilinear). Without it they have the first
    frame's size, to which later frames of another size are scaled. `decoder` decodes where it gives
    the right frames, PyAV elsewhere. `known` is what `probe` said: if the file has not changed since, its first frame
    is not decoded once more. Raises UnreadableVideoError as `probe` does. One decoding thread: the data
    loader's workers are the parallelism. Not for sharing between processes.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: tuple[int, int] | None = None,
        decoder: DecoderName = "decord",
        known: VideoInfo | None = None,
    ) -> None:
        self.path = Path(path)
        self._closing = ExitStack()
        with ExitStack() as stack:
            file = learn(path, *stack.enter_context(opened(path)), known)
            self._source: Source | None = open_source(decoder, file, size)
            if isinstance(self._source, PyAVSource):
                self._closing = stack.pop_all()
        self.info, self._copied = file.info, file.copied
        self.num_frames, self.fps = self.info.num_frames, self.info.fps
        self._size = size or (self.info.height, self.info.width)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the decoder; closing twice is harmless."""
        self._source = None
        self._closing.close()

    @property
    def frames_held(self) -> np.ndarray:
        """The frames that the file holds: all of them, but in a prepared copy that has fewer. -> (M,) int64"""
        return np.arange(self.num_frames) if self._copied is None else self._copied.held()

    def frames_at(self, indices: np.ndarray) -> np.ndarray:
        """RGB frames at (T,) integer indices, in any order and with repeats -> (T, H, W, 3) uint8.

        Each distinct frame is decoded once. Raises ValueError for an index outside 0 to num_frames - 1, and
        UnreadableVideoError when a frame cannot be decoded: no other frame ever stands in for it.
        """
        source, wanted = self._wanted(indices)
        if not len(wanted):
            return np.empty((0, *self._size, 3), np.uint8)
        distinct, places = np.unique(wanted, return_inverse=True)
        frames = source.read(distinct)
        return frames if np.array_equal(distinct, wanted) else frames[places]

    def iterate(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        """RGB frames at rising indices one after the other -> (H, W, 3) uint8 each.

        The video is decoded once, and few frames are held at a time. Raises as `frames_at` does.
        """
        source, wanted = self._wanted(indices)
        distinct, repeats = np.unique(wanted, return_counts=True)
        for frame, times in zip(source.iterate(distinct), repeats, strict=True):
            for _ in range(times):
                yield frame

    def _wanted(self, indices: np.ndarray) -> tuple[Source, np.ndarray]:
        """The source, and the places in the file of the frames asked for. -> (T,) int64"""
        if self._source is None:
            raise ValueError(f"video {self.path} is closed")
        wanted = np.asarray(indices, dtype=np.int64)
        wrong = wanted[(wanted < 0) | (wanted >= self.num_frames)]
        if len(wrong):
            raise ValueError(f"{self.path} has frames 0 to {self.num_frames - 1}; frame {wrong.min()} was asked for")
        if self._copied is not None:
            try:
                wanted = self._copied.places(wanted)
            except ValueError as error:
                raise UnreadableVideoError(self.path, str(error)) from error
        return self._source, wanted


def open_source(decoder: DecoderName, file: OpenFile, wanted_size: tuple[int, int] | None) -> Source:
    """The decoder asked for where it gives this file's frames as they are, else PyAV: from key frames on where that is
    safe, else from the first frame on. The frames are the same to the bit whatever is asked for.

    Raises:
        ValueError: the decoder is not installed.
        UnreadableVideoError: it cannot open a file that it should be able to open.
    """
    require_decoder(decoder)
    size = wanted_size or (file.info.height, file.info.width)
    if file.copied is not None and has_entries(file):  # the quickest by far on so short groups
        return PyAVSource(file, size)
    source: DecordSource | TorchcodecSource | None = None
    if decoder == "decord" and is_for_decord(file):
        source = DecordSource(file.path, size, scales=wanted_size is not None)
    elif decoder == "torchcodec" and is_plain(file) and wanted_size is None:
        source = TorchcodecSource(file.path, size)
    if source is not None and source.num_frames == file.num_held:
        return source
    return PyAVSource(file, size) if has_entries(file) else SequentialSource(file.path, size)


def has_entries(file: OpenFile) -> bool:
    """Whether frames can be decoded from the entry before them on."""
    return (
        file.is_mp4
        and file.info.codec in CODECS_WITH_ENTRIES
        and len(file.packets) == len(file.compressed) == file.num_held
        and not any(packet.is_hidden for packet in file.packets)
        and has_closed_groups(file.packets)
    )


def is_plain(file: OpenFile) -> bool:
    """The kind that every decoder reads alike: an upright mp4 of one film with 8-bit 4:2:0 pixels, closed groups of
    pictures and every sample shown."""
    return (
        file.info.pixel_format in ("yuv420p", "yuvj420p")  # decord, 10 bits: wrong colours
        and len(file.container.streams.video) == 1  # several: decord picks one by itself
        and not file.info.rotation  # decord, 90 degrees: a fourth channel, and batches fail
        and has_entries(file)  # decord, edit lists: shifted frames, the last one repeated
        and all(packet.is_entry for packet in file.packets if packet.is_keyframe)  # decord, open groups: shifted frames
    )


def is_for_decord(file: OpenFile) -> bool:
    """Whether decord 0.6 returns the frames asked for."""
    latest = max((packet.pts or 0 for packet in file.packets), default=0)
    return is_plain(file) and file.info.codec == "h264" and latest <= MAX_TIMESTAMP_OF_DECORD


def has_closed_groups(packets: list[Packet]) -> bool:
    """Whether every entry parts the packets: those decoded before it are shown before it, those after it after it."""
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

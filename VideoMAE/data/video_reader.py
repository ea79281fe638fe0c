"""Reading video files: what a file holds (`probe`), and its frames at any indices (`Video`).

Frame `i` is the i-th frame that a player shows, whatever decodes it. decord (H.264), torchcodec and PyAV read the
ordinary kind alike: an mp4 with 8-bit 4:2:0 pixels, upright, every sample shown, closed groups of pictures. On other
kinds decord 0.6 silently returns wrong frames, so they are recognised on opening, and PyAV decodes them.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from VideoMAE.data.video_container import UnreadableVideoError, VideoInfo, learn, opened, probe
from VideoMAE.data.video_decoders import DecoderName, PyAVSource, Source, open_source, require_decoder

__all__ = ["DecoderName", "UnreadableVideoError", "Video", "VideoInfo", "probe", "require_decoder"]


class Video:
    """An open video; close it, or use it as a context manager.

    `size` is (height, width): frames are squashed to it while decoding (bilinear). `decoder` decodes where it gives
    the right frames, PyAV elsewhere. Raises UnreadableVideoError as `probe` does. One decoding thread: the data
    loader's workers are the parallelism. Not for sharing between processes.
    """

    def __init__(
        self, path: str | Path, *, size: tuple[int, int] | None = None, decoder: DecoderName = "decord"
    ) -> None:
        self.path = Path(path)
        self._closing = ExitStack()
        with ExitStack() as stack:
            file = learn(path, *stack.enter_context(opened(path)))
            self._source: Source | None = open_source(decoder, file, size)
            if isinstance(self._source, PyAVSource):
                self._closing = stack.pop_all()
        self.info = file.info
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

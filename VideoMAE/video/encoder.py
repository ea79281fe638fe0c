"""Encoding of frames as H.264 in MP4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.video.frame import PictureType, VideoFrame

COLOUR_ATTRIBUTES = ("colorspace", "color_range", "color_primaries", "color_trc")


def encode_h264(
    path: Path,
    frames: Iterable[VideoFrame],
    *,
    fps: Fraction,
    options: Mapping[str, str],
    muxer_options: Mapping[str, str] | None = None,
    comment: str = "",
    bitexact: bool = False,
) -> None:
    """Writes frames of one size and pixel format, at a constant rate; the first frame determines both.

    Encodes on one thread: the number of threads would change the bytes. `options` are x264's; `bitexact` omits encoder
    version strings. Raises OSError if the file cannot be written.
    """
    with av.open(str(path), "w", format="mp4", options=dict(muxer_options or {})) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264", rate=fps, options=dict(options))
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
                context = stream.codec_context
                context.time_base, context.thread_count = 1 / fps, 1
                context.flags |= Flags.bitexact if bitexact else 0
                for name in COLOUR_ATTRIBUTES:
                    setattr(context, name, getattr(frame, name))
            frame.pts, frame.time_base = number, 1 / fps
            frame.pict_type = PictureType.NONE  # the encoder, not the source, chooses the key frames
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))


def frame_from_yuv420p(planes: np.ndarray) -> VideoFrame:
    """A frame from planar YUV 4:2:0, (3/2 H, W) uint8, as `cv2.COLOR_RGB2YUV_I420` returns it."""
    return VideoFrame.from_ndarray(planes, format="yuv420p")

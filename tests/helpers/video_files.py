"""Small video files made for the tests through PyAV: good ones, odd ones that must be read, bad ones that must not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Frames = Iterable[np.ndarray]


def grey_level(index: int) -> int:
    """Level of frame `index` of a grey video: `0, 8, ... 248, 0, ...`; it tells which frame was read."""
    return 8 * index % 256


@contextmanager
def own_priority() -> Iterator[None]:
    """SVT-AV1, run by root, gives the thread that starts it real-time priority; every later thread and process of this
    one would inherit that, and on one core wait for ever for those without it."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


@own_priority()
def write_video(
    path: Path,
    frames: Frames,
    *,
    fps: int = 30,
    codec: str = "libx264",
    gop: int = 12,
    bframes: int = 0,
    pix_fmt: str = "yuv420p",
    timestamps: Callable[[int], int] = lambda i: i,
    rotation: int = 0,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    comment: str = "",
) -> Path:
    """Encode (H, W, 3) uint8 frames; `timestamps(i)` is a time in units of 1/fps, `rotation` is counterclockwise."""
    options = {"g": str(gop), "bf": str(bframes), **(codec_options or {})}
    if codec == "libx264":
        # x264's AVX-512 look-ahead reads beyond its buffers: with it, the same frames seldom give other bytes.
        steady = {"mbtree": "0", "weightp": "none", "b_strategy": "0", "threads": "1"}
        options = {"preset": "veryfast", "crf": "12", **steady, **options}
    stream = None
    with av.open(str(path), "w", options=container_options or {}) as container:
        container.metadata.update({"comment": comment} if comment else {})
        for index, pixels in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=fps, options=options)
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.time_base = Fraction(1, fps)
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = timestamps(index), Fraction(1, fps)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))
    return path


def grey_frames(
    num_frames: int, *, width: int = 64, height: int = 48, levels: Callable[[int], int] = grey_level
) -> Iterator[np.ndarray]:
    """Flat frames, frame `i` of level `levels(i)`."""
    return (np.full((height, width, 3), levels(i), np.uint8) for i in range(num_frames))


def moving_frames(num_frames: int, *, width: int = 64, height: int = 48, seed: int = 0) -> Iterator[np.ndarray]:
    """Smooth coloured texture that drifts, with a bright square in the first corner, so that a turned frame shows."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, size=3)
    for i in range(num_frames):
        waves = [np.sin(rows / (5 + c) + columns / (7 - c) + 0.3 * i + phases[c]) for c in range(3)]
        frame = (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
        frame[: height // 4, : width // 4] = 250
        yield frame


def write_grey_video(
    path: Path,
    num_frames: int,
    *,
    width: int = 64,
    height: int = 48,
    fps: int = 30,
    codec: str = "libx264",
    gop: int = 12,
    bframes: int = 0,
    pix_fmt: str = "yuv420p",
    levels: Callable[[int], int] = grey_level,
) -> Path:
    """Video whose frame `i` is flat grey of level `levels(i)`, by default `8 * i % 256`."""
    frames = grey_frames(num_frames, width=width, height=height, levels=levels)
    return write_video(path, frames, fps=fps, codec=codec, gop=gop, bframes=bframes, pix_fmt=pix_fmt)


def write_moving_video(
    path: Path,
    num_frames: int,
    *,
    width: int = 64,
    height: int = 48,
    fps: int = 30,
    gop: int = 12,
    bframes: int = 0,
    pix_fmt: str = "yuv420p",
    seed: int = 0,
) -> Path:
    """Video of a drifting coloured texture, another one for each seed."""
    frames = moving_frames(num_frames, width=width, height=height, seed=seed)
    return write_video(path, frames, fps=fps, gop=gop, bframes=bframes, pix_fmt=pix_fmt)


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html><body>404: this video is no longer available</body></html>\n" * 20)


def truncated(path: Path) -> None:
    """Cut in the frames; the index, which stood at the end, is lost."""
    write_moving_video(path, 24)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def truncated_faststart(path: Path) -> None:
    """Cut in the frames; the index stands before them and is whole."""
    write_video(path, moving_frames(24), container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path: Path) -> None:
    """A fragmented file that ends after its header."""
    write_video(path, moving_frames(3), container_options={"movflags": "frag_keyframe+empty_moov"})
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"moof") - 4])


def damaged_first_frame(path: Path) -> None:
    """Right index, nothing but zeros where the frames should be."""
    write_moving_video(path, 12)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def one_frame(path: Path) -> None:
    write_moving_video(path, 1)


def odd_size(path: Path) -> None:
    write_moving_video(path, 26, width=181, height=99, pix_fmt="yuv444p")


def cropped(path: Path) -> None:
    """A size that is no multiple of 16: the decoder cuts its blocks."""
    write_moving_video(path, 26, width=98, height=58)


def ten_bit(path: Path) -> None:
    write_moving_video(path, 26, pix_fmt="yuv420p10le")


def rotated(path: Path, degrees: int = 90) -> None:
    write_video(path, moving_frames(26, width=96), rotation=degrees)


def overstated_frame_count(path: Path) -> None:
    """26 frames whose header declares 46 (time table) and half as much again in seconds."""
    write_moving_video(path, 26)
    content = bytearray(path.read_bytes())
    for box, offset, num, den, plus in ((b"stts", 12, 1, 1, 20), (b"mdhd", 20, 3, 2, 0), (b"tkhd", 24, 3, 2, 0)):
        start = content.index(box) + offset
        value = int.from_bytes(content[start : start + 4], "big")
        content[start : start + 4] = (value * num // den + plus).to_bytes(4, "big")
    path.write_bytes(content)


def cut_by_edit_list(path: Path) -> None:
    """35 frames, of which an edit list hides the first 9, as a cut without encoding leaves them."""
    write_video(path, moving_frames(35), bframes=2, timestamps=lambda i: i - 9)


def open_groups(path: Path) -> None:
    """Key frames that are followed by frames shown before them."""
    options = {"x264-params": "open-gop=1:keyint=8:min-keyint=8:scenecut=0"}
    write_video(path, moving_frames(26), bframes=3, codec_options=options)


def variable_rate(path: Path) -> None:
    write_video(path, moving_frames(26), bframes=2, timestamps=lambda i: i + i * i // 3)


def late_start(path: Path) -> None:
    write_video(path, moving_frames(26), timestamps=lambda i: i + 50)


def fragmented(path: Path) -> None:
    write_video(path, moving_frames(26), container_options={"movflags": "frag_keyframe+empty_moov"})


def transport_stream(path: Path) -> None:
    """MPEG-TS, though its name ends in .mp4."""
    stream_path = path.with_suffix(".ts")
    write_moving_video(stream_path, 26, bframes=2)
    stream_path.replace(path)


def other_codec(path: Path) -> None:
    write_video(path, moving_frames(26), codec="mpeg4")


def write_changing_video(
    path: Path, *, codec: str = "libx264", sizes: Iterable[tuple[int, int]] = ((48, 64), (96, 128)), rotation: int = 0
) -> None:
    """13 frames of each size (height, width), one after the other, as joining films without encoding leaves them."""
    parts = [path.with_name(f"{path.stem}.{i}{'.ts' if codec == 'libx264' else '.webm'}") for i, _ in enumerate(sizes)]
    for part, (height, width) in zip(parts, sizes, strict=True):
        write_video(part, moving_frames(13, height=height, width=width), codec=codec)
    joined, time = None, 0
    with av.open(str(path), "w") as container:
        for part in parts:
            with av.open(str(part)) as source:
                if joined is None:
                    joined = container.add_stream_from_template(source.streams.video[0])
                    joined.time_base = Fraction(1, 30)
                    if rotation:
                        joined.set_display_rotation(rotation)
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream, packet.time_base = joined, Fraction(1, 30)
                        packet.pts = packet.dts = time
                        packet.duration, time = 1, time + 1
                        container.mux(packet)
    for part in parts:
        part.unlink()


def no_key_frame(path: Path) -> None:
    """A recording that begins between two key frames, of an encoder that refreshes frames bit by bit instead of making
    further ones; it can be decoded from the end of the first refresh on."""
    whole = path.with_suffix(".whole.mp4")
    write_video(whole, moving_frames(78), codec_options={"x264-params": "intra-refresh=1:keyint=26"})
    with av.open(str(whole)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[1:]:
            packet.stream = stream
            container.mux(packet)
    whole.unlink()


def changes_size(path: Path) -> None:
    write_changing_video(path)


BAD_VIDEOS: dict[str, Callable[[Path], None]] = {
    maker.__name__: maker
    for maker in (zero_bytes, text, truncated, truncated_faststart, audio_only, no_frames, damaged_first_frame)
}
ODD_VIDEOS: dict[str, Callable[[Path], None]] = {
    maker.__name__: maker
    for maker in (
        one_frame,
        odd_size,
        cropped,
        ten_bit,
        rotated,
        overstated_frame_count,
        cut_by_edit_list,
        open_groups,
        variable_rate,
        late_start,
        fragmented,
        transport_stream,
        other_codec,
        changes_size,
    )
}

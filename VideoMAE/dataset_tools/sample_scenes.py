"""Drawing and encoding of the sample videos that `make_sample.py` labels.

A scene is a textured background and a grid of objects. Its palette decides colours, texture and the objects' shape; its
motion moves objects and background alike. Both fill the whole frame for the whole video, so that neither a crop, nor a
flip, nor the choice of frames can hide them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.codec.context import Flags as CodecFlags

# Polygon corners in 1/16 pixel: slow motion stays smooth at 64 pixels.
SUBPIXEL_BITS = 4
OBJECT_SPACING = 0.32  # of the short side
DISTRACTOR_FRACTION = 0.15
GHOST_DELAYS_SECONDS = (0.24, 0.12)
PIXEL_NOISE_LEVELS = 5.0
MOTIONS = ("still", "smooth", "shaking")


@dataclass(frozen=True)
class Palette:
    """Ranges of colours in OpenCV's HSV (hue 0 to 179, the others 0 to 255), the texture, the shape of the objects."""

    background: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    objects: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    grain: tuple[int, int]  # height and width of one texture cell, in pixels
    contrast: float
    num_corners: int


PALETTES = {
    "gold": Palette(((14, 28), (140, 220), (180, 235)), ((0, 12), (170, 240), (200, 255)), (48, 48), 0.10, 12),
    "sea": Palette(((88, 112), (110, 200), (110, 190)), ((45, 82), (60, 200), (150, 255)), (20, 90), 0.2, 4),
    "grey": Palette(((0, 179), (0, 28), (100, 175)), ((0, 179), (0, 40), (40, 240)), (24, 24), 0.12, 5),
    "night": Palette(((150, 179), (110, 220), (25, 65)), ((165, 185), (150, 240), (110, 210)), (20, 20), 0.35, 3),
}


@dataclass(frozen=True)
class Scene:
    """Everything a video's bytes depend on."""

    video_id: str
    palette: str
    motion: str
    width: int
    height: int
    frame_rate: int
    num_frames: int
    seed: int


def draw_scene(scene: Scene) -> Iterator[np.ndarray]:
    """Draw a scene frame by frame -> (H, W, 3) uint8, RGB, N times."""
    rng = np.random.default_rng((scene.seed, int(scene.video_id)))
    height, width = scene.height, scene.width
    palette = PALETTES[scene.palette]
    # Two by two copies: a window of the frame's size at any offset is a wrapped-around background.
    background = np.tile(_draw_texture(palette, height, width, rng), (2, 2, 1))
    corners, colours, shifts, flicker = _move_objects(scene, palette, rng)
    noise = np.clip(rng.normal(128, PIXEL_NOISE_LEVELS, (height + 32, width + 32, 3)), 0, 255).astype(np.uint8)
    noise_offsets = rng.integers(0, 33, (scene.num_frames, 2))
    ghost_delays = [round(delay * scene.frame_rate) for delay in GHOST_DELAYS_SECONDS]
    seconds = np.arange(scene.num_frames) / scene.frame_rate
    gains = flicker + 0.08 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.5) * seconds + rng.random()))
    offset = rng.uniform(-12, 12) - 128

    for frame_index in range(scene.num_frames):
        top, left = shifts[frame_index] % (height, width)
        frame = background[top : top + height, left : left + width].copy()
        # Whatever moves leaves pale ghosts where it was: one frame shows the trail, and a still object covers it.
        for delay in (*ghost_delays, 0):
            for polygon, colour in zip(corners[max(frame_index - delay, 0)], colours, strict=True):
                shown = tuple((level + 2 * 255) // 3 for level in colour) if delay else colour
                cv2.fillConvexPoly(frame, polygon, shown, cv2.LINE_8, SUBPIXEL_BITS)
        top, left = noise_offsets[frame_index]
        yield cv2.addWeighted(frame, gains[frame_index], noise[top : top + height, left : left + width], 1.0, offset)


def write_video(path: Path, scene: Scene) -> dict[str, str | int]:
    """Encode a scene as H.264 in MP4, the same bytes every time -> the video's entry in `metadata.json`."""
    cv2.setNumThreads(1)
    # 600 ticks a second hold whole frames at 24, 25 and 30 fps: the stated duration is exact.
    muxing = {"fflags": "+bitexact", "movie_timescale": "600"}
    with av.open(str(path), "w", format="mp4", options=muxing) as container:
        stream = container.add_stream("libx264", rate=scene.frame_rate, options={"preset": "superfast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        stream.codec_context.flags |= CodecFlags.bitexact
        # More threads, or as many as there are cores, would make the bytes depend on the machine.
        stream.codec_context.thread_count = 1
        for frame_index, frame in enumerate(draw_scene(scene)):
            planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).astype(np.uint8, copy=False)
            video_frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            video_frame.pts, video_frame.time_base = frame_index, Fraction(1, scene.frame_rate)
            container.mux(stream.encode(video_frame))
        container.mux(stream.encode())
    return probe_video(path)


def probe_video(path: Path) -> dict[str, str | int]:
    """Read what a video's header says, without decoding -> an entry of `metadata.json`."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.duration is None or stream.time_base is None or stream.average_rate is None:
            raise ValueError(f"{path} states no duration or frame rate")
        return {
            "codec_name": stream.codec_context.name,
            "duration": f"{float(stream.duration * stream.time_base):.6f}",
            "file": f"videos/{path.name}",
            "frame_rate": f"{stream.average_rate.numerator}/{stream.average_rate.denominator}",
            "height": stream.codec_context.height,
            "number_of_frames": str(stream.frames),
            "width": stream.codec_context.width,
        }


def _draw_hsv(ranges: tuple[tuple[int, int], ...], count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw colours from ranges of hue, saturation and value -> (count, 3) uint8, RGB."""
    hsv = np.stack([rng.integers(low, high + 1, count) for low, high in ranges], axis=-1)
    hsv[:, 0] %= 180
    return cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0]


def _draw_texture(palette: Palette, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one still background, its grain as wide as the palette says -> (H, W, 3) uint8."""
    first, second = _draw_hsv(palette.background, 2, rng).astype(np.float32)
    rows, columns = max(2, height // palette.grain[0]), max(2, width // palette.grain[1])
    cells = rng.normal(size=(2, rows, columns)).astype(np.float32)
    mixing, shading = (cv2.resize(cell, (width, height), interpolation=cv2.INTER_LINEAR) for cell in cells)
    mixing = np.clip(0.5 + 0.5 * mixing, 0, 1)[..., None]
    colours = first * mixing + second * (1 - mixing)
    return np.clip(colours * (1 + palette.contrast * shading[..., None]), 0, 255).astype(np.uint8)


def _move_objects(
    scene: Scene, palette: Palette, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, ...]], np.ndarray, np.ndarray]:
    """Lay out the objects and move them.

    Returns, for N frames and M objects, the objects' corners (N, M, C, 2) int32 in 1/16 pixel, their M colours, the
    background's shift (N, 2) int64 in pixels, down and right, and the factor of the light (N,).
    """
    short_side = min(scene.height, scene.width)
    spacing = OBJECT_SPACING * short_side
    grid = np.mgrid[0 : scene.width : spacing, 0 : scene.height : spacing].reshape(2, -1).T
    anchors = grid + rng.uniform(0, spacing, grid.shape)
    count = len(anchors)
    radii = rng.uniform(0.07, 0.11, count) * short_side
    colours = _draw_hsv(palette.objects, count, rng)

    offsets, scales = _move(scene.motion, scene, count + 1, rng)
    shifts = np.rint(short_side * offsets[:, -1, ::-1]).astype(np.int64)
    flicker = np.minimum(scales[:, -1], 1)  # what shrinks an object dims the light
    offsets, scales = offsets[:, :-1], scales[:, :-1]
    # Distractors wear any colour and move in any way, against the rest of the scene.
    distractors = np.flatnonzero(rng.random(count) < DISTRACTOR_FRACTION)
    colours[distractors] = _draw_hsv(((0, 179), (0, 255), (40, 255)), count, rng)[distractors]
    stray_motion = MOTIONS[rng.integers(len(MOTIONS))]
    offsets[:, distractors], scales[:, distractors] = _move(stray_motion, scene, len(distractors), rng)

    margin = 0.1 * short_side
    extent = np.array([scene.width, scene.height]) + 2 * margin
    centres = (anchors + short_side * offsets + margin) % extent - margin
    angles = rng.uniform(0, 2 * np.pi, count)[:, None] + np.linspace(0, 2 * np.pi, palette.num_corners, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radii[:, None, None]
    corners = centres[:, :, None] + outline * scales[:, :, None, None]
    return (
        np.rint(corners * 2**SUBPIXEL_BITS).astype(np.int32),
        [tuple(int(level) for level in colour) for colour in colours],
        shifts,
        flicker,
    )


def _move(motion: str, scene: Scene, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Move `count` things -> offsets (N, count, 2) in short sides, (right, down), and factors of size (N, count)."""
    seconds = np.arange(scene.num_frames)[:, None] / scene.frame_rate
    phases = rng.uniform(0, 2 * np.pi, (2, count))
    sizes: np.ndarray = np.ones((scene.num_frames, count))
    if motion == "still":
        return 0.004 * np.stack([np.sin(seconds + phase) for phase in phases], axis=-1), sizes
    if motion == "smooth":
        speeds = rng.uniform(0.45, 0.65, count)  # short sides per second
        if rng.random() < 0.5:  # all drift about the same way
            headings = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.3, count)
            return seconds[..., None] * (speeds * np.stack([np.cos(headings), np.sin(headings)])).T, sizes
        radius, turn = 0.18, rng.choice([-1, 1])
        angles = phases[0] + turn * seconds * speeds / radius
        return radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1), sizes
    # Shaking: a jump every 0.06 to 0.12 s, of irregular length so that no stride of frames can freeze it.
    jumps = np.cumsum(rng.uniform(0.06, 0.12, int(seconds[-1, 0] / 0.06) + 2))
    held = np.searchsorted(jumps, seconds[:, 0])
    offsets = rng.normal(0, 0.06, (len(jumps) + 1, count, 2))
    sizes = rng.uniform(0.4, 1.6, (len(jumps) + 1, count))
    return offsets[held], sizes[held]

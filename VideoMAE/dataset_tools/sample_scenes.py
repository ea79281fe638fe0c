"""Synthetic videos for `emodiversity sample`.

A scene is a textured background and a grid of objects. Its palette determines colours, texture and the shape of the
objects; its motion moves objects and background. Both fill the whole frame for the whole video, so that they remain
visible under any crop, flip and choice of frames.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from VideoMAE.dataset_tools.programs import metadata_entry
from VideoMAE.video.encoder import encode_h264, frame_from_yuv420p
from VideoMAE.video.reader import probe

# Polygon corners in 1/16 pixel: slow motion stays smooth at 64 pixels.
SUBPIXEL_BITS = 4


class Palette(NamedTuple):
    """Colour ranges in OpenCV's HSV (hue 0 to 179, the others 0 to 255), the texture and the shape of the objects."""

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


class Scene(NamedTuple):
    """Everything that determines a video's bytes."""

    video_id: str
    palette: str
    motion: str
    width: int
    height: int
    frame_rate: int
    num_frames: int
    seed: int


def draw_scene(scene: Scene) -> Iterator[np.ndarray]:
    """Draws the N frames of a scene -> (H, W, 3) uint8 RGB each."""
    rng = np.random.default_rng((scene.seed, int(scene.video_id)))
    height, width = scene.height, scene.width
    palette = PALETTES[scene.palette]
    # The background: two colours, mixed and shaded with the palette's grain.
    first, second = _draw_hsv(palette.background, 2, rng).astype(np.float32)
    rows, columns = max(2, height // palette.grain[0]), max(2, width // palette.grain[1])
    cells = rng.normal(size=(2, rows, columns)).astype(np.float32)
    mixing, shading = (cv2.resize(cell, (width, height), interpolation=cv2.INTER_LINEAR)[..., None] for cell in cells)
    mixing = np.clip(0.5 + 0.5 * mixing, 0, 1)
    shaded = (first * mixing + second * (1 - mixing)) * (1 + palette.contrast * shading)
    # Tiled 2 x 2: a window of the frame's size at any offset is the background, wrapped around.
    background = np.tile(np.clip(shaded, 0, 255).astype(np.uint8), (2, 2, 1))

    corners, colours, shifts, flicker = _move_objects(scene, palette, rng)
    noise = np.clip(rng.normal(128, 5, (height + 32, width + 32, 3)), 0, 255).astype(np.uint8)
    noise_offsets = rng.integers(0, 33, (scene.num_frames, 2))
    ghost_delays = [round(seconds * scene.frame_rate) for seconds in (0.24, 0.12)]
    seconds = np.arange(scene.num_frames) / scene.frame_rate
    gains = flicker + 0.08 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.5) * seconds + rng.random()))
    offset = rng.uniform(-12, 12) - 128

    for frame_index in range(scene.num_frames):
        top, left = shifts[frame_index] % (height, width)
        frame = background[top : top + height, left : left + width].copy()
        # Moving objects leave pale ghosts, so that a single frame shows motion; a still object covers its ghosts.
        for delay in (*ghost_delays, 0):
            for polygon, colour in zip(corners[max(frame_index - delay, 0)], colours, strict=True):
                shown = [(level + 2 * 255) // 3 for level in colour] if delay else colour
                cv2.fillConvexPoly(frame, polygon, shown, cv2.LINE_8, SUBPIXEL_BITS)
        top, left = noise_offsets[frame_index]
        yield cv2.addWeighted(frame, gains[frame_index], noise[top : top + height, left : left + width], 1.0, offset)


def write_video(path: Path, scene: Scene) -> dict[str, str | int]:
    """Encodes a scene as H.264 in MP4, reproducibly -> the video's entry in `metadata.json`."""
    cv2.setNumThreads(1)
    planes = (cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).astype(np.uint8, copy=False) for frame in draw_scene(scene))
    encode_h264(
        path,
        map(frame_from_yuv420p, planes),
        fps=Fraction(scene.frame_rate),
        options={"preset": "superfast", "crf": "26"},
        # 600 ticks per second represent 24, 25 and 30 fps exactly, and so the duration.
        muxer_options={"fflags": "+bitexact", "movie_timescale": "600"},
        bitexact=True,
    )
    return metadata_entry(probe(path), f"videos/{path.name}")


def _draw_hsv(ranges: tuple[tuple[int, int], ...], count: int, rng: np.random.Generator) -> np.ndarray:
    """Samples colours from ranges of hue, saturation and value -> (count, 3) uint8 RGB."""
    hsv = np.stack([rng.integers(low, high + 1, count) for low, high in ranges], axis=-1)
    hsv[:, 0] %= 180
    return cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2RGB)[0]


def _move_objects(
    scene: Scene, palette: Palette, rng: np.random.Generator
) -> tuple[np.ndarray, list[list[int]], np.ndarray, np.ndarray]:
    """Places and moves the M objects in N frames.

    Returns the corners (N, M, C, 2) int32 in 1/16 pixel, the M colours, the background's shift (N, 2) int64 in pixels,
    down and right, and the brightness factors (N,).
    """
    short_side = min(scene.height, scene.width)
    spacing = 0.32 * short_side
    grid = np.mgrid[0 : scene.width : spacing, 0 : scene.height : spacing].reshape(2, -1).T
    anchors = grid + rng.uniform(0, spacing, grid.shape)
    count = len(anchors)
    radii = rng.uniform(0.07, 0.11, count) * short_side
    colours = _draw_hsv(palette.objects, count, rng)

    offsets, scales = _move(scene.motion, scene, count + 1, rng)
    shifts = np.rint(short_side * offsets[:, -1, ::-1]).astype(np.int64)
    flicker = np.minimum(scales[:, -1], 1)  # shrinking objects also dim the light
    offsets, scales = offsets[:, :-1], scales[:, :-1]
    # Distractors have random colours and a motion of their own.
    distractors = np.flatnonzero(rng.random(count) < 0.15)
    colours[distractors] = _draw_hsv(((0, 179), (0, 255), (40, 255)), count, rng)[distractors]
    stray_motion = ("still", "smooth", "shaking")[rng.integers(3)]
    offsets[:, distractors], scales[:, distractors] = _move(stray_motion, scene, len(distractors), rng)

    margin = 0.1 * short_side
    extent = np.array([scene.width, scene.height]) + 2 * margin
    centres = (anchors + short_side * offsets + margin) % extent - margin
    angles = rng.uniform(0, 2 * np.pi, count)[:, None] + np.linspace(0, 2 * np.pi, palette.num_corners, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radii[:, None, None]
    corners = np.rint((centres[:, :, None] + outline * scales[:, :, None, None]) * 2**SUBPIXEL_BITS).astype(np.int32)
    return corners, colours.tolist(), shifts, flicker


def _move(motion: str, scene: Scene, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Samples the motion of `count` objects -> offsets (N, count, 2), in short sides, and scales (N, count)."""
    seconds = np.arange(scene.num_frames)[:, None] / scene.frame_rate
    phases = rng.uniform(0, 2 * np.pi, (2, count))
    sizes: np.ndarray = np.ones((scene.num_frames, count))
    if motion == "still":
        return 0.004 * np.stack([np.sin(seconds + phase) for phase in phases], axis=-1), sizes
    if motion == "smooth":
        speeds = rng.uniform(0.45, 0.65, count)  # short sides per second
        if rng.random() < 0.5:  # all drift in about the same direction
            headings = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.3, count)
            return seconds[..., None] * (speeds * np.stack([np.cos(headings), np.sin(headings)])).T, sizes
        radius, turn = 0.18, rng.choice([-1, 1])
        angles = phases[0] + turn * seconds * speeds / radius
        return radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1), sizes
    # Shaking: a jump every 0.06 to 0.12 s; the interval varies so that no sampling stride can hide the motion.
    jumps = np.cumsum(rng.uniform(0.06, 0.12, int(seconds[-1, 0] / 0.06) + 2))
    held = np.searchsorted(jumps, seconds[:, 0])
    offsets = rng.normal(0, 0.06, (len(jumps) + 1, count, 2))
    sizes = rng.uniform(0.4, 1.6, (len(jumps) + 1, count))
    return offsets[held], sizes[held]

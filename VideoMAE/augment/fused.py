"""Fused augmentation: the operations of `TrainTransform`, with each frame resampled once instead of once per operation.

`ClipPlan` turns the drawn operations into color steps, one geometric map and fill colors, which `apply` applies. The
order of the operations is kept, and erasing is the same code. The result differs from the exact one as follows:

- Rotation, shears, translations, crop, resizing and flip are a single map from output pixels to frame pixels, with
  bilinear interpolation (positions rounded to 1/32 pixel). The exact transform resamples whole frames for each
  rotation, shear and translation (bicubically by default) and once more for the crop (bilinearly), so its output is
  slightly softer. Areas filled with gray pass through the later color operations in both; their border may be half a
  pixel off. The outermost pixels of a crop may blend with the pixels next to it.
- Colors are changed before the map, on the part of the frame that is read. If a geometric operation precedes solarize
  or posterize, single pixels near a threshold may fall on the other side. Tables without jumps are applied after the
  map.
- Histograms (for contrast, autocontrast and equalize) cover the whole frame after the preceding operations, including
  filled areas; frames moved by a geometric operation are resampled with OpenCV's bicubic kernel instead of Pillow's.
- Sharpness repeats the border pixels of a frame; the exact transform leaves them unchanged.
- Blending rounds within 1 of 255, and resampled pixels are rounded to bytes before normalization.

`tests/benchmarks/benchmark_augment.py` measures the differences, by operation and over random draws.

Maps are matrices (3, 3) from output points to input points; the center of a pixel is at + 0.5. Tables, (N, 256, 3)
uint8, map each byte of each channel; N is 1 if all frames share the table, else T. Histograms are (T, 256, 3) counts; a
table maps them too, so that consecutive operations read the pixels once. T frames of H x W pixels become S x S.
"""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image

from VideoMAE.augment.rand_augment import FILL, AppliedOperation, image_function
from VideoMAE.augment.video_transforms import NORMALIZED_BYTE, CropBox, TrainDraw, TrainTransform, erase

# A table with a larger difference between neighboring bytes creates edges, and is applied before resampling, as in the
# exact transform. Other tables are applied afterwards, together with the normalization.
SMOOTH_JUMP = 2
MARGIN_PIXELS = 2  # read around the crop, for interpolation and sharpening

SAME_FOR_ALL_FRAMES = frozenset(["Invert", "Posterize", "Solarize", "SolarizeAdd", "Brightness"])
IDENTITY_TABLE = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], 3, axis=2)  # (1, 256, 3)
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in gray: ITU-R BT.601, as in Pillow
TRUNCATE = -0.49  # added before OpenCV rounds: Pillow truncates when it blends
_SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's filter, with which its sharpness blends
_LEVEL_ENTRY = {"ShearX": (0, 1), "ShearY": (1, 0), "TranslateXRel": (0, 2), "TranslateYRel": (1, 2)}  # of the map

Step = np.ndarray | AppliedOperation  # tables (T or 1, 256, 3) uint8, or a Color or Sharpness operation


class FusedTransform(TrainTransform):
    """`TrainTransform` with the same draws and nearly the same pixels, several times faster."""

    def apply(self, frames: np.ndarray, draw: TrainDraw) -> torch.Tensor:
        """Applies a draw, (T, H, W, 3) uint8 -> (3, T, crop, crop) float32; does not write to `frames`."""
        size = self.crop_size
        plan = ClipPlan(frames, draw, size)
        top, left, height, width = plan.region
        positions = None if plan.to_region is None else _sampling_positions(plan.to_region, size, size)
        tables = [
            [np.take(normalized, table[:, channel], axis=1) for channel, normalized in enumerate(NORMALIZED_BYTE)]
            for table in plan.tables
        ]
        masks = [(plan.labels == number).view(np.uint8) for number in range(1, plan.fills.shape[1] + 1)]
        clip = torch.empty((3, len(frames), size, size))
        planes_out = clip.numpy()
        for t, frame in enumerate(frames[:, top : top + height, left : left + width]):
            frame = _apply_steps(frame, plan.steps, t)
            if positions is not None:
                frame = cv2.remap(frame, positions[0], positions[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            else:
                if frame.shape[:2] != (size, size):
                    frame = cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR)
                if draw.flip:
                    frame = cv2.flip(frame, 1)
            for channel, plane in enumerate(cv2.split(frame)):
                target = planes_out[channel, t]
                cv2.LUT(plane, tables[t % len(tables)][channel], dst=target)
                for mask, fill in zip(masks, plan.fills[t, :, channel], strict=True):
                    cv2.copyTo(np.full_like(target, NORMALIZED_BYTE[channel][0, fill]), mask, target)
        erase(clip, draw.erased, mode=self.random_erasing.mode)
        return clip


class ClipPlan:
    """The augmentation of a clip before erasing. Reads pixels only for operations that need histograms."""

    def __init__(self, frames: np.ndarray, draw: TrainDraw, size: int) -> None:
        self.frames, self.size = frames, frames.shape[1:3]
        self.steps: list[Step] = []  # on the region, in order
        self.tables = IDENTITY_TABLE  # after the steps; at the end, for the resampled pixels
        self.maps: list[np.ndarray] = []
        self.is_bicubic = False  # any of the maps
        self.fills: np.ndarray = np.empty((len(frames), 0, 3), dtype=np.uint8)  # (T, N, 3): colors of filled areas
        for operation in draw.operations:
            self._add(operation)
        if np.abs(np.diff(self.tables.astype(np.int16), axis=1)).max() > SMOOTH_JUMP:
            self._close_tables()
        self.region = crop = draw.crop  # the part of the frames that is read
        across, down = crop.width / size, crop.height / size
        to_source = np.array([[across, 0, crop.left], [0, down, crop.top], [0, 0, 1]])
        if draw.flip:
            to_source[0] = -across, 0, crop.left + crop.width
        # (size, size) uint8: 0 for pixels of the frame, n for the n-th fill color
        self.labels = _label_outside(self.maps, to_source, grid=(size, size), frame=self.size)
        self.to_region: np.ndarray | None = None  # (2, 3): map to the region; None: it is resized, and flipped if drawn
        if self.maps:
            for matrix in reversed(self.maps):
                to_source = matrix @ to_source
            corners = to_source[:2] @ [[0, 0, size, size], [0, size, 0, size], [1, 1, 1, 1]]
            first, last = np.floor(corners.min(axis=1)) - MARGIN_PIXELS, np.ceil(corners.max(axis=1)) + MARGIN_PIXELS
            height, width = self.size
            left, top = int(np.clip(first[0], 0, width - 1)), int(np.clip(first[1], 0, height - 1))
            right, bottom = int(np.clip(last[0], left + 1, width)), int(np.clip(last[1], top + 1, height))
            self.region = CropBox(top, left, bottom - top, right - left)
            to_source[:2, 2] -= left, top
            self.to_region = to_source[:2]

    def _add(self, operation: AppliedOperation) -> None:
        name, (height, width) = operation.name.removesuffix("Increasing"), self.size
        if name == "Rotate" or name in _LEVEL_ENTRY:
            matrix, (level,) = np.eye(3), operation.args
            if name == "Rotate":
                cos, sin = math.cos(math.radians(level)), math.sin(math.radians(level))
                rotation, center = np.array([[cos, -sin], [sin, cos]]), np.array([width / 2, height / 2])
                matrix[:2, :2], matrix[:2, 2] = rotation, center - rotation @ center
            else:
                matrix[_LEVEL_ENTRY[name]] = level * {"TranslateXRel": width, "TranslateYRel": height}.get(name, 1)
            self.maps.append(matrix)
            self.is_bicubic |= operation.interpolation == "bicubic"
            gray = np.full((len(self.frames), 1, 3), FILL, dtype=np.uint8)
            self.fills = np.concatenate([self.fills, gray], axis=1)
        elif name in ("Color", "Sharpness"):
            self._close_tables()
            self.steps.append(operation)
            if name == "Color" and self.maps:
                self.fills = _saturate(self.fills, *operation.args)
        elif name in SAME_FOR_ALL_FRAMES:
            self._look_up(_fixed_table(operation))
        elif name == "Contrast":
            self._look_up(_contrast(self._histograms(), *operation.args))
        else:
            self._look_up({"AutoContrast": _auto_contrast, "Equalize": _equalize}[name](self._histograms()))

    def _look_up(self, tables: np.ndarray) -> None:
        self.tables = _apply_tables(self.tables, tables)
        self.fills = _apply_tables(self.fills, tables)

    def _close_tables(self) -> None:
        """Turns the tables so far into a step."""
        if self.tables is not IDENTITY_TABLE:
            self.steps.append(self.tables)
            self.tables = IDENTITY_TABLE

    def _histograms(self) -> np.ndarray:
        """The histograms of the whole frames after the operations so far, -> (T, 256, 3).

        Moved frames are resampled with the interpolation of the operations, because extreme values depend on it.
        """
        labels = _label_outside(self.maps, np.eye(3), grid=self.size, frame=self.size)
        inside = (labels == 0).view(np.uint8) if self.maps else None
        positions = _sampling_positions(functools.reduce(np.matmul, self.maps, np.eye(3)), *self.size)
        method = cv2.INTER_CUBIC if self.is_bicubic else cv2.INTER_LINEAR
        counts: np.ndarray = np.empty((len(self.frames), 256, 3))
        for t, frame in enumerate(self.frames):
            moved = _apply_steps(frame, self.steps, t)
            if self.maps:
                moved = cv2.remap(moved, positions[0], positions[1], method, borderMode=cv2.BORDER_REPLICATE)
            for channel in range(3):
                counts[t, :, channel] = cv2.calcHist([moved], [channel], inside, [256], [0, 256]).ravel()
        # The counts after the tables.
        first_rows = 256 * np.arange(len(counts))[:, np.newaxis, np.newaxis]
        cells = ((first_rows + self.tables) * 3 + np.arange(3)).ravel()
        counts = np.bincount(cells, weights=counts.ravel(), minlength=counts.size).reshape(counts.shape)
        for number in range(1, len(self.maps) + 1):
            values = self.fills[:, np.newaxis, number - 1].astype(np.intp)
            filled = np.take_along_axis(counts, values, axis=1) + np.count_nonzero(labels == number)
            np.put_along_axis(counts, values, filled, axis=1)
        return counts


def _label_outside(
    maps: Sequence[np.ndarray], start: np.ndarray, *, grid: tuple[int, int], frame: tuple[int, int]
) -> np.ndarray:
    """For each pixel of a grid, the number (from 1) of the last map that leaves the frame, or 0, -> (h, w).

    `start` maps the grid, then the maps follow from the last to the first. `grid` and `frame` are (height, width).
    """
    labels = np.zeros(grid, dtype=np.uint8)
    rows, columns = np.arange(grid[0])[:, np.newaxis] + 0.5, np.arange(grid[1]) + 0.5
    to_here = start
    for number in range(len(maps), 0, -1):
        to_here = maps[number - 1] @ to_here
        for (across, down, shift), length in zip(to_here[:2], frame[::-1], strict=True):
            position = across * columns + (down * rows + shift)
            labels[((position < 0) | (position >= length)) & (labels == 0)] = number
    return labels


def _sampling_positions(to_source: np.ndarray, height: int, width: int) -> Sequence[np.ndarray]:
    """The source position of each pixel of a grid, in OpenCV's fastest format."""
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, np.newaxis] + 0.5
    x, y = (across * columns + (down * rows + shift - 0.5) for across, down, shift in to_source[:2])
    return cv2.convertMaps(x.astype(np.float32), y.astype(np.float32), cv2.CV_16SC2)


def _apply_steps(frame: np.ndarray, steps: Sequence[Step], t: int) -> np.ndarray:
    """Applies steps to the t-th frame of a clip, (H, W, 3) uint8 -> (H, W, 3) uint8; the frame itself if none."""
    for step in steps:
        if isinstance(step, np.ndarray):
            frame = cv2.LUT(frame, step[t % len(step)][:, np.newaxis])
            continue
        (factor,) = step.args
        if step.name.startswith("Color"):
            frame = _saturate(frame, factor)
        else:  # blends with the image smoothed over 3 x 3 pixels (factor below 1) or away from it
            kernel = (1 - factor) * _SMOOTHING
            kernel[1, 1] += factor
            frame = cv2.filter2D(frame, -1, kernel, delta=TRUNCATE, borderType=cv2.BORDER_REPLICATE)
    return frame


def _saturate(frame: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the gray image (factor below 1) or away from it, (H, W, 3) uint8 -> (H, W, 3) uint8."""
    gray = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(frame, factor, gray, 1 - factor, TRUNCATE)


def _apply_tables(values: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Maps the bytes of each frame, (M, n, 3) and (N, 256, 3) -> (max(M, N), n, 3) uint8; composes two tables."""
    num = max(len(values), len(tables))
    rows = np.broadcast_to(values, (num, *values.shape[1:])).astype(np.intp)
    return np.take_along_axis(np.broadcast_to(tables, (num, 256, 3)), rows, axis=1)


@functools.cache
def _fixed_table(operation: AppliedOperation) -> np.ndarray:
    """The table of an operation in SAME_FOR_ALL_FRAMES, from an image of all bytes, -> (1, 256, 3)."""
    return np.array(image_function(operation.name)(Image.fromarray(IDENTITY_TABLE), *operation.args))


def _contrast(histograms: np.ndarray, factor: float) -> np.ndarray:
    """Tables that blend with the frame's mean gray, -> (T, 256, 3) uint8. The mean is of unrounded grays."""
    means = (histograms * np.arange(256)[:, np.newaxis]).sum(axis=1) / histograms.sum(axis=1)
    gray = np.floor(means @ LUMA + 0.5).astype(np.float32)[:, np.newaxis, np.newaxis]
    return np.clip(gray + np.float32(factor) * (IDENTITY_TABLE - gray), 0, 255).astype(np.uint8)


def _auto_contrast(histograms: np.ndarray) -> np.ndarray:
    """Tables that stretch each channel to 0..255, -> (T, 256, 3) uint8; a channel of one value is unchanged."""
    occurs = histograms > 0
    darkest = occurs.argmax(axis=1, keepdims=True)
    brightest = 255 - occurs[:, ::-1].argmax(axis=1, keepdims=True)
    scale = 255 / np.maximum(brightest - darkest, 1)
    stretched = np.clip(IDENTITY_TABLE * scale - darkest * scale, 0, 255).astype(np.uint8)
    return np.where(brightest > darkest, stretched, IDENTITY_TABLE)


def _equalize(histograms: np.ndarray) -> np.ndarray:
    """Tables of histogram equalization, rounded as in PIL.ImageOps.equalize, -> (T, 256, 3) uint8.

    A channel is unchanged if it has fewer than 255 pixels besides those of its brightest value.
    """
    counts = np.rint(histograms).astype(np.int64)
    brightest = 255 - (counts > 0)[:, ::-1].argmax(axis=1, keepdims=True)
    num_brightest = np.take_along_axis(counts, brightest, axis=1)
    step = (counts.sum(axis=1, keepdims=True) - num_brightest) // 255
    rank = counts.cumsum(axis=1) - counts
    ranked = np.minimum((rank + step // 2) // np.maximum(step, 1), 255).astype(np.uint8)
    return np.where(step > 0, ranked, IDENTITY_TABLE)

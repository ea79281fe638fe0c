"""Fused augmentation: the operations of `TrainTransform`, with each frame resampled once instead of once per operation.

`plan_clip` turns the drawn operations into color steps, one geometric map and fill colors; `render` applies them. The
order of the operations is kept, and erasing is the same code. The result differs from the exact one as follows:

- Rotation, shears, translations, crop, resizing and flip are a single map from output pixels to frame pixels, with
  bilinear interpolation (positions rounded to 1/32 pixel). The exact transform resamples whole frames for each of the
  former, bicubically by default, and the crop bilinearly, so its output is slightly softer. Areas filled with gray pass
  through the later color operations as there; their border may be half a pixel off. The outermost pixels of a crop may
  blend with the pixels next to it.
- Colors are changed before the map, on the part of the frame that is read. Where a geometric operation comes first,
  single pixels near a threshold of solarize or posterize may fall on the other side. Tables without jumps are applied
  after the map.
- Histograms (for contrast, autocontrast and equalize) are of the whole frame at that point of the order, filled areas
  included; frames that were moved before are resampled for it with OpenCV's bicubic kernel instead of Pillow's.
- Sharpness repeats the border pixels of a frame; the exact transform leaves them unchanged.
- Blending rounds within 1 of 255, and resampled pixels are rounded to bytes before normalization.

`tests/benchmarks/benchmark_augment.py` measures the differences, by operation and over random draws.

Maps are matrices (3, 3) from output points to input points; the center of a pixel is at + 0.5. Tables, (N, 256, 3)
uint8, map each byte of each channel; N is 1 if all frames share the table, else T. Histograms are (T, 256, 3) counts; a
table maps them too, so that consecutive operations read the pixels once. T frames of H x W pixels become S x S.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from VideoMAE.augment.rand_augment import FILL, AppliedOperation, image_function
from VideoMAE.augment.random_erasing import erase_in_place
from VideoMAE.augment.video_transforms import NORMALIZED_BYTE, CropBox, TrainDraw, TrainTransform


class FusedTransform(TrainTransform):
    """`TrainTransform` with the same draws and nearly the same pixels, several times faster.

    (T, H, W, 3) uint8 and a generator -> (3, T, crop, crop) float32. The module says what differs.
    """

    def apply(self, frames: np.ndarray, draw: TrainDraw) -> torch.Tensor:
        """Do what was drawn, (T, H, W, 3) uint8 -> (3, T, crop, crop) float32; never writes to `frames`."""
        clip = render(frames, plan_clip(frames, draw, self.crop_size), self.crop_size)
        erase_in_place(clip, draw.erased, mode=self.random_erasing.mode)
        return clip


def render(frames: np.ndarray, plan: ClipPlan, size: int) -> torch.Tensor:
    """Do what was planned, (T, H, W, 3) uint8 -> (3, T, size, size) float32, normalised."""
    top, left, height, width = plan.region
    places = None if plan.to_region is None else positions(plan.to_region, size, size)
    tables = [_normalizing(table) for table in plan.last]
    masks = [(plan.labels == number).view(np.uint8) for number in range(1, plan.fills.shape[1] + 1)]
    clip = torch.empty((3, len(frames), size, size))
    planes_out = clip.numpy()
    for t, frame in enumerate(frames[:, top : top + height, left : left + width]):
        frame = do_steps(frame, plan.steps, t)
        if places is not None:
            frame = cv2.remap(frame, places[0], places[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        else:
            if frame.shape[:2] != (size, size):
                frame = cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR)
            if plan.flip:
                frame = cv2.flip(frame, 1)
        for channel, plane in enumerate(cv2.split(frame)):
            target = planes_out[channel, t]
            cv2.LUT(plane, tables[t % len(tables)][channel], dst=target)
            for mask, fill in zip(masks, plan.fills[t, :, channel], strict=True):
                cv2.copyTo(np.full_like(target, NORMALIZED_BYTE[channel][0, fill]), mask, target)
    return clip


def _normalizing(table: np.ndarray) -> Sequence[np.ndarray]:
    """A table and normalising as one table per channel, (256, 3) uint8 -> three of (1, 256) float32."""
    return [np.take(normalized, table[:, channel], axis=1) for channel, normalized in enumerate(NORMALIZED_BYTE)]


# A table makes edges where neighbouring bytes become more different than this; it is then done before resampling, as
# the exact order does it. Others can wait and be one with normalising.
SMOOTH_JUMP = 2
MARGIN_PIXELS = 2  # read around the crop: for interpolation, and for the sharpening filter

_LEVEL_PLACE = {"ShearX": (0, 1), "ShearY": (1, 0), "TranslateXRel": (0, 2), "TranslateYRel": (1, 2)}


class ClipPlan(NamedTuple):
    """All that is done to a clip before erasing."""

    region: CropBox  # of the frames: nothing else is read
    steps: list[Step]  # on the region, in this order
    to_region: np.ndarray | None  # (2, 3): the map to the region; None: it is resized, then flipped or not
    flip: bool
    last: np.ndarray  # (T or 1, 256, 3) uint8: table for what was resampled
    labels: np.ndarray  # (S, S) uint8: 0 shows the frame, n the n-th fill
    fills: np.ndarray  # (T, N, 3) uint8: colours that replace what was resampled


def is_geometric(operation: AppliedOperation) -> bool:
    """Whether it moves pixels."""
    return operation.name == "Rotate" or operation.name in _LEVEL_PLACE


def operation_map(operation: AppliedOperation, height: int, width: int) -> np.ndarray:
    """The map of a geometric operation on frames of that size -> (3, 3)."""
    matrix, (level,) = np.eye(3), operation.args
    if operation.name == "Rotate":
        cos, sin = math.cos(math.radians(level)), math.sin(math.radians(level))
        turn, centre = np.array([[cos, -sin], [sin, cos]]), np.array([width / 2, height / 2])
        matrix[:2, :2], matrix[:2, 2] = turn, centre - turn @ centre
    else:
        side = {"TranslateXRel": width, "TranslateYRel": height}.get(operation.name, 1)
        matrix[_LEVEL_PLACE[operation.name]] = level * side
    return matrix


def crop_map(crop: CropBox, size: int, *, flip: bool) -> np.ndarray:
    """The map of a crop that is resized to size x size pixels, and then flipped or not -> (3, 3)."""
    across, down = crop.width / size, crop.height / size
    if flip:
        return np.array([[-across, 0, crop.left + crop.width], [0, down, crop.top], [0, 0, 1]])
    return np.array([[across, 0, crop.left], [0, down, crop.top], [0, 0, 1]])


def label_outside(
    maps: Sequence[np.ndarray], start: np.ndarray, *, grid: tuple[int, int], frame: tuple[int, int]
) -> np.ndarray:
    """For each pixel of a grid the last map that leads it out of the frame, by number from 1; 0 for none -> (h, w).

    The last of `maps` leads on from where `start` leads from the grid, the others follow, each from the one after it.
    `grid` and `frame` are heights and widths.
    """
    labels = np.zeros(grid, dtype=np.uint8)
    rows, columns = np.arange(grid[0])[:, np.newaxis] + 0.5, np.arange(grid[1]) + 0.5
    to_here = start
    for number in range(len(maps), 0, -1):
        to_here = maps[number - 1] @ to_here
        for (across, down, shift), length in zip(to_here[:2], frame[::-1], strict=True):
            place = across * columns + (down * rows + shift)
            labels[((place < 0) | (place >= length)) & (labels == 0)] = number
    return labels


class _Chain:
    """What the operations so far have done to a clip."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames
        self.size = frames.shape[1:3]
        self.steps: list[Step] = []
        self.tables = identity()  # after the steps
        self.maps: list[np.ndarray] = []
        self.is_bicubic = False  # some map
        self.fills: np.ndarray = np.empty((len(frames), 0, 3), dtype=np.uint8)  # as they look now

    def add(self, operation: AppliedOperation) -> None:
        name = base_name(operation)
        if is_geometric(operation):
            self.maps.append(operation_map(operation, *self.size))
            self.is_bicubic |= operation.interpolation == "bicubic"
            grey = np.full((len(self.frames), 1, 3), FILL, dtype=np.uint8)
            self.fills = np.concatenate([self.fills, grey], axis=1)
        elif name == "Color":
            self.close_tables()
            self.steps.append(Saturation(*operation.args))
            if self.maps:
                self.fills = saturate(self.fills, *operation.args)
        elif name == "Sharpness":
            self.close_tables()
            self.steps.append(Sharpness(*operation.args))
        elif name in SAME_FOR_ALL_FRAMES:
            self._look_up(same_for_all(operation))
        else:
            self._look_up(by_histogram(operation, self.histograms()))

    def _look_up(self, tables: np.ndarray) -> None:
        self.tables = look_up(self.tables, tables)
        self.fills = look_up(self.fills, tables)

    def close_tables(self) -> None:
        """Makes the tables so far a step."""
        if self.tables is not identity():
            self.steps.append(Lookup(self.tables))
            self.tables = identity()

    def histograms(self) -> np.ndarray:
        """Of whole frames as they are now, with what has been filled -> (T, 256, 3).

        Moved frames are resampled for it as their operations say: extremes depend on that.
        """
        labels = label_outside(self.maps, np.eye(3), grid=self.size, frame=self.size)
        seen = (labels == 0).view(np.uint8) if self.maps else None
        places = positions(functools.reduce(np.matmul, self.maps, np.eye(3)), *self.size)
        method = cv2.INTER_CUBIC if self.is_bicubic else cv2.INTER_LINEAR
        counts = np.empty((len(self.frames), 256, 3))
        for t, frame in enumerate(self.frames):
            now = do_steps(frame, self.steps, t)
            if self.maps:
                now = cv2.remap(now, places[0], places[1], method, borderMode=cv2.BORDER_REPLICATE)
            for channel in range(3):
                counts[t, :, channel] = cv2.calcHist([now], [channel], seen, [256], [0, 256]).ravel()
        counts = histograms_after(self.tables, counts)
        for number in range(1, len(self.maps) + 1):
            values = self.fills[:, np.newaxis, number - 1].astype(np.intp)
            filled = np.take_along_axis(counts, values, axis=1) + np.count_nonzero(labels == number)
            np.put_along_axis(counts, values, filled, axis=1)
        return counts


def positions(to_source: np.ndarray, height: int, width: int) -> Sequence[np.ndarray]:
    """Where each pixel of a grid is read, in the form that OpenCV resamples by fastest."""
    columns, rows = np.arange(width) + 0.5, np.arange(height)[:, np.newaxis] + 0.5
    x, y = (across * columns + (down * rows + shift - 0.5) for across, down, shift in to_source[:2])
    return cv2.convertMaps(x.astype(np.float32), y.astype(np.float32), cv2.CV_16SC2)


def plan_clip(frames: np.ndarray, draw: TrainDraw, size: int) -> ClipPlan:
    """What `draw` does to frames (T, H, W, 3) uint8 that become size x size pixels -> ClipPlan.

    Looks at the frames only for histograms, where an operation asks for them.
    """
    chain = _Chain(frames)
    for operation in draw.operations:
        chain.add(operation)
    if largest_jump(chain.tables) > SMOOTH_JUMP:
        chain.close_tables()
    to_source = crop_map(draw.crop, size, flip=draw.flip)
    labels = label_outside(chain.maps, to_source, grid=(size, size), frame=chain.size)
    for matrix in reversed(chain.maps):
        to_source = matrix @ to_source
    region = _region(to_source, size, *chain.size) if chain.maps else draw.crop
    to_source[:2, 2] -= region.left, region.top
    to_region = to_source[:2] if chain.maps else None
    return ClipPlan(region, chain.steps, to_region, draw.flip, chain.tables, labels, chain.fills)


def _region(to_source: np.ndarray, size: int, height: int, width: int) -> CropBox:
    """The part of a frame that the map of size x size pixels reads, at least one pixel -> CropBox."""
    corners = to_source[:2] @ [[0, 0, size, size], [0, size, 0, size], [1, 1, 1, 1]]
    first, last = np.floor(corners.min(axis=1)) - MARGIN_PIXELS, np.ceil(corners.max(axis=1)) + MARGIN_PIXELS
    left, top = (int(np.clip(value, 0, length - 1)) for value, length in zip(first, (width, height), strict=True))
    right, bottom = int(np.clip(last[0], left + 1, width)), int(np.clip(last[1], top + 1, height))
    return CropBox(top, left, bottom - top, right - left)


SAME_FOR_ALL_FRAMES = frozenset(["Invert", "Posterize", "Solarize", "SolarizeAdd", "Brightness"])

_RAMP = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], 3, axis=2)  # (1, 256, 3)
RED_GREEN_BLUE_IN_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's
_SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # Pillow's, which its sharpness blends with
TRUNCATE = -0.49  # added before OpenCV rounds: Pillow cuts fractions off when it blends


class Lookup(NamedTuple):
    """Every byte as the tables say."""

    tables: np.ndarray  # (T or 1, 256, 3) uint8


class Saturation(NamedTuple):
    """Towards grey (factor below 1) or away from it."""

    factor: float


class Sharpness(NamedTuple):
    """Towards the picture smoothed over 3 x 3 pixels (factor below 1) or away from it."""

    factor: float


Step = Lookup | Saturation | Sharpness


def base_name(operation: AppliedOperation) -> str:
    """The operation, whichever way its level is scaled: "PosterizeIncreasing" -> "Posterize"."""
    return operation.name.removesuffix("Increasing")


def identity() -> np.ndarray:
    """The table that changes nothing -> (1, 256, 3) uint8."""
    return _RAMP


def look_up(values: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Bytes of each frame by its table, (M, n, 3) uint8 and (N, 256, 3) -> (max(M, N), n, 3) uint8.

    With tables for values it makes one table of two.
    """
    num = max(len(values), len(tables))
    rows = np.broadcast_to(values, (num, *values.shape[1:])).astype(np.intp)
    return np.take_along_axis(np.broadcast_to(tables, (num, 256, 3)), rows, axis=1)


def histograms_after(tables: np.ndarray, histograms: np.ndarray) -> np.ndarray:
    """What the tables make of histograms, (N, 256, 3), (T, 256, 3) -> (T, 256, 3) float64."""
    frames = np.arange(len(histograms))[:, np.newaxis, np.newaxis]
    cells = ((frames * 256 + tables) * 3 + np.arange(3)).ravel()
    return np.bincount(cells, weights=histograms.ravel(), minlength=histograms.size).reshape(histograms.shape)


def largest_jump(tables: np.ndarray) -> int:
    """Largest difference between what two neighbouring bytes become."""
    return int(np.abs(np.diff(tables.astype(np.int16), axis=1)).max())


@functools.cache
def same_for_all(operation: AppliedOperation) -> np.ndarray:
    """The table of an operation in `SAME_FOR_ALL_FRAMES`: what it makes of a picture of every byte -> (1, 256, 3)."""
    return np.array(image_function(operation.name)(Image.fromarray(_RAMP), *operation.args))


def by_histogram(operation: AppliedOperation, histograms: np.ndarray) -> np.ndarray:
    """The tables of any other pointwise operation for frames of these histograms -> (T, 256, 3) uint8."""
    if base_name(operation) == "Contrast":
        return _contrast(histograms, *operation.args)
    return {"AutoContrast": _auto_contrast, "Equalize": _equalize}[operation.name](histograms)


def _contrast(histograms: np.ndarray, factor: float) -> np.ndarray:
    """Towards the frame's mean grey or away from it. The grey is the mean of exact greys, not of rounded ones."""
    means = (histograms * np.arange(256)[:, np.newaxis]).sum(axis=1) / histograms.sum(axis=1)
    grey = np.floor(means @ RED_GREEN_BLUE_IN_GREY + 0.5).astype(np.float32)[:, np.newaxis, np.newaxis]
    return np.clip(grey + np.float32(factor) * (_RAMP - grey), 0, 255).astype(np.uint8)


def _auto_contrast(histograms: np.ndarray) -> np.ndarray:
    """Each channel's darkest byte to 0 and its brightest to 255; a channel of one colour stays."""
    occurs = histograms > 0
    darkest = occurs.argmax(axis=1, keepdims=True)
    brightest = 255 - occurs[:, ::-1].argmax(axis=1, keepdims=True)
    scale = 255 / np.maximum(brightest - darkest, 1)
    stretched = np.clip(_RAMP * scale - darkest * scale, 0, 255).astype(np.uint8)
    return np.where(brightest > darkest, stretched, _RAMP)


def _equalize(histograms: np.ndarray) -> np.ndarray:
    """Each channel's bytes by rank, 255 steps over all pixels that are not of its brightest byte; where those do not
    make whole steps the channel stays. Source: histogram equalisation, rounded as PIL.ImageOps.equalize rounds."""
    counts = np.rint(histograms).astype(np.int64)
    brightest = 255 - (counts > 0)[:, ::-1].argmax(axis=1, keepdims=True)
    of_brightest = np.take_along_axis(counts, brightest, axis=1)
    step = (counts.sum(axis=1, keepdims=True) - of_brightest) // 255
    rank = counts.cumsum(axis=1) - counts
    ranked = np.minimum((rank + step // 2) // np.maximum(step, 1), 255).astype(np.uint8)
    return np.where(step > 0, ranked, _RAMP)


def saturate(frame: np.ndarray, factor: float) -> np.ndarray:
    """Towards grey or away from it, (H, W, 3) uint8 -> (H, W, 3) uint8."""
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(frame, factor, grey, 1 - factor, TRUNCATE)


def sharpening_kernel(factor: float) -> np.ndarray:
    """The filter that sharpness is -> (3, 3)."""
    kernel = (1 - factor) * _SMOOTHING
    kernel[1, 1] += factor
    return kernel


def do_steps(frame: np.ndarray, steps: Sequence[Step], t: int) -> np.ndarray:
    """The t-th frame of a clip after the steps, (H, W, 3) uint8 -> (H, W, 3) uint8; itself where there is none."""
    for step in steps:
        if isinstance(step, Lookup):
            frame = cv2.LUT(frame, step.tables[t % len(step.tables)][:, np.newaxis])
        elif isinstance(step, Saturation):
            frame = saturate(frame, step.factor)
        else:
            kernel = sharpening_kernel(step.factor)
            frame = cv2.filter2D(frame, -1, kernel, delta=TRUNCATE, borderType=cv2.BORDER_REPLICATE)
    return frame

"""What a draw does to a clip, worked out before a pixel moves: colour steps, one map, and what is left grey.

Maps are matrices (3, 3) that lead from points of a picture to points of the picture it is made from; a pixel's centre
is at + 0.5. T frames of H x W pixels become S x S.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from VideoMAE.augment import fused_colour
from VideoMAE.augment.fused_colour import Lookup, Saturation, Sharpness, Step
from VideoMAE.augment.rand_augment import FILL, AppliedOperation
from VideoMAE.augment.video_transforms import CropBox, TrainDraw

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
        self.tables = fused_colour.identity()  # after the steps
        self.maps: list[np.ndarray] = []
        self.is_bicubic = False  # some map
        self.fills: np.ndarray = np.empty((len(frames), 0, 3), dtype=np.uint8)  # as they look now

    def add(self, operation: AppliedOperation) -> None:
        name = fused_colour.base_name(operation)
        if is_geometric(operation):
            self.maps.append(operation_map(operation, *self.size))
            self.is_bicubic |= operation.interpolation == "bicubic"
            grey = np.full((len(self.frames), 1, 3), FILL, dtype=np.uint8)
            self.fills = np.concatenate([self.fills, grey], axis=1)
        elif name == "Color":
            self.close_tables()
            self.steps.append(Saturation(*operation.args))
            if self.maps:
                self.fills = fused_colour.saturate(self.fills, *operation.args)
        elif name == "Sharpness":
            self.close_tables()
            self.steps.append(Sharpness(*operation.args))
        elif name in fused_colour.SAME_FOR_ALL_FRAMES:
            self._look_up(fused_colour.same_for_all(operation))
        else:
            self._look_up(fused_colour.by_histogram(operation, self.histograms()))

    def _look_up(self, tables: np.ndarray) -> None:
        self.tables = fused_colour.look_up(self.tables, tables)
        self.fills = fused_colour.look_up(self.fills, tables)

    def close_tables(self) -> None:
        """Makes the tables so far a step."""
        if self.tables is not fused_colour.identity():
            self.steps.append(Lookup(self.tables))
            self.tables = fused_colour.identity()

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
            now = fused_colour.do_steps(frame, self.steps, t)
            if self.maps:
                now = cv2.remap(now, places[0], places[1], method, borderMode=cv2.BORDER_REPLICATE)
            for channel in range(3):
                counts[t, :, channel] = cv2.calcHist([now], [channel], seen, [256], [0, 256]).ravel()
        counts = fused_colour.histograms_after(self.tables, counts)
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
    if fused_colour.largest_jump(chain.tables) > SMOOTH_JUMP:
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

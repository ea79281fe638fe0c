"""RandAugment's colour operations for fused augmentation: tables, and the two that a table cannot do.

A table, (N, 256, 3) uint8, says what each byte of each channel becomes; N is 1 where every frame gets the same, else T.
What an operation asks of a whole frame (its extremes, ranks or mean) it reads from histograms, (T, 256, 3) counts. A
table turns them into the histograms after it, so that several operations in a row look at the pixels once.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from VideoMAE.augment.rand_augment import AppliedOperation, image_function

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


@cache
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

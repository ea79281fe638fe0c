"""Transforms of frames (T, H, W, 3) uint8 to normalized clips (3, T, h, w).

`TrainTransform` augments, `ValidationTransform` crops the center, `SquashTransform` (V2V) resizes the whole frame. Test
views use `resize_short_side` and `crop_views`. Frames may have any size. Transforms without randomness ignore `rng`. A
draw contains all random parameters, and applying it uses no other random numbers.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from VideoMAE.augment.rand_augment import AppliedOperation, RandAugment, apply_operations

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # red, green and blue, as in the training of the published networks
IMAGENET_STD = (0.229, 0.224, 0.225)
NUM_BOX_TRIES = 10
ERASE_MODES = ("pixel", "rand", "const")
ERASED_AREA = (0.02, 1 / 3)  # of the frame
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width

# Scaling and normalizing bytes is a table look-up per channel.
NORMALIZED_BYTE = [
    ((np.arange(256) / 255 - mean) / std).astype(np.float32)[np.newaxis]
    for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)
]


class CropBox(NamedTuple):
    """A rectangle of pixels inside a frame."""

    top: int
    left: int
    height: int
    width: int


class ErasedBox(NamedTuple):
    """A rectangle of pixels, erased in every frame."""

    top: int
    left: int
    height: int
    width: int
    noise_seed: int


class TrainDraw(NamedTuple):
    """All random parameters of a training clip."""

    operations: list[AppliedOperation]
    crop: CropBox
    flip: bool
    erased: list[ErasedBox]


def normalize(frames: np.ndarray, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Normalizes to ImageNet's mean and deviation, (T, H, W, 3) uint8 -> `out`, contiguous (3, T, H, W) float32."""
    clip = torch.empty((3, *frames.shape[:3])) if out is None else out
    assert clip.is_contiguous(), "OpenCV writes only to contiguous planes"
    planes_out = clip.numpy()
    for t, frame in enumerate(frames):
        for channel, plane in enumerate(cv2.split(frame)):
            cv2.LUT(plane, NORMALIZED_BYTE[channel], dst=planes_out[channel, t])
    return clip


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes bilinearly, (T, H, W, 3) uint8 -> (T, height, width, 3) uint8; `frames` itself if it has this size."""
    if frames.shape[1:3] == (height, width):
        return frames
    resized = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for frame, target in zip(frames, resized, strict=True):
        cv2.resize(frame, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    return resized


def resize_short_side(frames: np.ndarray, size: int) -> np.ndarray:
    """Resizes the short side to `size` pixels, (T, H, W, 3) uint8 -> (T, h, w, 3) uint8.

    The long side is scaled by the same factor and rounded down: 40 x 71 to 32 -> 32 x 56.
    """
    height, width = frames.shape[1:3]
    short_side = min(height, width)
    return resize_frames(frames, size * height // short_side, size * width // short_side)


def center_start(length: int, crop_size: int) -> int:
    """The first pixel of a central crop, rounded half to even as in torchvision: (73, 0) -> 36, (75, 0) -> 38."""
    return round((length - crop_size) / 2)


def crop_views(
    frames: np.ndarray,
    crop_size: int,
    starts: Sequence[int],
    *,
    axis: Literal["height", "width"],
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalized square crops, (T, h, w, 3) uint8 -> (num_crops, 3, T, crop, crop) float32.

    `starts` are the first pixels along `axis`; along the other axis, crops are centered. `out` is contiguous.

    Raises:
        ValueError: a crop is not inside the frames.
    """
    height, width = frames.shape[1:3]
    length = height if axis == "height" else width
    if crop_size > min(height, width) or min(starts) < 0 or max(starts) + crop_size > length:
        raise ValueError(
            f"--input_size {crop_size}: crops at {list(starts)} along the {axis} exceed frames of {height} x {width} "
            "pixels; is --short_side_size smaller than --input_size?"
        )
    views = torch.empty((len(starts), 3, len(frames), crop_size, crop_size)) if out is None else out
    for view, start in zip(views, starts, strict=True):
        top = start if axis == "height" else center_start(height, crop_size)
        left = start if axis == "width" else center_start(width, crop_size)
        normalize(frames[:, top : top + crop_size, left : left + crop_size], out=view)
    return views


class ValidationTransform:
    """Resizes the short side and crops the central square, (T, H, W, 3) uint8 -> (3, T, crop, crop) float32."""

    def __init__(self, short_side_size: int, crop_size: int) -> None:
        if crop_size > short_side_size:
            raise ValueError(f"--short_side_size {short_side_size} is smaller than --input_size {crop_size}")
        self.short_side_size, self.crop_size = short_side_size, crop_size

    def __call__(self, frames: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
        resized = resize_short_side(frames, self.short_side_size)
        start = center_start(resized.shape[2], self.crop_size)
        return crop_views(resized, self.crop_size, [start], axis="width")[0]


class SquashTransform:
    """Resizes whole frames to `size` x `size` pixels, (T, H, W, 3) uint8 -> (3, T, size, size) float32."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, frames: np.ndarray, rng: np.random.Generator | None = None) -> torch.Tensor:
        return normalize(resize_frames(frames, self.size, self.size))


def draw_crop(
    height: int, width: int, rng: np.random.Generator, *, scale: tuple[float, float], aspect: tuple[float, float]
) -> CropBox:
    """Draws the box of a random resized crop in a frame of height x width pixels.

    The area is uniform in `scale` of the frame, width / height log-uniform in `aspect`. After ten boxes that do not
    fit, the box is the largest central one with a ratio in `aspect`. Source: Inception's crops (Szegedy et al., 2014,
    arXiv:1409.4842, section 6), drawn as in torchvision's RandomResizedCrop.get_params.
    """
    for _ in range(NUM_BOX_TRIES):
        area = height * width * rng.uniform(*scale)
        box_aspect = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_height, box_width = round(math.sqrt(area / box_aspect)), round(math.sqrt(area * box_aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return CropBox(int(top), int(left), box_height, box_width)
    box_height = min(height, round(width / aspect[0]))
    box_width = min(width, round(height * aspect[1]))
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


class RandomErasing:
    """Draws the boxes to erase in a normalized clip.

    Source: Random Erasing (Zhong et al., 2017, arXiv:1708.04896, algorithm 1), counts as in timm.data.random_erasing.

    Args:
        mode: pixel: normal noise for every value of every frame; rand: one normal color per box; const: zeros, which is
            the mean color.
        max_count: the number of boxes is uniform from 1 to `max_count`; each box has ERASED_AREA / count of the frame,
            and a log-uniform ERASED_ASPECT.
    """

    def __init__(self, probability: float, *, mode: str, max_count: int) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"--reprob {probability}: must be in [0, 1]")
        if mode not in ERASE_MODES:
            raise ValueError(f"--remode {mode!r}: must be one of {', '.join(ERASE_MODES)}")
        if max_count < 1:
            raise ValueError(f"--recount {max_count}: must be at least 1")
        self.probability, self.mode, self.max_count = probability, mode, max_count

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[ErasedBox]:
        """Draws the boxes for a clip of height x width pixels; a box that does not fit in ten tries is omitted."""
        if rng.random() >= self.probability:
            return []
        boxes, count = list[ErasedBox](), int(rng.integers(1, self.max_count + 1))
        for _ in range(count):
            for _ in range(NUM_BOX_TRIES):
                area = rng.uniform(*ERASED_AREA) * height * width / count
                aspect = math.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
                box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if 0 < box_height < height and 0 < box_width < width:
                    top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
                    seed = int(rng.integers(2**32))
                    boxes.append(ErasedBox(int(top), int(left), box_height, box_width, seed))
                    break
        return boxes


def erase(clip: torch.Tensor, boxes: Sequence[ErasedBox], *, mode: str) -> None:
    """Fills the boxes in every frame of `clip`, (C, T, H, W) float32, in place."""
    for box in boxes:
        region = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
        if mode == "const":
            region.zero_()
            continue
        shape = tuple(region.shape) if mode == "pixel" else (clip.shape[0], 1, 1, 1)
        noise = np.random.default_rng(box.noise_seed).standard_normal(shape, dtype=np.float32)
        region.copy_(torch.from_numpy(noise))


class TrainTransform:
    """Augments a training clip, (T, H, W, 3) uint8 -> (3, T, crop, crop) float32.

    RandAugment of whole frames, normalization, random resized crop (bilinear, without antialiasing), flip, random
    erasing, each with the same parameters for all frames. Only the crop is normalized, with the same result.

    `scale` and `aspect` are those of `draw_crop`. Raises ValueError, which names the flag with an invalid value.
    """

    def __init__(
        self,
        crop_size: int,
        *,
        auto_augment: str,
        interpolation: str,
        scale: tuple[float, float],
        erase_probability: float,
        erase_mode: str,
        erase_count: int,
        flip_probability: float = 0.5,
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.crop_size = crop_size
        self.rand_augment = RandAugment(auto_augment, interpolation=interpolation)
        self.random_erasing = RandomErasing(erase_probability, mode=erase_mode, max_count=erase_count)
        self.flip_probability, self.scale, self.aspect = flip_probability, scale, aspect

    def draw(self, height: int, width: int, rng: np.random.Generator) -> TrainDraw:
        """Draws the parameters for a clip of height x width pixels."""
        return TrainDraw(
            operations=self.rand_augment.draw(rng),
            crop=draw_crop(height, width, rng, scale=self.scale, aspect=self.aspect),
            flip=bool(rng.random() < self.flip_probability),
            erased=self.random_erasing.draw(self.crop_size, self.crop_size, rng),
        )

    def apply(self, frames: np.ndarray, draw: TrainDraw) -> torch.Tensor:
        """Applies a draw, (T, H, W, 3) uint8 -> (3, T, crop, crop) float32."""
        top, left, height, width = draw.crop
        augmented = apply_operations(frames, draw.operations)
        clip = normalize(augmented[:, top : top + height, left : left + width])
        clip = F.interpolate(clip, size=(self.crop_size, self.crop_size), mode="bilinear", align_corners=False)
        if draw.flip:
            clip = clip.flip(-1)
        erase(clip, draw.erased, mode=self.random_erasing.mode)
        return clip

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        height, width = frames.shape[1:3]
        return self.apply(frames, self.draw(height, width, rng))

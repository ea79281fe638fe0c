"""Which pixels of the chosen frames the network sees: frames (T, H, W, 3) uint8 in, normalised clips (3, T, h, w) out.

Three transforms: `TrainTransform` augments, `ValidationTransform` takes the centre, `SquashTransform` (V2V) takes the
whole frame. Test views are made of `resize_short_side` and `crop_views`. Frames of any size from 1 x 1 on are welcome.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from VideoMAE.augment.rand_augment import AppliedOperation, RandAugment, apply_operations
from VideoMAE.augment.random_erasing import ErasedBox, RandomErasing, erase

# Of ImageNet's red, green and blue, as the published networks were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NUM_CROP_TRIES = 10

# A byte has 256 values: scaling and normalising is one look-up per channel.
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


class TrainDraw(NamedTuple):
    """All that chance decides about one training clip."""

    operations: list[AppliedOperation]
    crop: CropBox
    flip: bool
    erased: list[ErasedBox]


def normalize(frames: np.ndarray, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Bytes to ImageNet's zero mean and unit deviation, (T, H, W, 3) uint8 -> (3, T, H, W) float32, contiguous.

    `frames` may be a crop that is not contiguous. With `out`, a contiguous float32 tensor of the result's shape, the
    values are written there.
    """
    clip = torch.empty((3, *frames.shape[:3])) if out is None else out
    assert clip.is_contiguous(), "OpenCV writes in place into contiguous planes only"
    planes_out = clip.numpy()
    for t, frame in enumerate(frames):
        for channel, plane in enumerate(cv2.split(frame)):
            cv2.LUT(plane, NORMALIZED_BYTE[channel], dst=planes_out[channel, t])
    return clip


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize every frame, bilinear as in OpenCV, (T, H, W, 3) uint8 -> (T, height, width, 3) uint8.

    Returns `frames` itself when it has that size already.
    """
    if frames.shape[1:3] == (height, width):
        return frames
    resized = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for frame, target in zip(frames, resized, strict=True):
        cv2.resize(frame, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    return resized


def resize_short_side(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize so that the short side has `size` pixels, (T, H, W, 3) uint8 -> (T, h, w, 3) uint8.

    The long side keeps the proportions, rounded down: 40 x 71 to 32 -> 32 x 56.
    """
    height, width = frames.shape[1:3]
    short_side = min(height, width)
    return resize_frames(frames, size * height // short_side, size * width // short_side)


def center_start(length: int, crop_size: int) -> int:
    """First pixel of a centred crop; halves go to the even number, as in torchvision: (73, 0) -> 36, (75, 0) -> 38."""
    return round((length - crop_size) / 2)


def crop_views(
    frames: np.ndarray,
    crop_size: int,
    starts: Sequence[int],
    *,
    axis: Literal["height", "width"],
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalised square crops at `starts` along `axis`, (T, h, w, 3) uint8 -> (num_crops, 3, T, crop, crop) float32.

    Starts in pixels. `axis` is usually the long side's; along the other one the crop is centred. With `out`, a
    contiguous float32 tensor of the result's shape, the values are written there. Raises ValueError when a crop leaves
    the frames.
    """
    height, width = frames.shape[1:3]
    length = height if axis == "height" else width
    if crop_size > min(height, width) or min(starts) < 0 or max(starts) + crop_size > length:
        raise ValueError(
            f"--input_size {crop_size}: crops at {list(starts)} along the {axis} leave frames of {height} x {width} "
            "pixels; is --short_side_size smaller than --input_size?"
        )
    views = torch.empty((len(starts), 3, len(frames), crop_size, crop_size)) if out is None else out
    for view, start in zip(views, starts, strict=True):
        top = start if axis == "height" else center_start(height, crop_size)
        left = start if axis == "width" else center_start(width, crop_size)
        normalize(frames[:, top : top + crop_size, left : left + crop_size], out=view)
    return views


class ValidationTransform:
    """Short side to `short_side_size`, then the central square, (T, H, W, 3) uint8 -> (3, T, crop, crop) float32.

    Sizes in pixels. Raises ValueError when the crop is larger than the short side.
    """

    def __init__(self, short_side_size: int, crop_size: int) -> None:
        if crop_size > short_side_size:
            raise ValueError(f"--short_side_size {short_side_size} is smaller than --input_size {crop_size}")
        self.short_side_size = short_side_size
        self.crop_size = crop_size

    def __call__(self, frames: np.ndarray) -> torch.Tensor:
        resized = resize_short_side(frames, self.short_side_size)
        start = center_start(resized.shape[2], self.crop_size)
        return crop_views(resized, self.crop_size, [start], axis="width")[0]


class SquashTransform:
    """Whole frames squashed to `size` x `size` pixels, (T, H, W, 3) uint8 -> (3, T, size, size) float32."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, frames: np.ndarray) -> torch.Tensor:
        return normalize(resize_frames(frames, self.size, self.size))


def draw_crop(
    height: int, width: int, rng: np.random.Generator, *, scale: tuple[float, float], aspect: tuple[float, float]
) -> CropBox:
    """Draw the box of a random resized crop in a frame of `height` x `width` pixels -> CropBox.

    Area uniform in `scale` of the frame, width / height log-uniform in `aspect`. After ten boxes that do not fit: the
    largest central box whose proportions are in `aspect`. Source: Inception's crops (Szegedy et al., 2014,
    arXiv:1409.4842, section 6) as torchvision's RandomResizedCrop.get_params draws them.
    """
    for _ in range(NUM_CROP_TRIES):
        area = height * width * rng.uniform(*scale)
        box_aspect = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        box_height, box_width = round(math.sqrt(area / box_aspect)), round(math.sqrt(area * box_aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return CropBox(int(top), int(left), box_height, box_width)
    box_height = min(height, round(width / aspect[0]))
    box_width = min(width, round(height * aspect[1]))
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


class TrainTransform:
    """Augments a training clip, (T, H, W, 3) uint8 and a generator -> (3, T, crop, crop) float32.

    RandAugment on whole frames, scale and normalise, random resized crop (bilinear, without antialiasing), flip, random
    erasing; every draw holds for the whole clip. Normalising treats each pixel by itself, so it is done on the crop
    only: the same numbers for less work. `crop_size` in pixels, `scale` is a share of the frame's area, `aspect` is
    width / height. Raises ValueError naming the flag whose value makes no sense.
    """

    def __init__(
        self,
        crop_size: int,
        *,
        auto_augment: str = "rand-m7-n4-mstd0.5-inc1",
        interpolation: str = "bicubic",
        erase_probability: float = 0.25,
        erase_mode: str = "pixel",
        erase_count: int = 1,
        flip_probability: float = 0.5,
        scale: tuple[float, float] = (0.08, 1.0),
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.crop_size = crop_size
        self.rand_augment = RandAugment(auto_augment, interpolation=interpolation)
        self.random_erasing = RandomErasing(erase_probability, mode=erase_mode, max_count=erase_count)
        self.flip_probability = flip_probability
        self.scale = scale
        self.aspect = aspect

    def draw(self, height: int, width: int, rng: np.random.Generator) -> TrainDraw:
        """Draw what happens to a clip of `height` x `width` pixels, (rng) -> TrainDraw."""
        return TrainDraw(
            operations=self.rand_augment.draw(rng),
            crop=draw_crop(height, width, rng, scale=self.scale, aspect=self.aspect),
            flip=bool(rng.random() < self.flip_probability),
            erased=self.random_erasing.draw(self.crop_size, self.crop_size, rng),
        )

    def apply(self, frames: np.ndarray, draw: TrainDraw) -> torch.Tensor:
        """Do what was drawn, (T, H, W, 3) uint8 -> (3, T, crop, crop) float32; chance has no part in it."""
        top, left, height, width = draw.crop
        augmented = apply_operations(frames, draw.operations)
        clip = normalize(augmented[:, top : top + height, left : left + width])
        clip = F.interpolate(clip, size=(self.crop_size, self.crop_size), mode="bilinear", align_corners=False)
        if draw.flip:
            clip = clip.flip(-1)
        return erase(clip, draw.erased, mode=self.random_erasing.mode)

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        height, width = frames.shape[1:3]
        return self.apply(frames, self.draw(height, width, rng))

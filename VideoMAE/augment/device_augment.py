"""Fused augmentation on the training device: workers plan it and ship the pixels that it reads, as bytes.

`PlanTransform` makes what a worker ships, a `PlannedClips`; moving that to a device makes the clips there, in torch.
The plan is `fused_augment`'s, so that the pixels are too, but for rounding. Nothing is drawn on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from VideoMAE.augment.fused_colour import RED_GREEN_BLUE_IN_GREY, TRUNCATE, Lookup, Saturation, Step, sharpening_kernel
from VideoMAE.augment.fused_plan import ClipPlan, crop_map, plan_clip
from VideoMAE.augment.random_erasing import ErasedBox, erase_in_place
from VideoMAE.augment.video_transforms import IMAGENET_MEAN, IMAGENET_STD, CropBox, TrainTransform
from VideoMAE.data.shared_clips import joined


@dataclass(frozen=True)
class PlannedClips:
    """B clips that are still to be made: what is done to each, and the bytes of all regions one after the other."""

    pixels: Tensor  # (sum of T x h x w x 3,) uint8
    plans: list[tuple[ClipPlan, list[ErasedBox]]]
    shape: tuple[int, int]  # T, S
    erase_mode: str

    def __len__(self) -> int:
        return len(self.plans)

    def share_memory_(self) -> None:
        """Moves the pixels to shared memory, as the tensor's method."""
        self.pixels.share_memory_()

    def pin_memory(self) -> "PlannedClips":
        """With pixels that a GPU fetches by itself; torch's loader calls it."""
        return PlannedClips(self.pixels.pin_memory(), self.plans, self.shape, self.erase_mode)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Tensor:
        """The clips, made on the device -> (B, 3, T, S, S) float32, normalised."""
        num_frames, size = self.shape
        shapes = [(num_frames, plan.region.height, plan.region.width, 3) for plan, _ in self.plans]
        moved = self.pixels.to(device, non_blocking=non_blocking).split([int(np.prod(shape)) for shape in shapes])
        clips = torch.empty((len(self), 3, num_frames, size, size), device=device)
        for clip, pixels, shape, (plan, erased) in zip(clips, moved, shapes, self.plans, strict=True):
            clip.copy_(render(pixels.view(shape), plan, size))
            erase_in_place(clip, erased, mode=self.erase_mode)
        return clips


@dataclass(frozen=True)
class PlanTransform:
    """The draws of `transform`, planned and not done, (T, H, W, 3) uint8 and a generator -> PlannedClips of one."""

    transform: TrainTransform

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> PlannedClips:
        size = self.transform.crop_size
        draw = self.transform.draw(frames.shape[1], frames.shape[2], rng)
        plan = plan_clip(frames, draw, size)
        top, left, height, width = plan.region
        read = np.ascontiguousarray(frames[:, top : top + height, left : left + width])
        pixels = torch.from_numpy(read if read.flags.writeable else read.copy()).flatten()
        return PlannedClips(pixels, [(plan, draw.erased)], (len(frames), size), self.transform.random_erasing.mode)

    def blank(self, num_frames: int) -> PlannedClips:
        """A clip of T frames that stands where none could be read."""
        return self(np.zeros((num_frames, 1, 1, 3), dtype=np.uint8), np.random.default_rng(0))


def concatenate(batches: Sequence[Any]) -> Any:
    """One batch of several, each a tensor (B, ...) or PlannedClips; a single one itself."""
    if len(batches) == 1:
        return batches[0]
    if not isinstance(batches[0], PlannedClips):
        return joined(batches)
    pixels = joined([batch.pixels for batch in batches])
    plans = [plan for batch in batches for plan in batch.plans]
    return PlannedClips(pixels, plans, batches[0].shape, batches[0].erase_mode)


def render(frames: Tensor, plan: ClipPlan, size: int) -> Tensor:
    """Do what was planned to a region, (T, h, w, 3) uint8 -> (3, T, size, size) float32, normalised."""
    device = frames.device
    for step in plan.steps:
        frames = _do_step(frames, step)
    moved = F.grid_sample(
        frames.permute(0, 3, 1, 2).float(),
        _grid(plan, size).to(device).expand(len(frames), -1, -1, -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    levels = _look_up(moved.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1), plan.last)
    labels = torch.from_numpy(plan.labels).to(device)
    for number in range(1, plan.fills.shape[1] + 1):
        fill = torch.from_numpy(plan.fills[:, number - 1]).to(device)[:, None, None]
        levels = torch.where((labels == number)[..., None], fill, levels)
    mean, std = (torch.tensor(values, device=device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((levels / 255 - mean) / std).permute(3, 0, 1, 2)


def _grid(plan: ClipPlan, size: int) -> Tensor:
    """Where each pixel is read, -1 to 1 across the region -> (1, size, size, 2) float32."""
    height, width = plan.region.height, plan.region.width
    to_region = plan.to_region
    if to_region is None:
        to_region = crop_map(CropBox(0, 0, height, width), size, flip=plan.flip)[:2]
    points = np.stack([*np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5), np.ones((size, size))], axis=-1)
    places = (points @ to_region.T) * (2 / width, 2 / height) - 1
    return torch.from_numpy(places.astype(np.float32))[None]


def _look_up(frames: Tensor, tables: np.ndarray) -> Tensor:
    """(T, h, w, 3) uint8, (T or 1, 256, 3) -> (T, h, w, 3) uint8"""
    of_frames = torch.from_numpy(tables).to(frames.device).expand(len(frames), -1, -1)
    return of_frames.gather(1, frames.flatten(1, 2).long()).view(frames.shape)


def _do_step(frames: Tensor, step: Step) -> Tensor:
    """(T, h, w, 3) uint8 -> (T, h, w, 3) uint8"""
    if isinstance(step, Lookup):
        return _look_up(frames, step.tables)
    levels = frames.float()
    if isinstance(step, Saturation):
        grey = (levels @ torch.tensor(RED_GREEN_BLUE_IN_GREY, device=frames.device)).round()[..., None]
        levels = grey + step.factor * (levels - grey)
    else:
        kernel = torch.from_numpy(sharpening_kernel(step.factor)).float().to(frames.device).expand(3, 1, 3, 3)
        padded = F.pad(levels.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate")
        levels = F.conv2d(padded, kernel, groups=3).permute(0, 2, 3, 1)
    return (levels + TRUNCATE).round().clamp(0, 255).to(torch.uint8)

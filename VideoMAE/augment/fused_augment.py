"""Fused augmentation: the draws of `TrainTransform`, each frame resampled once instead of once per operation.

What a draw says is what is done, in its order, and erasing is the same code. These differ from the exact result:

- Rotation, shears, shifts, crop, resizing and flip are one map from the result's pixels to the frame's, read bilinearly
  (positions to 1/32 pixel). Exact resamples whole frames for each of the former, bicubically by default, and the crop
  bilinearly: its pictures are slightly softer. What a step leaves grey is grey here too, and goes through the later
  colours; its edge may lie half a pixel elsewhere. A crop's outermost pixels may mix with those beside the crop.
- Colours are done before that map, on the part of the frame that it reads: on pixels that exact would already have
  turned or moved, where a geometric operation comes first: near a threshold of solarising or posterising single pixels
  may then fall on the other side. Tables without jumps wait until after the map.
- Extremes, ranks and means are those of the whole frame at that point of the order, what is filled included; frames
  that have been moved by then are resampled once for that count, too, and by OpenCV's bicubic kernel, not Pillow's.
- Sharpening at the very edge of a frame repeats the edge's pixels; exact leaves them as they are.
- Blending rounds within 1 of 255, and resampled pixels are rounded to bytes before they are normalised.

`tests/benchmarks/benchmark_augment.py` prints by how much, per operation and for whole draws.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from VideoMAE.augment.fused_colour import do_steps
from VideoMAE.augment.fused_plan import ClipPlan, plan_clip, positions
from VideoMAE.augment.random_erasing import erase_in_place
from VideoMAE.augment.video_transforms import NORMALIZED_BYTE, TrainDraw, TrainTransform


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

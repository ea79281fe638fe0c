"""Random erasing for clips: the same boxes in every frame.

`RandomErasing.draw` chooses the boxes and `erase` fills them. A box contains the seed of its noise, so the draw
determines the result.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

MODES = ("pixel", "rand", "const")
AREA = (0.02, 1 / 3)  # of the frame
ASPECT = (0.3, 1 / 0.3)  # height / width
NUM_TRIES = 10


class ErasedBox(NamedTuple):
    """A rectangle of pixels, erased in every frame."""

    top: int
    left: int
    height: int
    width: int
    noise_seed: int


class RandomErasing:
    """Erases boxes of a normalized clip with a probability.

    Source: Random Erasing (Zhong et al., 2017, arXiv:1708.04896, algorithm 1), counts as in timm.data.random_erasing.

    Args:
        mode: pixel: normal noise for every value of every frame; rand: one normal color per box; const: zeros, which is
            the mean color.
        max_count: the number of boxes is uniform from 1 to `max_count`; each box has AREA / count of the frame, and a
            log-uniform ASPECT.

    Raises:
        ValueError: names --reprob, --remode or --recount.
    """

    def __init__(self, probability: float, *, mode: str, max_count: int) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"--reprob {probability}: must be in [0, 1]")
        if mode not in MODES:
            raise ValueError(f"--remode {mode!r}: must be one of {', '.join(MODES)}")
        if max_count < 1:
            raise ValueError(f"--recount {max_count}: must be at least 1")
        self.probability = probability
        self.mode = mode
        self.max_count = max_count

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[ErasedBox]:
        """Draws the boxes for a clip of height x width pixels.

        A box that does not fit into the frame is drawn again, up to ten times, and then omitted.
        """
        if rng.random() >= self.probability:
            return []
        count = int(rng.integers(1, self.max_count + 1))
        boxes = [_draw_box(height, width, count, rng) for _ in range(count)]
        return [box for box in boxes if box is not None]


def _draw_box(height: int, width: int, count: int, rng: np.random.Generator) -> ErasedBox | None:
    log_aspect = (math.log(ASPECT[0]), math.log(ASPECT[1]))
    for _ in range(NUM_TRIES):
        box_area = rng.uniform(*AREA) * height * width / count
        box_aspect = math.exp(rng.uniform(*log_aspect))
        box_height = round(math.sqrt(box_area * box_aspect))
        box_width = round(math.sqrt(box_area / box_aspect))
        if 0 < box_height < height and 0 < box_width < width:
            return ErasedBox(
                top=int(rng.integers(height - box_height + 1)),
                left=int(rng.integers(width - box_width + 1)),
                height=box_height,
                width=box_width,
                noise_seed=int(rng.integers(2**32)),
            )
    return None


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

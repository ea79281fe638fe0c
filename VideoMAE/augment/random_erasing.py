"""Random erasing for clips: the same boxes in every frame.

Drawing and applying are two steps: `RandomErasing.draw` chooses boxes, `erase` fills them. A box carries the seed of
its noise, so that a draw says all there is to know about the result.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

MODES = ("pixel", "rand", "const")
NUM_TRIES = 10


class ErasedBox(NamedTuple):
    """A rectangle of pixels, erased in every frame."""

    top: int
    left: int
    height: int
    width: int
    noise_seed: int


class RandomErasing:
    """Draws the boxes to erase from a normalised clip, (height, width, rng) -> list of ErasedBox.

    A clip is erased with `probability`; then it gets 1 to `max_count` boxes (uniformly drawn), which share the area:
    each covers `area` / count of a frame, with height / width drawn log-uniformly from `aspect`. `mode` is "pixel"
    (normal noise, drawn anew for every value of every frame), "rand" (one normal colour per box) or "const" (zeros, the
    mean colour). Raises ValueError naming `--reprob`, `--remode` or `--recount`.
    Source: Random Erasing (Zhong et al., 2017, arXiv:1708.04896, algorithm 1), counts as in timm.data.random_erasing.
    """

    def __init__(
        self,
        probability: float = 0.25,
        *,
        mode: str = "pixel",
        max_count: int = 1,
        area: tuple[float, float] = (0.02, 1 / 3),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"--reprob {probability} is not a probability")
        if mode not in MODES:
            raise ValueError(f"--remode {mode!r} is unknown, expected one of {MODES}")
        if max_count < 1:
            raise ValueError(f"--recount {max_count} is below 1")
        self.probability = probability
        self.mode = mode
        self.max_count = max_count
        self.area = area
        self.aspect = aspect

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list[ErasedBox]:
        """Draw the boxes of one clip of `height` x `width` pixels, (rng) -> list of 0 to `max_count` ErasedBox.

        A box that does not fit inside the frame is drawn again, up to ten times, and then left out.
        """
        if rng.random() >= self.probability:
            return []
        count = int(rng.integers(1, self.max_count + 1))
        boxes = [self._draw_box(height, width, count, rng) for _ in range(count)]
        return [box for box in boxes if box is not None]

    def _draw_box(self, height: int, width: int, count: int, rng: np.random.Generator) -> ErasedBox | None:
        log_aspect = (math.log(self.aspect[0]), math.log(self.aspect[1]))
        for _ in range(NUM_TRIES):
            box_area = rng.uniform(*self.area) * height * width / count
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

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Draw and erase, (C, T, H, W) -> (C, T, H, W) float32."""
        return erase(clip, self.draw(clip.shape[-2], clip.shape[-1], rng), mode=self.mode)


def erase(clip: torch.Tensor, boxes: Sequence[ErasedBox], *, mode: str) -> torch.Tensor:
    """Fill the boxes in every frame, (C, T, H, W) float32 -> (C, T, H, W) float32.

    Returns `clip` itself when there is no box, and never writes to it.
    """
    if not boxes:
        return clip
    erased = clip.clone()
    erase_in_place(erased, boxes, mode=mode)
    return erased


def erase_in_place(clip: torch.Tensor, boxes: Sequence[ErasedBox], *, mode: str) -> None:
    """Fill the boxes in every frame of `clip` itself, (C, T, H, W) float32."""
    for box in boxes:
        region = clip[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
        if mode == "const":
            region.zero_()
            continue
        shape = tuple(region.shape) if mode == "pixel" else (clip.shape[0], 1, 1, 1)
        noise = np.random.default_rng(box.noise_seed).standard_normal(shape, dtype=np.float32)
        region.copy_(torch.from_numpy(noise))

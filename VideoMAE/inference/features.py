"""What a network makes of videos on the way to its head: tokens of any block, or their mean.

B clips, N tokens, D width.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from VideoMAE.inference.clips import ReadClips, read_videos
from VideoMAE.inference.predictor import ClipBatches
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.training.backends import autocast

Pool = Literal["mean", "none"]


def num_blocks_of(layer: str, depth: int) -> int | None:
    """How many blocks tokens pass up to `layer`, a number (negative: from the end) or "final". None: final.

    Raises:
        ValueError: there is no such layer.
    """
    if layer == "final":
        return None
    try:
        number = int(layer)
    except ValueError:
        number = depth + 1
    if not -depth <= number <= depth:
        raise ValueError(f"--layer {layer}: must be final, or a number from 0 to {depth}, or from -{depth} to -1")
    return number if number >= 0 else depth + 1 + number


class FeatureNetwork:
    """A network up to a layer. Called with clips (B, 3, T, H, W) it gives (B, D), or (B, N, D) for `pool` none, as
    float32 arrays.

    `num_blocks` None: what the head sees; with `pool` none the tokens that it is made from.
    """

    def __init__(
        self, model: VisionTransformer, *, num_blocks: int | None, pool: Pool, device: torch.device, precision: str
    ) -> None:
        self.model = model.to(device).eval()
        self.num_blocks, self.pool = num_blocks, pool
        self.device, self.precision = device, precision

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> np.ndarray:
        """Raises ValueError when the features are not finite."""
        with autocast(self.device, self.precision):
            features = self._forward(clips.to(self.device, non_blocking=True)).float().cpu().numpy()
        if not np.isfinite(features).all():
            raise ValueError("the network's features are not finite; its weights are ruined")
        return features

    def _forward(self, clips: Tensor) -> Tensor:
        if self.num_blocks is None and self.pool == "mean":
            return self.model.forward_features(clips)
        tokens = self.model.tokens(clips, num_blocks=self.num_blocks)
        if self.num_blocks is None:
            tokens = self.model.norm(tokens)
        return tokens.mean(1) if self.pool == "mean" else tokens


class Extracted(NamedTuple):
    """One video's features, (views, D) or (views, N, D) float32, or why there are none."""

    features: np.ndarray | None
    error: str | None


def extract(
    videos: Sequence[Path],
    network: FeatureNetwork,
    clips: ReadClips,
    *,
    batch_size: int,
    num_workers: int,
    decode_seconds: float,
) -> Iterator[Extracted]:
    """The features of each video in turn; views of several videos share a forward pass. `clips` are VCE's or V2V's."""
    batches = ClipBatches(network, batch_size)
    waiting: deque[tuple[int, str | None]] = deque()  # how many views are to come, or why there are none

    def finished() -> Iterator[Extracted]:
        while waiting and batches.num_ready >= waiting[0][0]:
            num_views, error = waiting.popleft()
            yield Extracted(batches.take(num_views) if num_views else None, error)

    for _, read in read_videos(videos, clips, num_workers=num_workers, decode_seconds=decode_seconds):
        views = read.preference if read.emotion is None else read.emotion
        if views is not None:
            batches.add(views)
        waiting.append((0 if views is None else len(views), read.error))
        yield from finished()
    batches.flush()
    yield from finished()

"""Workers make clips in shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from VideoMAE.data.clips import EvaluationDataset, Sample, empty_clips
from VideoMAE.data.loaders import Batch, ShareSampler, collate, make_loader
from VideoMAE.data.vce import Annotations


class Clips:
    """Clips filled with whether they are in shared memory."""

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        clips = empty_clips(2, 3)
        return clips.fill_(float(clips.is_shared()))


def test_a_worker_makes_clips_in_shared_memory() -> None:
    videos = Annotations(["0", "1", "2"], [Path("x.mp4")] * 3, np.zeros((3, 4), np.float32))
    for num_workers in (0, 1):
        loader = make_loader(
            EvaluationDataset(videos, make_clips=Clips(), seed=0),
            ShareSampler(3, rank=0, world_size=1),
            num_workers=num_workers,
            pin_memory=False,
            decode_seconds=60,
        )
        batches = [batch.clips for batch in loader]
        assert [clips.shape for clips in batches] == [(2, 3)] * 3
        assert all((clips == num_workers).all() for clips in batches)


class Counting:
    """Clips filled with the number of the video."""

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        return torch.full((2, 3), float(path.stem))


def collate_with_flag(samples: Sequence[Sample]) -> Batch:
    """A batch whose target is whether its clips are in shared memory."""
    batch = collate(samples)
    return batch._replace(targets=torch.tensor(float(batch.clips.is_shared())))


def test_a_worker_concatenates_clips_in_shared_memory() -> None:
    videos = Annotations(["0", "1", "2"], [Path(f"{i}.mp4") for i in range(3)], np.zeros((3, 4), np.float32))
    for num_workers in (0, 1):
        (batch,) = make_loader(
            EvaluationDataset(videos, make_clips=Counting(), seed=0),
            ShareSampler(3, rank=0, world_size=1),
            num_workers=num_workers,
            pin_memory=False,
            decode_seconds=60,
            batch_size=3,
            collate_fn=collate_with_flag,
        )
        assert batch.targets == num_workers
        assert batch.clips.tolist() == [[float(i)] * 3 for i in (0, 0, 1, 1, 2, 2)]


def test_empty_clips_have_the_requested_type() -> None:
    assert empty_clips(4, 5, dtype=torch.uint8).dtype == torch.uint8

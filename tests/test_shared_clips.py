"""Clips that are made where the main process reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from VideoMAE.data.loaders import ShareSampler, make_loader
from VideoMAE.data.shared_clips import empty_clips, joined
from VideoMAE.data.vce import Annotations, EvaluationDataset


def test_clips_follow_each_other_and_those_of_one_sample_are_not_copied() -> None:
    first, second = torch.arange(12.0).reshape(2, 3, 2), torch.ones(1, 3, 2)
    assert torch.equal(joined([first, second]), torch.cat([first, second]))
    assert joined([first]) is first
    bytes_too = [clips.to(torch.uint8) for clips in (first, second)]
    assert torch.equal(joined(bytes_too), torch.cat(bytes_too))


class Clips:
    """Tells whether the tensor that it was given to write to is in shared memory, and where that is."""

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        clips = empty_clips(2, 3)
        clips.fill_(float(clips.is_shared()))
        return clips


def test_a_worker_writes_where_the_main_process_reads_and_the_main_process_into_its_own_memory() -> None:
    videos = Annotations(["0", "1", "2"], [Path("x.mp4")] * 3, np.zeros((3, 4), np.float32))
    for num_workers in (0, 1):
        for batch_size in (1, 2):
            loader = make_loader(
                EvaluationDataset(videos, make_clips=Clips(), seed=0),
                ShareSampler(3, rank=0, world_size=1),
                num_workers=num_workers,
                pin_memory=False,
                decode_seconds=60,
                batch_size=batch_size,
            )
            batches = [batch.clips for batch in loader]
            assert [len(clips) for clips in batches] == [2 * n for n in ([1, 1, 1] if batch_size == 1 else [2, 1])]
            assert all((clips == num_workers).all() for clips in batches)
            assert all(clips.is_shared() == bool(num_workers) for clips in batches)

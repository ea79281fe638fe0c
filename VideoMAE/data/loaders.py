"""In which order videos come, which process gets which, and what a batch is."""

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler

from VideoMAE.data.clips import joined
from VideoMAE.data.vce import Sample, SampleKey
from VideoMAE.data.watched_loader import WatchedLoader


class Batch(NamedTuple):
    """What the loader yields. B = videos x views; `indices` are positions in the dataset, one per video."""

    clips: Tensor  # (B, 3, T, H, W)
    targets: Tensor  # (B, K)
    indices: Tensor  # (videos,) int64
    skipped: dict[str, str]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples, leaving out those without clips. -> Batch"""
    whole = [sample for sample in samples if sample.clips is not None]
    skipped = {key: reason for sample in samples for key, reason in sample.skipped.items()}
    if not whole:
        return Batch(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64), skipped)
    clips = joined([sample.clips for sample in whole if sample.clips is not None])
    views = len(clips) // len(whole)
    targets = torch.stack([sample.targets for sample in whole]).repeat_interleave(views, dim=0)
    return Batch(clips, targets, torch.tensor([sample.position for sample in whole]), skipped)


class TrainSampler(Sampler[list[SampleKey]]):
    """Batches of one process: a step's total batch is the same set of videos at every world size and accumulation.

    Every epoch has its own permutation from (seed, epoch); what does not fill a last total batch is left out.
    """

    def __init__(
        self,
        num_videos: int,
        *,
        batch_size: int,
        update_freq: int,
        rank: int,
        world_size: int,
        seed: int,
        noun: str = "videos",
    ) -> None:
        self.total_batch_size = batch_size * update_freq * world_size
        self.steps_per_epoch = num_videos // self.total_batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"{num_videos} training {noun} do not fill one total batch of {self.total_batch_size} "
                f"(--batch_size {batch_size} x --update_freq {update_freq} x {world_size} processes)"
            )
        self.num_videos = num_videos
        self.batch_size = batch_size
        self.update_freq = update_freq
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.epoch = 0
        self.first_step = 0

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Chooses the permutation of the next iteration, and with which of its steps it begins."""
        self.epoch, self.first_step = epoch, step

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.first_step) * self.update_freq

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_videos)
        used = order[: self.steps_per_epoch * self.total_batch_size]
        mine = used.reshape(-1, self.batch_size, self.world_size)[:, :, self.rank]
        for batch in mine[self.first_step * self.update_freq :]:
            yield [SampleKey(int(index), self.epoch) for index in batch]


class ShareSampler(Sampler[int]):
    """Every world_size-th item that is not `done`, from rank on: all processes together see each once."""

    def __init__(self, num_items: int, *, rank: int, world_size: int, done: Container[int] = ()) -> None:
        self.items = [item for item in range(num_items) if item not in done][rank::world_size]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)


def make_loader(
    dataset: Dataset[Any],
    sampler: TrainSampler | ShareSampler,
    *,
    num_workers: int,
    pin_memory: bool,
    decode_seconds: float,
    batch_size: int = 1,
    collate_fn: Callable[[Any], Any] = collate,
) -> WatchedLoader:
    """A loader of `Batch`es, or of what `collate_fn` makes.

    A TrainSampler makes its own batches; `batch_size` is for a ShareSampler.
    """
    return WatchedLoader(
        dataset,
        sampler if isinstance(sampler, TrainSampler) else BatchSampler(sampler, batch_size, drop_last=False),
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate_fn,
        decode_seconds=decode_seconds,
    )

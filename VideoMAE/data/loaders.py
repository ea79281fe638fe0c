"""The order of the videos, their distribution over processes, and batches."""

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset, Sampler

from VideoMAE.cli import counted
from VideoMAE.data.clips import Sample, SampleKey, concatenate
from VideoMAE.data.watched_loader import WatchedLoader


class Batch(NamedTuple):
    """A batch of videos. B = videos x views; `indices` are positions in the dataset, one per video."""

    clips: Tensor  # (B, 3, T, H, W)
    targets: Tensor  # (B, K)
    indices: Tensor  # (videos,) int64
    skipped: dict[str, str]  # unreadable videos: id -> reason


def collate(samples: Sequence[Sample]) -> Batch:
    """Batches the samples that have clips."""
    readable = [sample for sample in samples if sample.clips is not None]
    skipped = {key: reason for sample in samples for key, reason in sample.skipped.items()}
    if not readable:
        return Batch(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64), skipped)
    clips = concatenate([sample.clips for sample in readable if sample.clips is not None])
    views = len(clips) // len(readable)
    targets = torch.stack([sample.targets for sample in readable]).repeat_interleave(views, dim=0)
    return Batch(clips, targets, torch.tensor([sample.position for sample in readable]), skipped)


class TrainSampler(Sampler[list[SampleKey]]):
    """The batches of one process, in a random order that differs between epochs.

    The total batch of a step does not depend on the number of processes or on gradient accumulation. An incomplete last
    total batch is dropped. Errors name the items by `noun`.
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
                f"(--batch_size {batch_size} x --update_freq {update_freq} x {counted(world_size, 'process')})"
            )
        self.num_videos, self.batch_size, self.update_freq = num_videos, batch_size, update_freq
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.set_position(0)

    def set_position(self, epoch: int, step: int = 0) -> None:
        """Sets the epoch and the first step of the next iteration."""
        self.epoch, self.first_step = epoch, step

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.first_step) * self.update_freq

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_videos)
        used = order[: self.steps_per_epoch * self.total_batch_size]
        own = used.reshape(-1, self.batch_size, self.world_size)[:, :, self.rank]
        for batch in own[self.first_step * self.update_freq :]:
            yield [SampleKey(int(index), self.epoch) for index in batch]


class ShareSampler(list[int]):
    """Every world_size-th item that is not `done`, starting at `rank`: the processes together cover each item once."""

    def __init__(self, num_items: int, *, rank: int, world_size: int, done: Container[int] = ()) -> None:
        super().__init__([item for item in range(num_items) if item not in done][rank::world_size])


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
    """A loader of the results of `collate_fn`. `batch_size` applies to a ShareSampler; a TrainSampler has its own."""
    return WatchedLoader(
        dataset,
        sampler if isinstance(sampler, TrainSampler) else BatchSampler(sampler, batch_size, drop_last=False),
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=collate_fn,
        decode_seconds=decode_seconds,
    )

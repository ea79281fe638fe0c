"""Samplers and loaders: total batches do not depend on the number of processes, batches not on workers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from VideoMAE.data.clips import EvaluationDataset, Sample, SampleKey, TrainDataset
from VideoMAE.data.loaders import Batch, ShareSampler, TrainSampler, collate, make_loader
from VideoMAE.data.vce import Annotations
from VideoMAE.video.reader import UnreadableVideoError

FACTORS = [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1), (1, 1, 8), (2, 1, 4), (1, 2, 4)]


def total_batches(
    num_videos: int, batch_size: int, update_freq: int, world_size: int, *, epoch: int = 0, seed: int = 0
) -> list[list[SampleKey]]:
    """The keys of all processes in each optimizer step."""
    shares = []
    for rank in range(world_size):
        sampler = TrainSampler(
            num_videos, batch_size=batch_size, update_freq=update_freq, rank=rank, world_size=world_size, seed=seed
        )
        sampler.set_position(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(len(batch) == batch_size for batch in batches)
        shares.append(batches)
    steps = range(0, len(shares[0]), update_freq)
    return [[key for share in shares for batch in share[step : step + update_freq] for key in batch] for step in steps]


@pytest.mark.parametrize("factors", FACTORS)
def test_a_steps_total_batch_does_not_depend_on_how_it_is_distributed(factors: tuple[int, int, int]) -> None:
    for epoch in (0, 3):
        expected = [set(step) for step in total_batches(43, 8, 1, 1, epoch=epoch)]
        assert [set(step) for step in total_batches(43, *factors, epoch=epoch)] == expected
        assert len(expected) == 5


@pytest.mark.parametrize("factors", FACTORS)
def test_an_epoch_shows_every_video_at_most_once_and_leaves_out_less_than_a_total_batch(
    factors: tuple[int, int, int],
) -> None:
    for num_videos in (8, 15, 43, 48):
        positions = [key.position for step in total_batches(num_videos, *factors) for key in step]
        assert len(set(positions)) == len(positions) == num_videos - num_videos % 8
        assert set(positions) <= set(range(num_videos))


def test_order_depends_on_epoch_and_seed_and_keys_have_the_epoch() -> None:
    orders = {
        (epoch, seed): [key for step in total_batches(40, 4, 1, 1, epoch=epoch, seed=seed) for key in step]
        for epoch in range(3)
        for seed in range(2)
    }
    for (epoch, _), keys in orders.items():
        assert {key.epoch for key in keys} == {epoch}
    positions = [tuple(key.position for key in keys) for keys in orders.values()]
    assert len(set(positions)) == 6
    assert total_batches(40, 4, 1, 1, epoch=2) == total_batches(40, 4, 1, 1, epoch=2)


@pytest.mark.parametrize("factors", FACTORS)
def test_an_epoch_resumed_at_a_step_has_the_batches_from_that_step_on(factors: tuple[int, int, int]) -> None:
    batch_size, update_freq, world_size = factors
    for rank in range(world_size):
        sampler = TrainSampler(
            43, batch_size=batch_size, update_freq=update_freq, rank=rank, world_size=world_size, seed=0
        )
        sampler.set_position(2)
        whole = list(sampler)
        for step in range(6):
            sampler.set_position(2, step)
            assert list(sampler) == whole[step * update_freq :]
            assert len(sampler) == len(whole) - step * update_freq


def test_different_videos_are_left_out_in_different_epochs() -> None:
    left_out = [
        set(range(11)) - {key.position for step in total_batches(11, 4, 2, 1, epoch=epoch) for key in step}
        for epoch in range(6)
    ]
    assert all(len(videos) == 3 for videos in left_out)
    assert set.intersection(*left_out) == set()


def test_too_few_videos_for_a_total_batch_are_an_error_naming_the_flags() -> None:
    with pytest.raises(ValueError, match=r"15 training videos .* batch of 16 \(--batch_size 2 x --update_freq 4 x 2"):
        TrainSampler(15, batch_size=2, update_freq=4, rank=0, world_size=2, seed=0)


@pytest.mark.parametrize(("num_items", "world_size"), [(10, 3), (2, 4), (7, 1), (0, 2)])
def test_shares_of_an_evaluation_cover_every_item_once(num_items: int, world_size: int) -> None:
    shares = [ShareSampler(num_items, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert all(len(share) == len(list(share)) for share in shares)
    assert sorted(itertools.chain(*shares)) == list(range(num_items))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def make_sample(position: int, views: int = 2, *, skipped: dict[str, str] | None = None) -> Sample:
    return Sample(
        position, torch.full((views, 3, 1, 2, 2), float(position)), torch.full((4,), position / 10), skipped or {}
    )


def test_a_batch_holds_every_view_with_its_videos_target_and_each_video_once() -> None:
    batch = collate([make_sample(5), make_sample(2, skipped={"00001": "empty"})])
    assert batch.clips.shape == (4, 3, 1, 2, 2)
    assert batch.clips[:, 0, 0, 0, 0].tolist() == [5, 5, 2, 2]
    torch.testing.assert_close(batch.targets[:, 0], torch.tensor([0.5, 0.5, 0.2, 0.2]))
    assert batch.targets.shape == (4, 4)
    assert batch.indices.tolist() == [5, 2]
    assert batch.skipped == {"00001": "empty"}


def test_an_unreadable_video_is_dropped_from_the_batch_but_its_reason_is_kept() -> None:
    missing = Sample(7, None, torch.zeros(4), {"00007": "cut off"})
    batch = collate([make_sample(5), missing, make_sample(2)])
    assert batch.clips[:, 0, 0, 0, 0].tolist() == [5, 5, 2, 2]
    assert batch.indices.tolist() == [5, 2]
    assert len(batch.targets) == 4
    assert batch.skipped == {"00007": "cut off"}
    empty = collate([missing, missing._replace(skipped={"00008": "empty"})])
    assert len(empty.clips) == len(empty.targets) == len(empty.indices) == 0
    assert empty.indices.dtype == torch.int64
    assert empty.skipped == {"00007": "cut off", "00008": "empty"}


class NoisyClips:
    """`num_sample` random clips; video 3 cannot be read. It also draws from global generators."""

    def __init__(self, num_sample: int) -> None:
        self.num_sample = num_sample

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        torch.rand(1), np.random.rand()
        if path.stem == "3":
            raise UnreadableVideoError(path, "it is cut off")
        return torch.from_numpy(rng.random((self.num_sample, 3, 2, 4, 4), dtype=np.float32)) + int(path.stem)


def make_annotations(num_videos: int) -> Annotations:
    intensities = np.random.default_rng(0).random((num_videos, 27)).astype(np.float32)
    return Annotations(
        [f"{i:05d}" for i in range(num_videos)], [Path(f"{i}.mp4") for i in range(num_videos)], intensities
    )


def train_batches(num_workers: int, *, num_sample: int = 1, epochs: tuple[int, ...] = (0, 1)) -> list[Batch]:
    dataset = TrainDataset(make_annotations(11), make_clips=NoisyClips(num_sample), seed=0)
    sampler = TrainSampler(11, batch_size=2, update_freq=1, rank=0, world_size=1, seed=0)
    loader = make_loader(dataset, sampler, num_workers=num_workers, pin_memory=False, decode_seconds=60)
    batches = []
    for epoch in epochs:
        sampler.set_position(epoch)
        batches.extend(loader)
    return batches


def assert_equal_batches(batches: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(batches, expected, strict=True):
        assert torch.equal(one.clips, other.clips)
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.indices, other.indices)
        assert one.skipped == other.skipped


def test_training_batches_do_not_depend_on_workers() -> None:
    expected = train_batches(0)
    assert len(expected) == 10
    assert {key for batch in expected for key in batch.skipped} == {"00003"}
    assert_equal_batches(train_batches(2), expected)


def test_a_resumed_epoch_has_the_same_batches() -> None:
    assert_equal_batches(train_batches(0, epochs=(1,)), train_batches(0)[5:])


def test_num_sample_clips_of_a_video_share_its_target() -> None:
    annotations = make_annotations(11)
    for batch in train_batches(0, num_sample=3, epochs=(0,)):
        assert batch.clips.shape == (6, 3, 2, 4, 4)
        assert batch.clips.flatten(1).min(dim=1).values.int().tolist() == batch.indices.repeat_interleave(3).tolist()
        np.testing.assert_array_equal(batch.targets.numpy(), annotations.intensities[batch.indices].repeat(3, axis=0))
        assert not torch.equal(batch.clips[0], batch.clips[1])


def test_evaluation_batches_do_not_depend_on_workers() -> None:
    def batches(num_workers: int) -> list[Batch]:
        dataset = EvaluationDataset(make_annotations(7), make_clips=NoisyClips(2), seed=0)
        sampler = ShareSampler(7, rank=1, world_size=2)
        return list(
            make_loader(dataset, sampler, num_workers=num_workers, pin_memory=False, decode_seconds=60, batch_size=2)
        )

    expected = batches(0)
    assert [batch.indices.tolist() for batch in expected] == [[1], [5]]
    assert expected[0].skipped == {"00003": "it is cut off"}
    assert_equal_batches(batches(2), expected)

"""What a run draws for a video in an epoch: the same clip with any number of workers and processes, and after a
resume. Real files, the run's own loaders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from vce_files import make_vce_folder
from video_files import moving_frames, write_video

from VideoMAE.cli import parse_flags
from VideoMAE.config import V2VConfig, VCEConfig
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.v2v import videos_of
from VideoMAE.runtime.distributed import World
from VideoMAE.training import finetune_v2v, finetune_vce
from VideoMAE.training.trainer import Loaders
from VideoMAE.video.check import check_videos

EPOCHS = (0, 3)
TOTAL_BATCH = 4
CLIPS = ["--num_frames", "4", "--input_size", "32", "--seed", "7", "--disable_eval_during_finetuning"]
SHARES = [(4, 1, 1), (2, 2, 1), (2, 1, 2), (1, 1, 4)]  # batch_size, update_freq, world size

Clips = dict[tuple[int, str], torch.Tensor]


@pytest.fixture(scope="module")
def vce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_folder(tmp_path_factory.mktemp("vce") / "vce_dataset", 10, 1, num_frames=40)


@pytest.fixture(scope="module")
def v2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("v2v") / "v2v_dataset"
    (root / "videos").mkdir(parents=True)
    for number in range(5):
        write_video(root / "videos" / f"{number}.mp4", moving_frames(8, seed=number))
    for split in ("train", "test", "listwise"):
        pairs = [[str(worse), str(better)] for worse in range(5) for better in range(worse)]
        (root / f"{split}_labels.json").write_text(json.dumps({"comparisons": pairs}))
    return root


def vce_loaders(root: Path, world: World, *flags: str) -> Loaders:
    argv = ["--data_path", str(root), "--output_dir", "unused", *CLIPS, "--train_fps", "None", *flags]
    config = parse_flags(VCEConfig, argv)
    labels = finetune_vce.read_labels(config.data, Exclusion(None))
    check = check_videos({str(path): path for path in labels["train"].paths}, num_processes=0)
    return finetune_vce.make_loaders(labels, check, config, world=world)


def v2v_loaders(root: Path, world: World, *flags: str) -> Loaders:
    config = parse_flags(V2VConfig, ["--data_dir", str(root), "--output_dir", "unused", *CLIPS, *flags])
    labels = finetune_v2v.read_labels(config, Exclusion(None))
    videos = videos_of(root, labels.train)
    check = check_videos({str(path): path for path in videos.paths}, num_processes=0)
    return finetune_v2v.make_loaders(labels, videos, check, config, world=world)


def batches(loaders: Loaders, *, epoch: int, step: int = 0) -> Iterator[Any]:
    loaders.sampler.set_position(epoch, step)
    yield from loaders.train


def drawn(loaders: Loaders, *, epochs: tuple[int, ...] = EPOCHS, step: int = 0) -> Clips:
    """Every clip by epoch and what it shows, of this process."""
    clips: Clips = {}
    for epoch in epochs:
        for batch in batches(loaders, epoch=epoch, step=step):
            assert not batch.skipped
            per_item = batch.clips.split(len(batch.clips) // len(batch.indices))
            for index, clip in zip(batch.indices.tolist(), per_item, strict=True):
                clips[epoch, loaders.ids[index]] = clip.clone()
    return clips


def assert_same(clips: Clips, expected: Clips) -> None:
    assert clips.keys() == expected.keys()
    assert all(torch.equal(clip, expected[key]) for key, clip in clips.items())


def flags_of(batch_size: int, update_freq: int, *, num_workers: int) -> list[str]:
    return [
        "--batch_size",
        str(batch_size),
        "--update_freq",
        str(update_freq),
        "--num_workers",
        str(num_workers),
    ]


def world_of(rank: int, size: int) -> World:
    return World(rank=rank, size=size, device=torch.device("cpu"))


KINDS = pytest.mark.parametrize("kind", ["vce", "v2v"])
MAKERS = {"vce": vce_loaders, "v2v": v2v_loaders}
AUGMENTED = {"vce": ["--num_sample", "2"], "v2v": ["--augment", "fused"]}


def loaders_of(
    kind: str, request: pytest.FixtureRequest, share: tuple[int, int, int], *, rank: int = 0, num_workers: int = 0
) -> Loaders:
    batch_size, update_freq, world_size = share
    flags = [*flags_of(batch_size, update_freq, num_workers=num_workers), *AUGMENTED[kind]]
    return MAKERS[kind](request.getfixturevalue(kind), world_of(rank, world_size), *flags)


@KINDS
def test_draws_are_the_same_with_any_number_of_workers(kind: str, request: pytest.FixtureRequest) -> None:
    expected = drawn(loaders_of(kind, request, SHARES[0]))
    assert len(expected) == 8 * len(EPOCHS)
    for num_workers in (1, 3):
        assert_same(drawn(loaders_of(kind, request, SHARES[0], num_workers=num_workers)), expected)


@KINDS
def test_draws_are_the_same_on_any_number_of_processes(kind: str, request: pytest.FixtureRequest) -> None:
    expected = drawn(loaders_of(kind, request, SHARES[0]))
    for share in SHARES[1:]:
        together: Clips = {}
        for rank in range(share[2]):
            mine = drawn(loaders_of(kind, request, share, rank=rank))
            assert together.keys().isdisjoint(mine)
            together |= mine
        assert_same(together, expected)


@KINDS
def test_draws_go_on_after_a_resume_as_they_would_have(kind: str, request: pytest.FixtureRequest) -> None:
    """In the middle of an epoch, in another number of workers and processes, without the epochs before."""
    loaders = loaders_of(kind, request, SHARES[0])
    whole = drawn(loaders, epochs=(3,))
    first = {loaders.ids[index] for index in next(batches(loaders, epoch=3)).indices}
    rest = {key: clip for key, clip in whole.items() if key[1] not in first}
    assert len(rest) == len(whole) - TOTAL_BATCH > 0
    resumed: Clips = {}
    for rank in range(2):
        resumed |= drawn(loaders_of(kind, request, (2, 1, 2), rank=rank, num_workers=1), epochs=(3,), step=1)
    assert_same(resumed, rest)


@KINDS
def test_epochs_and_videos_have_draws_of_their_own(kind: str, request: pytest.FixtureRequest) -> None:
    clips = list(drawn(loaders_of(kind, request, SHARES[0])).values())
    assert all(not torch.equal(one, other) for i, one in enumerate(clips) for other in clips[:i])

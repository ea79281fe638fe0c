"""The loader that hanging and dying workers cannot stop: real workers, really hanging, really killed."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import video_files
from torch import Tensor

from VideoMAE.data.clips import EvaluationDataset, TrainDataset
from VideoMAE.data.loaders import ShareSampler, TrainSampler, make_loader
from VideoMAE.data.vce import Annotations
from VideoMAE.video.reader import DecoderName, UnreadableVideoError, Video, require_decoder

NUM_VIDEOS = 12


class Clips:
    """Clips that hold the number in the file's name, or meet their `fate`."""

    def __init__(self, folder: Path, fate: dict[int, str] | None = None) -> None:
        self.folder, self.fate = folder, fate or {}

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        number = int(path.stem)
        fate = self.fate.get(number, "")
        if fate == "hang":
            time.sleep(1000)
        if fate == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fate == "killed once":
            flag = self.folder / f"{number}.killed"
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if fate == "bug":
            raise KeyError("a bug")
        if fate == "unreadable":
            raise UnreadableVideoError(path, "not a video")
        return torch.full((1, 3, 2, 4, 4), float(number) + rng.random())


def batches(tmp_path: Path, fate: dict[int, str] | None = None, *, num_workers: int = 2, seconds: float = 4.0) -> list:
    """(clip values, indices, skipped) of every batch of an epoch."""
    paths = [tmp_path / f"{number}.mp4" for number in range(NUM_VIDEOS)]
    videos = Annotations([path.stem for path in paths], paths, np.zeros((NUM_VIDEOS, 3), dtype=np.float32))
    sampler = TrainSampler(NUM_VIDEOS, batch_size=2, update_freq=1, rank=0, world_size=1, seed=0)
    loader = make_loader(
        TrainDataset(videos, make_clips=Clips(tmp_path, fate), seed=0),
        sampler,
        num_workers=num_workers,
        pin_memory=False,
        decode_seconds=seconds,
    )
    seen = []
    for epoch in range(2):
        sampler.set_position(epoch)
        seen += [(batch.clips[:, 0, 0, 0, 0].tolist(), batch.indices.tolist(), batch.skipped) for batch in loader]
    return seen


def test_watching_does_not_change_the_batches(tmp_path: Path) -> None:
    assert batches(tmp_path, num_workers=2) == batches(tmp_path, num_workers=0)


def test_a_hanging_video_is_named_and_counts_as_unreadable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = batches(tmp_path, {7: "hang"})
    expected = batches(tmp_path, {7: "unreadable"}, num_workers=0)
    assert [batch[:2] for batch in found] == [batch[:2] for batch in expected]
    reasons = {reason for batch in found for reason in batch[2].values()}
    assert reasons == {"the reader did not answer within 4 s"}
    assert caplog.text.count(f"{tmp_path / '7.mp4'}: did not answer within 4 s") == 1
    assert "worker " in caplog.text


def test_a_worker_that_is_killed_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = batches(tmp_path, {3: "killed once", 8: "killed once"}, seconds=30)
    assert found == batches(tmp_path, num_workers=0)
    assert f"{tmp_path / '3.mp4'}: died (signal 9, out of memory?)" in caplog.text


def test_a_video_that_kills_its_reader_twice_counts_as_unreadable(tmp_path: Path) -> None:
    found = batches(tmp_path, {5: "segfault"}, seconds=30)
    expected = batches(tmp_path, {5: "unreadable"}, num_workers=0)
    assert [batch[:2] for batch in found] == [batch[:2] for batch in expected]
    assert {reason for batch in found for reason in batch[2].values()} == {"the reader died (signal 11)"}


def test_workers_that_keep_dying_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"workers died 4 times in a row; the last one died .* MiB free in /dev/shm"):
        batches(tmp_path, dict.fromkeys(range(NUM_VIDEOS), "segfault"), num_workers=1, seconds=30)


def test_an_exception_in_a_worker_is_raised(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="a bug"):
        batches(tmp_path, {2: "bug"})


class Threads:
    """The numbers of threads of torch, of OpenCV and of the process in a worker with an open video."""

    def __init__(self, decoder: DecoderName) -> None:
        self.decoder = decoder

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        with Video(path, decoder=self.decoder) as video:
            video.frames_at(np.array([3, 15]))
            of_process = len(list(Path("/proc/self/task").iterdir()))
            return torch.tensor([[torch.get_num_threads(), cv2.getNumThreads(), of_process]], dtype=torch.float32)


@pytest.mark.parametrize(("decoder", "num_decoding"), [("decord", 1), ("pyav", 0)])
def test_a_worker_uses_one_thread(tmp_path: Path, decoder: DecoderName, num_decoding: int) -> None:
    gc.collect()  # the end of earlier tests' loaders, inherited by the worker, would start threads there
    require_decoder(decoder)  # as would the import, which every run does beforehand
    path = video_files.write_grey_video(tmp_path / "film.mp4", 24)
    videos = Annotations([str(i) for i in range(6)], [path] * 6, np.zeros((6, 3), dtype=np.float32))
    loader = make_loader(
        EvaluationDataset(videos, make_clips=Threads(decoder), seed=0),
        ShareSampler(6, rank=0, world_size=1),
        num_workers=1,
        pin_memory=False,
        decode_seconds=60,
    )
    found = torch.cat([batch.clips for batch in loader])
    assert (found[:, :2] == 1).all()
    # torch's two send batches away; decord decodes ahead in one while a film is open, and none is left behind by it
    assert found[:, 2].max() <= 1 + 2 + num_decoding


def test_no_worker_is_left_behind(tmp_path: Path) -> None:
    batches(tmp_path, {7: "hang"})
    while multiprocessing.active_children():
        gc.collect()
        time.sleep(0.1)

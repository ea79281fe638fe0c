"""Clips of one video: augmented copies share one decoding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from augmentation import default_transform
from video_files import write_moving_video

from VideoMAE.augment.fused import FusedTransform
from VideoMAE.augment.video_transforms import TrainTransform
from VideoMAE.data.clips import TrainClips
from VideoMAE.video.reader import Video


class CountedVideo(Video):
    """Counts opened videos and decoded frames."""

    opened = 0
    decoded = 0

    def __init__(self, *args, **kwargs):
        type(self).opened += 1
        super().__init__(*args, **kwargs)

    def frames_at(self, indices):
        type(self).decoded += len(indices)
        return super().frames_at(indices)


@pytest.mark.parametrize("kind", [TrainTransform, FusedTransform])
@pytest.mark.parametrize("train_fps", [4.0, None])
def test_augmented_copies_decode_once(tmp_path: Path, monkeypatch, kind, train_fps) -> None:
    transform = default_transform(kind, 32)
    path = write_moving_video(tmp_path / "video.mp4", 80)
    monkeypatch.setattr(CountedVideo, "opened", 0)
    monkeypatch.setattr(CountedVideo, "decoded", 0)
    copies = TrainClips(8, 4, train_fps, 5, transform, CountedVideo)(path, np.random.default_rng(0))
    assert copies.shape == (5, 3, 8, 32, 32)
    assert CountedVideo.opened == 1
    assert CountedVideo.decoded == 8
    assert len({float(copy.sum()) for copy in copies}) == 5
    alone = TrainClips(8, 4, train_fps, 1, transform)(path, np.random.default_rng(0))
    assert torch.equal(alone[0], copies[0])

"""Mixup and cutmix of clips: timm's on images, the same box in every frame, with any targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor

from VideoMAE.augment.mixup import ClipMixup
from VideoMAE.data.loaders import Batch
from VideoMAE.training.tasks import LOSSES, EmotionTask

K = 5
KINDS = {
    "mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 0.0},
    "cutmix": {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.5},
    "half of the batches": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.5},
}
MODES = ("batch", "pair", "elem")


def make_mixup(kind: str, mode: str) -> ClipMixup:
    return ClipMixup(**KINDS[kind], mode=mode, label_smoothing=0.0, num_classes=K)


def make_batch(num_clips: int = 6, num_frames: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(num_clips, 3, num_frames, 20, 24, generator=generator)
    return clips, torch.rand(num_clips, K, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_clips_of_one_frame_are_mixed_as_timm_mixes_images(kind: str, mode: str) -> None:
    clips, _ = make_batch(num_frames=1)
    classes = torch.tensor([0, 4, 2, 2, 1, 3])
    changed = 0
    for seed in range(12):
        np.random.seed(seed)
        expected, expected_targets = Mixup(**KINDS[kind], mode=mode, label_smoothing=0.0, num_classes=K)(
            clips[:, :, 0].clone(), classes
        )
        np.random.seed(seed)
        mixed, targets = make_mixup(kind, mode)(clips, F.one_hot(classes, K).float())
        torch.testing.assert_close(mixed[:, :, 0], expected)
        torch.testing.assert_close(targets, expected_targets)
        changed += not torch.equal(mixed, clips)
    assert changed >= 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_every_frame_of_a_clip_is_mixed_alike(kind: str, mode: str) -> None:
    clips, targets = make_batch(num_frames=1)
    for seed in range(8):
        np.random.seed(seed)
        expected, _ = make_mixup(kind, mode)(clips, targets)
        np.random.seed(seed)
        still, _ = make_mixup(kind, mode)(clips.repeat(1, 1, 4, 1, 1), targets)
        torch.testing.assert_close(still, expected.expand_as(still))


@pytest.mark.parametrize("mode", MODES)
def test_a_cutmix_box_is_the_same_in_every_frame_and_its_area_is_the_share_of_the_targets(mode: str) -> None:
    clips, targets = make_batch()
    for seed in range(8):
        np.random.seed(seed)
        mixed, mixed_targets = make_mixup("cutmix", mode)(clips, targets)
        from_partner = mixed != clips
        assert torch.equal(from_partner, from_partner[:, :1, :1].expand_as(from_partner))
        assert torch.equal(mixed, torch.where(from_partner, clips.flip(0), clips))
        share = from_partner[:, 0, 0].float().mean(dim=(1, 2))[:, None]
        torch.testing.assert_close(mixed_targets, targets * (1 - share) + targets.flip(0) * share)


@pytest.mark.parametrize("mode", MODES)
def test_a_clip_is_mixed_with_its_mirror_in_the_batch_at_the_ratio_of_its_targets(mode: str) -> None:
    clips, _ = make_batch()
    np.random.seed(1)
    mixed, ratios = make_mixup("mixup", mode)(clips, torch.tensor([[1.0]] * 3 + [[0.0]] * 3))
    ratios = torch.cat((ratios[:3], 1 - ratios[3:]))  # a clip's own share
    shares = ratios.reshape(-1, 1, 1, 1, 1)
    torch.testing.assert_close(mixed, clips * shares + clips.flip(0) * (1 - shares))
    assert len(set(ratios.flatten().round(decimals=5).tolist())) == {"batch": 1, "pair": 3, "elem": 6}[mode]


def test_an_odd_batch_is_mixed_as_a_whole_and_refused_in_pairs() -> None:
    clips, targets = make_batch(num_clips=5)
    np.random.seed(0)
    mixed, mixed_targets = make_mixup("mixup", "batch")(clips, targets)
    torch.testing.assert_close(mixed[2], clips[2])
    torch.testing.assert_close(mixed_targets[2], targets[2])
    assert not torch.allclose(mixed[0], clips[0])
    for mode in ("pair", "elem"):
        with pytest.raises(ValueError, match=f"--mixup_mode {mode} needs an even number of clips per batch, got 5"):
            make_mixup("mixup", mode)(clips, targets)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_clips_and_targets_given_are_not_written_to(kind: str, mode: str) -> None:
    clips, targets = make_batch()
    copies = clips.clone(), targets.clone()
    for seed in range(4):
        np.random.seed(seed)
        mixed, mixed_targets = make_mixup(kind, mode)(clips, targets)
        mixed.fill_(7)
        mixed_targets.fill_(7)
    assert torch.equal(clips, copies[0])
    assert torch.equal(targets, copies[1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", MODES)
def test_every_loss_compares_mixed_clips_with_its_own_targets_mixed(loss: str, mode: str) -> None:
    clips, intensities = make_batch()
    targets = LOSSES[loss][0](intensities, smoothing=0.1)
    seen: list[Tensor] = []

    def forward(mixed: Tensor) -> Tensor:
        seen.append(mixed)
        return mixed.mean(dim=(2, 3, 4)) @ torch.linspace(-9, 9, 3 * K).reshape(3, K)

    task = EmotionTask(loss=loss, smoothing=0.1, mixup=make_mixup("both", mode))
    np.random.seed(2)
    value = task.training_loss(forward, Batch(clips, intensities, torch.arange(6), {}))
    np.random.seed(2)
    mixed, mixed_targets = make_mixup("both", mode)(clips, targets)
    assert torch.equal(seen[0], mixed)
    assert not torch.equal(mixed, clips)
    torch.testing.assert_close(value, LOSSES[loss][1](forward(mixed), mixed_targets))


def test_ce_with_mixup_is_timms_smoothed_soft_cross_entropy() -> None:
    clips, intensities = make_batch(num_frames=1)
    weight = torch.randn(3, K, generator=torch.Generator().manual_seed(1))

    def forward(images: Tensor) -> Tensor:
        return images.flatten(2).mean(dim=2) @ weight

    task = EmotionTask(loss="ce", smoothing=0.1, mixup=make_mixup("both", "batch"))
    for seed in range(6):
        np.random.seed(seed)
        loss = task.training_loss(forward, Batch(clips, intensities, torch.arange(6), {}))
        np.random.seed(seed)
        images, targets = Mixup(**KINDS["both"], label_smoothing=0.1, num_classes=K)(
            clips[:, :, 0].clone(), intensities.argmax(dim=1)
        )
        torch.testing.assert_close(loss, SoftTargetCrossEntropy()(forward(images), targets))


def test_flags_decide_whether_and_how_batches_are_mixed() -> None:
    from VideoMAE.config import AugmentConfig
    from VideoMAE.training.finetune_vce import make_mixup as from_flags

    assert from_flags(AugmentConfig(), nb_classes=27) is None
    settings: dict[str, Any] = {"mixup": 0.8, "cutmix": 1.0, "mixup_prob": 0.7, "mixup_switch_prob": 0.4}
    mixup = from_flags(AugmentConfig(**settings, mixup_mode="pair"), nb_classes=27)
    assert mixup is not None
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.mix_prob, mixup.switch_prob) == (0.8, 1.0, 0.7, 0.4)
    assert mixup.mode == "pair"
    assert from_flags(AugmentConfig(cutmix=1.0), nb_classes=27) is not None

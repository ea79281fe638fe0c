"""Losses and their targets: agreement with torch and timm, ties, and videos without any emotion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor

from VideoMAE.data.loaders import Batch
from VideoMAE.training.tasks import LOSSES, EmotionTask, class_targets, distribution_targets, intensity_targets

B, K = 6, 27


def make_logits_and_intensities() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(B, K, generator=generator) * 3, torch.rand(B, K, generator=generator)


def loss_of(mode: str, logits: Tensor, intensities: Tensor, *, smoothing: float = 0.1) -> Tensor:
    """Through the task, as training computes it."""
    task = EmotionTask(loss=mode, smoothing=smoothing)
    return task.training_loss(lambda clips: logits, Batch(torch.zeros(B), intensities, torch.arange(B), {}))


def test_bce_is_the_mean_over_videos_and_emotions_of_torchs() -> None:
    logits, intensities = make_logits_and_intensities()
    terms = F.binary_cross_entropy(logits.sigmoid(), intensities, reduction="none")
    torch.testing.assert_close(loss_of("bce", logits, intensities), terms.mean(), rtol=1e-5, atol=1e-6)


def test_mse_goes_through_the_sigmoid() -> None:
    logits, intensities = make_logits_and_intensities()
    expected = ((1 / (1 + torch.exp(-logits)) - intensities) ** 2).sum() / (B * K)
    torch.testing.assert_close(loss_of("mse", logits, intensities), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_ce_is_torchs_and_timms_cross_entropy_with_label_smoothing(smoothing: float) -> None:
    logits, intensities = make_logits_and_intensities()
    loss = loss_of("ce", logits, intensities, smoothing=smoothing)
    classes = intensities.argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(logits, classes, label_smoothing=smoothing))
    torch.testing.assert_close(loss, LabelSmoothingCrossEntropy(smoothing)(logits, classes))


def test_soft_ce_is_timms_on_intensities_that_sum_to_1() -> None:
    logits, intensities = make_logits_and_intensities()
    distribution = intensities / intensities.sum(dim=1, keepdim=True)
    torch.testing.assert_close(loss_of("soft_ce", logits, intensities), SoftTargetCrossEntropy()(logits, distribution))


def test_soft_ce_does_not_care_for_the_scale_of_the_intensities() -> None:
    logits, intensities = make_logits_and_intensities()
    halves = loss_of("soft_ce", logits, intensities / 2)
    torch.testing.assert_close(halves, loss_of("soft_ce", logits, intensities))


def test_smoothing_concerns_ce_alone() -> None:
    logits, intensities = make_logits_and_intensities()
    for mode in ("bce", "soft_ce", "mse"):
        assert torch.equal(
            loss_of(mode, logits, intensities, smoothing=0.0), loss_of(mode, logits, intensities, smoothing=0.9)
        )


def test_of_equally_intense_emotions_the_first_is_the_class() -> None:
    targets = class_targets(torch.tensor([[0.1, 0.7, 0.7, 0.7], [0, 0, 0, 0]]), smoothing=0.0)
    assert targets.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


def test_smoothed_targets_sum_to_1_and_give_every_class_its_share() -> None:
    targets = class_targets(torch.tensor([[0.1, 0.9, 0.0, 0.3]]), smoothing=0.2)
    torch.testing.assert_close(targets, torch.tensor([[0.05, 0.85, 0.05, 0.05]]))


def test_a_video_without_any_emotion_becomes_a_uniform_distribution() -> None:
    intensities = torch.tensor([[0.0, 0, 0, 0], [0.0, 0.2, 0, 0.6]])
    targets = distribution_targets(intensities, smoothing=0.1)
    torch.testing.assert_close(targets, torch.tensor([[0.25, 0.25, 0.25, 0.25], [0, 0.25, 0, 0.75]]))


@pytest.mark.parametrize("mode", LOSSES)
def test_every_loss_and_its_gradient_are_finite_without_any_emotion_and_with_huge_logits(mode: str) -> None:
    logits, _ = make_logits_and_intensities()
    for scale in (1, 1e4):
        leaf = (logits * scale).requires_grad_()
        loss = loss_of(mode, leaf, torch.zeros(B, K))
        loss.backward()
        assert loss.isfinite()
        assert leaf.grad is not None and leaf.grad.isfinite().all()


@pytest.mark.parametrize("mode", LOSSES)
def test_targets_are_new_values_of_the_intensities_shape_and_leave_them_alone(mode: str) -> None:
    _, intensities = make_logits_and_intensities()
    before = intensities.clone()
    targets = LOSSES[mode][0](intensities, smoothing=0.1)
    assert targets.shape == (B, K)
    assert targets.dtype == torch.float32
    assert torch.equal(intensities, before)
    assert torch.equal(intensity_targets(intensities, smoothing=0.1), before)


@pytest.mark.parametrize("mode", LOSSES)
def test_every_loss_is_a_mean_over_the_batch(mode: str) -> None:
    logits, intensities = make_logits_and_intensities()
    targets, loss = LOSSES[mode]
    single = [loss(logits[i : i + 1], targets(intensities[i : i + 1], smoothing=0.1)) for i in range(B)]
    torch.testing.assert_close(loss(logits, targets(intensities, smoothing=0.1)), torch.stack(single).mean())

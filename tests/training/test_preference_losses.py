"""Preference losses: their formulas written out in another way, gradients, limits, and the reference's training."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_expit

from VideoMAE.config import OptimConfig, V2VOptimConfig, V2VRunConfig
from VideoMAE.data.clips import ComparisonBatch
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.optim_factory import keep_base, make_schedule, scale_to_batch, set_step_values
from VideoMAE.runtime.distributed import World
from VideoMAE.training.backends import make_backend
from VideoMAE.training.tasks import (
    PreferenceTask,
    hinge_loss,
    logistic_loss,
    plackett_luce_loss,
    preference_loss,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "trajectory_0.npz"
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def drawn_scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, shape))


def chosen_one_by_one(scores: list[float]) -> float:
    """-log probability of the order, the best picked first from all, then the best of the rest, ..."""
    left, loss = list(scores), 0.0
    while left:
        weights = np.exp(np.array(left))
        loss -= float(np.log(weights[-1] / weights.sum()))
        left.pop()
    return loss


def test_logistic_is_bradley_terry() -> None:
    worse, better = drawn_scores(50), drawn_scores(50, seed=1)
    expected = -log_expit((better - worse).numpy())
    np.testing.assert_allclose(logistic_loss(worse, better), expected, rtol=1e-12)


def test_logistic_of_far_apart_scores_is_finite_and_linear() -> None:
    np.testing.assert_allclose(logistic_loss(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4])), [2e4, 0.0])


def test_hinge_is_zero_from_the_margin_on() -> None:
    better = torch.tensor([-1.0, 0.0, 0.5, 2.0, 3.0])
    np.testing.assert_allclose(hinge_loss(torch.zeros(5), better, margin=2.0), [3.0, 2.0, 1.5, 0.0, 0.0])


def test_plackett_luce_is_choosing_the_best_of_what_is_left() -> None:
    lengths = [2, 4, 3, 6, 1]
    ranked = drawn_scores(len(lengths), max(lengths))
    expected = [chosen_one_by_one(row[:length].tolist()) for row, length in zip(ranked, lengths, strict=True)]
    np.testing.assert_allclose(plackett_luce_loss(ranked, torch.tensor(lengths)), expected, rtol=1e-10, atol=1e-12)


def test_plackett_luce_of_two_is_logistic() -> None:
    ranked = drawn_scores(20, 2)
    loss = plackett_luce_loss(ranked, torch.full((20,), 2))
    torch.testing.assert_close(loss, logistic_loss(ranked[:, 0], ranked[:, 1]))


def test_plackett_luce_probabilities_of_all_orders_sum_to_one() -> None:
    scores = drawn_scores(4)
    orders = torch.stack([scores[list(order)] for order in itertools.permutations(range(4))])
    probabilities = torch.exp(-plackett_luce_loss(orders, torch.full((24,), 4)))
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_plackett_luce_ignores_what_stands_beyond_the_length() -> None:
    ranked = drawn_scores(3, 5)
    ranked.requires_grad_(True)
    lengths = torch.tensor([2, 5, 3])
    loss = plackett_luce_loss(ranked, lengths)
    loss.sum().backward()
    assert ranked.grad is not None
    assert not ranked.grad[0, 2:].any()
    assert not ranked.grad[2, 3:].any()
    other = ranked.detach().clone()
    other[0, 2:] = 1e3
    torch.testing.assert_close(plackett_luce_loss(other, lengths), loss.detach())


@pytest.mark.parametrize("name", ["logistic", "hinge", "listwise"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    videos = 4 if name == "listwise" else 2
    ranked = drawn_scores(6, videos).requires_grad_(True)
    lengths = torch.tensor([2, 3, 4, 4, 3, 2]) if name == "listwise" else torch.full((6,), 2)
    loss = preference_loss(name, margin=0.7)
    assert torch.autograd.gradcheck(lambda scores: loss(scores, lengths), (ranked,))


def batch_of(clips: torch.Tensor, lengths: tuple[int, ...], weights: list[float] | None = None) -> ComparisonBatch:
    count = len(lengths)
    return ComparisonBatch(clips, lengths, torch.tensor(weights or [1.0] * count), torch.arange(count), {})


def test_a_lost_comparison_adds_nothing_and_the_others_keep_their_weight() -> None:
    task = PreferenceTask(loss="listwise", margin=1.0, held_out=[], ids=[])
    scores = drawn_scores(7)[:, None]
    lengths = (2, 3, 2)
    alone = [plackett_luce_loss(part.T, torch.tensor([len(part)])).item() for part in scores.split(lengths)]
    loss = task.training_loss(lambda clips: clips, batch_of(scores, lengths, [1.0, 0.0, 1.0]))
    assert loss.item() == pytest.approx((alone[0] + alone[2]) / 3)


def test_the_rate_is_the_base_for_v2v_and_scaled_by_the_total_batch_for_vce() -> None:
    sampler = TrainSampler(64, batch_size=4, update_freq=2, rank=0, world_size=2, seed=0)
    rate = make_schedule(V2VOptimConfig(), sampler, scale=keep_base).lr
    assert len(rate) == 40
    assert rate[0] == 0.01
    np.testing.assert_allclose(rate, 0.005 * (1 + np.cos(np.pi * np.arange(40) / 40)))
    assert make_schedule(OptimConfig(), sampler, scale=scale_to_batch).lr.max() == pytest.approx(5e-4 * 16 / 256)


def test_training_follows_the_reference_over_twelve_steps() -> None:
    golden = np.load(GOLDEN)
    model = VisionTransformer(
        img_size=32, embed_dim=48, depth=3, num_heads=4, all_frames=8, num_classes=1, head_bias=False
    )
    prefix = "v2v/state/"
    state = {name[len(prefix) :]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith(prefix)}
    model.load_state_dict(state)
    clips = np.random.RandomState(int(golden["v2v/input_seed"])).standard_normal((12, 8, 3, 8, 32, 32))
    clips = clips.astype(np.float32)
    assert clips.sum() == pytest.approx(float(golden["v2v/input_sum"]), rel=1e-3)
    optim = V2VOptimConfig(epochs=12)
    sampler = TrainSampler(4, batch_size=4, update_freq=1, rank=0, world_size=1, seed=0)
    schedule = make_schedule(optim, sampler, scale=keep_base)
    backend = make_backend(model, optim, V2VRunConfig(output_dir=Path()), world=ALONE, precision="fp32")
    task = PreferenceTask(loss="logistic", margin=1.0, held_out=[], ids=[])
    losses, accuracies = [], []

    def forward(batch: torch.Tensor) -> torch.Tensor:
        scores = backend.forward(batch, update=True)
        accuracies.append((scores[1::2] > scores[0::2]).float().mean().item())
        return scores

    for step in range(12):
        set_step_values(backend.optimizer, lr=schedule.lr[step], weight_decay=schedule.weight_decay[step])
        loss = task.training_loss(forward, batch_of(torch.from_numpy(clips[step]), (2, 2, 2, 2)))
        backend.backward(loss, update=True)
        losses.append(loss.item())
    np.testing.assert_allclose(losses, golden["v2v/losses"], rtol=1e-4)
    np.testing.assert_allclose(accuracies, golden["v2v/pair_accuracy"])

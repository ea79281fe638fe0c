"""Twelve training steps give the losses and weights that the original programs gave."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from VideoMAE.data.loaders import Batch
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.optim_factory import cosine_schedule, create_optimizer, parameter_groups, set_step_values
from VideoMAE.runtime.distributed import World
from VideoMAE.training.backends import BackendSettings, DDPBackend
from VideoMAE.training.tasks import EmotionTask

STEPS = 12


def part(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def trained(request: pytest.FixtureRequest) -> tuple[dict[str, Any], np.ndarray, list[float], torch.Tensor]:
    """The golden values, and our schedule, losses and last head weight."""
    expected = part(request.getfixturevalue("golden")("trajectory_0.npz"), "vce/")
    random = np.random.RandomState(int(expected["input_seed"]))
    clips = random.standard_normal((STEPS, 4, 3, 8, 32, 32)).astype(np.float32)
    targets = random.random_sample((STEPS, 4, 27)).astype(np.float32)
    assert clips.sum(dtype=np.float64) == pytest.approx(float(expected["input_sum"]), rel=1e-6)
    assert targets.sum(dtype=np.float64) == pytest.approx(float(expected["target_sum"]), rel=1e-6)

    model = VisionTransformer(img_size=32, embed_dim=48, depth=3, num_heads=4, all_frames=8, num_classes=27)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in part(expected, "state/").items()})
    groups = parameter_groups(
        model, num_layers=3, weight_decay=0.05, layer_decay=0.75, no_weight_decay=model.no_weight_decay()
    )
    optimizer = create_optimizer(groups, opt="adamw", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, momentum=0.9)
    world = World(0, 1, torch.device("cpu"))
    backend = DDPBackend(model, optimizer, BackendSettings(world, "fp32", update_freq=1, clip_grad=None))
    task = EmotionTask(loss="bce", smoothing=0.1)
    lr = cosine_schedule(1e-3, 1e-6, epochs=4, steps_per_epoch=3, warmup_epochs=1)
    losses = []
    model.train()
    for step in range(STEPS):
        set_step_values(optimizer, lr=lr[step], weight_decay=0.05)
        batch = Batch(torch.from_numpy(clips[step]), torch.from_numpy(targets[step]), torch.arange(4), {})
        loss = task.training_loss(partial(backend.forward, update=True), batch)
        backend.backward(loss, update=True)
        losses.append(loss.item())
    return expected, lr, losses, model.head.weight.detach()


def test_the_learning_rates_are_the_original_programs(trained: Any) -> None:
    expected, lr, _, _ = trained
    np.testing.assert_allclose(lr, expected["lr"], rtol=1e-9, atol=1e-12)


def test_all_twelve_losses_are_the_original_programs(trained: Any) -> None:
    expected, _, losses, _ = trained
    assert len(losses) == len(expected["losses"])
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-4)


def test_the_head_ends_with_the_original_programs_weight(trained: Any) -> None:
    expected, _, _, weight = trained
    golden_weight = torch.from_numpy(expected["head_weight_after"])
    start = torch.from_numpy(expected["state/head.weight"])
    assert (weight - golden_weight).norm() < 1e-4 * golden_weight.norm()
    assert (weight - golden_weight).norm() < 1e-3 * (golden_weight - start).norm()

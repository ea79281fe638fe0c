"""The average of weights: its closed form, in full precision whatever the weights have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import make_vce_run
from torch import Tensor, nn

from VideoMAE.optim_factory import WeightAverage
from VideoMAE.training.backends import BackendSettings, DDPBackend
from VideoMAE.training.checkpoint import LAST, PREVIOUS

CPU = torch.device("cpu")


def set_weights(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_updates_give_the_closed_form() -> None:
    torch.manual_seed(0)
    decay, model = 0.9, nn.Linear(3, 2)
    start = model.weight.detach().double().clone()
    average = WeightAverage(model, decay=decay, device=CPU)
    history = []
    for _ in range(25):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        history.append(model.weight.detach().double().clone())
        average.update(model)
    expected = decay**25 * start + sum((1 - decay) * decay ** (24 - i) * value for i, value in enumerate(history))
    torch.testing.assert_close(average.module.weight.double(), expected, rtol=1e-5, atol=1e-6)


def test_before_an_update_the_average_is_the_start_weights_and_a_copy_of_them() -> None:
    model = nn.Linear(3, 2)
    start = model.weight.detach().clone()
    average = WeightAverage(model, decay=0.5, device=CPU)
    set_weights(model, 9.0)
    assert torch.equal(average.module.weight, start)


def test_the_model_is_not_changed_and_the_average_needs_no_gradients() -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    average = WeightAverage(model, decay=0.5, device=CPU)
    average.update(model)
    assert torch.equal(model.weight, before)
    assert model.weight.requires_grad
    assert model.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert not average.module.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_averaged_in_fp32(dtype: torch.dtype) -> None:
    model = nn.Linear(1, 1).to(dtype)
    set_weights(model, 1.0)
    average = WeightAverage(model, decay=0.9999, device=CPU)
    set_weights(model, 2.0)
    for _ in range(10):  # each moves the average by less than half precision can show
        average.update(model)
    assert average.module.weight.dtype == torch.float32
    assert float(average.module.weight.detach()) == pytest.approx(2 - 0.9999**10, abs=2e-6)
    assert model.weight.dtype == dtype


def test_buffers_are_copied() -> None:
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.99, device=CPU)
    model(torch.randn(8, 2) + 5)
    average.update(model)
    assert torch.equal(average.module.running_mean, model.running_mean)
    assert average.module.num_batches_tracked == 1


def test_on_its_own_device_the_average_itself_is_tested() -> None:
    average = WeightAverage(nn.Linear(2, 2), decay=0.9, device=CPU)
    assert average.on(CPU) is average.module


def test_on_another_device_a_copy_is_tested() -> None:
    average = WeightAverage(nn.Linear(2, 2), decay=0.9, device=CPU)
    copy = average.on(torch.device("meta"))
    assert copy is not average.module
    assert copy.weight.device.type == "meta"
    assert average.module.weight.device == CPU


def test_a_step_that_the_loss_scaler_skips_moves_neither_the_weights_nor_their_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp16 on a CPU, which the run programs refuse because it is slow; the last of three steps overflows."""
    initialize, backward, steps = DDPBackend.__init__, DDPBackend.backward, []

    def initialize_in_fp16(self: DDPBackend, model: Any, optimizer: Any, settings: BackendSettings) -> None:
        initialize(self, model, optimizer, settings._replace(precision="fp16"))

    def backward_with_overflow(self: DDPBackend, loss: Tensor, *, update: bool) -> float | None:
        steps.append(loss)
        return backward(self, loss * torch.inf if len(steps) == 3 else loss, update=update)

    monkeypatch.setattr(DDPBackend, "__init__", initialize_in_fp16)
    monkeypatch.setattr(DDPBackend, "backward", backward_with_overflow)
    flags = ["--batch_size", "3", "--model_ema", "--model_ema_decay", "0.5", "--save_ckpt_steps", "2"]
    run = make_vce_run(tmp_path, *flags)
    first, second = (torch.load(run / name, weights_only=True) for name in (PREVIOUS, LAST))
    assert (first["state"]["steps"], len(steps)) == (2, 3)
    assert not torch.equal(first["model"]["head.weight"], first["model_ema"]["head.weight"])
    for part in ("model", "model_ema"):
        assert all(torch.equal(second[part][name], value) for name, value in first[part].items()), part

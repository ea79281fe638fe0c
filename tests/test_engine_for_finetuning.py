"""The training loop: accumulation, fp16 overflows, errors. Plain SGD, so that a wrong factor of the gradient shows."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from VideoMAE.engine_for_finetuning import NonFiniteStepError, StepResult, seed_step, train_one_epoch
from VideoMAE.optim_factory import Schedule
from VideoMAE.runtime.distributed import World
from VideoMAE.training.backends import BackendSettings, DDPBackend

SEED = 0


class Batch(NamedTuple):
    clips: Tensor  # (B, 3)
    indices: Tensor
    skipped: dict[str, str]


def batches(num: int, size: int) -> Iterator[Batch]:
    clips = torch.randn(num * size, 3, generator=torch.Generator().manual_seed(SEED))
    for number, part in enumerate(clips.split(size)):
        positions = torch.arange(number * size, (number + 1) * size)
        yield Batch(part, positions, {f"video {number}": "truncated"} if number == 1 else {})


def squares(forward: Any, batch: Batch) -> Tensor:
    return forward(batch.clips).square().mean()


def backend(update_freq: int, *, precision: str = "fp32") -> DDPBackend:
    torch.manual_seed(SEED)
    model = nn.Linear(3, 2)
    group = {"params": list(model.parameters()), "lr_scale": 1.0, "decayed": False, "weight_decay": 0.0}
    optimizer = torch.optim.SGD([group], lr=0.1)
    world = World(0, 1, torch.device("cpu"))
    return DDPBackend(model, optimizer, BackendSettings(world, precision, update_freq, None))


def train(trained: DDPBackend, num: int, size: int, *, loss: Any = squares) -> list[StepResult]:
    task: Any = SimpleNamespace(training_loss=loss)
    schedule = Schedule(lr=np.full(100, 0.1), weight_decay=np.zeros(100))
    return list(train_one_epoch(trained, batches(num, size), task, schedule=schedule, first_batch=0, seed=SEED))


def test_accumulated_batches_change_the_weights_as_one_large_batch_does() -> None:
    large, accumulated = backend(1), backend(4)
    one, four = train(large, num=2, size=8), train(accumulated, num=8, size=2)
    assert [result.loss for result in four] == pytest.approx([result.loss for result in one], rel=1e-6)
    assert [result.grad_norm for result in four] == pytest.approx([result.grad_norm for result in one], rel=1e-6)
    torch.testing.assert_close(accumulated.model.weight, large.model.weight, rtol=1e-6, atol=1e-7)


def test_a_step_reports_the_positions_and_the_unreadable_videos_of_all_its_batches() -> None:
    first, second = train(backend(2), num=4, size=2)
    assert first.indices == [0, 1, 2, 3] and second.indices == [4, 5, 6, 7]
    assert first.unreadable == {"video 1": "truncated"} and second.unreadable == {}


def test_an_epoch_that_is_continued_takes_the_values_of_its_steps() -> None:
    trained, task = backend(2), SimpleNamespace(training_loss=squares)
    schedule = Schedule(lr=np.array([0.0, 0.1, 0.2, 0.3]), weight_decay=np.zeros(4))
    task_any: Any = task
    results = list(train_one_epoch(trained, batches(4, 1), task_any, schedule=schedule, first_batch=4, seed=SEED))
    assert [result.lr for result in results] == [0.2, 0.3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_and_leaves_the_weights(bad: float) -> None:
    trained = backend(1)
    before = trained.model.weight.clone()
    with pytest.raises(NonFiniteStepError, match="the loss became") as caught:
        train(trained, num=1, size=2, loss=lambda forward, batch: squares(forward, batch) * bad)
    assert caught.value.indices == [0, 1]
    assert torch.equal(trained.model.weight, before)


def test_a_gradient_that_is_not_finite_is_an_error_and_leaves_the_weights() -> None:
    trained = backend(1)
    before = trained.model.weight.clone()
    with pytest.raises(NonFiniteStepError, match="gradient norm became"):
        train(trained, num=1, size=2, loss=lambda forward, batch: (forward(batch.clips) * 0).abs().sqrt().sum())
    assert torch.equal(trained.model.weight, before)


def test_in_fp16_a_step_that_is_not_finite_is_reported_as_skipped() -> None:
    trained = backend(1, precision="fp16")
    trained.settings = trained.settings._replace(precision="fp16")
    results = train(trained, num=1, size=2, loss=lambda forward, batch: squares(forward, batch) * float("inf"))
    assert [result.is_skipped for result in results] == [True]


def test_draws_within_a_step_depend_on_seed_position_and_rank_alone() -> None:
    def drawn(*key: int) -> tuple[float, float]:
        seed_step(*key)
        return torch.rand(()).item(), np.random.rand()

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    values = [drawn(*key) for key in keys]
    assert len({by_torch for by_torch, _ in values}) == len({by_numpy for _, by_numpy in values}) == 4
    assert [drawn(*key) for key in reversed(keys)] == values[::-1]

"""What the trainer does with the results of steps."""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from VideoMAE.engine_for_finetuning import StepResult
from VideoMAE.optim_factory import WeightAverage
from VideoMAE.runtime.distributed import ErrorOnAllRanks
from VideoMAE.training.trainer import MAX_CONSECUTIVE_OVERFLOWS, Trainer, TrainState


def trainer(model: nn.Module) -> Any:
    """A trainer between two steps, without data."""
    made: Any = Trainer.__new__(Trainer)
    made.backend = SimpleNamespace(model=model)
    made.average = WeightAverage(model, decay=0.5, device=torch.device("cpu"))
    made.state, made.unreadable_here = TrainState(), {}
    made.loaders = SimpleNamespace(sampler=SimpleNamespace(steps_per_epoch=100), ids=["a", "b"])
    made.run = SimpleNamespace(save_ckpt_steps=0, save_ckpt_minutes=0)
    made.world = SimpleNamespace(device=torch.device("cpu"), is_main=True)
    made.log = SimpleNamespace(step=lambda **values: None)
    return made


def step(*, is_skipped: bool) -> StepResult:
    return StepResult(1.0, 0.1, math.inf if is_skipped else 1.0, is_skipped, [0], {})


def test_the_moving_average_ignores_steps_that_fp16_skipped() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0)
    trained = trainer(model)
    with torch.no_grad():
        model.weight.fill_(1)
    trained._finish_step(step(is_skipped=True))
    assert trained.average.module.weight.item() == 0
    trained._finish_step(step(is_skipped=False))
    assert trained.average.module.weight.item() == 0.5


def test_too_many_consecutive_skipped_steps_stop_the_run_and_name_the_videos() -> None:
    trained = trainer(nn.Linear(1, 1))
    for _ in range(MAX_CONSECUTIVE_OVERFLOWS):
        trained._finish_step(step(is_skipped=True))
    try:
        trained._finish_step(step(is_skipped=True))
    except ErrorOnAllRanks as error:
        assert "33 consecutive steps overflowed in fp16 in epoch 1, step 33, on the videos a" in str(error)
    else:
        raise AssertionError("the run was not stopped")


def test_a_skipped_step_has_no_loss_and_a_step_that_is_not_ends_the_row() -> None:
    state = TrainState()
    for is_skipped in (True, True, False):
        state.count(step(is_skipped=is_skipped))
    assert state.steps == 3 and state.overflows == 0
    assert [math.isnan(loss) for loss in state.losses] == [True, True, False]

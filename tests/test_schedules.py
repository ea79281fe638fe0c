"""Schedules: the original programs' values to 1e-9, and what a user may get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from VideoMAE.config import OptimConfig
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.optim_factory import cosine_schedule, make_schedule


@pytest.mark.parametrize("number", range(4))
def test_schedules_are_the_original_programs(golden: Any, number: int) -> None:
    case = golden("optimizer.json")["cosine_schedules"][number]
    values = cosine_schedule(
        case["base"],
        case["final"],
        epochs=case["epochs"],
        steps_per_epoch=case["steps_per_epoch"],
        warmup_epochs=case["warmup_epochs"],
        warmup_steps=case["warmup_steps"],
        start_value=case["start_warmup_value"],
    )
    assert values.shape == (case["epochs"] * case["steps_per_epoch"],)
    np.testing.assert_allclose(values, case["values"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(values, case["values"], rtol=1e-9, atol=1e-18)


def test_the_warm_up_starts_at_zero_and_ends_at_the_base_value() -> None:
    values = cosine_schedule(2.0, 0.5, epochs=4, steps_per_epoch=5, warmup_epochs=1)
    np.testing.assert_allclose(values[:5], [0, 0.5, 1, 1.5, 2])
    assert values[5] == 2
    assert np.all(np.diff(values[5:]) < 0)
    assert values[-1] > 0.5  # the end would be reached one step later


def test_a_start_value_is_where_the_warm_up_begins() -> None:
    assert cosine_schedule(2.0, 0.5, epochs=1, steps_per_epoch=5, warmup_steps=3, start_value=1).tolist()[:3] == [
        1,
        1.5,
        2,
    ]


def test_warm_up_steps_win_over_warm_up_epochs() -> None:
    by_steps = cosine_schedule(1.0, 0.0, epochs=4, steps_per_epoch=5, warmup_epochs=3, warmup_steps=4)
    np.testing.assert_allclose(by_steps, cosine_schedule(1.0, 0.0, epochs=4, steps_per_epoch=5, warmup_steps=4))


@pytest.mark.parametrize("warmup_steps", [0, -1])
def test_without_warm_up_steps_the_warm_up_epochs_count(warmup_steps: int) -> None:
    values = cosine_schedule(1.0, 0.0, epochs=4, steps_per_epoch=5, warmup_epochs=1, warmup_steps=warmup_steps)
    np.testing.assert_allclose(values[:5], [0, 0.25, 0.5, 0.75, 1])


def test_fractions_of_epochs_warm_up_for_whole_steps() -> None:
    values = cosine_schedule(1.0, 0.0, epochs=2, steps_per_epoch=5, warmup_epochs=0.5)
    np.testing.assert_allclose(values[:3], [0, 1, 1])


def test_a_warm_up_may_fill_the_run_but_not_exceed_it() -> None:
    whole = cosine_schedule(1.0, 0.0, epochs=2, steps_per_epoch=5, warmup_epochs=2)
    assert whole[-1] == 1
    with pytest.raises(ValueError, match=r"--warmup_epochs .*15 steps.* longer than the run \(--epochs, 10 steps\)"):
        cosine_schedule(1.0, 0.0, epochs=2, steps_per_epoch=5, warmup_epochs=3)
    with pytest.raises(ValueError, match=r"--warmup_steps, 11 steps.* longer than the run"):
        cosine_schedule(1.0, 0.0, epochs=2, steps_per_epoch=5, warmup_steps=11)


def make_sampler(*, batch_size: int = 2, update_freq: int = 2, world_size: int = 4) -> TrainSampler:
    return TrainSampler(
        160, batch_size=batch_size, update_freq=update_freq, rank=0, world_size=world_size, seed=0
    )  # total batch 16, 10 steps


def test_the_learning_rate_is_scaled_by_the_total_batch_over_256() -> None:
    optim = OptimConfig(epochs=3, lr=0.8, min_lr=0.08, warmup_epochs=1)
    expected = cosine_schedule(0.8 / 16, 0.08 / 16, epochs=3, steps_per_epoch=10, warmup_epochs=1)
    np.testing.assert_allclose(make_schedule(optim, make_sampler()).lr, expected)


def test_weight_decay_is_constant_or_follows_its_own_cosine_without_warm_up() -> None:
    constant = make_schedule(OptimConfig(epochs=3, weight_decay=0.05, warmup_epochs=1), make_sampler())
    assert constant.weight_decay.tolist() == [0.05] * 30
    optim = OptimConfig(epochs=3, weight_decay=0.05, weight_decay_end=0.5, warmup_epochs=1)
    expected = cosine_schedule(0.05, 0.5, epochs=3, steps_per_epoch=10)
    np.testing.assert_allclose(make_schedule(optim, make_sampler()).weight_decay, expected)
    assert expected[0] == pytest.approx(0.05) and expected[-1] > 0.4
    to_zero = make_schedule(
        OptimConfig(epochs=3, weight_decay=0.05, weight_decay_end=0.0, warmup_epochs=1), make_sampler()
    )
    assert 0 < to_zero.weight_decay[-1] < 0.001

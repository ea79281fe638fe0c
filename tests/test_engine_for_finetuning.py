"""The random state of a step, and an epoch resumed after its last step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from VideoMAE.engine_for_finetuning import EpochState, Schedule, seed_step, train_one_epoch
from VideoMAE.training.metric_logger import MetricLogger


def test_draws_within_a_step_depend_on_seed_position_and_rank_alone() -> None:
    def drawn(*key: int) -> tuple[float, float]:
        seed_step(*key)
        return torch.rand(()).item(), np.random.rand()

    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    values = [drawn(*key) for key in keys]
    assert len({by_torch for by_torch, _ in values}) == len({by_numpy for _, by_numpy in values}) == 4
    assert [drawn(*key) for key in reversed(keys)] == values[::-1]


def test_an_epoch_that_was_broken_off_after_its_last_step_has_its_means(tmp_path: Path) -> None:
    nothing: Any = SimpleNamespace(model=nn.Linear(1, 1))
    no_batches: Any = []
    means = train_one_epoch(
        nothing,
        no_batches,
        nothing,
        schedule=Schedule(lr=np.arange(9.0), weight_decay=np.zeros(9)),
        state=EpochState(epoch=1, steps=3, losses=[4.0, 2.0, 6.0]),
        steps_per_epoch=3,
        update_freq=1,
        ids=[],
        skipped={},
        device=torch.device("cpu"),
        seed=0,
        rank=0,
        average=None,
        logger=MetricLogger(tmp_path, enabled=False, num_processes=1, show_progress=False),
        control=nothing,
    )
    assert means == {"train_loss": 4.0, "lr": 5.0}

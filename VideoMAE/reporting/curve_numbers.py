"""The curves of a run, from its logs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from VideoMAE.reporting.run_files import Run

MAX_STEPS = 400  # points of the curve of steps


def curves(run: Run) -> dict[str, Any]:
    """A run's epochs, as logged, and its steps, summed up to at most MAX_STEPS means; empty of a run without a log."""
    epochs = [
        {
            "epochs_done": line["epoch"] + 1,
            **{key: value for key, value in line.items() if isinstance(value, (int, float))},
        }
        for line in run.epochs
    ]
    if not epochs:
        return {}
    per_epoch = max(len(run.steps) / len(epochs), 1)
    parts = np.array_split(np.arange(len(run.steps)), min(len(run.steps), MAX_STEPS)) if run.steps else []
    steps = [
        {
            "epoch": _mean_of([(run.steps[place]["step"] + 1) / per_epoch for place in part]),
            "loss": _mean_of([run.steps[place].get("loss") for place in part]),
            "lr": _mean_of([run.steps[place].get("lr") for place in part]),
        }
        for part in parts
    ]
    return {"epochs": epochs, "steps": steps, "num_steps": len(run.steps)}


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None

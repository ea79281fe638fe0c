"""Values over the optimizer steps of a run: linear warm-up, then half a cosine."""

import numpy as np


def cosine_schedule(
    base_value: float,
    final_value: float,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0,
    warmup_steps: int = -1,
    start_value: float = 0.0,
) -> np.ndarray:
    """One value per optimizer step: start_value -> base_value linearly, then a half cosine down. -> (steps,) float64

    `warmup_steps` above 0 wins over `warmup_epochs`. Source: Loshchilov & Hutter 2017 (SGDR), equation 5, without
    restarts.

    Raises:
        ValueError: the warm-up is longer than the run.
    """
    num_steps = epochs * steps_per_epoch
    num_warmup = warmup_steps if warmup_steps > 0 else int(warmup_epochs * steps_per_epoch)
    if num_warmup > num_steps:
        raise ValueError(
            f"the warm-up (--warmup_epochs or --warmup_steps, {num_warmup} steps) is longer than the run "
            f"(--epochs, {num_steps} steps)"
        )
    warmup = np.linspace(start_value, base_value, num_warmup)
    progress = np.arange(num_steps - num_warmup) / max(num_steps - num_warmup, 1)
    cosine = final_value + 0.5 * (base_value - final_value) * (1 + np.cos(np.pi * progress))
    return np.concatenate((warmup, cosine))

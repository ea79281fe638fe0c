"""Parameter groups with layer-wise learning rate decay, optimizers, schedules, and the weight average."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from VideoMAE.config import OptimConfig
from VideoMAE.data.loaders import TrainSampler


def layer_id(name: str, num_layers: int) -> int:
    """Depth of a parameter: 0 embedding, n+1 for block n, num_layers+1 for the norm and the head."""
    if name.startswith(("patch_embed.", "pos_embed", "cls_token")):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else num_layers + 1


def parameter_groups(
    model: nn.Module,
    *,
    num_layers: int,
    weight_decay: float,
    layer_decay: float = 1.0,
    no_weight_decay: set[str] | None = None,
) -> list[dict[str, Any]]:
    """Groups of parameters that share `lr_scale` and `weight_decay`; every trainable parameter is in exactly one.

    lr_scale = layer_decay ** (num_layers + 1 - depth); biases, one-dimensional parameters and `no_weight_decay` are
    not decayed. Source: layer-wise decay of Clark et al. 2020 (ELECTRA), as used by BEiT and MAE.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = layer_id(name, num_layers)
        decayed = parameter.ndim > 1 and not name.endswith(".bias") and name not in (no_weight_decay or ())
        settings = {"weight_decay": weight_decay if decayed else 0.0, "decayed": decayed}
        settings["lr_scale"] = layer_decay ** (num_layers + 1 - depth)
        group = groups.setdefault((depth, decayed), {"params": [], "names": [], **settings})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def create_optimizer(
    groups: list[dict[str, Any]], *, opt: str, lr: float, betas: tuple[float, float], eps: float, momentum: float
) -> torch.optim.Optimizer:
    """The optimizer `opt` over `groups`: torch's adamw or sgd (with Nesterov momentum), otherwise timm's.

    Raises:
        ValueError: timm has no optimizer `opt`.
    """
    if opt == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=0.0, betas=betas, eps=eps)
    if opt == "sgd":
        return torch.optim.SGD(groups, lr=lr, weight_decay=0.0, momentum=momentum, nesterov=momentum > 0)
    from timm.optim import create_optimizer_v2  # deferred: importing timm takes seconds

    uses_momentum = "sgd" in opt.lower() or "momentum" in opt.lower()
    settings: dict[str, Any] = {"momentum": momentum} if uses_momentum else {"betas": betas, "eps": eps}
    try:
        return create_optimizer_v2(groups, opt=opt, lr=lr, weight_decay=0.0, **settings)
    except (AssertionError, ValueError, TypeError) as error:
        raise ValueError(f"--opt {opt}: timm cannot create this optimizer: {error}") from error


def set_step_values(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Sets the learning rate (times each group's `lr_scale`) and, where a group is decayed, the weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = float(lr * group["lr_scale"])  # checkpoints must not contain numpy scalars
        if group["decayed"]:
            group["weight_decay"] = float(weight_decay)


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
    """Linear warm-up from start_value to base_value, then half a cosine to final_value. -> (steps,) float64

    `warmup_steps` above 0 overrides `warmup_epochs`. Source: Loshchilov & Hutter 2017 (SGDR), equation 5, without
    restarts.

    Raises:
        ValueError: the warm-up is longer than the run.
    """
    num_steps = epochs * steps_per_epoch
    num_warmup = warmup_steps if warmup_steps > 0 else int(warmup_epochs * steps_per_epoch)
    if num_warmup > num_steps:
        raise ValueError(
            f"the warm-up (--warmup_epochs or --warmup_steps, {num_warmup} steps) is longer than the run "
            f"(--epochs, {num_steps} steps); lower --warmup_epochs"
        )
    warmup = np.linspace(start_value, base_value, num_warmup)
    progress = np.arange(num_steps - num_warmup) / max(num_steps - num_warmup, 1)
    cosine = final_value + 0.5 * (base_value - final_value) * (1 + np.cos(np.pi * progress))
    return np.concatenate((warmup, cosine))


def scale_to_batch(base: float, total_batch_size: int) -> float:
    """Linear scaling rule: base x total batch size / 256. Source: Goyal et al. 2017, section 2.1."""
    return base * total_batch_size / 256


def keep_base(base: float, total_batch_size: int) -> float:
    """The base learning rate, independent of the total batch size."""
    return base


ScaleRule = Callable[[float, int], float]


class Schedule(NamedTuple):
    """Values per optimizer step. (steps,) each"""

    lr: np.ndarray
    weight_decay: np.ndarray


def make_schedule(optim: OptimConfig, sampler: TrainSampler, *, scale: ScaleRule = scale_to_batch) -> Schedule:
    """The values of every step; `scale` makes the learning rate of a total batch from the base learning rate."""
    cosine = partial(cosine_schedule, epochs=optim.epochs, steps_per_epoch=sampler.steps_per_epoch)
    first, last = (scale(lr, sampler.total_batch_size) for lr in (optim.lr, optim.min_lr))
    end = optim.weight_decay if optim.weight_decay_end is None else optim.weight_decay_end
    return Schedule(
        lr=cosine(first, last, warmup_epochs=optim.warmup_epochs, warmup_steps=optim.warmup_steps),
        weight_decay=cosine(optim.weight_decay, end),
    )


class WeightAverage:
    """Exponential moving average in fp32: average <- decay x average + (1 - decay) x weights; buffers are copied.

    Source: Polyak & Juditsky 1992, exponential form.
    """

    def __init__(self, model: nn.Module, *, decay: float, device: torch.device) -> None:
        self.module = copy.deepcopy(model).float().to(device).eval().requires_grad_(False)
        self.decay = decay

    def on(self, device: torch.device) -> nn.Module:
        """The averaged network on `device`; a copy unless it is already there."""
        if next(self.module.parameters()).device == device:
            return self.module
        return copy.deepcopy(self.module).to(device)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Updates the average with the weights after an optimizer step."""
        for average, value in zip(self.module.parameters(), model.parameters(), strict=True):
            average.lerp_(value.to(average), 1 - self.decay)
        for kept, current in zip(self.module.buffers(), model.buffers(), strict=True):
            if kept.dtype == current.dtype:  # half-precision buffers are less exact than the average's
                kept.copy_(current)

"""Parameter groups with layer-wise learning-rate decay, and optimizers."""

from typing import Any

import torch
from torch import nn


def layer_id(name: str, num_layers: int) -> int:
    """Depth of a parameter: 0 embedding, n+1 for block n, num_layers+1 for what comes after the blocks."""
    if name.startswith(("patch_embed.", "pos_embed", "cls_token")):
        return 0
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return num_layers + 1


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
    skip = no_weight_decay or set()
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = layer_id(name, num_layers)
        decayed = parameter.ndim > 1 and not name.endswith(".bias") and name not in skip
        group = groups.setdefault(
            (depth, decayed),
            {
                "params": [],
                "names": [],
                "weight_decay": weight_decay if decayed else 0.0,
                "decayed": decayed,
                "lr_scale": layer_decay ** (num_layers + 1 - depth),
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def create_optimizer(
    groups: list[dict[str, Any]], *, opt: str, lr: float, betas: tuple[float, float], eps: float, momentum: float
) -> torch.optim.Optimizer:
    """The optimizer of that name over `groups`, torch's adamw or sgd (with Nesterov momentum) or another one of timm's.

    Raises:
        ValueError: `opt` is not a name timm knows.
    """
    if opt == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=0.0, betas=betas, eps=eps)
    if opt == "sgd":
        return torch.optim.SGD(groups, lr=lr, weight_decay=0.0, momentum=momentum, nesterov=momentum > 0)
    from timm.optim import create_optimizer_v2  # only here: timm takes seconds to import

    uses_momentum = "sgd" in opt.lower() or "momentum" in opt.lower()
    settings: dict[str, Any] = {"momentum": momentum} if uses_momentum else {"betas": betas, "eps": eps}
    try:
        return create_optimizer_v2(groups, opt=opt, lr=lr, weight_decay=0.0, **settings)
    except (AssertionError, ValueError, TypeError) as error:
        raise ValueError(f"--opt {opt}: timm cannot make this optimizer: {error}") from error


def set_step_values(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Sets the learning rate (times each group's `lr_scale`) and, where a group is decayed, the weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = float(lr * group["lr_scale"])  # a checkpoint holds no numpy scalars
        if group["decayed"]:
            group["weight_decay"] = float(weight_decay)

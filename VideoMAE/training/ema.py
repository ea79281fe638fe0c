"""Exponential moving average of a model's weights."""

import copy

import torch
from torch import nn


class WeightAverage:
    """average <- decay x average + (1 - decay) x weights, in fp32; buffers are copied. Source: Polyak & Juditsky
    1992, exponential form."""

    def __init__(self, model: nn.Module, *, decay: float, device: torch.device) -> None:
        self.module = copy.deepcopy(model).float().to(device).eval().requires_grad_(False)
        self.decay = decay

    def on(self, device: torch.device) -> nn.Module:
        """The average on a device: itself when it is there already, else a copy."""
        if next(self.module.parameters()).device == device:
            return self.module
        return copy.deepcopy(self.module).to(device)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights after an optimizer step."""
        for average, value in zip(self.module.parameters(), model.parameters(), strict=True):
            average.lerp_(value.to(average), 1 - self.decay)
        for kept, current in zip(self.module.buffers(), model.buffers(), strict=True):
            if kept.dtype == current.dtype:  # halved tables are no better than those the average has
                kept.copy_(current)

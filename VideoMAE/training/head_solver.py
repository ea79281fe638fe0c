"""The optimal linear head on given features, by full-batch L-BFGS.

bce, ce, soft_ce, logistic, hinge and listwise are convex in a linear head: L-BFGS reaches the optimum in a few dozen
passes over the features, without a learning rate. N videos, D features, K outputs.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ITERATIONS_PER_EPOCH = 5
CONVERGED = 1e-7  # relative decrease of the objective per epoch below which it has converged
LBFGS = partial(
    torch.optim.LBFGS, tolerance_grad=1e-10, tolerance_change=1e-14, history_size=30, line_search_fn="strong_wolfe"
)


def apply_head(head: tuple[Tensor, Tensor], features: np.ndarray) -> np.ndarray:
    """Applies a linear head. features (V, D) -> outputs (V, K) float32"""
    weight, bias = head
    return (torch.from_numpy(features).to(weight) @ weight.T + bias).float().cpu().numpy()


class HeadSolver:
    """Minimizes a task's loss plus weight_decay / 2 x the mean over outputs of their squared weight norm, in float64.

    Features are divided by their standard deviation over the training videos and, if the head has a bias, centered, so
    that one weight decay suits every network; `unnormalized_head` returns the equivalent head for unscaled features.
    Starts from zero weights and, if there is a bias, the best constant output; without one, the bias stays 0.

    Args:
        features: of the training videos. (N, D)
        output: the layer to solve for; only its shape is used.
        loss_of: the loss of outputs. (N, K) -> ()
    """

    def __init__(
        self, features: Tensor, output: nn.Linear, *, loss_of: Callable[[Tensor], Tensor], weight_decay: float
    ) -> None:
        features, has_bias = features.double(), output.bias is not None
        spread = features.std(dim=0, correction=0)
        self.scale = torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread))
        self.mean = features.mean(dim=0) if has_bias else torch.zeros_like(spread)
        self.features = (features - self.mean) / self.scale
        self.weight = features.new_zeros(output.weight.shape).requires_grad_()
        self.bias = features.new_zeros(len(output.weight)).requires_grad_(has_bias)
        self.weight_decay, self.loss_of = weight_decay, loss_of
        self.value, self.converged = math.inf, False
        if has_bias:
            self._minimize(LBFGS([self.bias], max_iter=100))
        parameters = [self.weight, self.bias] if has_bias else [self.weight]
        self._optimizer = LBFGS(parameters, max_iter=ITERATIONS_PER_EPOCH)

    def _parts(self) -> tuple[Tensor, Tensor]:
        """The loss and the penalty."""
        penalty = 0.5 * self.weight_decay * self.weight.square().sum(dim=1).mean()
        return self.loss_of(self.features @ self.weight.T + self.bias), penalty

    def _minimize(self, optimizer: torch.optim.Optimizer) -> None:
        def objective() -> float:
            self.weight.grad = None
            optimizer.zero_grad()
            value = torch.stack(self._parts()).sum()
            value.backward()
            return float(value.detach())

        optimizer.step(objective)

    def run_epoch(self) -> dict[str, Any]:
        """Runs ITERATIONS_PER_EPOCH iterations -> the loss and the penalty

        Raises:
            ValueError: the objective is not finite.
        """
        self._minimize(self._optimizer)
        with torch.no_grad():
            loss, penalty = (float(part) for part in self._parts())
        before, self.value = self.value, loss + penalty
        if not math.isfinite(self.value):
            raise ValueError(f"the head's loss became {self.value}")
        self.converged = before - self.value <= CONVERGED * max(abs(self.value), 1e-12)
        return {"train_loss": loss, "penalty": penalty}

    def unnormalized_head(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) for unnormalized features."""
        weight = self.weight.detach() / self.scale
        return weight, self.bias.detach() - weight @ self.mean

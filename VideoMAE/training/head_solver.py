"""The optimal linear head on given features, by full-batch L-BFGS.

bce, ce, soft_ce, logistic, hinge and listwise are convex in a linear head: L-BFGS reaches the optimum in a few dozen
passes over the features, without a learning rate. N videos, D features, K outputs.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ITERATIONS_PER_EPOCH = 5
CONVERGED = 1e-7  # relative decrease of the objective per epoch below which it has converged


def apply_head(head: tuple[Tensor, Tensor | None], features: np.ndarray) -> np.ndarray:
    """Applies a linear head. features (V, D) -> outputs (V, K) float32"""
    weight, bias = head
    outputs = torch.from_numpy(features).to(weight) @ weight.T
    return (outputs if bias is None else outputs + bias).float().cpu().numpy()


def _lbfgs(parameters: list[Tensor], *, max_iter: int) -> torch.optim.LBFGS:
    return torch.optim.LBFGS(
        parameters,
        max_iter=max_iter,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        history_size=30,
        line_search_fn="strong_wolfe",
    )


class HeadSolver:
    """Minimizes a task's loss plus weight_decay / 2 x the mean over outputs of their squared weight norm, in float64.

    Features are divided by their standard deviation over the training videos and, if the head has a bias, centered, so
    that one weight decay suits every network; `unnormalized_head` returns the equivalent head for unscaled features.
    Starts from zero weights and, if there is a bias, the best constant output.

    Args:
        features: of the training videos. (N, D)
        output: the layer to solve for; only its shape is used.
        loss_of: the loss of outputs. (N, K) -> ()
    """

    def __init__(
        self, features: Tensor, output: nn.Linear, *, loss_of: Callable[[Tensor], Tensor], weight_decay: float
    ) -> None:
        features = features.double()
        spread = features.std(dim=0, correction=0)
        self.scale = torch.where(spread > 1e-6 * spread.max(), spread, torch.ones_like(spread))
        self.mean = features.mean(dim=0) if output.bias is not None else torch.zeros_like(spread)
        self.features = (features - self.mean) / self.scale
        shape = output.weight.shape
        self.weight = torch.zeros(shape, dtype=torch.float64, device=features.device, requires_grad=True)
        self.bias = None
        if output.bias is not None:
            self.bias = torch.zeros(shape[0], dtype=torch.float64, device=features.device, requires_grad=True)
        self.weight_decay = weight_decay
        self.loss_of = loss_of
        self.value, self.converged = math.inf, False
        if self.bias is not None:
            self._minimize(_lbfgs([self.bias], max_iter=100))
        self._optimizer = _lbfgs(
            [self.weight] if self.bias is None else [self.weight, self.bias], max_iter=ITERATIONS_PER_EPOCH
        )

    def _parts(self) -> tuple[Tensor, Tensor]:
        """The loss and the penalty."""
        scores = self.features @ self.weight.T
        penalty = 0.5 * self.weight_decay * self.weight.square().sum(dim=1).mean()
        return self.loss_of(scores if self.bias is None else scores + self.bias), penalty

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

    def unnormalized_head(self) -> tuple[Tensor, Tensor | None]:
        """Weight (K, D) and bias (K,) for unnormalized features."""
        weight = self.weight.detach() / self.scale
        return weight, None if self.bias is None else self.bias.detach() - weight @ self.mean

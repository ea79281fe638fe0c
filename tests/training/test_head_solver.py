"""The head that --linear_probe finds is the optimum that other solvers find, and it is the same for features as they
are."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from VideoMAE.training.linear_probe import HeadSolver, apply_head
from VideoMAE.training.tasks import LOSSES, preference_loss

N, D, K = 60, 6, 4
WEIGHT_DECAY = 0.02


def drawn_features() -> Tensor:
    """Of very different sizes, and one that is the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=generator) * torch.tensor([100, 1, 0.01, 5, 1, 0]) + 3
    return features.double()


def drawn_intensities() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform(size=(N, K)) * (rng.uniform(size=(N, K)) < 0.6)


def standardised(features: Tensor, *, centred: bool) -> np.ndarray:
    values = features.numpy()
    spread = values.std(axis=0)
    return (values - centred * values.mean(axis=0)) / np.where(spread > 0, spread, 1)


def solved(
    features: Tensor, num_outputs: int, loss_of: object, *, bias: bool, weight_decay: float = WEIGHT_DECAY
) -> HeadSolver:
    output = nn.Linear(D, num_outputs, bias=bias)
    solver = HeadSolver(features, output, loss_of=loss_of, weight_decay=weight_decay)  # type: ignore[arg-type]
    for _ in range(200):
        solver.run_epoch()
        if solver.converged:
            break
    assert solver.converged
    return solver


def softmax_loss(z: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean(np.logaddexp.reduce(z, axis=1) * targets.sum(axis=1) - (z * targets).sum(axis=1)))


def binary_loss(z: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, z) - z * targets))


@pytest.mark.parametrize("loss", ["bce", "ce", "soft_ce"])
def test_the_head_of_emotions_is_scipys_optimum(loss: str) -> None:
    features, intensities = drawn_features(), drawn_intensities()
    make_targets, loss_function = LOSSES[loss]
    targets = make_targets(torch.from_numpy(intensities), smoothing=0.1)
    solver = solved(features, K, lambda outputs: loss_function(outputs, targets), bias=True)
    x = standardised(features, centred=True)
    measure = binary_loss if loss == "bce" else softmax_loss

    def objective(flat: np.ndarray) -> float:
        weight, bias = flat[: K * D].reshape(K, D), flat[K * D :]
        return measure(x @ weight.T + bias, targets.numpy()) + WEIGHT_DECAY / 2 * np.mean((weight**2).sum(axis=1))

    peer = minimize(objective, np.zeros(K * D + K), method="BFGS", options={"gtol": 1e-7})
    weight, bias = peer.x[: K * D].reshape(K, D), peer.x[K * D :]
    assert solver.value == pytest.approx(peer.fun, rel=1e-6)
    outputs = x @ weight.T + bias
    found = apply_head(solver.unnormalized_head(), features.numpy())
    if loss != "bce":  # softmax takes any constant
        outputs, found = (values - values.mean(axis=1, keepdims=True) for values in (outputs, found))
    np.testing.assert_allclose(found, outputs, atol=1e-3)


def drawn_pairs() -> Tensor:
    """Rows of (worse, better), of which no head can have all right."""
    rng = np.random.default_rng(2)
    return torch.from_numpy(np.stack([rng.permutation(N)[:2] for _ in range(80)]))


def ranked_loss(name: str, rows: Tensor, outputs: Tensor) -> Tensor:
    ranked = outputs[:, 0][rows]
    return preference_loss(name, margin=1.0)(ranked, torch.full((len(rows),), rows.shape[1])).mean()


@pytest.mark.parametrize("loss", ["logistic", "listwise"])
def test_the_head_of_preferences_is_scipys_optimum(loss: str) -> None:
    features, pairs = drawn_features(), drawn_pairs()
    solver = solved(features, 1, partial(ranked_loss, loss, pairs), bias=False)
    x = standardised(features, centred=False)
    differences = x[pairs[:, 1]] - x[pairs[:, 0]]

    def objective(weight: np.ndarray) -> float:
        return float(np.logaddexp(0, -differences @ weight).mean() + WEIGHT_DECAY / 2 * weight @ weight)

    peer = minimize(objective, np.zeros(D), method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(solver.weight.detach().numpy()[0], peer.x, atol=1e-3)
    np.testing.assert_allclose(apply_head(solver.unnormalized_head(), features.numpy())[:, 0], x @ peer.x, atol=1e-2)


def test_the_head_of_hinge_is_the_quadratic_programmes_optimum() -> None:
    features, pairs = drawn_features(), drawn_pairs()
    solver = solved(features, 1, partial(ranked_loss, "hinge", pairs), bias=False)
    x = standardised(features, centred=False)
    differences, count = x[pairs[:, 1]] - x[pairs[:, 0]], len(pairs)
    slack = {
        "type": "ineq",
        "fun": lambda v: differences @ v[:D] - 1 + v[D:],
        "jac": lambda v: np.hstack([differences, np.eye(count)]),
    }
    peer = minimize(
        lambda v: WEIGHT_DECAY / 2 * v[:D] @ v[:D] + v[D:].mean(),
        np.r_[np.zeros(D), np.ones(count)],
        jac=lambda v: np.r_[WEIGHT_DECAY * v[:D], np.full(count, 1 / count)],
        bounds=[(None, None)] * D + [(0, None)] * count,
        constraints=[slack],
        method="SLSQP",
    )
    assert peer.success
    assert solver.value == pytest.approx(peer.fun, rel=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_for_features_as_they_are_gives_the_same_outputs(bias: bool) -> None:
    features, intensities = drawn_features(), torch.from_numpy(drawn_intensities())
    solver = solved(features, K, lambda outputs: LOSSES["bce"][1](outputs, intensities), bias=bias)
    own = solver.features @ solver.weight.T + solver.bias
    output = nn.Linear(D, K, bias=bias)
    with torch.no_grad():
        weight, constant = solver.unnormalized_head()
        output.weight.copy_(weight)
        if bias:
            output.bias.copy_(constant)
        torch.testing.assert_close(output(features.float()), own.float(), rtol=1e-4, atol=1e-4)
    assert own.std() > 0.1


def test_without_anything_to_go_by_the_answer_is_the_mean() -> None:
    intensities = torch.from_numpy(drawn_intensities())
    solver = solved(torch.ones(N, D), K, lambda outputs: LOSSES["bce"][1](outputs, intensities), bias=True)
    answers = torch.sigmoid(torch.from_numpy(apply_head(solver.unnormalized_head(), np.ones((1, D)))[0]).double())
    torch.testing.assert_close(answers, intensities.mean(dim=0), rtol=0, atol=1e-3)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    features = drawn_features()
    features[0, 0] = torch.nan
    with pytest.raises(ValueError, match="the head's loss became nan"):
        solved(features, 1, lambda outputs: outputs.square().mean(), bias=False)

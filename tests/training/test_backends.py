"""DDP and DeepSpeed are the same training: on one process or two, in one batch or accumulated, in one go or resumed."""

import json

import numpy as np
import pytest
import torch
from forked_runs import forked

from VideoMAE.runtime.distributed import World
from VideoMAE.training.backends import BackendSettings, DDPBackend, choose_precision

WAYS = [
    f"{kind}{how}"
    for kind in ("ddp", "deepspeed0", "deepspeed1", "deepspeed2")
    for how in ("", " accumulated", " resumed", " clipped")
]


Steps = list[tuple[float, float]]
"""Loss and gradient norm of each step."""


@pytest.fixture(scope="module", params=[1, 2])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Steps]:
    folder = tmp_path_factory.mktemp("backends")
    output = folder / "steps.json"
    with forked([str(output)], said=folder / "said", processes=request.param, program="backend_worker") as worker:
        assert worker.wait() == 0, worker.said[-3000:]
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def alone() -> dict[str, Steps]:
    """Plain torch without any backend, written out, as the yardstick."""
    from VideoMAE.modeling_finetune import VisionTransformer
    from VideoMAE.optim_factory import parameter_groups

    yardstick = {}
    for name, clip in (("", None), ("clipped", 0.05)):
        torch.manual_seed(0)
        model = VisionTransformer(img_size=32, embed_dim=48, depth=3, num_heads=4, all_frames=8, num_classes=27)
        groups = parameter_groups(model, num_layers=3, weight_decay=0.05, layer_decay=0.75)
        optimizer = torch.optim.AdamW([{k: g[k] for k in ("params", "weight_decay", "lr_scale")} for g in groups])
        values = []
        for step in range(10):
            generator = torch.Generator().manual_seed(step)
            clips = torch.randn(4, 3, 8, 32, 32, generator=generator)
            targets = torch.rand(4, 27, generator=generator)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 + step % 3) * group["lr_scale"]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(clips), targets)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or float("inf"))
            optimizer.step()
            optimizer.zero_grad()
            values.append((loss.item(), norm.item()))
        yardstick[name] = values
    return yardstick


@pytest.mark.parametrize("way", WAYS)
def test_every_way_has_the_losses_and_gradient_norms_of_plain_torch(
    measured: dict[str, Steps], alone: dict[str, Steps], way: str
) -> None:
    expected = alone["clipped" if way.endswith("clipped") else ""]
    np.testing.assert_allclose(measured[way], expected, rtol=0, atol=1e-5)


def test_clipping_changes_the_losses(alone: dict[str, Steps]) -> None:
    assert np.abs(np.subtract(alone["clipped"], alone[""]))[:, 0].max() > 1e-3


def test_auto_precision_is_fp32_on_a_cpu_and_fp16_is_refused_there() -> None:
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    with pytest.raises(ValueError, match="--precision fp16 needs a GPU"):
        choose_precision("fp16", torch.device("cpu"))


def fp16_backend(clip_grad: float | None = None) -> DDPBackend:
    """One linear layer in fp16 on a CPU, with plain SGD."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    return DDPBackend(model, optimizer, BackendSettings(world, "fp16", 1, clip_grad))


@pytest.mark.parametrize("clip_grad", [None, 0.01])
def test_fp16_measures_and_clips_the_gradient_without_the_loss_scale(clip_grad: float | None) -> None:
    backend, clips = fp16_backend(clip_grad), torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    before = [parameter.detach().clone() for parameter in backend.model.parameters()]
    backend.model(clips).square().mean().backward()
    expected = torch.nn.utils.get_total_norm([parameter.grad for parameter in backend.model.parameters()]).item()
    backend.optimizer.zero_grad()
    norm = backend.backward(backend.forward(clips, update=True).square().mean(), update=True)
    assert norm == pytest.approx(expected, rel=0.01)
    moved = [now - then for now, then in zip(backend.model.parameters(), before, strict=True)]
    assert torch.nn.utils.get_total_norm(moved).item() == pytest.approx(clip_grad or expected, rel=0.01)


def test_the_loss_scale_is_halved_by_an_overflow_and_survives_a_resume() -> None:
    first, second = fp16_backend(), fp16_backend()
    loss = first.forward(torch.ones(2, 4), update=True).sum()
    assert first.backward(loss * torch.inf, update=True) == torch.inf
    assert first.state_dict()["scaler"]["scale"] == 2.0**6
    second.load_state_dict(first.state_dict())
    assert second.state_dict()["scaler"] == first.state_dict()["scaler"]

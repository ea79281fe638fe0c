"""Trains a small ViT for 10 steps in several ways and writes each way's losses and gradient norms: what
test_backends.py runs in one process or in two."""

import json
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.optim_factory import create_optimizer, parameter_groups, set_step_values
from VideoMAE.runtime import distributed
from VideoMAE.training.backends import Backend, BackendSettings, DDPBackend, DeepSpeedBackend

STEPS, TOTAL_BATCH = 10, 4


def make_backend(kind: str, world: distributed.World, update_freq: int, clip_grad: float | None) -> Backend:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, embed_dim=48, depth=3, num_heads=4, all_frames=8, num_classes=27)
    groups = parameter_groups(model, num_layers=3, weight_decay=0.05, layer_decay=0.75)
    optimizer = create_optimizer(groups, opt="adamw", lr=1e-3, betas=(0.9, 0.999), eps=1e-8, momentum=0.9)
    settings = BackendSettings(world, "fp32", update_freq, clip_grad)
    if kind == "ddp":
        return DDPBackend(model, optimizer, settings)
    batch_size = TOTAL_BATCH // update_freq // world.size
    return DeepSpeedBackend(model, optimizer, settings, batch_size=batch_size, zero_stage=int(kind[-1]))


Steps = list[tuple[float, float]]
"""Loss and gradient norm of each step."""


def train(backend: Backend, world: distributed.World, update_freq: int, first: int, last: int) -> Steps:
    """Steps first to last - 1; step s sees the same total batch whatever the world size and accumulation."""
    steps = []
    micro = TOTAL_BATCH // update_freq
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        clips = torch.randn(TOTAL_BATCH, 3, 8, 32, 32, generator=generator)
        targets = torch.rand(TOTAL_BATCH, 27, generator=generator)
        set_step_values(backend.optimizer, lr=1e-3 * (1 + step % 3), weight_decay=0.05)
        total = torch.zeros(())
        for number in range(update_freq):
            mine = slice(number * micro + world.rank, (number + 1) * micro, world.size)
            update = number == update_freq - 1
            loss = binary_cross_entropy_with_logits(partial(backend.forward, update=update)(clips[mine]), targets[mine])
            norm = backend.backward(loss, update=update)
            total += loss.detach() / update_freq
        assert norm is not None
        steps.append((distributed.mean_over_processes(total.reshape(1))[0], norm))
    return steps


def train_with_a_break(kind: str, world: distributed.World) -> Steps:
    """The same, saved after half of the steps and resumed in a new backend."""
    first = make_backend(kind, world, 1, None)
    steps = train(first, world, 1, 0, STEPS // 2)
    weights = {name: value.clone() for name, value in first.model.state_dict().items()}
    state = first.state_dict()
    second = make_backend(kind, world, 1, None)
    second.model.load_state_dict(weights)
    second.load_state_dict(state)
    return steps + train(second, world, 1, STEPS // 2, STEPS)


def main(arguments: list[str]) -> None:
    world = distributed.start("cpu")
    torch.set_num_threads(1)
    steps = {}
    for kind in ("ddp", "deepspeed0", "deepspeed1", "deepspeed2"):
        steps[kind] = train(make_backend(kind, world, 1, None), world, 1, 0, STEPS)
        steps[f"{kind} accumulated"] = train(make_backend(kind, world, 2, None), world, 2, 0, STEPS)
        steps[f"{kind} resumed"] = train_with_a_break(kind, world)
        steps[f"{kind} clipped"] = train(make_backend(kind, world, 1, 0.05), world, 1, 0, STEPS)
    if world.is_main:
        Path(arguments[0]).write_text(json.dumps(steps), encoding="utf-8")
    distributed.stop()

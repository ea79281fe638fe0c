"""Optimizers: the original programs' learning-rate scales and weight decays, timm's optimizers, values set per step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from VideoMAE.modeling_finetune import VisionTransformer, vit_base_patch16_224
from VideoMAE.optim_factory import create_optimizer, layer_id, parameter_groups, set_step_values


def tiny_vit(**settings: Any) -> VisionTransformer:
    shape = {"img_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2, "all_frames": 2, "num_classes": 3}
    return VisionTransformer(**{**shape, **settings})


def make_groups(model: nn.Module, **settings: Any) -> list[dict[str, Any]]:
    defaults = {"num_layers": 2, "weight_decay": 0.05, "layer_decay": 0.5, "no_weight_decay": {"pos_embed"}}
    return parameter_groups(model, **{**defaults, **settings})


def make_optimizer(opt: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return create_optimizer(groups, opt=opt, lr=0.1, betas=(0.8, 0.95), eps=1e-6, momentum=0.7)


def test_every_vit_base_parameter_has_the_original_programs_scale_and_weight_decay(golden: Any) -> None:
    with torch.device("meta"):
        model = vit_base_patch16_224()
    groups = parameter_groups(
        model, num_layers=12, weight_decay=0.05, layer_decay=0.75, no_weight_decay=model.no_weight_decay()
    )
    ours = {name: group for group in groups for name in group["names"]}
    expected = golden("optimizer.json")["layer_decay_0p75_vit_base"]
    assert ours.keys() == expected.keys()
    for name, values in expected.items():
        assert ours[name]["lr_scale"] == pytest.approx(values["lr_scale"], rel=1e-9, abs=0)
        assert ours[name]["weight_decay"] == values["weight_decay"], name


@pytest.mark.parametrize("settings", [{}, {"use_learnable_pos_emb": True, "use_mean_pooling": False}])
def test_every_parameter_is_in_exactly_one_group_under_its_name(settings: dict[str, Any]) -> None:
    model = tiny_vit(**settings)
    groups = make_groups(model)
    named = dict(model.named_parameters())
    listed = [pair for group in groups for pair in zip(group["names"], group["params"], strict=True)]
    assert sorted(name for name, _ in listed) == sorted(named)
    assert all(parameter is named[name] for name, parameter in listed)


def test_frozen_parameters_are_left_out() -> None:
    model = tiny_vit()
    model.patch_embed.requires_grad_(False)
    names = {name for group in make_groups(model) for name in group["names"]}
    assert names == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("patch_embed") for name in names)


def test_depth_is_0_before_the_blocks_and_one_more_than_the_blocks_after_them() -> None:
    names = ("pos_embed", "cls_token", "patch_embed.proj.bias", "blocks.0.norm1.weight", "blocks.11.attn.q_bias")
    assert [layer_id(name, 12) for name in names] == [0, 0, 0, 1, 12]
    assert [layer_id(name, 12) for name in ("norm.weight", "fc_norm.bias", "head.weight", "head.0.weight")] == [13] * 4


def test_learned_positions_biases_and_vectors_are_not_decayed() -> None:
    decayed = {name for g in make_groups(tiny_vit(use_learnable_pos_emb=True)) if g["decayed"] for name in g["names"]}
    assert "pos_embed" not in decayed
    assert "blocks.0.attn.q_bias" not in decayed
    assert decayed == {
        "patch_embed.proj.weight",
        "head.weight",
        *(f"blocks.{i}.{part}.weight" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    }


def test_a_step_sets_scaled_rates_everywhere_and_weight_decay_where_a_group_is_decayed() -> None:
    optimizer = make_optimizer("adamw", make_groups(tiny_vit()))
    for lr, weight_decay in ((1.0, 0.3), (0.5, 0.0), (0.25, 0.2)):
        set_step_values(optimizer, lr=lr, weight_decay=weight_decay)
        for group in optimizer.param_groups:
            depth = layer_id(group["names"][0], 2)
            assert group["lr"] == lr * 0.5 ** (3 - depth)
            is_matrix = group["params"][0].ndim > 1
            assert group["weight_decay"] == (weight_decay if is_matrix else 0)


def test_values_of_a_schedule_are_set_as_plain_numbers_which_a_checkpoint_can_hold() -> None:
    optimizer = make_optimizer("adamw", make_groups(tiny_vit()))
    schedule = np.linspace(0, 1, 3)
    set_step_values(optimizer, lr=schedule[1], weight_decay=schedule[1])
    for group in optimizer.param_groups:
        assert type(group["lr"]) is float
        assert type(group["weight_decay"]) is float


def test_weight_decay_0_can_rise_later() -> None:
    optimizer = make_optimizer("adamw", make_groups(tiny_vit(), weight_decay=0.0))
    set_step_values(optimizer, lr=1.0, weight_decay=0.1)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.1}


def test_adamw_has_the_betas_and_epsilon_asked_for() -> None:
    optimizer = make_optimizer("adamw", make_groups(tiny_vit()))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.95) and group["eps"] == 1e-6 for group in optimizer.param_groups)


@pytest.mark.parametrize("opt", ["sgd", "SGD"])
def test_sgd_is_nesterovs_with_the_momentum_asked_for(opt: str) -> None:
    optimizer = make_optimizer(opt, make_groups(tiny_vit()))
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["nesterov"] and group["momentum"] == 0.7 for group in optimizer.param_groups)


@pytest.mark.parametrize("opt", ["adam", "lamb", "lion", "nadam"])
def test_other_optimizers_of_timm_take_a_step(opt: str) -> None:
    model = tiny_vit(init_scale=1.0)
    optimizer = make_optimizer(opt, make_groups(model))
    before = model.head.weight.detach().clone()
    model(torch.ones(1, 3, 2, 16, 16)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)


def test_an_optimizer_that_timm_does_not_know_is_an_error_naming_the_flag() -> None:
    with pytest.raises(ValueError, match="--opt adamwx"):
        make_optimizer("adamwx", make_groups(tiny_vit()))

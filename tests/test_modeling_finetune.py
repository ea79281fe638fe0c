"""The ViT computes what the published one does: golden values, published names and shapes, and transformers as a
peer."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from VideoMAE.modeling_finetune import MODELS, Attention, DropPath, VisionTransformer, sine_cosine_position_table

GOLDEN_MODELS: dict[str, dict[str, Any]] = {
    "mean_pool": {"img_size": 32, "embed_dim": 48, "depth": 3, "num_heads": 4, "all_frames": 8},
    "layer_scale": {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2,
        "all_frames": 4,
        "init_values": 0.1,
    },
    "learned_pos_first_token": {
        "img_size": 32,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 4,
        "qkv_bias": False,
        "all_frames": 8,
        "num_classes": 5,
        "use_learnable_pos_emb": True,
        "use_mean_pooling": False,
    },
}
SMALL = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 4, "all_frames": 8, "num_classes": 5}


@pytest.fixture(scope="module")
def golden_models(golden: Callable[[str], Any]) -> dict[str, dict[str, Tensor]]:
    content = golden("finetune_model_0.npz")
    models: dict[str, dict[str, Tensor]] = {name: {} for name in GOLDEN_MODELS}
    for key in content:
        name, _, rest = key.partition("/")
        models[name][rest] = torch.from_numpy(np.asarray(content[key]))
    return models


def loaded(name: str, values: dict[str, Tensor], **changes: Any) -> VisionTransformer:
    model = VisionTransformer(**{**GOLDEN_MODELS[name], **changes})
    state = {key.removeprefix("state/"): value for key, value in values.items() if key.startswith("state/")}
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_features_logits_loss_and_gradients_are_the_reference_s(
    golden_models: dict[str, dict[str, Tensor]], name: str
) -> None:
    values = golden_models[name]
    model = loaded(name, values)
    logits = model(values["input"])
    torch.testing.assert_close(model.forward_features(values["input"]), values["features"], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits, values["logits"], rtol=0, atol=1e-5)
    loss = F.binary_cross_entropy_with_logits(logits, values["target"])
    assert loss.item() == pytest.approx(values["bce_loss"].item(), abs=1e-5)
    loss.backward()
    gradients = {key.removeprefix("grad/") for key in values if key.startswith("grad/")}
    assert gradients
    for key in gradients:
        torch.testing.assert_close(model.get_parameter(key).grad, values[f"grad/{key}"], rtol=0, atol=1e-5)


def test_activation_checkpointing_changes_no_loss_and_no_gradient(
    golden_models: dict[str, dict[str, Tensor]],
) -> None:
    values = golden_models["mean_pool"]
    gradients, num_forwards = [], []
    for use_checkpoint in (False, True):
        model = loaded("mean_pool", values, use_checkpoint=use_checkpoint).train()
        calls: list[nn.Module] = []
        model.blocks[1].attn.register_forward_hook(lambda module, *_, calls=calls: calls.append(module))
        F.binary_cross_entropy_with_logits(model(values["input"]), values["target"]).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        num_forwards.append(len(calls))
    assert num_forwards == [1, 2]  # with checkpointing, once more in the backward pass
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-7)


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_names_and_shapes_are_those_of_the_published_checkpoints(golden: Callable[[str], Any], size: str) -> None:
    name = f"vit_{size}_patch16_224"
    published = golden("checkpoint_shapes.json")[f"finetune/{name}"]
    with torch.device("meta"):
        own = MODELS[name](num_classes=published["head.weight"][0]).state_dict()
    assert {key: list(value.shape) for key, value in own.items()} == published


def test_huge_has_the_published_width_depth_and_heads() -> None:
    with torch.device("meta"):
        model = MODELS["vit_huge_patch16_224"]()
    assert (model.embed_dim, model.get_num_layers(), model.blocks[0].attn.num_heads) == (1280, 32, 16)


def transformers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names as transformers spells them."""
    renamed = {}
    for name, value in state.items():
        new = name.replace("patch_embed.proj", "videomae.embeddings.patch_embeddings.projection")
        new = new.replace("blocks.", "videomae.encoder.layer.").replace("norm1", "layernorm_before")
        new = new.replace("norm2", "layernorm_after").replace("mlp.fc1", "intermediate.dense")
        new = new.replace("mlp.fc2", "output.dense").replace("attn.proj", "attention.output.dense")
        new = new.replace("attn.q_bias", "attention.attention.q_bias")
        new = new.replace("attn.v_bias", "attention.attention.v_bias").replace("head.", "classifier.")
        if "attn.qkv.weight" in new:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[new.replace("attn.qkv", f"attention.attention.{part}")] = rows
        else:
            renamed[new] = value
    return renamed


def load_into_transformers(peer: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads our weights, whatever names this release of transformers has for the q and v biases."""
    renamed = transformers_names(state)
    expected = peer.state_dict()
    if "videomae.encoder.layer.0.attention.attention.q_bias" not in expected:
        for name in [name for name in renamed if name.endswith(("q_bias", "v_bias"))]:
            part = "query" if name.endswith("q_bias") else "value"
            renamed[name[: -len("q_bias")] + f"{part}.bias"] = renamed.pop(name)
    for name, value in expected.items():
        if name.endswith("key.bias"):
            renamed[name] = torch.zeros_like(value)
    missing, unexpected = peer.load_state_dict(renamed, strict=False)
    assert not unexpected, unexpected
    assert not missing, missing


def test_vit_base_gives_the_logits_of_transformers() -> None:
    torch.manual_seed(0)
    model = MODELS["vit_base_patch16_224"](num_classes=27, init_scale=1.0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and norms away from their start values, so that each matters
                parameter.add_(0.1 * torch.randn_like(parameter))
    config = VideoMAEConfig(num_labels=27, use_mean_pooling=True, layer_norm_eps=1e-6)
    peer = VideoMAEForVideoClassification(config).eval()
    load_into_transformers(peer, model.state_dict())
    clip = torch.randn(1, 3, 16, 224, 224)
    with torch.no_grad():
        ours, theirs = model(clip), peer(pixel_values=clip.transpose(1, 2)).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, qkv_bias=True, attn_drop=0.0, proj_drop=0.0)
    with torch.no_grad():
        attention.q_bias.normal_()
        attention.v_bias.normal_()
    x = torch.randn(2, 7, 24)
    q, k, v = F.linear(x, attention.qkv.weight).chunk(3, dim=-1)
    heads = [part.reshape(2, 7, 3, 8).transpose(1, 2) for part in (q + attention.q_bias, k, v + attention.v_bias)]
    weights = (heads[0] @ heads[1].transpose(-1, -2) / 8**0.5).softmax(-1)
    expected = attention.proj((weights @ heads[2]).transpose(1, 2).reshape(2, 7, 24))
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-6)


def test_position_codes_are_sine_on_even_and_cosine_on_odd_columns() -> None:
    table = sine_cosine_position_table(6, 8)[0]
    for position in range(6):
        for column in range(8):
            angle = position / 10000 ** (2 * (column // 2) / 8)
            expected = np.sin(angle) if column % 2 == 0 else np.cos(angle)
            assert table[position, column] == pytest.approx(expected, abs=1e-6)


def test_tokens_run_over_width_then_height_then_time() -> None:
    model = VisionTransformer(**SMALL)
    with torch.no_grad():
        model.patch_embed.proj.weight.zero_()
        model.patch_embed.proj.bias.zero_()
        model.patch_embed.proj.weight[0] = 1.0
        clip = torch.zeros(1, 3, 8, 32, 32)
        clip[0, :, 2:4, 0:16, 16:32] = 1.0  # second tubelet, top right patch
    assert model.patch_embed(clip)[0, :, 0].nonzero().flatten().tolist() == [4 + 1]


def test_linear_layers_start_at_a_deviation_of_0_02_without_bias() -> None:
    torch.manual_seed(3)
    for name, module in VisionTransformer(**SMALL).named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, abs=0.004), name
            assert module.bias is None or not module.bias.any(), name


def test_init_scale_scales_the_head_only() -> None:
    states = []
    for init_scale in (1.0, 0.001):
        torch.manual_seed(3)
        states.append(VisionTransformer(**SMALL, init_scale=init_scale).state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value * (0.001 if name == "head.weight" else 1.0))


def test_a_head_without_bias_starts_as_torchs_linear_whatever_init_scale_says() -> None:
    for init_scale in (1.0, 0.001):
        torch.manual_seed(3)
        model = MODELS["vit_base_patch16_224"](num_classes=1, head_bias=False, depth=1, init_scale=init_scale)
        weight = model.state_dict()["head.0.weight"]
        assert weight.abs().max() <= 768**-0.5
        assert abs(weight.std() - 0.0208) < 0.002  # 1 / sqrt(3 x 768), with 768 samples


def test_dropout_flags_act_in_training_only() -> None:
    clip = torch.randn(2, 3, 8, 32, 32)
    for flag in ("drop_rate", "attn_drop_rate", "drop_path_rate", "fc_drop_rate"):
        torch.manual_seed(0)
        model = VisionTransformer(**SMALL, init_scale=1.0, **{flag: 0.5})
        assert not torch.equal(model.train()(clip), model(clip)), flag
        assert torch.equal(model.eval()(clip), model(clip)), flag


def test_every_dropout_flag_reaches_its_layers_and_stochastic_depth_rises_linearly() -> None:
    rates = {"drop_rate": 0.1, "attn_drop_rate": 0.2, "drop_path_rate": 0.3, "fc_drop_rate": 0.4}
    model = VisionTransformer(**{**SMALL, "depth": 4}, **rates)
    layers = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    of_blocks = {f"blocks.{i}.{part}": 0.1 for i in range(4) for part in ("attn.proj_drop", "mlp.drop")}
    assert layers == {"pos_drop": 0.1, "fc_dropout": 0.4, **of_blocks}
    assert [block.attn.attn_drop for block in model.blocks] == [0.2] * 4
    assert [getattr(block.drop_path, "drop", 0.0) for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("drop", [0.25, 0.9])
def test_stochastic_depth_drops_whole_samples_and_scales_the_others_by_the_keep_probability(drop: float) -> None:
    torch.manual_seed(0)
    branch = torch.rand(4000, 2, 3) + 1
    factors = DropPath(drop).train()(branch) / branch
    torch.testing.assert_close(factors, factors[:, :1, :1].expand_as(factors))
    kept = factors[:, 0, 0] > 0
    assert kept.float().mean().item() == pytest.approx(1 - drop, abs=0.03)
    torch.testing.assert_close(factors[kept], torch.full_like(factors[kept], 1 / (1 - drop)))
    assert torch.equal(DropPath(drop).eval()(branch), branch)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"img_size": 30}, "--input_size 30"),
        ({"all_frames": 7}, "--num_frames 7"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_by_flag(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        VisionTransformer(**{**SMALL, **settings})


def test_a_clip_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(8, 32, 32\), got \(8, 48, 48\)"):
        VisionTransformer(**SMALL)(torch.zeros(1, 3, 8, 48, 48))


def test_state_dict_holds_no_fixed_position_table() -> None:
    assert "pos_embed" not in VisionTransformer(**SMALL).state_dict()
    assert json.dumps(sorted(VisionTransformer(**SMALL, use_learnable_pos_emb=True).state_dict())).count("pos_embed")

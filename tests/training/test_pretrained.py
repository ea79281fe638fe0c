"""Checkpoints of the published forms load whole; anything missing, damaged or foreign is refused by name."""

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from VideoMAE.modeling_finetune import MODELS, VisionTransformer
from VideoMAE.training.pretrained import load_pretrained, read_checkpoint

SMALL: dict[str, Any] = {"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 4, "all_frames": 8}
NEW = ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]


def small_pretraining_state() -> dict[str, Tensor]:
    """What self-supervised pre-training of the small model leaves: encoder, decoder, mask token."""
    torch.manual_seed(1)
    own = VisionTransformer(**SMALL).state_dict()
    state = {f"encoder.{name}": torch.randn_like(value) for name, value in own.items() if name not in NEW}
    state |= {"encoder.norm.weight": torch.ones(48), "encoder.norm.bias": torch.zeros(48)}
    return state | {"mask_token": torch.zeros(1, 1, 24), "encoder_to_decoder.weight": torch.zeros(24, 48)}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_the_published_pretraining_checkpoint_loads_and_leaves_exactly_fc_norm_and_head_new(
    golden: Callable[[str], Any], tmp_path: Path
) -> None:
    shapes = golden("checkpoint_shapes.json")["pretrain/pretrain_videomae_base_patch16_224"]
    state = {name: torch.full(shape, 0.01) for name, shape in shapes.items()}
    state["encoder.blocks.7.attn.q_bias"] = torch.arange(768) / 768
    args = argparse.Namespace(model="pretrain_videomae_base_patch16_224", epochs=1601, lr=1.5e-4)
    path = save(tmp_path / "pretrain.pth", {"model": state, "epoch": 1600, "scaler": {"scale": 1.0}, "args": args})
    with torch.device("meta"):
        shape_only = MODELS["vit_base_patch16_224"](num_classes=27)
    model = shape_only.to_empty(device="cpu")
    report = load_pretrained(model, path)
    assert report.new == NEW
    encoder = {name.removeprefix("encoder.") for name in shapes if name.startswith("encoder.")}
    assert set(report.loaded) == encoder - {"norm.weight", "norm.bias"}
    assert {name.split(".")[0] for name in report.ignored} == {"decoder", "encoder", "encoder_to_decoder", "mask_token"}
    assert {name for name in report.ignored if name.startswith("encoder.")} == {
        "encoder.norm.weight",
        "encoder.norm.bias",
    }
    torch.testing.assert_close(model.blocks[7].attn.q_bias.detach(), torch.arange(768) / 768)


@pytest.mark.parametrize(
    "name", [f"encoder.{name}" for name in VisionTransformer(**SMALL).state_dict() if name not in NEW]
)
def test_a_pretraining_checkpoint_that_lacks_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    state = small_pretraining_state()
    del state[name]
    path = save(tmp_path / "pretrain.pth", {"model": state})
    with pytest.raises(ValueError, match=f"{path}: lacks 1 .*{name.removeprefix('encoder.')}"):
        load_pretrained(VisionTransformer(**SMALL), path)


def test_weights_arrive_unchanged(tmp_path: Path) -> None:
    state = small_pretraining_state()
    model = VisionTransformer(**SMALL)
    load_pretrained(model, save(tmp_path / "pretrain.pth", {"model": state}))
    for name, value in model.state_dict().items():
        if name not in NEW:
            torch.testing.assert_close(value, state[f"encoder.{name}"], rtol=0, atol=0)


@pytest.mark.parametrize("key", ["model", "module", None])
def test_weights_are_found_under_model_or_module_or_bare(tmp_path: Path, key: str | None) -> None:
    torch.manual_seed(2)
    state = VisionTransformer(**SMALL, num_classes=27).state_dict()
    path = save(tmp_path / "finetuned.pth", {key: state, "epoch": 3} if key else state)
    model = VisionTransformer(**SMALL, num_classes=27)
    report = load_pretrained(model, path, must_be_whole=True)
    assert not report.new
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_of_several_keys_that_a_checkpoint_has_the_first_asked_for_is_taken(tmp_path: Path) -> None:
    states = {key: VisionTransformer(**SMALL, num_classes=5).state_dict() for key in ("module", "model")}
    path = save(tmp_path / "both.pth", states)
    model = VisionTransformer(**SMALL, num_classes=5)
    for keys in ("model|module", "module|model"):
        load_pretrained(model, path, model_key=keys)
        assert torch.equal(model.head.weight, states[keys.split("|")[0]]["head.weight"])


def test_a_prefix_selects_and_is_stripped(tmp_path: Path) -> None:
    state = {f"net.{name}": value for name, value in VisionTransformer(**SMALL).state_dict().items()}
    path = save(tmp_path / "prefixed.pth", {"model": {**state, "other.weight": torch.zeros(1)}})
    report = load_pretrained(VisionTransformer(**SMALL), path, model_prefix="net.", must_be_whole=True)
    assert not report.new


def test_a_head_of_another_shape_is_dropped_for_fine_tuning_and_refused_for_testing(tmp_path: Path) -> None:
    path = save(tmp_path / "kinetics.pth", {"module": VisionTransformer(**SMALL, num_classes=400).state_dict()})
    report = load_pretrained(VisionTransformer(**SMALL, num_classes=27), path)
    assert report.ignored == ["head.weight", "head.bias"] == report.new
    with pytest.raises(ValueError, match=r"head.weight has shape \(400, 48\), the model's has \(27, 48\)"):
        load_pretrained(VisionTransformer(**SMALL, num_classes=27), path, must_be_whole=True)


def test_a_checkpoint_of_another_width_is_refused_with_both_shapes(tmp_path: Path) -> None:
    other = VisionTransformer(**{**SMALL, "embed_dim": 64}).state_dict()
    path = save(tmp_path / "other.pth", {"model": other})
    with pytest.raises(ValueError, match=r"other.pth: .* has shape \(64,.*the model's has \(48,"):
        load_pretrained(VisionTransformer(**SMALL), path)


def test_testing_needs_every_weight_and_says_which_are_missing(tmp_path: Path) -> None:
    path = save(tmp_path / "pretrain.pth", {"model": small_pretraining_state()})
    with pytest.raises(ValueError, match="lacks 4 of the model's .* fc_norm.weight"):
        load_pretrained(VisionTransformer(**SMALL), path, must_be_whole=True)


def test_learned_positions_of_another_grid_are_interpolated_per_frame(tmp_path: Path) -> None:
    learned = {**SMALL, "use_learnable_pos_emb": True}
    source = VisionTransformer(**{**learned, "img_size": 64})
    with torch.no_grad():
        ramp = torch.linspace(-1, 1, 4)[None, :, None, None].expand(4, 4, 4, 48)  # rises down the rows of each frame
        frame = torch.arange(4.0)[:, None, None, None]
        source.pos_embed.copy_((ramp + 10 * frame).reshape(1, 64, 48))
    model = VisionTransformer(**learned)
    load_pretrained(model, save(tmp_path / "learned.pth", {"model": source.state_dict()}))
    grid = model.pos_embed.detach().reshape(4, 2, 2, 48)
    torch.testing.assert_close(grid.mean(dim=(1, 2)), 10 * torch.arange(4.0)[:, None].expand(4, 48), rtol=0, atol=1e-4)
    weights = torch.tensor([-3.0, 19.0, 19.0, -3.0]) / 32  # of the cubic (a = -0.75) halfway between two rows
    lower = weights @ torch.tensor([-1.0, -1.0, -1 / 3, 1 / 3])  # the row before the first is the first again
    torch.testing.assert_close(grid[:, 1] - grid[:, 0], (-2 * lower).expand(4, 2, 48), rtol=0, atol=1e-5)
    assert torch.allclose(grid[:, :, 0], grid[:, :, 1], atol=1e-5)


class RunsCode:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch owned",)


def test_a_pickle_with_foreign_objects_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / "evil.pth", {"model": {}, "args": RunsCode()})
    with pytest.raises(ValueError, match="evil.pth: refused: the pickle contains an object of type posix.system"):
        read_checkpoint(path)
    old_style = tmp_path / "old.pth"
    old_style.write_bytes(pickle.dumps({"model": RunsCode()}))
    with pytest.raises(ValueError, match="old.pth"):
        read_checkpoint(old_style)
    assert not (tmp_path / "owned").exists()


def damaged(kind: str, path: Path) -> Path:
    whole = save(path, {"model": VisionTransformer(**SMALL).state_dict()}).read_bytes()
    content = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "text": b"<!DOCTYPE html><html>Quota exceeded</html>",
        "bits": whole[:200] + bytes(400) + whole[600:],
    }
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "half", "text", "bits"])
def test_a_damaged_file_is_one_sentence_that_names_it(tmp_path: Path, kind: str) -> None:
    path = damaged(kind, tmp_path / "damaged.pth")
    with pytest.raises(ValueError, match=f"{path}: ") as caught:
        load_pretrained(VisionTransformer(**SMALL), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"epoch": 3}])
def test_a_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    path = save(tmp_path / "none.pth", content)
    with pytest.raises(ValueError, match="none.pth: (contains no weights|expected a dict)"):
        load_pretrained(VisionTransformer(**SMALL), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent.pth: no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")

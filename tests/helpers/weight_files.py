"""Small checkpoints made for the tests: ours, published, transformers' own, and one that would run code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from VideoMAE.cli import parse_flags
from VideoMAE.config import V2VConfig, VCEConfig, to_json
from VideoMAE.modeling_finetune import MODELS, VisionTransformer

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "vit_micro_patch16_224"
SIZE: dict[str, Any] = {"img_size": 32, "all_frames": 8}
FLAGS = ["--model", MODEL, "--input_size", "32", "--num_frames", "8", "--output_dir", "out"]


def network(**settings: Any) -> VisionTransformer:
    """A small ViT, every weight away from its start value so that each matters."""
    torch.manual_seed(0)
    model = MODELS[MODEL](**{**SIZE, "num_classes": 27, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def v2v_network() -> VisionTransformer:
    """The same with V2V's head: one output without bias."""
    return network(num_classes=1, head_bias=False)


def our_checkpoint(path: Path, model: VisionTransformer) -> Path:
    """What a run leaves as its best checkpoint."""
    if model.state_dict().get("head.0.weight") is None:
        config = to_json(parse_flags(VCEConfig, [*FLAGS, "--data_path", "vce", "--short_side_size", "32"]))
    else:
        config = to_json(parse_flags(V2VConfig, [*FLAGS, "--data_path", "v2v"]))
    torch.save({"model": model.state_dict(), "epoch": 3, "metrics": {"val_acc1": 12.5}, "config": config}, path)
    return path


def pretraining_network(**settings: Any) -> VideoMAEForPreTraining:
    """transformers' own small pre-training network, biases and norms away from their start values."""
    torch.manual_seed(1)
    sizes = {"image_size": 32, "num_frames": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    decoder = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 96}
    config = VideoMAEConfig(
        **{
            **sizes,
            "intermediate_size": 192,
            "use_mean_pooling": False,
            **{f"decoder_{key}": value for key, value in decoder.items()},
            **settings,
        }
    )
    model = VideoMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


class RunsCode:
    """Pickled, it makes a file when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two state dicts have the same names, types and bits."""
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )

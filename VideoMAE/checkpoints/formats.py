"""Reading of checkpoints in all supported formats, which are detected, without executing code in them; and validation
against the network that the shapes imply."""

import argparse
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from VideoMAE.checkpoints import deepspeed_format
from VideoMAE.checkpoints.huggingface_names import to_ours
from VideoMAE.cli import counted
from VideoMAE.files import read_json
from VideoMAE.modeling_finetune import MODELS, VisionTransformer
from VideoMAE.training.checkpoint import BEST
from VideoMAE.training.pretrained import NEW_AFTER_PRETRAINING, read_checkpoint, select_weights

WEIGHT_KEYS = ("model", "module", "model_ema")
HUGGINGFACE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BESIDE_FILE = "emodiversity.json"
HTML = re.compile(rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|meta)", re.I | re.S)
DESCRIPTIONS = {
    "ours": "a checkpoint of this project",
    "published": "a fine-tuned checkpoint in the published form",
    "published pre-training": "a pre-training checkpoint in the published form",
    "bare": "bare weights",
    "huggingface": "a Hugging Face VideoMAE",
    "deepspeed": "a DeepSpeed checkpoint",
}


class Checkpoint(NamedTuple):
    """A checkpoint as stored: `weights` with the file's own names; `beside`, everything else in it."""

    kind: str  # a key of DESCRIPTIONS
    file: Path
    weights: dict[str, Tensor]
    beside: dict[str, Any]

    def our_weights(self) -> dict[str, Tensor]:
        """The weights with the published names."""
        if self.kind != "huggingface":
            return self.weights
        try:
            return to_ours(self.weights, head_bias=self.beside.get("head_bias"))
        except ValueError as error:
            raise ValueError(f"{self.file}: {error}") from error


def read(path: Path, *, model_key: str = "model|module") -> Checkpoint:
    """Reads a checkpoint: a file, a run's output folder, a Hugging Face folder or a DeepSpeed folder.

    Raises ValueError if it is not a checkpoint, damaged, a web page, or a pickle that could execute code.
    """
    settings: dict[str, Any] = {}
    if (path / BEST).is_file():
        path = path / BEST
    elif path.is_dir():
        if (path / "latest").is_file() or any(path.glob(deepspeed_format.STATES)):
            return Checkpoint("deepspeed", path, *deepspeed_format.read(path))
        settings = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        if "model_type" not in settings:
            raise ValueError(
                f"{path}: not a checkpoint: expected a run's output folder with {BEST}, a Hugging Face folder with "
                "config.json, or a DeepSpeed folder"
            )
        if settings["model_type"] != "videomae":
            raise ValueError(f"{path / 'config.json'}: model_type is {settings['model_type']!r}, not 'videomae'")
        folder, model_key = path, ""
        path = next(
            (path / name for name in HUGGINGFACE_WEIGHTS if (path / name).is_file()), path / HUGGINGFACE_WEIGHTS[0]
        )
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    with path.open("rb") as file:
        start = file.read(2**16)
    if HTML.match(start):
        raise ValueError(f"{path}: a web page{page_title(start)}, not weights: usually a quota, login or proxy page")
    content: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        try:
            weights = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path}: truncated or damaged: {error}") from error
        if not weights:
            raise ValueError(f"{path}: holds no weights")
    else:
        content = read_checkpoint(path)
        weights = select_weights(content, model_key=model_key, model_prefix="", path=path)
    if settings:
        beside = read_json(folder / BESIDE_FILE) if (folder / BESIDE_FILE).is_file() else {}
        return Checkpoint("huggingface", path, weights, {**beside, "huggingface_config": settings})
    if any(name.startswith("videomae.") for name in weights):
        kind = "huggingface"
    elif any(name.startswith("encoder.blocks.") for name in weights):
        kind = "published pre-training"
    elif "config" in content and "metrics" in content:
        kind = "ours"
    else:
        kind = "published" if any(key in content for key in WEIGHT_KEYS) else "bare"
    beside = {key: value for key, value in content.items() if key not in WEIGHT_KEYS and key not in weights}
    return Checkpoint(kind, path, weights, beside)


def page_title(html: bytes) -> str:
    """The title of a web page, as " titled 'TITLE'"; empty if it has none."""
    title = re.search(rb"<title[^>]*>(.*?)</title>", html, re.I | re.S)
    return f" titled {' '.join(title[1].decode('utf-8', 'replace').split())!r}" if title else ""


def network_of(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of the `VisionTransformer` with these weights (our names, no prefix), without the number of heads
    and frames and the image size, which the shapes do not determine. Raises ValueError if it is not a VideoMAE ViT.
    """
    patches, first = weights.get("patch_embed.proj.weight"), weights.get("blocks.0.mlp.fc1.weight")
    if patches is None or first is None or patches.ndim != 5:
        raise ValueError("not a VideoMAE ViT: patch_embed.proj.weight or blocks.0 is missing")
    width, _, tubelet_size, patch_size, _ = patches.shape
    head = weights.get("head.weight", weights.get("head.0.weight"))
    blocks = {int(name.split(".")[1]) for name in weights if name.startswith("blocks.")}
    return {
        "embed_dim": width,
        "depth": max(blocks) + 1,
        "patch_size": patch_size,
        "tubelet_size": tubelet_size,
        "mlp_ratio": first.shape[0] / width,
        "num_classes": 1 if head is None else head.shape[0],
        "head_bias": "head.0.weight" not in weights,
        "use_mean_pooling": "norm.weight" not in weights,
        "qkv_bias": any(name.endswith(".q_bias") for name in weights),
        "init_values": float(any(name.endswith(".gamma_1") for name in weights)),
    }


def model_name(network: Mapping[str, Any]) -> str | None:
    """The name in MODELS of the model with this size; None if there is none."""
    with torch.device("meta"):
        models = {name: make(img_size=16, all_frames=2) for name, make in MODELS.items()}
    sizes = {(model.embed_dim, model.get_num_layers()): name for name, model in models.items()}
    return sizes.get((network["embed_dim"], network["depth"]))


def check_whole(weights: Mapping[str, Tensor], path: Path, *, encoder_only: bool = False) -> None:
    """Compares weights with our names with the network that they imply.

    Raises ValueError if weights are missing or unexpected, a shape differs, or a value is not finite.
    """
    prefix = "encoder." if encoder_only else ""
    found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    ignored = ("pos_embed", "norm.weight", "norm.bias") if encoder_only else ("pos_embed",)
    found = {name: value for name, value in found.items() if name not in ignored}
    try:
        network = network_of(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with torch.device("meta"):
        expected = VisionTransformer(**{**network, "num_heads": 1, "img_size": network["patch_size"]}).state_dict()
    if encoder_only:
        expected = {name: value for name, value in expected.items() if name not in NEW_AFTER_PRETRAINING}
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    for adjective, names in (("missing", sorted(missing)), ("unexpected", sorted(unexpected))):
        if names:
            shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
            raise ValueError(f"{path}: {counted(len(names), f'{adjective} weight')}: {shown}")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise ValueError(f"{path}: {name} has shape {tuple(found[name].shape)}, expected {tuple(value.shape)}")
    problem = describe_non_finite(non_finite(weights), path)
    if problem:
        raise ValueError(problem)


def describe_non_finite(counts: Mapping[str, int], path: Path) -> str:
    """The error message on the non-finite values of a file; empty if there are none."""
    values = counted(sum(counts.values()), "non-finite value")
    return f"{path}: {values} in {', '.join(list(counts)[:5])}" if counts else ""


def non_finite(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of non-finite values by name, for weights that have any."""
    counts = {name: int((~torch.isfinite(value)).sum()) for name, value in weights.items() if value.is_floating_point()}
    return {name: count for name, count in counts.items() if count}


def nested_dict(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The nested dict under these keys; empty if there is none."""
    for key in keys:
        found = values.get(key)
        values = found if isinstance(found, Mapping) else {}
    return dict(values)


def to_jsonable(value: Any) -> Any:
    """Checkpoint content as JSON values; tensors and long lists are replaced by their size."""
    if isinstance(value, argparse.Namespace):
        return to_jsonable(vars(value))
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(entry) for key, entry in value.items()}
    if isinstance(value, Tensor):
        return f"tensor {tuple(value.shape)} {dtype_name(value)}"
    if isinstance(value, (list, tuple)):
        return [to_jsonable(entry) for entry in value] if len(value) <= 100 else f"{len(value)} entries"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def dtype_name(value: Tensor) -> str:
    """float32, bfloat16, ..."""
    return str(value.dtype).removeprefix("torch.")

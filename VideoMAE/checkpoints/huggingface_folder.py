"""A fine-tuned network as a folder that `transformers` loads: weights, configuration and image processor.

Two things differ there whatever the folder says: transformers' `fc_norm` adds 1e-5 to the variance, where VideoMAE
adds 1e-6, and its image processor smooths when it shrinks frames, where OpenCV does not.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from VideoMAE.augment.video_transforms import IMAGENET_MEAN, IMAGENET_STD
from VideoMAE.checkpoints.formats import BESIDE_FILE, HUGGINGFACE_WEIGHTS, dtype_name, inner, plain
from VideoMAE.checkpoints.huggingface_names import to_huggingface
from VideoMAE.data.vce import EMOTIONS

LAYER_NORM_EPS = 1e-6
CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
WRITTEN = frozenset({HUGGINGFACE_WEIGHTS[0], CONFIG_FILE, PROCESSOR_FILE, BESIDE_FILE})
BESIDE = ("epoch", "metrics", "config")
PROBLEM_OF_LOSS = {"ce": "single_label_classification", "soft_ce": "single_label_classification"}


def write_folder(
    folder: Path,
    weights: Mapping[str, Tensor],
    network: Mapping[str, Any],
    *,
    beside: Mapping[str, Any],
    num_heads: int,
    num_frames: int,
    input_size: int,
    labels: Sequence[str] | None,
) -> None:
    """Writes the files into an empty folder.

    Raises:
        ValueError: a weight has no counterpart in transformers, or there are more or fewer labels than outputs.
    """
    names = list(labels or default_labels(network["num_classes"]))
    if len(names) != network["num_classes"]:
        raise ValueError(f"--labels holds {len(names)} names, the head has {network['num_classes']} outputs")
    settings = inner(beside, "config")
    config = {
        "architectures": ["VideoMAEForVideoClassification"],
        "model_type": "videomae",
        "attention_probs_dropout_prob": 0.0,
        "dtype": dtype_name(next(iter(weights.values()))),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": network["embed_dim"],
        "id2label": dict(enumerate(names)),
        "image_size": input_size,
        "intermediate_size": round(network["embed_dim"] * network["mlp_ratio"]),
        "label2id": {name: index for index, name in enumerate(names)},
        "layer_norm_eps": LAYER_NORM_EPS,
        "num_attention_heads": num_heads,
        "num_channels": 3,
        "num_frames": num_frames,
        "num_hidden_layers": network["depth"],
        "patch_size": network["patch_size"],
        "problem_type": problem_type(network["num_classes"], settings),
        "qkv_bias": network["qkv_bias"],
        "tubelet_size": network["tubelet_size"],
        "use_mean_pooling": network["use_mean_pooling"],
    }
    save_file(to_huggingface(weights), folder / HUGGINGFACE_WEIGHTS[0], metadata={"format": "pt"})
    _write_json(folder / CONFIG_FILE, config)
    squash = not network["head_bias"] and inner(settings, "data").get("crop", "squash") == "squash"
    _write_json(folder / PROCESSOR_FILE, image_processor(input_size, squash=squash, settings=settings))
    kept = {key: plain(beside[key]) for key in BESIDE if key in beside}
    _write_json(folder / BESIDE_FILE, {**kept, "head_bias": network["head_bias"]})


def default_labels(num_outputs: int) -> list[str]:
    """The 27 emotions, V2V's one score, or numbered classes."""
    if num_outputs == len(EMOTIONS):
        return list(EMOTIONS)
    return ["valence"] if num_outputs == 1 else [f"class {index}" for index in range(num_outputs)]


def problem_type(num_outputs: int, settings: Mapping[str, Any]) -> str:
    """What transformers' pipeline does with the logits: nothing for a V2V score, softmax after a loss over classes,
    else a sigmoid each."""
    if num_outputs == 1:
        return "regression"
    return PROBLEM_OF_LOSS.get(str(settings.get("loss")), "multi_label_classification")


def image_processor(input_size: int, *, squash: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluation's pixels: VCE's short side and central square, or V2V's whole frame squashed."""
    short_side = input_size if squash else inner(settings, "data").get("short_side_size", input_size)
    square = {"height": input_size, "width": input_size}
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": square if squash else {"shortest_edge": short_side},
        "resample": 2,  # bilinear
        "do_center_crop": not squash,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""Conversion of checkpoints between the .pth formats, Hugging Face and DeepSpeed folders."""

from collections.abc import Mapping

import torch
from safetensors.torch import save_file
from torch import Tensor

from VideoMAE.augment.video_transforms import IMAGENET_MEAN, IMAGENET_STD
from VideoMAE.checkpoints import formats
from VideoMAE.checkpoints.huggingface_names import to_huggingface
from VideoMAE.checkpoints.programs import ConvertSettings, Format, Report
from VideoMAE.cli import counted
from VideoMAE.data.vce import EMOTIONS
from VideoMAE.files import new_folder, read_text, write_json
from VideoMAE.modeling_finetune import MODELS
from VideoMAE.training.checkpoint import save

LAYER_NORM_EPS = 1e-6
CONFIG_FILE, PROCESSOR_FILE = "config.json", "preprocessor_config.json"
HUGGINGFACE_FILES = frozenset({formats.HUGGINGFACE_WEIGHTS[0], CONFIG_FILE, PROCESSOR_FILE, formats.BESIDE_FILE})
KEPT = ("epoch", "metrics", "config")


def convert(settings: ConvertSettings) -> Report:
    """Converts a checkpoint and verifies the result."""
    dst = settings.dst
    target = target_format(settings)
    source = formats.read(settings.src, model_key=settings.model_key)
    weights = source.our_weights()
    pretraining = any(name.startswith("encoder.") for name in weights)
    formats.check_whole(weights, source.file, encoder_only=pretraining)
    kept = {key: source.beside[key] for key in KEPT if key in source.beside}
    if target == "huggingface":
        if pretraining:
            raise ValueError(f"{source.file}: pre-training weights; only fine-tuned ones can be exported")
        try:
            write_huggingface(weights, source, settings)
        except ValueError as error:
            raise ValueError(f"{source.file}: {error}") from error
    else:
        content = {"model": {name: value.clone() for name, value in weights.items()}}
        save(dst, content | kept if target == "ours" else content)
    written = formats.read(dst).our_weights()
    if written.keys() != weights.keys():
        raise ValueError(f"{dst}: was written with other names: {sorted(written.keys() ^ weights.keys())[:5]}")
    for name, value in weights.items():
        if written[name].dtype != value.dtype or not torch.equal(written[name], value):
            raise ValueError(f"{dst}: {name} was written with other values")
    eps = formats.nested_dict(source.beside, "huggingface_config").get("layer_norm_eps", LAYER_NORM_EPS)
    converted = {"huggingface_config", "head_bias", *(kept if target != "published" else ())}
    omitted = [key for key in source.beside if key not in converted]
    notes = []
    if omitted:
        notes.append(f"omitted: {', '.join(omitted)}")
    if target == "huggingface" and "fc_norm.weight" in weights:
        notes.append("transformers adds 1e-5 in fc_norm, VideoMAE 1e-6: predictions differ slightly")
    if target != "huggingface" and eps != LAYER_NORM_EPS:
        notes.append(f"layer_norm_eps was {eps}; here it is always {LAYER_NORM_EPS}")
    if source.beside.get("head_bias") is False and "head.bias" in weights:
        notes.append("the head has a non-zero bias, which V2V's network does not have; it is kept")
    num_parameters = sum(value.numel() for value in weights.values())
    values = {
        "source": str(source.file),
        "source_kind": source.kind,
        "target": str(dst),
        "target_form": target,
        "num_tensors": len(weights),
        "num_parameters": num_parameters,
        "notes": notes,
    }
    lines = [
        f"{source.file}: {formats.DESCRIPTIONS[source.kind]}",
        f"{dst}: format '{target}', {len(weights)} tensors, {num_parameters:,} values, verified bit for bit",
        *(f"note: {note}" for note in notes),
    ]
    return Report("\n".join(lines), values)


def target_format(settings: ConvertSettings) -> Format:
    """The format to write. Raises ValueError if DST does not fit it or exists already."""
    is_file = settings.dst.suffix in (".pth", ".pt")
    target: Format = settings.to or ("ours" if is_file else "huggingface")
    if is_file != (target != "huggingface"):
        kind = "a folder" if target == "huggingface" else "a file that ends in .pth"
        raise ValueError(f"{settings.dst}: --to {target} writes {kind}")
    if settings.dst.exists():
        if not settings.overwrite:
            raise ValueError(f"{settings.dst}: exists already; pass --overwrite to replace it")
        if settings.dst.resolve() == settings.src.resolve():
            raise ValueError(f"{settings.dst}: is SRC itself; choose another DST")
        is_folder = settings.dst.is_dir()
        others = {path.name for path in settings.dst.iterdir()} - HUGGINGFACE_FILES if is_folder else set()
        if is_folder != (target == "huggingface") or others:
            raise ValueError(f"{settings.dst}: is not what --to {target} writes, and was not replaced")
    return target


def write_huggingface(weights: Mapping[str, Tensor], source: formats.Checkpoint, settings: ConvertSettings) -> None:
    """Writes the folder for transformers.

    Raises ValueError if a weight has no counterpart, the number of heads is unknown, or the number of labels is wrong.
    """
    if "pos_embed" in weights:
        raise ValueError("learned positions (pos_embed) have no counterpart in transformers")
    network = formats.network_of(weights)
    saved = formats.nested_dict(source.beside, "huggingface_config")
    config = formats.nested_dict(source.beside, "config")
    data = formats.nested_dict(config, "data")
    heads, width = settings.num_heads or saved.get("num_attention_heads"), network["embed_dim"]
    name = formats.nested_dict(config, "model").get("model") or formats.model_name(network)
    if not heads and name in MODELS:
        with torch.device("meta"):
            heads = MODELS[name](img_size=16, all_frames=2).blocks[0].attn.num_heads  # type: ignore[union-attr]
    if not heads:
        raise ValueError(f"unknown number of attention heads of a ViT of width {width}; pass --num_heads")
    if width % heads:
        raise ValueError(f"--num_heads {heads} does not divide the width {width}")
    saved_labels = formats.nested_dict(saved, "id2label")
    num_outputs = network["num_classes"]
    if settings.labels:
        names = read_text(settings.labels).splitlines()
    elif saved_labels:
        names = [saved_labels[key] for key in sorted(saved_labels, key=int)]
    else:
        defaults = {len(EMOTIONS): list(EMOTIONS), 1: ["valence"]}
        names = defaults.get(num_outputs) or [f"class {index}" for index in range(num_outputs)]
    if len(names) != num_outputs:
        raise ValueError(f"--labels holds {len(names)} names, the head has {counted(num_outputs, 'output')}")
    # What transformers' pipeline applies to the logits: softmax, nothing to a V2V score, or a sigmoid.
    by_loss = "single_label_classification" if config.get("loss") in ("ce", "soft_ce") else "multi_label_classification"
    input_size = settings.input_size or data.get("input_size") or saved.get("image_size") or 224
    content = {
        "architectures": ["VideoMAEForVideoClassification"],
        "model_type": "videomae",
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "dtype": formats.dtype_name(next(iter(weights.values()))),
        "hidden_size": width,
        "intermediate_size": round(width * network["mlp_ratio"]),
        "num_hidden_layers": network["depth"],
        "num_attention_heads": heads,
        "image_size": input_size,
        "num_channels": 3,
        "num_frames": settings.num_frames or data.get("num_frames") or saved.get("num_frames") or 16,
        **{key: network[key] for key in ("patch_size", "tubelet_size", "qkv_bias", "use_mean_pooling")},
        "problem_type": "regression" if num_outputs == 1 else by_loss,
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    # The evaluation transform: resized short side and centre crop (VCE), or the whole frame squashed (V2V).
    squash = not network["head_bias"] and data.get("crop", "squash") == "squash"
    square = {"height": input_size, "width": input_size}
    image_processor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": square if squash else {"shortest_edge": data.get("short_side_size", input_size)},
        "resample": 2,  # bilinear
        "do_center_crop": not squash,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }
    kept = {key: formats.to_jsonable(source.beside[key]) for key in KEPT if key in source.beside}
    with new_folder(settings.dst) as folder:
        save_file(to_huggingface(weights), folder / formats.HUGGINGFACE_WEIGHTS[0], metadata={"format": "pt"})
        write_json(folder / CONFIG_FILE, content)
        write_json(folder / PROCESSOR_FILE, image_processor)
        write_json(folder / formats.BESIDE_FILE, {**kept, "head_bias": network["head_bias"]})

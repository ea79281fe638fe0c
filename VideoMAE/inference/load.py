"""Loading a trained network with its task, its clip settings and the names of its outputs.

A run's folder contains all of them. For a bare checkpoint they come from the shapes of the weights, from flags, or from
the defaults of the recipe, which are logged.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from VideoMAE.checkpoints.formats import Checkpoint, check_whole, model_name, nested_dict, network_of, read
from VideoMAE.config import DataConfig, V2VDataConfig, VCEConfig, flat
from VideoMAE.data.clips import EvenClips, TestClips, preference_clips
from VideoMAE.data.vce import EMOTIONS, read_emotions
from VideoMAE.files import read_json
from VideoMAE.inference.config import NetworkFlags
from VideoMAE.modeling_finetune import MODELS, VisionTransformer, sine_cosine_position_table
from VideoMAE.training.checkpoint import BEST
from VideoMAE.training.pretrained import ENCODER_PREFIXES, load_weights

logger = logging.getLogger(__name__)

TaskName = Literal["vce", "v2v"]


@dataclass(frozen=True)
class Recipe:
    """The clip settings of a network, and its loss, which determines the meaning of the outputs; see config.py."""

    num_frames: int
    input_size: int
    short_side_size: int
    sampling_rate: int
    test_num_segment: int
    test_num_crop: int
    loss: str
    crop: Literal["squash", "center"]


class LoadedNetwork(NamedTuple):
    """A trained network in evaluation mode, on the CPU."""

    task: TaskName
    source: Path
    model: VisionTransformer
    recipe: Recipe
    emotions: tuple[str, ...]  # names of the outputs; empty for V2V
    config: dict[str, Any]  # config.json of the run; empty if there is none

    def clips(self, *, num_crops: int | None = None) -> TestClips | EvenClips:
        """The clips of VCE's test, with its number of crops unless another is given, or the clip of V2V's test."""
        recipe = self.recipe
        if self.task == "v2v":
            return preference_clips(recipe.num_frames, recipe.input_size, crop=recipe.crop)
        return TestClips(
            clip_len=recipe.num_frames,
            stride=recipe.sampling_rate,
            num_segments=recipe.test_num_segment,
            num_crops=num_crops or recipe.test_num_crop,
            short_side_size=recipe.short_side_size,
            crop_size=recipe.input_size,
        )


def load_for_inference(
    path: Path | str,
    flags: NetworkFlags | None = None,
    *,
    num_segments: int | None = None,
    num_crops: int | None = None,
    allow_pretrained: bool = False,
) -> LoadedNetwork:
    """Loads the network of a run's folder, of a checkpoint file, or of a Hugging Face folder.

    Args:
        flags: settings that override those of the run.
        num_segments, num_crops: views of VCE along time and along the long side. None: those of the run's test.
        allow_pretrained: also accept a pre-trained encoder; it gets the initial norm of fine-tuning and a zero head.

    Raises ValueError if it is not a checkpoint, damaged, without a head for VCE or V2V, or contradicts a flag.
    """
    path, flags = Path(path), flags or NetworkFlags()
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    config = config if {"data", "model", "run"} <= config.keys() else {}  # otherwise written by another program
    only_tested = bool(nested_dict(config, "run").get("eval"))
    if path.is_dir() and not (path / BEST).is_file() and only_tested:
        checkpoint = read(Path(str(nested_dict(config, "model").get("finetune"))))
    else:
        checkpoint = read(path, model_key="model_ema|model|module")  # prefer the weight average, which a run tests
        config = nested_dict(checkpoint.beside, "config") or config
    weights, file = checkpoint.our_weights(), checkpoint.file
    if allow_pretrained and not any(name.startswith("head.") for name in weights):
        weights = _with_new_head(weights)
    head = weights.get("head.weight", weights.get("head.0.weight"))
    if head is None:
        is_encoder = any(name.startswith(("encoder.", "decoder.")) for name in weights)
        kind = "pre-trained weights" if is_encoder else "weights"
        raise ValueError(f"{file}: {kind} without a head; fine-tune them on VCE or V2V first")
    task: TaskName = "v2v" if head.shape[0] == 1 else "vce"
    check_whole(weights, file)
    views = {"test_num_segment": num_segments, "test_num_crop": num_crops}
    recipe = _make_recipe(checkpoint, task, {**asdict(flags), **views}, config)
    emotions = () if task == "v2v" else _output_names(checkpoint, config, folder, flags.emotions, head.shape[0])
    model = _build(checkpoint, weights, recipe, flags.model or flat(config).get("model"))
    load_weights(model, weights, file, must_be_whole=True)
    return LoadedNetwork(task, file, model.eval(), recipe, emotions, config)


def _with_new_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an encoder, with the initial norm of fine-tuning and a zero head."""
    prefix = next((prefix for prefix in ENCODER_PREFIXES if f"{prefix}patch_embed.proj.weight" in weights), "")
    encoder = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    encoder = {name: value for name, value in encoder.items() if not name.startswith("norm.")}
    width = len(encoder.get("patch_embed.proj.weight", ()))
    new = {"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)}
    return {**new, **encoder, "head.weight": torch.zeros(len(EMOTIONS), width), "head.bias": torch.zeros(len(EMOTIONS))}


def _make_recipe(checkpoint: Checkpoint, task: TaskName, flags: Mapping[str, Any], config: Mapping[str, Any]) -> Recipe:
    """The settings of the flags, else of the run, else of the Hugging Face folder, else the defaults."""
    task_config = DataConfig if task == "vce" else V2VDataConfig
    names = [field.name for field in fields(Recipe)]
    defaults = asdict(V2VDataConfig(data_dir=Path())) | asdict(DataConfig(data_path=Path())) | {"loss": VCEConfig.loss}
    huggingface = nested_dict(checkpoint.beside, "huggingface_config")
    sources = {"num_frames": huggingface.get("num_frames"), "input_size": huggingface.get("image_size"), **flat(config)}
    sources |= {name: value for name, value in flags.items() if value is not None}
    settings = {name: sources[name] for name in names if sources.get(name) is not None}
    settings.setdefault("short_side_size", settings.get("input_size", task_config.input_size))
    used = [name for name in names if hasattr(task_config, name) or (name == "loss" and task == "vce")]
    assumed = [f"--{name} {defaults[name]}" for name in used if name not in settings and not name.startswith("test_")]
    if assumed:
        logger.info("%s: no training settings found; using the defaults %s", checkpoint.file, " ".join(assumed))
    recipe = Recipe(**{name: settings.get(name, defaults[name]) for name in names})
    for name, value in asdict(recipe).items():
        if isinstance(value, int) and value < 1:
            flag = f"{name.removeprefix('test_')}s" if name.startswith("test_") else name
            raise ValueError(f"--{flag} {value}: must be at least 1")
    if task == "vce" and recipe.short_side_size < recipe.input_size:
        raise ValueError(f"--short_side_size {recipe.short_side_size} is smaller than --input_size {recipe.input_size}")
    return recipe


def _output_names(
    checkpoint: Checkpoint, config: Mapping[str, Any], folder: Path, file: Path | None, num_outputs: int
) -> tuple[str, ...]:
    """The emotions of --emotions, else of the results, the dataset, the Hugging Face folder, or VCE's 27."""
    if file is not None:
        names = read_json(file, expect=list, hint="check --emotions")
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"--emotions {file}: expected a list of names")
        if len(names) != num_outputs:
            raise ValueError(
                f"--emotions {file}: number of names: {len(names)}, outputs of {checkpoint.file}: {num_outputs}"
            )
        return tuple(names)
    labels = nested_dict(checkpoint.beside, "huggingface_config", "id2label")
    results = read_json(folder / "results.json") if (folder / "results.json").is_file() else {}
    data_path = nested_dict(config, "data").get("data_path")
    for names in (
        tuple(results.get("emotions", ())),
        read_emotions(Path(data_path)) if data_path else (),
        tuple(labels[key] for key in sorted(labels, key=int)) if "head_bias" in checkpoint.beside else (),
        EMOTIONS,
    ):
        if len(names) == num_outputs:
            return names
    raise ValueError(
        f"{checkpoint.file}: the head has {num_outputs} outputs, expected 27 (emotions of VCE) or 1 (score of V2V); "
        "for other emotions, pass their names by --emotions FILE"
    )


def _build(
    checkpoint: Checkpoint, weights: Mapping[str, Tensor], recipe: Recipe, name: str | None
) -> VisionTransformer:
    """The network with uninitialized weights: random initialization would take longer than reading the checkpoint."""
    network = network_of(weights)
    size = f"width {network['embed_dim']} and depth {network['depth']}"
    settings: dict[str, Any] = {"use_learnable_pos_emb": "pos_embed" in weights, "all_frames": recipe.num_frames}
    settings |= {**network, "img_size": recipe.input_size}
    num_heads = nested_dict(checkpoint.beside, "huggingface_config").get("num_attention_heads")
    name = name or model_name(network)
    with torch.device("meta"):
        if num_heads is not None:
            model = VisionTransformer(**settings, num_heads=num_heads)
        elif name is None:
            raise ValueError(f"{checkpoint.file}: {size}, which is not the size of any model of this project")
        else:
            model = MODELS[name](**{key: settings[key] for key in settings.keys() - {"embed_dim", "depth"}})
    if (model.embed_dim, model.get_num_layers()) != (network["embed_dim"], network["depth"]):
        expected = f"width {model.embed_dim} and depth {model.get_num_layers()}"
        raise ValueError(f"{checkpoint.file}: {size}, but --model {name} has {expected}")
    model.to_empty(device="cpu")
    if "pos_embed" not in weights:
        table = sine_cosine_position_table(model.patch_embed.num_patches, model.embed_dim)
        model.register_buffer("pos_embed", table, persistent=False)
    return model

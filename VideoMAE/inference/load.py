"""A checkpoint as a network that can be asked: what it was trained for, how it wants to see videos, its weights.

What a run's folder says of itself is believed; what a bare file does not say comes from the shapes of its weights,
from flags, and else from the recipe's defaults, which is said.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from VideoMAE.checkpoints.formats import Checkpoint, check_whole, inner, model_name, network_of, read
from VideoMAE.config import DataConfig, V2VDataConfig, VCEConfig, flat
from VideoMAE.data.clips import EvenClips, TestClips, preference_clips
from VideoMAE.data.vce import EMOTIONS, read_emotions
from VideoMAE.inference.config import NetworkFlags
from VideoMAE.modeling_finetune import MODELS, VisionTransformer, sine_cosine_position_table
from VideoMAE.training.checkpoint import BEST
from VideoMAE.training.pretrained import ENCODER_PREFIXES, load_weights

logger = logging.getLogger(__name__)

TaskName = Literal["vce", "v2v"]
TASK_TITLES: dict[TaskName, str] = {"vce": "VCE", "v2v": "V2V"}


@dataclass(frozen=True)
class Recipe:
    """How a network is shown a video, and what its outputs mean; see config.py."""

    num_frames: int
    input_size: int
    short_side_size: int
    sampling_rate: int
    test_num_segment: int
    test_num_crop: int
    loss: str
    crop: Literal["squash", "center"]


class Trained(NamedTuple):
    """A fine-tuned network in evaluation mode on the CPU. `emotions` are empty for V2V."""

    task: TaskName
    source: Path
    model: VisionTransformer
    recipe: Recipe
    emotions: tuple[str, ...]
    config: dict[str, Any]  # the run's config.json; empty where there is none

    def emotion_clips(self) -> TestClips:
        """The views of VCE's test."""
        recipe = self.recipe
        return TestClips(
            clip_len=recipe.num_frames,
            stride=recipe.sampling_rate,
            num_segments=recipe.test_num_segment,
            num_crops=recipe.test_num_crop,
            short_side_size=recipe.short_side_size,
            crop_size=recipe.input_size,
        )

    def preference_clips(self) -> EvenClips:
        """The clip of V2V's test."""
        return preference_clips(self.recipe.num_frames, self.recipe.input_size, crop=self.recipe.crop)


def load_trained(
    path: Path | str,
    network_flags: NetworkFlags | None = None,
    *,
    num_segments: int | None = None,
    num_crops: int | None = None,
    may_lack_head: bool = False,
) -> Trained:
    """The network of a run's folder or of a checkpoint file: ours, the published form, or Hugging Face's.

    With `may_lack_head` pre-training weights are taken too, as fine-tuning on VCE would begin with them; the head then
    is of zeros.

    Raises:
        ValueError: it is none, a damaged one, one without a head of VCE or V2V, or of another size than a flag says.
    """
    given = network_flags or NetworkFlags()
    found, config, folder = _find(Path(path))
    weights = found.our_weights()
    if may_lack_head and not any(name.startswith("head.") for name in weights):
        weights = _with_new_head(weights)
    task = _task_of(weights, found.file)
    check_whole(weights, found.file)
    network = {**network_of(weights), "use_learnable_pos_emb": "pos_embed" in weights}
    theirs = inner(found.beside, "huggingface_config")
    recipe = _recipe(found.file, task, given, config, theirs, {"num_segments": num_segments, "num_crops": num_crops})
    emotions = () if task == "v2v" else _emotions(found, config, folder, given.emotions, network["num_classes"])
    model = _build(found.file, network, recipe, given.model or flat(config).get("model"), theirs)
    load_weights(model, weights, found.file, must_be_whole=True)
    return Trained(task, found.file, model.eval(), recipe, emotions, config)


def _find(path: Path) -> tuple[Checkpoint, dict[str, Any], Path]:
    """The checkpoint, the configuration of the run that it is of, empty where nothing tells, and where results are."""
    folder = path if path.is_dir() else path.parent
    config = _read_json(folder / "config.json")
    config = config if {"data", "model", "run"} <= config.keys() else {}  # else another program's
    if path.is_dir() and not (path / BEST).is_file() and inner(config, "run").get("eval"):  # a run that only tested
        return read(Path(str(inner(config, "model").get("finetune")))), config, folder
    found = read(path, model_key="model_ema|model|module")  # the average, where a run keeps one, is what it tests
    return found, inner(found.beside, "config") or config, folder


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a file of a run's folder; empty where there is no such file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _with_new_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's weights with what is new after pre-training: a norm as it starts out, and a head of zeros."""
    prefix = next((prefix for prefix in ENCODER_PREFIXES if f"{prefix}patch_embed.proj.weight" in weights), "")
    encoder = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    encoder = {name: value for name, value in encoder.items() if not name.startswith("norm.")}
    width = len(encoder.get("patch_embed.proj.weight", ()))
    new = {"fc_norm.weight": torch.ones(width), "fc_norm.bias": torch.zeros(width)}
    return {**new, **encoder, "head.weight": torch.zeros(len(EMOTIONS), width), "head.bias": torch.zeros(len(EMOTIONS))}


def _task_of(weights: Mapping[str, Any], file: Path) -> TaskName:
    head = weights.get("head.weight", weights.get("head.0.weight"))
    if head is None:
        is_encoder = any(name.startswith(("encoder.", "decoder.")) for name in weights)
        kind = "pre-training weights" if is_encoder else "weights"
        raise ValueError(f"{file}: {kind} without a head: they must be fine-tuned on VCE or V2V before they can answer")
    return "v2v" if head.shape[0] == 1 else "vce"


def _recipe(
    file: Path,
    task: TaskName,
    given: NetworkFlags,
    config: Mapping[str, Any],
    theirs: Mapping[str, Any],
    views: Mapping[str, int | None],
) -> Recipe:
    """What flags, the run and a Hugging Face folder say, in this order; the rest are defaults, which is said."""
    data = DataConfig if task == "vce" else V2VDataConfig
    names = [field.name for field in fields(Recipe)]
    defaults = {
        **asdict(V2VDataConfig(data_dir=Path())),
        **asdict(DataConfig(data_path=Path())),
        "loss": VCEConfig.loss,
    }
    known = {"num_frames": theirs.get("num_frames"), "input_size": theirs.get("image_size"), **flat(config)}
    known |= {name: value for name, value in asdict(given).items() if value is not None}
    known |= {f"test_{name.removesuffix('s')}": value for name, value in views.items() if value is not None}
    told = {name: known[name] for name in names if known.get(name) is not None}
    told.setdefault("short_side_size", told.get("input_size", data.input_size))
    matters = [name for name in names if hasattr(data, name) or (name == "loss" and task == "vce")]
    assumed = [f"--{name} {defaults[name]}" for name in matters if name not in told and not name.startswith("test_")]
    if assumed:
        logger.info("%s: nothing says how it was trained, so these are assumed: %s", file, " ".join(assumed))
    recipe = Recipe(**{**{name: defaults[name] for name in names}, **told})
    for name in names:
        value = getattr(recipe, name)
        if isinstance(value, int) and value < 1:
            flag = f"{name.removeprefix('test_')}s" if name.startswith("test_") else name
            raise ValueError(f"--{flag} {value}: must be at least 1")
    if task == "vce" and recipe.short_side_size < recipe.input_size:
        raise ValueError(f"--short_side_size {recipe.short_side_size} is smaller than --input_size {recipe.input_size}")
    return recipe


def _emotions(
    found: Checkpoint, config: Mapping[str, Any], folder: Path, file: Path | None, num_outputs: int
) -> tuple[str, ...]:
    """The names of the outputs: from --emotions, the run's results, its dataset, a Hugging Face folder, or VCE's 27."""
    if file is not None:
        names = _names_in(file)
        if len(names) != num_outputs:
            raise ValueError(f"--emotions {file}: holds {len(names)} names, {found.file} has {num_outputs} outputs")
        return names
    labels = inner(found.beside, "huggingface_config", "id2label")
    results = _read_json(folder / "results.json")
    data_path = inner(config, "data").get("data_path")
    for names in (
        tuple(results.get("emotions", ())),
        read_emotions(Path(data_path)) if data_path else (),
        tuple(labels[key] for key in sorted(labels, key=int)) if "head_bias" in found.beside else (),
        EMOTIONS,
    ):
        if len(names) == num_outputs:
            return names
    raise ValueError(
        f"{found.file}: a head of {num_outputs} outputs, which are neither VCE's 27 emotions nor V2V's one score; if "
        "they are emotions, name them by --emotions FILE"
    )


def _names_in(file: Path) -> tuple[str, ...]:
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--emotions {file}: cannot be read as JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"--emotions {file}: expected a list of names")
    return tuple(names)


def _build(
    file: Path, network: dict[str, Any], recipe: Recipe, name: str | None, theirs: Mapping[str, Any]
) -> VisionTransformer:
    """The network with weights that are still to come: drawing random ones first would take longer than reading."""
    name = name or model_name(network)
    clip: dict[str, Any] = {"all_frames": recipe.num_frames, "img_size": recipe.input_size}
    with torch.device("meta"):
        if "num_attention_heads" in theirs:
            model = VisionTransformer(**network, **clip, num_heads=theirs["num_attention_heads"])
        elif name is None:
            raise ValueError(f"{file}: {_size(network)}, which is no model of this project")
        else:
            model = MODELS[name](
                **{key: value for key, value in network.items() if key not in ("embed_dim", "depth")}, **clip
            )
    if (model.embed_dim, model.get_num_layers()) != (network["embed_dim"], network["depth"]):
        wanted = {"embed_dim": model.embed_dim, "depth": model.get_num_layers()}
        raise ValueError(f"{file}: {_size(network)}, where --model {name} is {_size(wanted)}")
    model.to_empty(device="cpu")
    if not network["use_learnable_pos_emb"]:
        table = sine_cosine_position_table(model.patch_embed.num_patches, model.embed_dim)
        model.register_buffer("pos_embed", table, persistent=False)
    return model


def _size(network: Mapping[str, Any]) -> str:
    return f"{network['embed_dim']} wide and {network['depth']} deep"

"""Loading of checkpoint weights into the ViT: published pre-trained and fine-tuned checkpoints, and our own."""

import argparse
import logging
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger(__name__)

NEW_AFTER_PRETRAINING = frozenset({"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias", "head.0.weight"})
ENCODER_PREFIXES = ("encoder.", "backbone.")


class LoadReport(NamedTuple):
    """Parameter names of a checkpoint that were loaded, renamed (a subset) or ignored, and those of the model that keep
    their initial values."""

    loaded: list[str]
    renamed: list[str]
    ignored: list[str]
    new: list[str]


def read_checkpoint(path: Path, *, harmless: Sequence[type] = ()) -> dict[str, Any]:
    """Reads a .pth file without executing code in it.

    Raises:
        ValueError: the file is missing, truncated, or a pickle with anything but tensors, plain values,
        `argparse.Namespace` and the classes in `harmless`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *harmless]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise ValueError(f"{path}: refused: the pickle contains an object of type {foreign[1]}") from error
        raise ValueError(f"{path}: not a checkpoint, or damaged") from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), "unexpected end of file")
        raise ValueError(f"{path}: truncated or damaged: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict of weights, found {type(content).__name__}")
    return content


def select_weights(content: dict[str, Any], *, model_key: str, model_prefix: str, path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint: at the first key of `a|b` that exists, otherwise the content itself."""
    weights = next((content[key] for key in model_key.split("|") if isinstance(content.get(key), dict)), content)
    weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    if model_prefix:
        weights = {name[len(model_prefix) :]: value for name, value in weights.items() if name.startswith(model_prefix)}
    if not weights:
        raise ValueError(f"{path}: contains no weights at --model_key {model_key} with --model_prefix {model_prefix!r}")
    return weights


def load_pretrained(
    model: nn.Module,
    path: Path,
    *,
    model_key: str = "model|module",
    model_prefix: str = "",
    must_be_whole: bool = False,
) -> LoadReport:
    """Loads a checkpoint file into `model`. Raises ValueError as `read_checkpoint` and `load_weights` do."""
    weights = select_weights(read_checkpoint(path), model_key=model_key, model_prefix=model_prefix, path=path)
    return load_weights(model, weights, path, must_be_whole=must_be_whole)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path, *, must_be_whole: bool) -> LoadReport:
    """Loads weights into `model` and logs what was loaded and what was not; `path` is their file.

    The prefixes `encoder.` and `backbone.` are removed; a head of another shape is dropped; a learned `pos_embed` of
    another grid is interpolated. Only `fc_norm.*` and `head.*` may be missing; with `must_be_whole`, none may.

    Raises:
        ValueError: another parameter is missing, or a shape differs.
    """
    own = model.state_dict()
    state: dict[str, Tensor] = {}
    renamed, ignored = [], []
    for name, value in weights.items():
        ours = next((name[len(prefix) :] for prefix in ENCODER_PREFIXES if name.startswith(prefix)), name)
        if ours == "pos_embed" and ours in own and value.shape != own[ours].shape:
            value = interpolate_positions(value, model)
        head_differs = ours.startswith("head.") and ours in own and value.shape != own[ours].shape
        if ours not in own or (head_differs and not must_be_whole):
            ignored.append(name)
            continue
        if value.shape != own[ours].shape:
            raise ValueError(
                f"{path}: {name} has shape {tuple(value.shape)}, the model's has {tuple(own[ours].shape)}; "
                "choose the --model of the checkpoint"
            )
        renamed.extend([name] if ours != name else [])
        state[ours] = value
    new = [name for name in own if name not in state]
    unexpected = [name for name in new if must_be_whole or name not in NEW_AFTER_PRETRAINING]
    if unexpected:
        shown = ", ".join(unexpected[:5]) + (", ..." if len(unexpected) > 5 else "")
        raise ValueError(f"{path}: lacks {len(unexpected)} of the model's {len(own)} parameters: {shown}")
    dropped_head = [name for name in ignored if name.startswith("head.")]
    if dropped_head:
        shapes = ", ".join(f"{name} {tuple(weights[name].shape)}" for name in dropped_head)
        logger.info("%s: dropped the head of another task (%s)", path, shapes)
    model.load_state_dict(state, strict=False)
    details = [f"loaded {len(state)} of {len(own)} weights from {path}"]
    if renamed:
        details.append(f"{len(renamed)} renamed")
    if len(ignored) > len(dropped_head):
        others = [name.split(".", 1) for name in ignored if name not in dropped_head]
        prefixes = dict.fromkeys(f"{first}.*" if rest else first for first, *rest in others)
        details.append(f"ignored {', '.join(prefixes)}")
    if new:
        details.append(f"initialized {', '.join(new)}")
    logger.info("%s", "; ".join(details))
    return LoadReport(loaded=list(state), renamed=renamed, ignored=ignored, new=new)


def interpolate_positions(pos_embed: Tensor, model: nn.Module) -> Tensor:
    """Interpolates a learned position embedding to the model's grid, bicubically per frame. (1, N, D) -> (1, N', D)

    Raises ValueError if the embedding does not divide into square frames, as many as the model has.
    """
    frames, height, width = model.patch_embed.grid  # type: ignore[union-attr,misc]
    _, num_positions, dim = pos_embed.shape
    side = round((num_positions / frames) ** 0.5)
    if frames * side * side != num_positions:
        raise ValueError(f"pos_embed has {num_positions} positions, which do not form {frames} square frames")
    grid = pos_embed.reshape(frames, side, side, dim).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).reshape(1, frames * height * width, dim).to(pos_embed.dtype)

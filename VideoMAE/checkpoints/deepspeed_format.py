"""Reading of DeepSpeed's checkpoint folders -> weights in fp32, without executing code in them.

DeepSpeed itself merges the ZeRO partitions. Since it unpickles any class, every file is first read with an allowlist of
classes, and torch enforces the same list while DeepSpeed reads.
"""

import contextlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from VideoMAE.training.pretrained import read_checkpoint, select_weights

STATES = "mp_rank_*_model_states.pt"
KEPT = ("epoch", "global_steps", "args", "ds_version")


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of the step named in the file `latest`, or of the step whose folder this is, and its other entries.

    Raises ValueError if files are missing, damaged or could execute code; the model is split over devices; DeepSpeed is
    not installed.
    """
    latest, step = folder / "latest", folder
    if latest.is_file():
        tag = latest.read_text(encoding="utf-8", errors="replace").strip()
        step = folder / tag
        if not tag or Path(tag).name != tag or not step.is_dir():
            raise ValueError(f"{latest}: contains {tag!r}, which is not a folder next to it")
    states = sorted(step.glob(STATES))
    if len(states) != 1:
        raise ValueError(f"{step}: expected one {STATES}, found {len(states)}: model parallelism is not supported")
    content = read_checkpoint(states[0])
    partitions = sorted(step.glob("*_optim_states.pt"))
    if partitions:
        weights = _merge(step, partitions)
    else:
        weights = select_weights(content, model_key="module", model_prefix="", path=states[0])
    for wrapper in ("module.", "model."):
        if all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): value for name, value in weights.items()}
    return weights, {key: content[key] for key in KEPT if key in content}


def _merge(step: Path, partitions: list[Path]) -> dict[str, Tensor]:
    """Merges ZeRO partitions with DeepSpeed."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise ValueError(f"{step}: merging ZeRO partitions requires deepspeed: {error}") from error
    allowed = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    for partition in partitions:
        read_checkpoint(partition, harmless=allowed)
    environment = dict(os.environ)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # whatever the arguments of torch.load
    try:
        with torch.serialization.safe_globals(allowed), contextlib.redirect_stdout(sys.stderr):
            return dict(get_fp32_state_dict_from_zero_checkpoint(str(step.parent), step.name))
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, AssertionError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{step}: DeepSpeed cannot merge the partitions: {reason}") from error
    finally:
        os.environ.clear()
        os.environ.update(environment)

"""Checkpoint folders as DeepSpeed's `save_checkpoint` writes them -> weights in fp32, without executing anything.

DeepSpeed itself puts the parts together. It loads any pickle, so every file is first read with nothing but harmless
classes allowed, and torch is told to hold DeepSpeed's own reading to the same.
"""

import contextlib
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from VideoMAE.training.pretrained import read_checkpoint, select_weights

STATES = "mp_rank_*_model_states.pt"
PARTS = "*_optim_states.pt"
KEPT = ("epoch", "global_steps", "args", "ds_version")


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is one of DeepSpeed's: with `latest`, or one step's files themselves."""
    return (folder / "latest").is_file() or any(folder.glob(STATES))


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of the latest step, and what stands beside them.

    Raises:
        ValueError: files are missing, damaged or could run code; a network split over devices; DeepSpeed is missing.
    """
    step = _latest_step(folder)
    states = sorted(step.glob(STATES))
    if len(states) != 1:
        raise ValueError(f"{step}: expected one {STATES}, found {len(states)}: models split over devices are not read")
    content = read_checkpoint(states[0])
    parts = sorted(step.glob(PARTS))
    if parts:
        weights = _merge(step, parts)
    else:
        weights = select_weights(content, model_key="module", model_prefix="", path=states[0])
    return _without_wrapper(weights), {key: content[key] for key in KEPT if key in content}


def _latest_step(folder: Path) -> Path:
    latest = folder / "latest"
    if not latest.is_file():
        return folder
    tag = latest.read_text(encoding="utf-8", errors="replace").strip()
    if not tag or Path(tag).name != tag or not (folder / tag).is_dir():
        raise ValueError(f"{latest}: names {tag!r}, which is no folder beside it")
    return folder / tag


def _merge(step: Path, parts: list[Path]) -> dict[str, Tensor]:
    """Lets DeepSpeed put ZeRO's parts together."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ImportError as error:
        raise ValueError(f"{step}: putting ZeRO's parts together takes deepspeed: {error}") from error
    harmless = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    for part in parts:
        read_checkpoint(part, harmless=harmless)
    try:
        with _only_harmless(harmless), contextlib.redirect_stdout(sys.stderr):
            return dict(get_fp32_state_dict_from_zero_checkpoint(str(step.parent), step.name))
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, AssertionError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{step}: DeepSpeed cannot put it together: {reason}") from error


@contextlib.contextmanager
def _only_harmless(classes: Sequence[type]) -> Iterator[None]:
    """Holds every `torch.load` to tensors, plain values and these classes, whatever it is called with."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([*classes]):
            yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _without_wrapper(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without `model.` or `module.`, where all begin so, as a network inside another one has it."""
    for prefix in ("module.", "model."):
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights

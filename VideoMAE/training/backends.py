"""Training on one or many processes with DistributedDataParallel or DeepSpeed, behind one interface.

`forward(clips, update=...)` computes in the chosen precision; `backward(loss, update=...)` accumulates gradients and,
on an update, averages them over processes, steps the optimizer and returns the norm of the gradient. Gradient
accumulation equals one large batch. `model` is the unwrapped network; `optimizer` has the parameter groups.
"""

import contextlib
import math
import os
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from VideoMAE.config import OptimConfig, RunConfig
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.optim_factory import create_optimizer, parameter_groups
from VideoMAE.runtime.distributed import World, gather

SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BackendSettings(NamedTuple):
    """Settings of every backend."""

    world: World
    precision: str  # fp32, bf16 or fp16
    update_freq: int
    clip_grad: float | None


def choose_precision(precision: str, device: torch.device) -> str:
    """Resolves `auto`. Raises ValueError for fp16 on a CPU."""
    if precision == "auto":
        if device.type == "cpu":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 needs a GPU; on a CPU use fp32 or bf16")
    return precision


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision for a forward pass; no effect in fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


class NonFiniteGradientError(ValueError):
    """The gradient of a step is not finite; the weights are unchanged."""


def checked_norm(norm: Tensor, settings: BackendSettings) -> float:
    """The gradient norm. Raises NonFiniteGradientError, except in fp16, whose loss scaler skips such steps."""
    value = float(norm)
    if settings.precision != "fp16" and not math.isfinite(value):
        raise NonFiniteGradientError(f"the gradient norm became {value}")
    return value


class DDPBackend:
    """The bare network on one process, DistributedDataParallel on several."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, settings: BackendSettings) -> None:
        self.model, self.optimizer, self.settings = model, optimizer, settings
        device, is_fp16 = settings.world.device, settings.precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, init_scale=2.0**7, growth_interval=128, enabled=is_fp16)
        self.wrapped = model
        if settings.world.size > 1:
            self.wrapped = DistributedDataParallel(model, [device.index] if device.type == "cuda" else None)

    def forward(self, clips: Tensor, *, update: bool) -> Tensor:
        if isinstance(self.wrapped, DistributedDataParallel):
            self.wrapped.require_backward_grad_sync = update
        with autocast(self.settings.world.device, self.settings.precision):
            return self.wrapped(clips).float()

    def backward(self, loss: Tensor, *, update: bool) -> float | None:
        self.scaler.scale(loss / self.settings.update_freq).backward()
        if not update:
            return None
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip_grad or math.inf)
        value = checked_norm(norm, self.settings)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "ddp", "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


class _WithAutocast(nn.Module):
    """A network with its own autocast, because DeepSpeed disables an outer one."""

    def __init__(self, model: nn.Module, settings: BackendSettings) -> None:
        super().__init__()
        self.model = model
        precision = "fp32" if settings.precision == "fp16" else settings.precision  # DeepSpeed converts to fp16
        self.autocast = partial(autocast, settings.world.device, precision)

    def forward(self, clips: Tensor) -> Tensor:
        with self.autocast():
            return self.model(clips)


def _on_cpu(value: Any) -> Any:
    """The same nested lists and dicts with tensors in host memory."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    return [_on_cpu(entry) for entry in value] if isinstance(value, list) else value


class DeepSpeedBackend:
    """DeepSpeed with ZeRO stage 0, 1 or 2 around the same optimizer. bf16 is autocast with fp32 weights; fp16 is
    DeepSpeed's own."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, settings: BackendSettings, *, batch_size: int, zero_stage: int
    ) -> None:
        os.environ.setdefault("DS_ACCELERATOR", settings.world.device.type)
        import deepspeed

        self.model, self.settings, self.zero_stage = model, settings, zero_stage
        deepspeed_settings = {
            "train_micro_batch_size_per_gpu": batch_size,
            "gradient_accumulation_steps": settings.update_freq,
            "gradient_clipping": settings.clip_grad or 0.0,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            "fp16": {"enabled": settings.precision == "fp16", "initial_scale_power": 7, "loss_scale_window": 128},
            "steps_per_print": 10**9,
        }
        wrapped = _WithAutocast(model, settings)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=wrapped, optimizer=optimizer, config=deepspeed_settings, dist_init_required=False
        )

    def forward(self, clips: Tensor, *, update: bool) -> Tensor:
        if self.settings.precision == "fp16":
            clips = clips.half()
        return self.engine(clips).float()

    def backward(self, loss: Tensor, *, update: bool) -> float | None:
        assert self.engine.is_gradient_accumulation_boundary() == update, (
            "DeepSpeed's accumulation boundaries differ from the engine's"
        )
        self.engine.backward(loss)
        norm = None
        if update and not self.zero_stage and self.settings.precision != "fp16":  # DeepSpeed does not compute a norm
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            norm = checked_norm(nn.utils.get_total_norm(gradients), self.settings)
        self.engine.step()
        if update and getattr(self.optimizer, "overflow", False):
            return math.inf
        if norm is None and update and (after := self.engine.get_global_grad_norm()) is not None:
            norm = checked_norm(after, self.settings)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values: the optimizer's state without ZeRO, the shards of all processes with it."""
        if not self.zero_stage:
            return {"kind": "deepspeed", "shards": [self.optimizer.state_dict()]}
        part = {
            "optimizer": self.optimizer.optimizer.state_dict(),
            "weights": [weights.detach().cpu() for weights in self.optimizer.single_partition_of_fp32_groups],
            "scaler": {name: value for name, value in vars(self.optimizer.loss_scaler).items() if name in SCALER_STATE},
        }
        return {"kind": "deepspeed", "shards": gather(_on_cpu(part))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved state; the weights must have been loaded into `model` before."""
        if not self.zero_stage:
            self.optimizer.load_state_dict(state["shards"][0])
            return
        parts = self.optimizer.single_partition_of_fp32_groups
        part = _own_part(state["shards"], world=self.settings.world, sizes=[len(weights) for weights in parts])
        self.optimizer.optimizer.load_state_dict(part["optimizer"])
        for weights, saved in zip(parts, part["weights"], strict=True):
            weights.data.copy_(saved)
        vars(self.optimizer.loss_scaler).update(part["scaler"])


def _own_part(shards: list[dict[str, Any]], *, world: World, sizes: list[int]) -> dict[str, Any]:
    """This process's shard of ZeRO's state, re-sharded if it was saved by another number of processes.

    The weights of a group form one flat vector, padded with zeros to a multiple of the number of processes and cut into
    equal shards of `sizes[group]` numbers.
    """
    if len(shards) == world.size:
        return shards[world.rank]

    def recut(parts: list[Tensor], size: int) -> Tensor:
        row, start = torch.cat(parts), world.rank * size
        return F.pad(row, (0, max(start + size - len(row), 0)))[start : start + size].clone()

    first = shards[0]
    states = {
        group: {
            name: recut([shard["optimizer"]["state"][group][name] for shard in shards], sizes[group])
            if isinstance(value, Tensor) and value.ndim
            else value
            for name, value in values.items()
        }
        for group, values in first["optimizer"]["state"].items()
    }
    weights = [recut([shard["weights"][group] for shard in shards], size) for group, size in enumerate(sizes)]
    return {**first, "optimizer": {**first["optimizer"], "state": states}, "weights": weights}


Backend = DDPBackend | DeepSpeedBackend


def make_backend(
    model: VisionTransformer, optim: OptimConfig, run: RunConfig, *, world: World, precision: str
) -> Backend:
    """The optimizer over layer-decayed parameter groups, wrapped by DDP or DeepSpeed."""
    groups = parameter_groups(
        model,
        num_layers=model.get_num_layers(),
        weight_decay=optim.weight_decay,
        layer_decay=optim.layer_decay,
        no_weight_decay=model.no_weight_decay(),
    )
    optimizer = create_optimizer(
        groups, opt=optim.opt, lr=optim.lr, betas=optim.opt_betas, eps=optim.opt_eps, momentum=optim.momentum
    )
    settings = BackendSettings(world, precision, optim.update_freq, optim.clip_grad)
    if run.enable_deepspeed:
        return DeepSpeedBackend(model, optimizer, settings, batch_size=optim.batch_size, zero_stage=run.zero_stage)
    if run.zero_stage:
        raise ValueError(f"--zero_stage {run.zero_stage} needs --enable_deepspeed")
    return DDPBackend(model, optimizer, settings)

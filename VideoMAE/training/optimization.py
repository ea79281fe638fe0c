"""Schedule, optimizer and backend of a run, as its flags say."""

from collections.abc import Callable
from functools import partial

from VideoMAE.config import OptimConfig, RunConfig
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.engine_for_finetuning import Schedule
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.optim_factory import create_optimizer, parameter_groups
from VideoMAE.runtime.distributed import World
from VideoMAE.training.backends import Backend, BackendSettings, DDPBackend, DeepSpeedBackend
from VideoMAE.training.schedules import cosine_schedule


def scale_to_batch(base: float, total_batch_size: int) -> float:
    """The linear scaling rule: base x total batch / 256. Source: Goyal et al. 2017, section 2.1."""
    return base * total_batch_size / 256


def keep_base(base: float, total_batch_size: int) -> float:
    """The base itself, whatever the total batch."""
    return base


ScaleRule = Callable[[float, int], float]


def make_schedule(optim: OptimConfig, sampler: TrainSampler, *, scale: ScaleRule = scale_to_batch) -> Schedule:
    """Learning rate (scaled to the total batch by `scale`) and weight decay of every optimizer step."""
    values = partial(cosine_schedule, epochs=optim.epochs, steps_per_epoch=sampler.steps_per_epoch)
    end = optim.weight_decay if optim.weight_decay_end is None else optim.weight_decay_end
    return Schedule(
        lr=values(
            scale(optim.lr, sampler.total_batch_size),
            scale(optim.min_lr, sampler.total_batch_size),
            warmup_epochs=optim.warmup_epochs,
            warmup_steps=optim.warmup_steps,
        ),
        weight_decay=values(optim.weight_decay, end),
    )


def make_backend(
    model: VisionTransformer, optim: OptimConfig, run: RunConfig, *, world: World, precision: str
) -> Backend:
    """The optimizer over layer-decayed groups, and DDP or DeepSpeed around it."""
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

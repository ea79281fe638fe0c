"""A fine-tuning or test run, the same for VCE and V2V: settings, trainer, training, test, results."""

import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from torch import nn

from VideoMAE.cli import counted, parse_flags
from VideoMAE.config import V2VConfig, VCEConfig, flat, to_json
from VideoMAE.data.splits import readable, unreadable
from VideoMAE.data.vce import Annotations
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.engine_for_finetuning import Task, final_test, write_results
from VideoMAE.files import read_json, remedy
from VideoMAE.modeling_finetune import VisionTransformer
from VideoMAE.optim_factory import keep_base, scale_to_batch
from VideoMAE.runtime.distributed import World, raise_on_all_ranks
from VideoMAE.runtime.stop_request import stop_request
from VideoMAE.training.backends import autocast
from VideoMAE.training.linear_probe import LinearProbe, ProbeData
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.pretrained import read_checkpoint
from VideoMAE.training.results import describe_files
from VideoMAE.training.tasks import Evaluation
from VideoMAE.training.trainer import Loaders, Trainer
from VideoMAE.video.check import VideoCheck

logger = logging.getLogger(__name__)

RECIPES = {
    "bce": (8, 5e-4),
    "ce": (32, 5e-4),
    "logistic": (4, 0.01),
}  # total batch size and lr, by loss
OF_THE_NETWORK = ("model", "num_frames", "input_size", "tubelet_size", "use_mean_pooling")  # must be the checkpoint's
OF_THE_TEST = ("short_side_size", "sampling_rate", "crop", "loss")  # by default the checkpoint's

Measured = tuple[dict[str, Any], list[dict[str, Any]], str]
"""The content of results.json, one entry for each tested video, and the metrics as text."""
Settings = TypeVar("Settings", bound=VCEConfig | V2VConfig)


def add_checkpoint_flags(config: Settings, argv: Sequence[str]) -> Settings:
    """With --eval, parses the command line `argv` again with the checkpoint's values as defaults.

    Returns `config` unchanged without --eval, and for a checkpoint without a configuration (such as a published one) or
    of the other task.

    Raises:
        ValueError: a flag of `argv` contradicts the checkpoint, or the checkpoint or its configuration cannot be used.
    """
    checkpoint = config.model.finetune
    if not config.run.eval or checkpoint is None:
        return config
    beside = checkpoint.parent / "config.json"
    saved: Any = read_checkpoint(checkpoint).get("config")
    if saved is None and beside.is_file():
        with remedy("restore or delete it"):
            saved = read_json(beside)
    is_of_a_run = isinstance(saved, Mapping) and {"data", "model", "run"} <= saved.keys()
    trained = flat(saved) if is_of_a_run else {}
    if ("data_path" if isinstance(config, VCEConfig) else "data_dir") not in trained:
        return config
    network = {name: trained[name] for name in OF_THE_NETWORK if name in trained}
    flags = _as_flags(network | {name: trained[name] for name in OF_THE_TEST if name in trained})
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            config = parse_flags(type(config), [*flags, *argv])  # for a repeated flag, the last value counts
    except SystemExit as error:  # `argv` itself is valid
        raise ValueError(
            f"{checkpoint}: its configuration has values that are not valid flags: {' '.join(flags)}; "
            f"'emodiversity convert {checkpoint} weights.pth --to published' drops the configuration"
        ) from error
    parsed = flat(to_json(config))
    for name, value in network.items():
        if parsed[name] != value:
            given, theirs = (" ".join(_as_flags({name: setting})) for setting in (parsed[name], value))
            raise ValueError(f"{given} contradicts {checkpoint}, which was trained with {theirs}; remove the flag")
    logger.info("flags taken from %s: %s", checkpoint, " ".join(_as_flags(network)))
    return config


def _as_flags(values: Mapping[str, Any]) -> list[str]:
    """`num_frames: 8, use_mean_pooling: False` -> --num_frames 8 --no_use_mean_pooling"""
    flags: list[str] = []
    for name, value in values.items():
        flags += [f"--{'' if value else 'no_'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return flags


def finetune(
    model: VisionTransformer,
    task: Task,
    videos: Annotations,
    make_loaders: Callable[[], Loaders],
    make_probe_data: Callable[[], ProbeData],
    make_test_loader: Callable[[Annotations], WatchedLoader],
    measure: Callable[[Evaluation, Sequence[str], dict[str, Any]], Measured],
    *,
    config: VCEConfig | V2VConfig,
    world: World,
    precision: str,
    check: VideoCheck,
) -> None:
    """Trains, except with --eval, tests the best network on `videos`, and writes the results on the main process.

    `measure(outputs, ids of the readable videos, counts)`: the counts become part of results.json.
    """
    trainer: Trainer | LinearProbe | None = None
    settings: Any = {"config": config, "world": world, "precision": precision}
    with raise_on_all_ranks():
        if config.optim.linear_probe:
            trainer = LinearProbe(model, task, make_probe_data(), **settings)
        elif not config.run.eval:
            loaders, scale = make_loaders(), scale_to_batch if isinstance(config, VCEConfig) else keep_base
            log_plan(config, loaders, world, model, precision)
            trainer = Trainer(model, task, loaders, scale=scale, **settings)
            trainer.resume()
    run, show_progress, prefix, lines_name = config.run, True, "", "predictions.jsonl"
    if isinstance(config, V2VConfig):
        show_progress, lines_name = not config.run.disable_tqdm, "scores.jsonl"
        prefix = f"{config.run.results_prefix}_" if config.run.results_prefix else ""
    log = MetricLogger(run.output_dir, enabled=world.is_main, num_processes=world.size, show_progress=show_progress)
    tested: nn.Module = model.to(world.device)
    with stop_request.deferred():
        try:
            if trainer is not None:
                log.open(run.log_dir, epoch=trainer.state.epoch, steps=trainer.state.steps, first_step=trainer.step)
                trainer.fit(log)
                tested = trainer.best_model()
            whole = readable(videos, check)
            loader, in_precision = make_test_loader(whole), partial(autocast, world.device, precision)
            outcome = final_test(tested, loader, device=world.device, autocast=in_precision, logger=log)
            if world.is_main:
                reasons = {**unreadable(videos, check), **outcome.skipped}
                counts = {"num_videos": len(videos.ids), "num_unreadable": len(reasons), "unreadable": reasons}
                measured, lines, text = measure(outcome, whole.ids, counts)
                lines.extend({"id": key, "unreadable": reason} for key, reason in reasons.items())
                write_results(run.output_dir, measured, lines, lines_name=lines_name, prefix=prefix)
                log.say(text)
            log.close()
        except BaseException:
            log.abandon()
            raise
    if world.is_main:
        logger.info("%s", describe_files(run.output_dir))


def log_plan(
    config: VCEConfig | V2VConfig, loaders: Loaders, world: World, model: VisionTransformer, precision: str
) -> None:
    """Logs the settings of the training, and a warning if they differ from the recipe."""
    optim = config.optim
    logger.info(
        "%s, %.1fM parameters, %s, %d x %s, %s",
        config.model.model,
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) / 1e6,
        precision,
        world.size,
        world.device.type,
        f"DeepSpeed ZeRO {config.run.zero_stage}" if config.run.enable_deepspeed else "DDP",
    )
    total = loaders.sampler.total_batch_size
    factors = f"batch_size {optim.batch_size} x update_freq {optim.update_freq} x {counted(world.size, 'process')}"
    batch = f"total batch size {total} ({factors})"
    if isinstance(config, VCEConfig):
        noun, lr_name, recipe_name = "video", "base lr", f"the recipe of --loss {config.loss}"
        scaled = f"scaled lr {scale_to_batch(optim.lr, total):.3g} (base x total batch size / 256)"
        logger.info("%s, base lr %g, %s", batch, optim.lr, scaled)
    else:
        noun, lr_name, recipe_name = "comparison", "lr", "the recipe"
        logger.info("--loss %s, %s, lr %g", config.loss, batch, optim.lr)
    logger.info(
        "%s, %s per epoch, %s",
        counted(len(loaders.ids), f"training {noun}"),
        counted(loaders.sampler.steps_per_epoch, "step"),
        counted(optim.epochs, "epoch"),
    )
    used = {"total batch size": total, lr_name: optim.lr}
    recipe = RECIPES.get(config.loss, used.values())
    differing = [
        f"{name} {used[name]:g} (recipe: {value:g})"
        for name, value in zip(used, recipe, strict=True)
        if used[name] != value
    ]
    if differing:
        logger.warning("differs from %s: %s", recipe_name, ", ".join(differing))

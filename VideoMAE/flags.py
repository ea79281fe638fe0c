"""The command line: flags to a configuration, what is refused and why, which settings can be.

What flags there are stands in config.py.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

ALIASES = {
    "--use_cls": "--no_use_mean_pooling",
    "--mode=train": "--no_eval",
    "--mode=eval": "--eval",
}
LAUNCHER_FLAGS = ("--local_rank", "--local-rank")
REFUSED_FLAGS = {
    "--warmup_lr": "the warm-up starts at 0; the original read this flag and ignored it",
    "--num_segments": "VCE clips are one window; the original never used this flag for VCE",
    "--world_size": "the launcher says how many processes there are",
    "--dist_url": "the launcher says where the processes meet",
    "--dist_on_itp": "only the variables of torchrun and Slurm are read",
    "--color_jitter": "RandAugment (--aa) takes its place; the original never applied it together with --aa",
    "--crop_pct": "evaluation resizes to --short_side_size and crops --input_size",
    "--deepspeed_config": "the configuration follows from the other flags",
    "--num_gpus": "the launcher says how many processes there are, one per GPU",
    "--wandb": "metrics go to log.txt, steps.jsonl and tensorboard",
}

Config = TypeVar("Config")


def parse_flags(config_type: type[Config], argv: Sequence[str]) -> Config:
    """The command line as a `config_type`; prints help or one reason and exits when it cannot be.

    Accepts both `--flag value` and `--flag=value`; the last of several equal flags wins.
    """
    refused = {**REFUSED_FLAGS, **getattr(config_type, "refused_flags", {})}
    arguments: list[str] = []
    skip_value = False
    for argument in join_mode(argv):
        name = argument.split("=")[0]
        if skip_value:
            skip_value = False
        elif name in refused:
            sys.exit(f"error: {name} does nothing here: {refused[name]}. Leave it out.")
        elif name in LAUNCHER_FLAGS:
            skip_value = "=" not in argument
        else:
            arguments.append(ALIASES.get(argument, argument))
    return tyro.cli(
        config_type,
        args=arguments,
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
    )


def join_mode(argv: Sequence[str]) -> list[str]:
    """V2V's two words `--mode eval` as the one word `--mode=eval`."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] == "--mode":
            joined[-1] = f"--mode={argument}"
        else:
            joined.append(argument)
    return joined


def to_json(config: Any) -> dict[str, Any]:
    """The settings as plain nested values, paths as strings."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(entry) for entry in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


NOT_THE_RUN = frozenset(
    [
        "num_workers",
        "nb_classes",  # the dataset's, or refused
        "exclude",  # exclude_content counts
        "pin_mem",
        "decoder",  # the frames are the same
        "output_dir",
        "log_dir",
        "device",
        "resume",
        "auto_resume",
        "save_ckpt",
        "save_ckpt_freq",
        "save_ckpt_steps",
        "save_ckpt_minutes",
        "batch_size",  # resuming looks at the total batch
        "update_freq",
        "decode_seconds",
        "max_bad_videos",
        "dist_eval",
        "results_prefix",
        "disable_tqdm",
    ]
)


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by the names of their flags."""
    flags: dict[str, Any] = {}
    for key, value in settings.items():
        flags.update(flat(value) if isinstance(value, Mapping) else {key: value})
    return flags


def _named(key: str) -> str:
    return "the labels' checksum" if key == "labels" else f"--{key}"


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The flags in which two configurations describe different runs, each as '--flag: old there, new here'."""
    old, new = flat(saved), flat(current)
    return [
        f"{_named(key)}: {old.get(key)} there, {new.get(key)} here"
        for key in sorted(old.keys() | new.keys())
        if key not in NOT_THE_RUN and old.get(key) != new.get(key)
    ]


def with_absolute_paths(config: Config) -> Config:
    """The same settings with every path absolute, so that the same text in two folders is not the same setting."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = with_absolute_paths(value)
        elif isinstance(value, Path):
            changes[field.name] = value.resolve()
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


RANGES: list[tuple[str, Callable[[Any], bool], str]] = [
    (
        "num_frames sampling_rate num_sample input_size short_side_size test_num_segment test_num_crop batch_size "
        "update_freq epochs save_ckpt_freq tubelet_size recount nb_classes",
        lambda value: value >= 1,
        "at least 1",
    ),
    ("decode_seconds", lambda value: value > 0, "above 0"),
    ("train_fps clip_grad", lambda value: value > 0, "above 0, or None"),
    (
        "num_workers start_epoch seed lr min_lr opt_eps weight_decay weight_decay_end warmup_epochs mixup cutmix "
        "margin save_ckpt_steps save_ckpt_minutes",
        lambda value: value >= 0,
        "at least 0",
    ),
    (
        "reprob mixup_prob mixup_switch_prob smoothing model_ema_decay momentum max_bad_videos drop_path drop "
        "attn_drop_rate fc_drop_rate",
        lambda value: 0 <= value <= 1,
        "in [0, 1]",
    ),
    ("min_crop_area layer_decay", lambda value: 0 < value <= 1, "above 0 and at most 1"),
]


def check_settings(config: Any) -> None:
    """Refuses settings that cannot be, before anything is read or written.

    Raises:
        ValueError: names the flag, its value and what it may be.
    """
    flags = flat(to_json(config))
    for names, allowed, text in RANGES:
        for name in names.split():
            value = flags.get(name)
            if value is not None and not allowed(value):
                raise ValueError(f"--{name} {value}: must be {text}")
    if "short_side_size" in flags and flags["short_side_size"] < flags["input_size"]:
        raise ValueError(
            f"--short_side_size {flags['short_side_size']} is smaller than --input_size {flags['input_size']}: "
            "no crop of that size fits"
        )
    if flags["start_epoch"] >= flags["epochs"]:
        raise ValueError(f"--start_epoch {flags['start_epoch']} is not below --epochs {flags['epochs']}")
    clips = flags["batch_size"] * flags.get("num_sample", 1)
    if (flags.get("mixup") or flags.get("cutmix")) and flags["mixup_mode"] != "batch" and clips % 2:
        raise ValueError(
            f"--mixup_mode {flags['mixup_mode']} needs an even number of clips per batch, "
            f"--batch_size x --num_sample is {clips}"
        )
    if flags.get("device_augment") and flags["augment"] != "fused":
        raise ValueError(f"--device_augment is a way to do --augment fused, and does not go with {flags['augment']}")
    if flags.get("label_path") and flags.get("train_on_all"):
        raise ValueError("--train_on_all does not go with --label_path: val.csv says what validation is")

"""With --eval, the flags of the network and the test default to the configuration in the tested checkpoint."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from VideoMAE.cli import parse_flags
from VideoMAE.config import V2VConfig, VCEConfig, flat, to_json
from VideoMAE.files import read_json, remedy
from VideoMAE.training.pretrained import read_checkpoint

logger = logging.getLogger(__name__)

OF_THE_NETWORK = ("model", "num_frames", "input_size", "tubelet_size", "use_mean_pooling")
"""Flags whose values must be those of the checkpoint."""
OF_THE_TEST = ("short_side_size", "sampling_rate", "crop", "loss")
"""Flags that default to the values of the checkpoint and may be overridden."""

DATASET_FLAGS: dict[type, str] = {VCEConfig: "data_path", V2VConfig: "data_dir"}

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
    trained = flat(_config_of(checkpoint))
    if DATASET_FLAGS[type(config)] not in trained:
        return config
    network = {name: trained[name] for name in OF_THE_NETWORK if name in trained}
    test = {name: trained[name] for name in OF_THE_TEST if name in trained}
    flags = _as_flags(network | test)
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


def _config_of(checkpoint: Path) -> dict[str, Any]:
    """The configuration in a checkpoint or in the config.json beside it; empty if neither is a run's."""
    beside = checkpoint.parent / "config.json"
    config: Any = read_checkpoint(checkpoint).get("config")
    if config is None and beside.is_file():
        with remedy("restore or delete it"):
            config = read_json(beside)
    is_of_a_run = isinstance(config, Mapping) and {"data", "model", "run"} <= config.keys()
    return dict(config) if is_of_a_run else {}


def _as_flags(values: Mapping[str, Any]) -> list[str]:
    """Settings as command-line flags. `num_frames: 8, use_mean_pooling: False` -> --num_frames 8
    --no_use_mean_pooling"""
    flags: list[str] = []
    for name, value in values.items():
        flags += [f"--{'' if value else 'no_'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return flags

"""The flags of --eval that the tested checkpoint itself answers, since its run wrote its configuration into it."""

import contextlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from VideoMAE.cli import parse_flags
from VideoMAE.config import V2VConfig, VCEConfig, flat, to_json
from VideoMAE.training.pretrained import read_checkpoint

logger = logging.getLogger(__name__)

OF_THE_NETWORK = ("model", "num_frames", "input_size", "tubelet_size", "use_mean_pooling")
"""Another value of these is another network than the one that was trained."""
OF_THE_TEST = ("short_side_size", "sampling_rate", "crop", "loss")
"""These default to the checkpoint's values, and may be given."""

DATASET_FLAGS: dict[type, str] = {VCEConfig: "data_path", V2VConfig: "data_dir"}

Settings = TypeVar("Settings", bound=VCEConfig | V2VConfig)


def add_checkpoint_flags(config: Settings, argv: Sequence[str]) -> Settings:
    """With --eval the settings of the command line `argv`, where the checkpoint's own values replace the defaults.

    Without --eval, and for a checkpoint without a configuration, such as a published one, or with one of the other
    task, these are `config` itself.

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
    typed = _as_typed(network | test)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            config = parse_flags(type(config), [*typed, *argv])  # of equal flags the last one wins
    except SystemExit as error:  # `argv` has been parsed before
        raise ValueError(
            f"{checkpoint}: its configuration has values that are not valid flags: {' '.join(typed)}; "
            f"'python models/convert.py {checkpoint} weights.pth --to published' drops the configuration"
        ) from error
    found = flat(to_json(config))
    for name, value in network.items():
        if found[name] != value:
            given, theirs = (" ".join(_as_typed({name: of})) for of in (found[name], value))
            raise ValueError(f"{given} contradicts {checkpoint}, which was trained with {theirs}; leave the flag out")
    logger.info("flags taken from %s: %s", checkpoint, " ".join(_as_typed(network)))
    return config


def _config_of(checkpoint: Path) -> dict[str, Any]:
    """The configuration in a checkpoint, or else in the config.json beside it; empty where neither is a run's."""
    beside = checkpoint.parent / "config.json"
    config: Any = read_checkpoint(checkpoint).get("config")
    if config is None and beside.is_file():
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{beside}: cannot be read as JSON: {error}; restore or delete it") from error
    is_of_a_run = isinstance(config, Mapping) and {"data", "model", "run"} <= config.keys()
    return dict(config) if is_of_a_run else {}


def _as_typed(values: Mapping[str, Any]) -> list[str]:
    """Flags as they are typed. `num_frames: 8, use_mean_pooling: False` -> --num_frames 8 --no_use_mean_pooling"""
    typed: list[str] = []
    for name, value in values.items():
        typed += [f"--{'' if value else 'no_'}{name}"] if isinstance(value, bool) else [f"--{name}", str(value)]
    return typed

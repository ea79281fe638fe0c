"""Say what a checkpoint is, without executing anything in it.

    python models/inspect_checkpoint.py models/kinetics400-ViTB-1600-16x5x3-pretrain.pth
    python models/inspect_checkpoint.py output/vce --names

FILE is a .pth or .safetensors file, a run's output folder (its best checkpoint), a Hugging Face folder or a DeepSpeed
folder. Shown are its kind, size and checksum, the network, the weights (`--names`: each of them), values that are not
finite, and what stands beside the weights: epoch, metrics, configuration. The exit status is 0 when it is a checkpoint
whose values are all finite.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from VideoMAE.checkpoints import command_line
from VideoMAE.checkpoints.command_line import Report
from VideoMAE.checkpoints.formats import (
    DESCRIPTIONS,
    Checkpoint,
    dtype_name,
    model_name,
    network_of,
    non_finite,
    plain,
    read,
    sha256,
)


@dataclass(frozen=True)
class Settings:
    """What to look at, and how closely."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Checkpoint: a file or a folder."""
    names: bool = False
    """List every weight; otherwise blocks of equal shapes share a line."""
    model_key: str = "model|module"
    """Keys of a .pth file that may hold the weights; the first that is there wins."""
    json: Annotated[bool, tyro.conf.arg(help="Report as JSON on standard output; the readable one on error.")] = False


def look_at(settings: Settings) -> Report:
    """Reads a checkpoint and tells what it is."""
    checkpoint = read(settings.file, model_key=settings.model_key)
    values = facts(checkpoint)
    problem = ""
    if values["not_finite"]:
        count = sum(values["not_finite"].values())
        problem = f"{checkpoint.file}: {count} values are not finite, in {', '.join(list(values['not_finite'])[:5])}"
    return Report(readable(checkpoint, values, every_name=settings.names), values, problem)


def facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything there is to say, as plain values."""
    weights = checkpoint.weights
    return {
        "file": str(checkpoint.file),
        "kind": checkpoint.kind,
        "description": DESCRIPTIONS[checkpoint.kind],
        "size_bytes": size_in_bytes(checkpoint.file),
        "sha256": sha256(checkpoint.file) if checkpoint.file.is_file() else None,
        "network": network(checkpoint),
        "num_tensors": len(weights),
        "num_parameters": sum(value.numel() for value in weights.values()),
        "dtypes": dict(Counter(dtype_name(value) for value in weights.values())),
        "not_finite": non_finite(weights),
        "weights": {name: {"shape": list(value.shape), "dtype": dtype_name(value)} for name, value in weights.items()},
        "beside": plain(checkpoint.beside),
    }


def size_in_bytes(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def network(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The ViT that the shapes describe, with its name if it has one; None: they describe no VideoMAE."""
    try:
        weights = checkpoint.our_weights()
        if any(name.startswith("encoder.") for name in weights):
            weights = {name.removeprefix("encoder."): value for name, value in weights.items()}
        found = network_of(weights)
    except ValueError:
        return None
    if not any(name.startswith("head.") for name in weights):
        found = {key: found[key] for key in ("embed_dim", "depth", "patch_size", "tubelet_size", "mlp_ratio")}
    return {"model": model_name(found), **found}


def readable(checkpoint: Checkpoint, values: Mapping[str, Any], *, every_name: bool) -> str:
    """The facts for people."""
    ofwhat = ", ".join(f"{count} {name}" for name, count in values["dtypes"].items())
    bad = values["not_finite"]
    lines = [
        f"{values['file']}: {values['description']}",
        f"  size        {values['size_bytes']:,} bytes",
        *([f"  sha256      {values['sha256']}"] if values["sha256"] else []),
        f"  network     {describe_network(values['network'])}",
        f"  weights     {values['num_tensors']} tensors ({ofwhat}), {values['num_parameters']:,} values",
        f"  not finite  {', '.join(f'{name} ({count})' for name, count in bad.items()) or 'none'}",
    ]
    for key, value in values["beside"].items():
        lines += describe(key, checkpoint.beside[key], value)
    lines += ["", *list_names(checkpoint.weights, every_name=every_name)]
    return "\n".join(lines)


def describe_network(found: Mapping[str, Any] | None) -> str:
    """A network in a line."""
    if found is None:
        return "no VideoMAE ViT"
    size = f"{found['model'] or 'a ViT of no published size'}: width {found['embed_dim']}, {found['depth']} blocks"
    head = "no head"
    if "num_classes" in found:
        head = f"{found['num_classes']} outputs {'with' if found['head_bias'] else 'without'} bias"
    return f"{size}, patches of {found['tubelet_size']}x{found['patch_size']}x{found['patch_size']}, {head}"


def describe(key: str, value: Any, shown: Any) -> list[str]:
    """An entry beside the weights, settings a line each; states full of tensors by their number."""
    count = count_tensors(value)
    if count:
        return [f"  {key:<11} {count} tensors, not shown"]
    if not isinstance(shown, dict) or not shown:
        return [f"  {key:<11} {json.dumps(shown, ensure_ascii=False)}"]
    return [f"  {key}", *(f"    {name:<22} {json.dumps(entry, ensure_ascii=False)}" for name, entry in shown.items())]


def count_tensors(value: Any) -> int:
    """How many tensors nested lists and dicts hold."""
    if isinstance(value, Tensor):
        return 1
    if isinstance(value, Mapping):
        return sum(count_tensors(entry) for entry in value.values())
    return sum(count_tensors(entry) for entry in value) if isinstance(value, (list, tuple)) else 0


def list_names(weights: Mapping[str, Tensor], *, every_name: bool) -> list[str]:
    """Names, shapes and types, a line each; equal ones of different blocks together, as blocks.0-11.norm1.weight."""
    lines: dict[tuple[str, str], list[int]] = {}
    for name, value in weights.items():
        shape = f"{str(tuple(value.shape)):<24} {dtype_name(value)}"
        number = re.search(r"(?<=\.)\d+(?=\.)|(?<=^)\d+(?=\.)", name)
        if every_name or number is None or name.startswith("head."):
            lines[name, shape] = []
        else:
            family = f"{name[: number.start()]}*{name[number.end() :]}"
            lines.setdefault((family, shape), []).append(int(number[0]))
    named = {
        (family.replace("*", ranges(numbers), 1) if numbers else family): shape
        for (family, shape), numbers in lines.items()
    }
    width = max(map(len, named))
    return [f"  {name:<{width}}  {shape}" for name, shape in named.items()]


def ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> 0-2,5"""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help."""
    return command_line.run(Settings, look_at, description=__doc__, argv=argv)

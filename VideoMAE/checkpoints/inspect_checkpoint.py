"""Descriptions of checkpoints, without executing code in them."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from VideoMAE.checkpoints import formats
from VideoMAE.checkpoints.programs import InspectSettings, Report
from VideoMAE.cli import counted
from VideoMAE.files import sha256_of


def inspect(settings: InspectSettings) -> Report:
    """Reads and describes a checkpoint."""
    checkpoint = formats.read(settings.file, model_key=settings.model_key)
    values = facts(checkpoint)
    problem = formats.non_finite_problem(checkpoint.file, values["not_finite"]) if values["not_finite"] else ""
    return Report(as_text(checkpoint, values, every_name=settings.names), values, problem)


def facts(checkpoint: formats.Checkpoint) -> dict[str, Any]:
    """The complete description as JSON values."""
    weights = checkpoint.weights
    files = [checkpoint.file] if checkpoint.file.is_file() else checkpoint.file.rglob("*")
    return {
        "file": str(checkpoint.file),
        "kind": checkpoint.kind,
        "description": formats.DESCRIPTIONS[checkpoint.kind],
        "size_bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "sha256": sha256_of(checkpoint.file) if checkpoint.file.is_file() else None,
        "network": network_or_none(checkpoint),
        "num_tensors": len(weights),
        "num_parameters": sum(value.numel() for value in weights.values()),
        "dtypes": dict(Counter(formats.dtype_name(value) for value in weights.values())),
        "not_finite": formats.non_finite(weights),
        "weights": {
            name: {"shape": list(value.shape), "dtype": formats.dtype_name(value)} for name, value in weights.items()
        },
        "beside": formats.to_jsonable(checkpoint.beside),
    }


def network_or_none(checkpoint: formats.Checkpoint) -> dict[str, Any] | None:
    """The network that the shapes imply, with its name if it is registered; None if it is not a VideoMAE ViT."""
    try:
        weights = checkpoint.our_weights()
        found = formats.network_of({name.removeprefix("encoder."): value for name, value in weights.items()})
    except ValueError:
        return None
    if not any(name.startswith("head.") for name in weights):
        found = {key: found[key] for key in ("embed_dim", "depth", "patch_size", "tubelet_size", "mlp_ratio")}
    return {"model": formats.model_name(found), **found}


def as_text(checkpoint: formats.Checkpoint, values: Mapping[str, Any], *, every_name: bool) -> str:
    """The description as text."""
    dtypes = ", ".join(f"{count} {name}" for name, count in values["dtypes"].items())
    lines = [
        f"{values['file']}: {values['description']}",
        f"  size        {values['size_bytes']:,} bytes",
        *([f"  sha256      {values['sha256']}"] if values["sha256"] else []),
        f"  network     {describe_network(values['network'])}",
        f"  weights     {values['num_tensors']} tensors ({dtypes}), {values['num_parameters']:,} values",
        f"  not finite  {', '.join(f'{name} ({count})' for name, count in values['not_finite'].items()) or 'none'}",
    ]
    for key, value in values["beside"].items():
        lines += describe_entry(key, checkpoint.beside[key], value)
    lines += ["", *list_names(checkpoint.weights, every_name=every_name)]
    return "\n".join(lines)


def describe_network(found: Mapping[str, Any] | None) -> str:
    """A network in one line."""
    if found is None:
        return "not a VideoMAE ViT"
    size = f"{found['model'] or 'a ViT of another size'}: width {found['embed_dim']}, {found['depth']} blocks"
    head = "no head"
    if "num_classes" in found:
        head = f"{counted(found['num_classes'], 'output')} {'with' if found['head_bias'] else 'without'} bias"
    return f"{size}, patches of {found['tubelet_size']}x{found['patch_size']}x{found['patch_size']}, {head}"


def describe_entry(key: str, value: Any, shown: Any) -> list[str]:
    """The lines of an entry other than the weights; tensors are only counted."""
    count = count_tensors(value)
    if count:
        return [f"  {key:<11} {count} tensors, not shown"]
    if not isinstance(shown, dict) or not shown:
        return [f"  {key:<11} {json.dumps(shown, ensure_ascii=False)}"]
    return [f"  {key}", *(f"    {name:<22} {json.dumps(entry, ensure_ascii=False)}" for name, entry in shown.items())]


def count_tensors(value: Any) -> int:
    """The number of tensors in nested lists and dicts."""
    if isinstance(value, Tensor):
        return 1
    if isinstance(value, Mapping):
        return sum(count_tensors(entry) for entry in value.values())
    return sum(count_tensors(entry) for entry in value) if isinstance(value, (list, tuple)) else 0


def list_names(weights: Mapping[str, Tensor], *, every_name: bool) -> list[str]:
    """Names, shapes and types; equal weights of several blocks share a line, as blocks.0-11.norm1.weight."""
    lines: dict[tuple[str, str], list[int]] = {}
    for name, value in weights.items():
        shape = f"{str(tuple(value.shape)):<24} {formats.dtype_name(value)}"
        number = re.search(r"\b\d+\b", name)  # of the block
        if every_name or number is None or name.startswith("head."):
            lines[name, shape] = []
        else:
            lines.setdefault((name.replace(number[0], "*", 1), shape), []).append(int(number[0]))
    named = [(family.replace("*", ranges(numbers), 1), shape) for (family, shape), numbers in lines.items()]
    width = max(len(name) for name, _ in named)
    return [f"  {name:<{width}}  {shape}" for name, shape in named]


def ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> 0-2,5"""
    runs = itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(pairs) for _, pairs in runs)]
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ends)

"""Descriptions of checkpoints, without executing code in them."""

import contextlib
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
    """Reads and describes a checkpoint: the values are complete, the text has each tensor's name only if requested."""
    checkpoint = formats.read(settings.file, model_key=settings.model_key)
    kind, path, weights, beside = checkpoint
    network: dict[str, Any] | None = None  # remains so if the weights are not a VideoMAE ViT
    with contextlib.suppress(ValueError):
        ours = checkpoint.our_weights()
        network = formats.network_of({name.removeprefix("encoder."): value for name, value in ours.items()})
        if not any(name.startswith("head.") for name in ours):
            network = {key: network[key] for key in ("embed_dim", "depth", "patch_size", "tubelet_size", "mlp_ratio")}
        network = {"model": formats.model_name(network), **network}
    files = [path] if path.is_file() else path.rglob("*")
    values: dict[str, Any] = {
        "file": str(path),
        "kind": kind,
        "description": formats.DESCRIPTIONS[kind],
        "size_bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "sha256": sha256_of(path) if path.is_file() else None,
        "network": network,
        "num_tensors": len(weights),
        "num_parameters": sum(value.numel() for value in weights.values()),
        "dtypes": dict(Counter(formats.dtype_name(value) for value in weights.values())),
        "not_finite": formats.non_finite(weights),
        "weights": {
            name: {"shape": list(value.shape), "dtype": formats.dtype_name(value)} for name, value in weights.items()
        },
        "beside": formats.to_jsonable(beside),
    }
    described = "not a VideoMAE ViT"
    if network is not None:
        size = f"{network['model'] or 'a ViT of another size'}: width {network['embed_dim']}, {network['depth']} blocks"
        head = "no head"
        if "num_classes" in network:
            head = f"{counted(network['num_classes'], 'output')} {'with' if network['head_bias'] else 'without'} bias"
        patches = f"patches of {network['tubelet_size']}x{network['patch_size']}x{network['patch_size']}"
        described = f"{size}, {patches}, {head}"
    dtypes = ", ".join(f"{count} {name}" for name, count in values["dtypes"].items())
    lines = [
        f"{path}: {values['description']}",
        f"  size        {values['size_bytes']:,} bytes",
        *([f"  sha256      {values['sha256']}"] if values["sha256"] else []),
        f"  network     {described}",
        f"  weights     {values['num_tensors']} tensors ({dtypes}), {values['num_parameters']:,} values",
        f"  not finite  {', '.join(f'{name} ({count})' for name, count in values['not_finite'].items()) or 'none'}",
    ]
    for key, shown in values["beside"].items():
        num_tensors = count_tensors(beside[key])
        if num_tensors:
            lines.append(f"  {key:<11} {num_tensors} tensors, not shown")
        elif isinstance(shown, dict) and shown:
            lines.append(f"  {key}")
            lines += [f"    {name:<22} {json.dumps(entry, ensure_ascii=False)}" for name, entry in shown.items()]
        else:
            lines.append(f"  {key:<11} {json.dumps(shown, ensure_ascii=False)}")
    lines += ["", *list_names(weights, every_name=settings.names)]
    return Report("\n".join(lines), values, formats.describe_non_finite(values["not_finite"], path))


def count_tensors(value: Any) -> int:
    """The number of tensors in nested lists and dicts."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(count_tensors, value)) if isinstance(value, (list, tuple)) else int(isinstance(value, Tensor))


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

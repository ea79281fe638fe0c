"""Renaming of VideoMAE's weights between `transformers` and the published checkpoints, bit for bit.

The matrix `attn.qkv.weight` here is `query`, `key` and `value` there. The biases of query and value are written as
`q_bias` and `v_bias`, as on the hub; `query.bias` and `value.bias`, the names in transformers 5, are read too.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PREFIXES = {
    "patch_embed.proj.": "videomae.embeddings.patch_embeddings.projection.",
    "blocks.": "videomae.encoder.layer.",
    "norm.": "videomae.layernorm.",
    "fc_norm.": "fc_norm.",
    "head.": "classifier.",
}
PRETRAINING_PREFIXES = {
    "decoder.blocks.": "decoder.decoder_layers.",
    "decoder.norm.": "decoder.norm.",
    "decoder.head.": "decoder.head.",
    "encoder_to_decoder.": "encoder_to_decoder.",
    "mask_token": "mask_token",
}
IN_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "attn.q_bias": "attention.attention.q_bias",
    "attn.v_bias": "attention.attention.v_bias",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
QKV = ("query", "key", "value")
BLOCK = re.compile(r"((?:blocks|decoder\.blocks)\.\d+\.)(.+)")


def to_huggingface(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A fine-tuned network's weights with the names of `VideoMAEForVideoClassification`; a missing head bias is zeros.

    Raises:
        ValueError: a weight has no counterpart.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = name.replace("head.0.", "head.")
        block = BLOCK.fullmatch(name)
        ours = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if ours is None:
            raise ValueError(f"{name} has no counterpart in transformers' VideoMAE")
        if block is None:
            renamed[PREFIXES[ours] + name.removeprefix(ours)] = value.clone()
        elif block[2] == "attn.qkv.weight":
            layer = block[1].replace("blocks.", PREFIXES["blocks."])
            for part, rows in zip(QKV, value.chunk(3), strict=True):
                renamed[f"{layer}attention.attention.{part}.weight"] = rows.clone()
        else:
            inner = next((key for key in IN_BLOCK if f"{block[2]}.".startswith(f"{key}.")), None)
            if inner is None:
                raise ValueError(f"{name} has no counterpart in transformers' VideoMAE")
            layer = block[1].replace("blocks.", PREFIXES["blocks."])
            renamed[layer + IN_BLOCK[inner] + block[2].removeprefix(inner)] = value.clone()
    if "classifier.bias" not in renamed:
        head = renamed["classifier.weight"]
        renamed["classifier.bias"] = torch.zeros(head.shape[0], dtype=head.dtype)
    return renamed


def to_ours(weights: Mapping[str, Tensor], *, head_bias: bool | None = None) -> dict[str, Tensor]:
    """Weights of transformers' VideoMAE, fine-tuned or pre-training, with the published names.

    The head becomes V2V's, without bias, if its bias is exactly zero and `head_bias` is False, or None with one output.
    Key biases of zeros, which some releases wrote, are dropped.

    Raises:
        ValueError: a weight does not belong to VideoMAE, or a key bias is not zero.
    """
    pretraining = "mask_token" in weights
    prefixes = {theirs: ours for ours, theirs in PREFIXES.items()}
    if pretraining:
        prefixes = {theirs: f"encoder.{ours}" for theirs, ours in prefixes.items()}
        prefixes |= {theirs: ours for ours, theirs in PRETRAINING_PREFIXES.items()}
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        theirs = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if theirs is None:
            raise ValueError(f"{name} is not a weight of VideoMAE")
        rest = name.removeprefix(theirs)
        if not prefixes[theirs].endswith("blocks."):
            renamed[prefixes[theirs] + rest] = value
            continue
        number, _, inner = rest.partition(".")
        layer = f"{prefixes[theirs]}{number}."
        part = re.fullmatch(r"attention\.attention\.(query|key|value)\.(weight|bias)", inner)
        if part is None:
            renamed[layer + _from_block(inner, name)] = value
        elif part[2] == "weight":
            parts.setdefault(layer, {})[part[1]] = value
        elif part[1] != "key":
            renamed[f"{layer}attn.{part[1][0]}_bias"] = value
        elif value.any():
            raise ValueError(f"{name} is not zero, and the network has no key bias")
    for layer, three in parts.items():
        if len(three) < 3:
            raise ValueError(f"{layer}attn has only {', '.join(three)} of query, key and value")
        renamed[f"{layer}attn.qkv.weight"] = torch.cat([three[part] for part in QKV])
    return renamed if pretraining else _with_our_head(renamed, head_bias=head_bias)


def _from_block(inner: str, name: str) -> str:
    """Our name of transformers' `inner` in a block."""
    for ours, theirs in IN_BLOCK.items():
        if f"{inner}.".startswith(f"{theirs}."):
            return ours + inner.removeprefix(theirs)
    raise ValueError(f"{name} is not a weight of VideoMAE")


def _with_our_head(weights: dict[str, Tensor], *, head_bias: bool | None) -> dict[str, Tensor]:
    head, bias = weights.get("head.weight"), weights.get("head.bias")
    if head is None or bias is None or bias.any():
        return weights
    if head_bias or (head_bias is None and head.shape[0] > 1):
        return weights
    kept = {name: value for name, value in weights.items() if not name.startswith("head.")}
    return {**kept, "head.0.weight": head}

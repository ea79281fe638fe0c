"""Renaming of VideoMAE's weights between `transformers` and the published checkpoints, bit for bit.

The matrix `attn.qkv.weight` here is `query`, `key` and `value` there. The biases of query and value are written as
`q_bias` and `v_bias`, as on the hub; `query.bias` and `value.bias`, the names in transformers 5, are read too.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Beginnings of names, ours -> transformers'.
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
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
    "attn.proj.": "attention.output.dense.",
    "attn.q_bias": "attention.attention.q_bias",
    "attn.v_bias": "attention.attention.v_bias",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}
QKV = ("query", "key", "value")


def _rename(part: str, prefixes: Mapping[str, str], name: str) -> str:
    """`part` of the weight `name` with its prefix replaced. Raises ValueError if it has none of the prefixes."""
    for old, new in prefixes.items():
        if part.startswith(old):
            return new + part.removeprefix(old)
    raise ValueError(f"{name} has no counterpart in VideoMAE's other format")


def to_huggingface(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A fine-tuned network's weights with the names of `VideoMAEForVideoClassification`; a missing head bias is zeros.

    Raises ValueError if a weight has no counterpart.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        block = re.fullmatch(r"(blocks\.\d+\.)(.+)", name)
        if block is None:
            renamed[_rename(name.replace("head.0.", "head."), PREFIXES, name)] = value.clone()
            continue
        layer = _rename(block[1], PREFIXES, name)
        if block[2] == "attn.qkv.weight":
            for part, rows in zip(QKV, value.chunk(3), strict=True):
                renamed[f"{layer}attention.attention.{part}.weight"] = rows.clone()
        else:
            renamed[layer + _rename(block[2], IN_BLOCK, name)] = value.clone()
    if "classifier.bias" not in renamed:
        head = renamed["classifier.weight"]
        renamed["classifier.bias"] = torch.zeros(head.shape[0], dtype=head.dtype)
    return renamed


def to_ours(weights: Mapping[str, Tensor], *, head_bias: bool | None = None) -> dict[str, Tensor]:
    """Weights of transformers' VideoMAE, fine-tuned or pre-training, with the published names.

    The head becomes V2V's, without bias, if its bias is exactly zero and `head_bias` is False, or None with one output.
    Key biases of zeros, which some releases wrote, are dropped.

    Raises ValueError if a weight does not belong to VideoMAE, or a key bias is not zero.
    """
    pretraining = "mask_token" in weights
    encoder = "encoder." if pretraining else ""
    prefixes = {theirs: encoder + ours for ours, theirs in PREFIXES.items()}
    if pretraining:
        prefixes |= {theirs: ours for ours, theirs in PRETRAINING_PREFIXES.items()}
    in_block = {theirs: ours for ours, theirs in IN_BLOCK.items()}
    renamed: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        block = re.fullmatch(r"(.+\.(?:layer|decoder_layers)\.\d+\.)(.+)", name)
        if block is None:
            renamed[_rename(name, prefixes, name)] = value
            continue
        layer = _rename(block[1], prefixes, name)
        part = re.fullmatch(r"attention\.attention\.(query|key|value)\.(weight|bias)", block[2])
        if part is None:
            renamed[layer + _rename(block[2], in_block, name)] = value
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
    head, bias = renamed.get("head.weight"), renamed.get("head.bias")
    is_v2v = head_bias is False or (head_bias is None and head is not None and head.shape[0] == 1)
    if is_v2v and head is not None and bias is not None and not bias.any():
        del renamed["head.weight"], renamed["head.bias"]
        renamed["head.0.weight"] = head
    return renamed

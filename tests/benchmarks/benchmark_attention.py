"""A training step with the project's attention against the same network with textbook attention: time and memory.

python tests/benchmarks/benchmark_attention.py
python tests/benchmarks/benchmark_attention.py --depth 2 --repeats 3
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import tyro
from benchmarking import peak_memory_mb, say, say_ratio, say_times, time_interleaved, use_threads
from torch import Tensor

from VideoMAE.modeling_finetune import MODELS, Attention, VisionTransformer


class TextbookAttention(Attention):
    """softmax(q k^T / sqrt(d)) v as it is written, with its (N, N) matrices."""

    def forward(self, x: Tensor) -> Tensor:
        batch_size, num_tokens, width = x.shape
        assert self.q_bias is not None and self.v_bias is not None
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = torch.nn.functional.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.reshape(batch_size, num_tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        weights = torch.nn.functional.dropout(weights, self.attn_drop, self.training)
        return self.proj_drop(self.proj((weights @ v).transpose(1, 2).reshape(batch_size, num_tokens, width)))


ATTENTIONS = {"project": Attention, "textbook": TextbookAttention}


def use_attention(model: VisionTransformer, name: str) -> None:
    for block in model.blocks:
        block.attn.__class__ = ATTENTIONS[name]


class Training:
    """A network with a recipe's optimizer and one batch."""

    def __init__(self, model_name: str, depth: int | None, batch_size: int) -> None:
        torch.manual_seed(0)
        self.model = MODELS[model_name](drop_path_rate=0.1, **({} if depth is None else {"depth": depth}))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.05)
        self.clips = torch.randn(batch_size, 3, *self.model.patch_embed.input_shape)
        self.targets = torch.rand(batch_size, self.model.head.out_features)

    def step(self, attention: str) -> None:
        use_attention(self.model, attention)
        loss = torch.nn.functional.mse_loss(self.model(self.clips), self.targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def largest_difference(self) -> float:
        """Between the predictions of both for one clip, without drop path."""
        predictions = []
        self.model.eval()
        for attention in ATTENTIONS:
            use_attention(self.model, attention)
            predictions.append(self.model(self.clips[:1]))
        self.model.train()
        return (predictions[0] - predictions[1]).abs().max().item()


def matrix_products(model: VisionTransformer, batch_size: int) -> Callable[[], None]:
    """The products of one step alone: each in the forward pass, two of its size in the backward pass."""
    num_tokens, width = model.patch_embed.num_patches, model.embed_dim
    head_width = width // model.blocks[0].attn.num_heads
    heads = batch_size * model.blocks[0].attn.num_heads
    rows = batch_size * num_tokens
    layers = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    tensors = [(torch.randn(rows, i), torch.randn(o, i), torch.randn(rows, o)) for i, o in layers]
    patches, kernel, tokens = torch.randn(rows, 1536), torch.randn(width, 1536), torch.randn(rows, width)
    q, k, v, y = (torch.randn(heads, num_tokens, head_width) for _ in range(4))
    weights = torch.randn(heads, num_tokens, num_tokens)

    def run() -> None:
        patches @ kernel.T, tokens.T @ patches  # noqa: B018
        for _ in range(len(model.blocks)):
            for inputs, layer, outputs in tensors:
                inputs @ layer.T, outputs @ layer, outputs.T @ inputs  # noqa: B018
            q @ k.mT, weights @ k, weights.mT @ q  # noqa: B018
            weights @ v, y @ v.mT, weights.mT @ y  # noqa: B018

    return run


def prepare_step(
    model_name: str, depth: int | None, batch_size: int, threads: int, attention: str
) -> Callable[[], None]:
    use_threads(threads)
    return partial(Training(model_name, depth, batch_size).step, attention)


def main(
    *,
    model: str = "vit_base_patch16_224",
    depth: int | None = None,
    batch_size: int = 2,
    repeats: int = 2,
    threads: int = 1,
    memory: bool = True,
) -> None:
    """Steps of forward, backward and AdamW in float32 on the CPU, both kinds in turn on the same network.

    Args:
        model: name of the network; 16 frames of 224 x 224 pixels.
        depth: number of blocks in place of the network's own; 2 of 12 take a sixth of the time.
        batch_size: clips of a step.
        repeats: timed steps of each, after one to warm up; one of vit_base takes half a minute.
        threads: of torch.
        memory: measure the peak memory too, one step of each in a process of its own.
    """
    use_threads(threads)
    training = Training(model, depth, batch_size)
    say(f"{model}, {len(training.model.blocks)} blocks, batch {batch_size}, {threads} thread(s)")
    say(f"largest difference of the predictions: {training.largest_difference():.1e}")
    steps = {name: partial(training.step, name) for name in ATTENTIONS}
    products = matrix_products(training.model, batch_size)
    seconds = time_interleaved({**steps, "matrix products alone": products}, repeats=repeats)
    say_times(seconds)
    say_ratio("time, textbook / project", seconds["textbook"], seconds["project"], "at least 1.4")
    say_ratio("time, project / matrix products", seconds["project"], seconds["matrix products alone"], "none")
    del training, steps, products
    if memory:
        peak_mb = {name: peak_memory_mb(prepare_step, model, depth, batch_size, threads, name) for name in ATTENTIONS}
        for name, value in peak_mb.items():
            say(f"additional peak memory of a step, {name}: {value:.0f} MB")
        say(f"memory, project / textbook: {peak_mb['project'] / peak_mb['textbook']:.2f} (target: at most 0.7)")


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

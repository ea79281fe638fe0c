"""The video Vision Transformer: tubelet embedding, pre-norm blocks, mean pooling, one linear head.

State-dict names are those of the published VideoMAE checkpoints and must not change. Letters: B batch, T frames, H W
pixels, N tokens, D width, K outputs.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_
from torch.utils.checkpoint import checkpoint

NORM_EPS = 1e-6


def sine_cosine_position_table(num_positions: int, width: int) -> Tensor:
    """Fixed position embedding, sine in even and cosine in odd columns. -> (1, N, D) float32

    angle(pos, j) = pos / 10000^(2 floor(j/2) / D). Source: Vaswani et al. 2017, section 3.5, over the flattened
    space-time grid.
    """
    columns = np.arange(width)
    angles = np.arange(num_positions)[:, None] / np.power(10000, 2 * (columns // 2) / width)[None, :]
    angles[:, 0::2] = np.sin(angles[:, 0::2])
    angles[:, 1::2] = np.cos(angles[:, 1::2])
    return torch.tensor(angles, dtype=torch.float32).unsqueeze(0)


class PatchEmbed(nn.Module):
    """Cuts a clip into tubelets and projects each to a token, time slowest. (B, 3, T, H, W) -> (B, N, D)"""

    def __init__(self, *, img_size: int, patch_size: int, tubelet_size: int, num_frames: int, embed_dim: int) -> None:
        super().__init__()
        if img_size % patch_size:
            raise ValueError(f"--input_size {img_size} is not a multiple of the patch size {patch_size}")
        if num_frames % tubelet_size:
            raise ValueError(f"--num_frames {num_frames} is not a multiple of --tubelet_size {tubelet_size}")
        self.input_shape = (num_frames, img_size, img_size)
        self.grid = (num_frames // tubelet_size, img_size // patch_size, img_size // patch_size)
        self.num_patches = int(np.prod(self.grid))
        kernel = (tubelet_size, patch_size, patch_size)
        self.proj = nn.Conv3d(3, embed_dim, kernel_size=kernel, stride=kernel)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.input_shape:
            raise ValueError(f"the model expects clips of (T, H, W) = {self.input_shape}, got {tuple(x.shape[2:])}")
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with query and value biases and no key bias. (B, N, D) -> (B, N, D)"""

    def __init__(self, dim: int, *, num_heads: int, qkv_bias: bool, attn_drop: float, proj_drop: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).reshape(B, N, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D / heads)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(B, N, D)))


class DropPath(nn.Module):
    """Drops the residual branch of a sample with probability `drop` and rescales the others to keep the mean.

    (B, ...) -> (B, ...). Source: Huang et al. 2016, stochastic depth.
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1 - self.drop)
        return x * (kept / (1 - self.drop) if self.drop < 1 else kept)


class Block(nn.Module):
    """Pre-norm attention and MLP, each with an optional learned scale per channel. (B, N, D) -> (B, N, D)"""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
        init_values: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, num_heads=num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        hidden_dim, dropout = int(dim * mlp_ratio), nn.Dropout(drop)
        fc1, fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
        layers = {"fc1": fc1, "gelu": nn.GELU(), "drop": dropout, "fc2": fc2, "drop_again": dropout}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.gamma_1 = nn.Parameter(init_values * torch.ones(dim)) if init_values > 0 else None
        self.gamma_2 = nn.Parameter(init_values * torch.ones(dim)) if init_values > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn(self.norm1(x))
        x = x + self.drop_path(y if self.gamma_1 is None else self.gamma_1 * y)
        y = self.mlp(self.norm2(x))
        return x + self.drop_path(y if self.gamma_2 is None else self.gamma_2 * y)


class VisionTransformer(nn.Module):
    """A ViT over space-time tubelets. (B, 3, T, H, W) -> (B, K)

    Sources: Dosovitskiy et al. 2021 (ViT), Tong et al. 2022 (VideoMAE; tubelets, joint space-time attention).

    Args:
        init_values: initial value of the learned channel scales `gamma_1` and `gamma_2`; 0: no scales.
        init_scale: factor on the head's initial weights; not used for a head without bias.
        use_mean_pooling: mean over the tokens, then `fc_norm`; otherwise `norm`, then the first token.
        head_bias: if False, the head is `head.0` with nn.Linear's initial weights, as in original V2V checkpoints.
        use_checkpoint: activation checkpointing of the blocks.
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        all_frames: int = 16,
        tubelet_size: int = 2,
        num_classes: int = 27,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        fc_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init_values: float = 0.0,
        init_scale: float = 1.0,
        use_learnable_pos_emb: bool = False,
        use_mean_pooling: bool = True,
        head_bias: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.use_checkpoint = use_checkpoint
        self.patch_embed = PatchEmbed(
            img_size=img_size,
            patch_size=patch_size,
            tubelet_size=tubelet_size,
            num_frames=all_frames,
            embed_dim=embed_dim,
        )
        num_patches = self.patch_embed.num_patches
        if use_learnable_pos_emb:
            self.pos_embed = nn.Parameter(trunc_normal_(torch.zeros(1, num_patches, embed_dim), std=0.02))
        else:
            self.register_buffer("pos_embed", sine_cosine_position_table(num_patches, embed_dim), persistent=False)
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop=drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=float(rate),
                init_values=init_values,
            )
            for rate in np.linspace(0, drop_path_rate, depth)
        )
        norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.norm = nn.Identity() if use_mean_pooling else norm
        self.fc_norm = norm if use_mean_pooling else None
        self.fc_dropout = nn.Dropout(fc_drop_rate)
        self.head: nn.Module = nn.Linear(embed_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.head.weight.mul_(init_scale)
        if not head_bias:
            self.head = nn.Sequential(nn.Linear(embed_dim, num_classes, bias=False))

    def get_num_layers(self) -> int:
        """The number of blocks, for layer-wise learning rate decay."""
        return len(self.blocks)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, in addition to the one-dimensional ones."""
        return {"pos_embed", "cls_token"}

    def tokens(self, x: Tensor, *, num_blocks: int | None = None) -> Tensor:
        """The tokens after the first `num_blocks` blocks (0: the embedding; None: all). (B, 3, T, H, W) -> (B, N, D)"""
        x = self.patch_embed(x)
        x = self.pos_drop(x + self.pos_embed.to(x.dtype))
        for block in islice(self.blocks, num_blocks):
            x = checkpoint(block, x, use_reentrant=False) if self.use_checkpoint and self.training else block(x)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """The input of the head. (B, 3, T, H, W) -> (B, D)"""
        x = self.norm(self.tokens(x))
        return x[:, 0] if self.fc_norm is None else self.fc_norm(x.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc_dropout(self.forward_features(x)))


vit_micro_patch16_224 = partial(VisionTransformer, embed_dim=128, depth=4, num_heads=4)  # for a CPU; not published
vit_small_patch16_224 = partial(VisionTransformer, embed_dim=384, depth=12, num_heads=6)  # 22M parameters
vit_base_patch16_224 = partial(VisionTransformer, embed_dim=768, depth=12, num_heads=12)  # 86M, of published results
vit_large_patch16_224 = partial(VisionTransformer, embed_dim=1024, depth=24, num_heads=16)  # 304M
vit_huge_patch16_224 = partial(VisionTransformer, embed_dim=1280, depth=32, num_heads=16)  # 632M

MODELS: dict[str, Callable[..., VisionTransformer]] = {
    "vit_micro_patch16_224": vit_micro_patch16_224,
    "vit_small_patch16_224": vit_small_patch16_224,
    "vit_base_patch16_224": vit_base_patch16_224,
    "vit_large_patch16_224": vit_large_patch16_224,
    "vit_huge_patch16_224": vit_huge_patch16_224,
}

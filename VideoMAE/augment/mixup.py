"""Mixup and cutmix of clips with soft targets. B batch, T frames, H W pixels, K outputs."""

import torch
from timm.data import Mixup
from torch import Tensor


class ClipMixup(Mixup):
    """timm's mixup and cutmix for clips and targets of any kind; a cutmix box is the same in every frame.

    Clip i is mixed with clip B - 1 - i. Random numbers come from numpy's global generator, as in timm. Sources: Zhang
    et al. 2018 (mixup), equations 1 and 2; Yun et al. 2019 (CutMix), equation 1.
    """

    def __call__(self, clips: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W), (B, K) -> new tensors of the same shapes. Raises ValueError if a pair is incomplete."""
        if self.mode != "batch" and len(clips) % 2:
            raise ValueError(f"--mixup_mode {self.mode} needs an even number of clips per batch, got {len(clips)}")
        planes = clips.flatten(1, 2).clone()  # (B, 3 T, H, W): images for timm
        mix = {"batch": self._mix_batch, "pair": self._mix_pair, "elem": self._mix_elem}[self.mode]
        ratio = torch.as_tensor(mix(planes), dtype=targets.dtype, device=targets.device).reshape(-1, 1)
        return planes.reshape(clips.shape), targets * ratio + targets.flip(0) * (1 - ratio)

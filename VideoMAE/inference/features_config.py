"""The flags of extract_features.py."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from VideoMAE.inference.config import ClipFlags


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """What a network, trained or only pre-trained, makes of videos on the way to its head."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files, folders that are searched through for them, and datasets of VCE or V2V."""
    checkpoint: Path
    """Run's output folder or checkpoint file; a pre-training one will do."""
    output_dir: Path
    """Folder for the features. A second call does what is not there yet."""
    network: ClipFlags
    list: Path | None = None
    """File of further videos, one path a line."""
    layer: str = "final"
    """Block whose output is taken, from 1 to the number of blocks (-1: the last, 0: the embedding), or final: what the
    head sees, behind the last norm."""
    pool: Literal["mean", "none"] = "mean"
    """mean: one vector a clip; none: one for each token. The final norm stands behind the mean, so that final tokens
    are those of the last block; with --use_cls, final is the first token, normalised."""
    views: Literal["mean", "keep"] = "mean"
    """mean: the mean over a video's views; keep: each of them."""
    sampling: Literal["vce", "v2v"] | None = None
    """Clips as VCE's test takes them (segments x crops) or as V2V's does (frames evenly over the video). None: as the
    checkpoint's task does; VCE's for a pre-trained one."""
    num_segments: int | None = None
    """Views along time (VCE). None: as many as the run's test took."""
    num_crops: int | None = None
    """Views along the long side (VCE). None: as many as the run's test took."""
    format: Literal["npz", "safetensors", "matrix"] = "npz"
    """npz and safetensors: one file a video, ID.npz; matrix: features.npy for all, with index.jsonl for its rows."""
    dtype: Literal["float32", "float16"] = "float32"
    """Numbers as they are written."""
    batch_size: int = 8
    """Clips in a forward pass; views of several videos share one."""
    num_workers: int = 1
    """Processes that read videos ahead. With 0 nothing watches over a video that hangs its decoder."""
    decode_seconds: float = 120.0
    """A worker that is at one video for longer is ended, and the video counts as unreadable."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: a GPU where there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; auto: as its run had it."""

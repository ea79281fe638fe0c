"""The flags of programs that use trained networks; see config.py for those that train them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from VideoMAE.config import ModelName


@dataclasses.dataclass(frozen=True)
class ClipFlags:
    """What a checkpoint does not say of itself. None: as its run says, which its folder or the file itself tells; for
    other files as the shapes of the weights and the recipe say."""

    model: ModelName | None = None
    """Size of the ViT."""
    input_size: int | None = None
    """Side of the square the model sees, pixels."""
    short_side_size: int | None = None
    """Short side that frames are resized to before cropping, pixels (VCE)."""
    num_frames: int | None = None
    """Frames in a clip."""
    sampling_rate: int | None = None
    """Frames from one frame of a clip to the next (VCE)."""
    crop: Literal["squash", "center"] | None = None
    """The whole frame squashed, or its central square (V2V)."""


@dataclasses.dataclass(frozen=True)
class NetworkFlags(ClipFlags):
    """What a checkpoint does not say of itself. None: as its run says, which its folder or the file itself tells; for
    other files as the shapes of the weights and the recipe say."""

    loss: Literal["bce", "ce", "soft_ce", "mse"] | None = None
    """Loss that the network was trained with (VCE): after ce and soft_ce its outputs are chances that sum to 1."""
    emotions: Path | None = None
    """File of the outputs' names, a JSON list like a dataset's emotions.json (VCE)."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """What a video makes its viewer feel, as trained networks say: 27 emotions (VCE), pleasantness (V2V), or both."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO_OR_FOLDER ...")]
    """Video files, and folders that are searched through for them."""
    checkpoint: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN_OR_FILE [RUN_OR_FILE]")]
    """Run's output folder or checkpoint file, of VCE or of V2V; or one of each."""
    network: NetworkFlags
    format: Literal["table", "jsonl", "csv"] = "table"
    """table: the strongest emotions, for people; jsonl and csv: everything, one video a line."""
    output: Path | None = None
    """File to write; it appears when it is whole. None: standard output."""
    top: int = 5
    """How many emotions the table and the plots show."""
    over_time: bool = False
    """Slide a window over each video: for every one a CSV file (or --format jsonl) and a plot in --output_dir."""
    output_dir: Path | None = None
    """Folder for the files of --over_time."""
    window_seconds: float | None = None
    """Length of that window. None: of a clip of VCE's test, 16 frames, every 4th of the video; 4 s with V2V alone."""
    hop_seconds: float = 0.5
    """From one window to the next."""
    num_segments: int | None = None
    """Views along time (VCE). None: as many as the run's test took."""
    num_crops: int | None = None
    """Views along the long side (VCE). None: as many as the run's test took, and the central one with --over_time."""
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
    compile: bool = False
    """Compile the network at its first use, which takes a minute and a C++ compiler."""

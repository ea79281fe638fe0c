"""The flags of the programs that apply trained networks; VideoMAE/config.py has those of training."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from VideoMAE.cli import UsageError
from VideoMAE.config import ModelName, Precision


@dataclasses.dataclass(frozen=True)
class ClipFlags:
    """Settings that a checkpoint may lack. None: taken from the run's configuration, which is in its folder or in the
    file; otherwise from the shapes of the weights and the recipe."""

    model: ModelName | None = None
    """Size of the ViT."""
    input_size: int | None = None
    """Side of the square input of the network, pixels."""
    short_side_size: int | None = None
    """Short side of the frames before cropping, pixels (VCE)."""
    num_frames: int | None = None
    """Frames in a clip."""
    sampling_rate: int | None = None
    """Distance between a clip's frames, in frames (VCE)."""
    crop: Literal["squash", "center"] | None = None
    """The whole frame resized to a square, or its central square (V2V)."""


@dataclasses.dataclass(frozen=True)
class NetworkFlags(ClipFlags):
    """Settings that a checkpoint may lack. None: taken from the run's configuration, which is in its folder or in the
    file; otherwise from the shapes of the weights and the recipe."""

    loss: Literal["bce", "ce", "soft_ce", "mse"] | None = None
    """Training loss (VCE): with ce and soft_ce the outputs are probabilities that sum to 1."""
    emotions: Path | None = None
    """JSON file with a list of the emotion names, like a dataset's emotions.json (VCE)."""


@dataclasses.dataclass(frozen=True)
class InferenceFlags:
    """Views of a video, reading of videos, and hardware."""

    num_segments: int | None = None
    """Views along time (VCE). None: those of the run's test."""
    num_crops: int | None = None
    """Views along the long side (VCE). None: those of the run's test; with predict --over_time, the central one."""
    batch_size: int = 8
    """Clips in a forward pass; views of several videos may share one."""
    num_workers: int = 1
    """Processes that read videos in advance. 0: none, and no time limit for decoding."""
    decode_seconds: float = 120.0
    """Time limit for decoding one video; a video that takes longer counts as unreadable."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: a GPU if there is one."""
    precision: Precision = "auto"
    """Precision of the network. auto: that of its run."""

    def check(self) -> None:
        """Raises UsageError for a value out of range."""
        check_positive(self, "batch_size", "num_segments", "num_crops", "decode_seconds")
        if self.num_workers < 0:
            raise UsageError(f"--num_workers {self.num_workers}: must be at least 0")


def check_positive(flags: Any, *names: str) -> None:
    """Raises UsageError if the value of a flag is neither None nor above 0."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name} {value:g}: must be above 0")


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Predict how videos make their viewers feel: emotions (VCE), pleasantness (V2V), or both."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO_OR_FOLDER ...")]
    """Video files, and folders to search for them."""
    checkpoint: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN_OR_FILE [RUN_OR_FILE]")]
    """Output folder or checkpoint file of a VCE or a V2V run, or one of each."""
    inference: InferenceFlags
    network: NetworkFlags
    format: Literal["table", "jsonl", "csv"] = "table"
    """table: the strongest emotions, human-readable; jsonl and csv: all values, one video per line."""
    output: Path | None = None
    """Output file, written once all videos are processed. None: standard output."""
    top: int = 5
    """Number of emotions in the table and the plots."""
    over_time: bool = False
    """Slide a window over each video and write a CSV file (or --format jsonl) and a plot to --output_dir."""
    output_dir: Path | None = None
    """Folder for the files of --over_time."""
    window_seconds: float | None = None
    """Length of the window. None: that of a VCE test clip (16 frames, every 4th); 4 s with V2V only."""
    hop_seconds: float = 0.5
    """Time from the start of one window to the start of the next."""
    compile: bool = False
    """Compile the network at its first use, which takes a minute and needs a C++ compiler."""


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """Extract features of videos from any layer of a fine-tuned or pre-trained network."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """Video files, folders to search for them, and datasets of VCE or V2V."""
    checkpoint: Path
    """Output folder of a run, or a fine-tuned or pre-trained checkpoint file."""
    output_dir: Path
    """Folder for the features. A later call computes the missing ones."""
    inference: InferenceFlags
    network: ClipFlags
    list: Path | None = None
    """File that lists further videos, one path per line."""
    layer: str = "final"
    """Block whose output is extracted, from 1 to the number of blocks (-1: the last, 0: the embedding), or final: the
    input of the head, after the final norm."""
    pool: Literal["mean", "none"] = "mean"
    """mean: one vector per clip; none: one per token. The final norm is applied after pooling, so that the final tokens
    are those of the last block; with --use_cls, final is the first token, normalized."""
    views: Literal["mean", "keep"] = "mean"
    """mean: the mean over the views of a video; keep: each of them."""
    sampling: Literal["vce", "v2v"] | None = None
    """Clips of VCE's test (segments x crops) or of V2V's (frames evenly over the video). None: those of the
    checkpoint's task; VCE's for a pre-trained checkpoint."""
    format: Literal["npz", "safetensors", "matrix"] = "npz"
    """npz and safetensors: one file per video, ID.npz; matrix: features.npy for all, with index.jsonl for its rows."""
    dtype: Literal["float32", "float16"] = "float32"
    """Data type of the files."""

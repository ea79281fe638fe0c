"""Measure the speed of a dataset's data loader, where the time goes, and how many CPU cores a GPU needs.

    python data_prep/benchmark_loader.py vce_dataset

makes batches as a training run does and prints the CPU time per clip for opening, decoding, conversion to RGB,
augmentation and collation. The floor is the time that decord alone needs to decode the same frames. Then it measures
clips per second of wall time with 0, 1, 2, 4, ... workers.

ROOT comes first. All flags of the training programs are accepted, with their defaults: --sampling_rate, --train_fps,
--num_frames, --input_size, --batch_size, --num_sample, --aa, ... (see `python -m VideoMAE.run_class_finetuning --help`
for VCE and `python -m VideoMAE.run_v2v_finetuning --help` for V2V).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from VideoMAE import cli

Mode = Literal["train", "test"]


@dataclass(frozen=True)
class BenchmarkSettings:
    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]
    """Dataset folder in the layout of VCE or V2V, or a prepared copy."""
    mode: Mode = "train"
    """train: augmented clips (VCE) or comparisons (V2V); test: all views of each test video."""
    workers: tuple[int, ...] | None = None
    """Numbers of worker processes to measure. None: 0, 1, 2, 4, ... up to the number of cores."""
    gpu_clips_per_second: float = 300.0
    """Clips per second that one GPU consumes; the program prints how many cores can supply them."""
    seconds: float = 20.0
    """Approximate duration; one half for the parts, one half for the workers."""
    repeats: int | None = None
    """Batches whose parts are timed. None: as many as the time allows."""
    max_videos: int = 128
    """Number of videos, sampled evenly from the labels; each is opened once before the measurement."""
    json: Path | None = None
    """JSON file for all numbers."""


def benchmark(settings: BenchmarkSettings, run_flags: Sequence[str]) -> None:
    """Measures the loader of a run with these flags of the training program, and reports."""
    from VideoMAE.dataset_tools.loader_benchmark import run_benchmark  # deferred: importing torch takes seconds

    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores, on purpose
    run_benchmark(settings, run_flags)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(benchmark, BenchmarkSettings, argv, description=__doc__, accept_unknown_flags=True)

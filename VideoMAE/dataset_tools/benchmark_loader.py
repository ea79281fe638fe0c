"""How fast a dataset's clips come, where the time goes, and how many cores feed a GPU.

    python data_prep/benchmark_loader.py vce_dataset --plot loader.png

makes items as a run does and prints the CPU time of a clip, split into opening, decoding, converting, augmenting and
collating, beside the floor: bare decoding of the same windows. Then the real loader runs by the clock, with 0, 1, 2 ...
workers.

ROOT comes first. Every flag of the run programs goes too, with its default there: --sampling_rate, --train_fps,
--num_frames, --input_size, --batch_size, --num_sample, --aa, ... (`python -m VideoMAE.run_class_finetuning --help`, for
V2V `python -m VideoMAE.run_v2v_finetuning --help`).
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from VideoMAE.cli import show_messages
from VideoMAE.config import to_json
from VideoMAE.dataset_tools.loader_datasets import Mode, Subject, open_subject
from VideoMAE.dataset_tools.loader_parts import measure_parts
from VideoMAE.dataset_tools.loader_report import (
    FLAT,
    advice,
    as_numbers,
    cores_needed,
    growth,
    held_line,
    rate_lines,
    split_lines,
    write_plot,
)
from VideoMAE.dataset_tools.loader_workers import measure_rate, measure_soak
from VideoMAE.dataset_tools.programs import num_cores, write_json

logger = logging.getLogger("benchmark_loader")


@dataclass(frozen=True)
class Settings:
    """What to measure, and for how long."""

    root: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]
    """Folder of VCE's or V2V's layout, or a prepared copy of one."""
    mode: Mode = "train"
    """train: augmented clips (VCE) or comparisons (V2V); test: all views of a video, or a video's one clip."""
    workers: tuple[int, ...] | None = None
    """Numbers of loader processes to try by the clock. None: 0, 1, 2, 4, ... up to the cores."""
    gpu_clips_per_second: float = 300.0
    """What one GPU takes; its cores are counted."""
    seconds: float = 20.0
    """About how long to measure: half of it the parts, half the workers."""
    repeats: int | None = None
    """Batches whose parts are measured. None: as many as there is time for."""
    max_videos: int = 128
    """Videos, drawn evenly from the labels; they are opened once beforehand."""
    soak: int = 0
    """Above 0: only run one worker for so many items, and show what it holds on the way."""
    plot: Path | None = None
    """PNG file for the chart."""
    json: Path | None = None
    """JSON file for every number."""


def check_settings(settings: Settings) -> None:
    """Raises ValueError naming the flag whose value makes no sense."""
    for name, least in (("max_videos", 1), ("repeats", 1), ("soak", 0)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} {value}: must be at least {least}")
    for name in ("seconds", "gpu_clips_per_second"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"--{name} {getattr(settings, name):g}: must be above 0")
    if settings.workers is not None and min(settings.workers, default=0) < 0:
        raise ValueError(f"--workers {min(settings.workers)}: must be at least 0")


def default_workers() -> tuple[int, ...]:
    """0, 1, 2, 4, ... up to the number of cores."""
    doubled = [2**power for power in range(num_cores().bit_length())]
    return (0, *doubled)


def measure(settings: Settings, subject: Subject) -> dict[str, Any]:
    """Parts, then workers; all is said as it comes -> what goes into the JSON file."""
    workers = sorted(set(default_workers() if settings.workers is None else settings.workers))
    half = settings.seconds / 2
    split = measure_parts(subject.make_loader(0), seconds=half, repeats=settings.repeats)
    say(split_lines(split))
    rates = [measure_rate(subject.make_loader(number), seconds=half / len(workers)) for number in workers]
    say(rate_lines(rates, split) if rates else [])
    gpu = settings.gpu_clips_per_second
    advised = advice(split, rates, subject, gpu)
    say(advised)
    if settings.plot is not None:
        write_plot(settings.plot, split, rates)
        logger.info("%s", settings.plot)
    return {
        **as_numbers(split),
        "workers": [rate._asdict() for rate in rates],
        "gpu_clips_per_second": gpu,
        "cores_per_gpu": cores_needed(gpu, split.clips_per_second),
        "floor_cores_per_gpu": cores_needed(gpu, split.floor_clips_per_second),
        "num_cores": num_cores(),
        "advice": advised,
    }


def soak(settings: Settings, subject: Subject) -> dict[str, Any]:
    """What one worker holds over many items -> what goes into the JSON file."""
    logger.info("memory of a worker, without the batches that it shares:")
    looks = measure_soak(
        subject.make_loader(1), num_items=settings.soak, say=lambda held: logger.info("%s", held_line(held))
    )
    grown = growth(looks)
    logger.info(
        "from item %d to %d it grew by %.1f %% (%s, the bound is %.0f %%)",
        looks[0].num_items, looks[-1].num_items, 100 * grown, "flat" if grown <= FLAT else "not flat", 100 * FLAT,
    )  # fmt: skip
    return {"soak": [held._asdict() for held in looks], "growth": grown}


def say(lines: Sequence[str]) -> None:
    for line in lines:
        logger.info("%s", line)


def run(settings: Settings, run_flags: Sequence[str]) -> None:
    """Measure and say."""
    check_settings(settings)
    subject = open_subject(settings.root, settings.mode, run_flags, max_videos=settings.max_videos)
    logger.info("%s: %s, of %d videos", settings.root, subject.what, subject.num_videos)
    found = soak(settings, subject) if settings.soak else measure(settings, subject)
    if settings.json is not None:
        header = {"root": str(settings.root), "mode": settings.mode, "what": subject.what}
        config = to_json(subject.config)
        chosen = {part: config[part] for part in ("data", "augment")}
        write_json(
            settings.json,
            {**header, "num_videos": subject.num_videos, "unreadable": subject.unreadable, **found, "flags": chosen},
        )
        logger.info("%s", settings.json)


def main() -> int:
    show_messages(sys.stdout)
    settings, run_flags = tyro.cli(Settings, description=__doc__, use_underscores=True, return_unknown_args=True)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: to see what that does
    try:
        run(settings, run_flags)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped\n")
        return 1
    return 0

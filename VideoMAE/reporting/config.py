"""The flags of report.py."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ReportSettings:
    """The runs to report on, and the output folder."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Output folder of a run; not modified, except for the report's folder."""
    other: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """Output folder of a second run to compare with the first."""
    output_dir: Path | None = None
    """Folder for page, charts and numbers; replaces the files of an earlier report. None: RUN/report, or for two runs
    SECOND/report_against_FIRST."""
    data_path: Path | None = None
    """Folder of the dataset, if it has moved since the run."""
    results_prefix: str | None = None
    """Prefix of results.json and scores.jsonl of V2V. None: the prefix in the run's config.json."""
    num_resamples: int = 2000
    """Number of bootstrap draws."""
    seed: int = 0
    """Seed of the bootstrap draws."""
    num_examples: int = 6
    """Number of best and worst videos and pairs to show, and of lists, at most 3. 0: none."""
    num_processes: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that read thumbnails."""
    limit_seconds: float = 30.0
    """Time limit for reading one video; a slower video has no thumbnail."""


def check_settings(settings: ReportSettings) -> None:
    """Raises ValueError for settings out of range."""
    for name, least in (
        ("num_resamples", 100), ("seed", 0), ("num_examples", 0), ("num_processes", 1), ("limit_seconds", 1)
    ):  # fmt: skip
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(settings, name)}")
    if settings.output_dir is not None and settings.output_dir.exists() and not settings.output_dir.is_dir():
        raise ValueError(f"--output_dir {settings.output_dir} is a file")

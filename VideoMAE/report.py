"""Report on a run, or compare two runs of the same task: `emodiversity report RUN [RUN]`.

RUN is the output folder of a fine-tuning or a test. Writes `index.html`, a self-contained page; its charts as PNG
files; and every number as `report.json`. One run: metrics with bootstrap intervals, next to baselines; calibration and
confusion matrix (VCE), score differences and lists (V2V), training curves, the best and the worst videos. Two runs:
their differences, with a paired bootstrap on the common test videos.

A run that has not finished its test gets a page with its training curves. Unreadable videos have no thumbnail.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # imported first: it reports missing packages

import tyro

from VideoMAE.cli import run
from VideoMAE.dataset_tools.programs import num_cores

logger = logging.getLogger("report")


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
    num_processes: int = field(default_factory=num_cores)
    """Processes that read thumbnails."""
    limit_seconds: float = 30.0
    """Time limit for reading one video; a slower video has no thumbnail."""


def report(settings: ReportSettings) -> None:
    """Writes the report and logs its path. Raises ValueError for settings out of range, and as `write_report` does."""
    for name, least in (
        ("num_resamples", 100),
        ("seed", 0),
        ("num_examples", 0),
        ("num_processes", 1),
        ("limit_seconds", 1),
    ):
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(settings, name)}")
    if settings.output_dir is not None and settings.output_dir.exists() and not settings.output_dir.is_dir():
        raise ValueError(f"--output_dir {settings.output_dir} is a file")
    from VideoMAE.reporting.run_report import write_report  # deferred: importing it takes seconds

    logger.info("wrote %s", write_report(**vars(settings)))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> exit status"""
    return run(report, ReportSettings, argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())

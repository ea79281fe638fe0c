"""Report on a run, or compare two of the same task: `python -m VideoMAE.report RUN [RUN]`.

RUN is the output folder of a fine-tuning or a test. Writes `index.html`, which holds everything it shows and opens
offline; its charts as PNG files; and every number as `report.json`. One run: metrics beside guesses, each with a
bootstrap interval, calibration and confusions (VCE), margins and lists (V2V), the curves of training, the best and the
worst videos. Two: what differs, by a paired bootstrap on what both were tested on.

A run that has not finished its test gets a page with its curves. Videos that cannot be read now have no picture.
"""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # first of all: it names missing packages

import tyro

from VideoMAE.cli import show_messages
from VideoMAE.reporting.comparison_report import report_comparison
from VideoMAE.reporting.metric_numbers import Resampling
from VideoMAE.reporting.run_files import read_run
from VideoMAE.reporting.run_report import Looks, report_run

logger = logging.getLogger("report")


@dataclass(frozen=True)
class Settings:
    """What to report on, and where to write."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Output folder of a run; only read, but for the folder of the report."""
    other: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """Output folder of a run that is compared with it."""
    output_dir: Path | None = None
    """Folder for page, charts and numbers; an earlier report's files are replaced. None: RUN/report, or of two
    SECOND/report_against_FIRST."""
    data_path: Path | None = None
    """Folder of the dataset, where it is no longer where the run found it."""
    results_prefix: str | None = None
    """What results.json and scores.jsonl of V2V begin with. None: as the run's config.json says."""
    num_resamples: int = 2000
    """Bootstrap draws."""
    seed: int = 0
    """Of the draws."""
    num_examples: int = 6
    """Best and worst videos, pairs and so on to show; of lists at most 3. 0: none."""
    num_processes: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that read thumbnails."""
    limit_seconds: float = 30.0
    """A video whose reading takes longer gets no picture."""


def check(settings: Settings) -> None:
    """Raises ValueError for settings that cannot be."""
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


def write_report(settings: Settings) -> Path:
    """-> the page"""
    check(settings)
    folders = [settings.run, *([settings.other] if settings.other else [])]
    runs = [read_run(folder.expanduser(), results_prefix=settings.results_prefix) for folder in folders]
    resampling = Resampling(settings.num_resamples, settings.seed)
    looks = Looks(settings.num_examples, settings.num_processes, settings.limit_seconds)
    last = "report" if len(runs) == 1 else f"report_against_{runs[0].name}"
    output_dir = (settings.output_dir or runs[-1].folder / last).expanduser()
    for run in runs:
        root = settings.data_path or run.dataset
        if output_dir.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"--output_dir {output_dir} lies in the dataset {root}, which is only read")
    if len(runs) == 2:
        return report_comparison(runs, output_dir, data_path=settings.data_path, resampling=resampling, looks=looks)
    return report_run(runs[0], output_dir, data_path=settings.data_path, resampling=resampling, looks=looks)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help."""
    settings = tyro.cli(
        Settings, prog="report", args=sys.argv[1:] if argv is None else argv, description=__doc__, use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes,),
    )  # fmt: skip
    show_messages(sys.stdout)
    try:
        written = write_report(settings)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped\n")
        return 1
    logger.info("wrote %s", written)
    return 0


if __name__ == "__main__":
    sys.exit(main())

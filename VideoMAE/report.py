"""Report on a run, or compare two runs of the same task: `python -m VideoMAE.report RUN [RUN]`.

RUN is the output folder of a fine-tuning or a test. Writes `index.html`, a self-contained page; its charts as PNG
files; and every number as `report.json`. One run: metrics beside guesses with bootstrap intervals, calibration and
confusion matrix (VCE), score differences and lists (V2V), training curves, the best and the worst videos. Two runs:
their differences, by a paired bootstrap on the common test videos.

A run that has not finished its test gets a page with its training curves. Unreadable videos have no thumbnail.
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
    import VideoMAE  # noqa: F401  # imported first: it names missing packages

import tyro

from VideoMAE.reporting.bootstrap import Resampling
from VideoMAE.reporting.run_files import read_run
from VideoMAE.reporting.run_report import ExampleSettings, report_comparison, report_run
from VideoMAE.runtime.messages import show_messages

logger = logging.getLogger("report")


@dataclass(frozen=True)
class Settings:
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


def check(settings: Settings) -> None:
    """Raises ValueError for settings out of range."""
    for name, least in (
        ("num_resamples", 100), ("seed", 0), ("num_examples", 0), ("num_processes", 1), ("limit_seconds", 1)
    ):  # fmt: skip
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(settings, name)}")
    if settings.output_dir is not None and settings.output_dir.exists() and not settings.output_dir.is_dir():
        raise ValueError(f"--output_dir {settings.output_dir} is a file")


def write_report(settings: Settings) -> Path:
    """Writes the report. -> path of the page"""
    check(settings)
    folders = [settings.run, *([settings.other] if settings.other else [])]
    runs = [read_run(folder.expanduser(), results_prefix=settings.results_prefix) for folder in folders]
    resampling = Resampling(settings.num_resamples, settings.seed)
    examples = ExampleSettings(settings.num_examples, settings.num_processes, settings.limit_seconds)
    name = "report" if len(runs) == 1 else f"report_against_{runs[0].name}"
    output_dir = (settings.output_dir or runs[-1].folder / name).expanduser()
    for run in runs:
        root = settings.data_path or run.dataset
        if output_dir.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"--output_dir {output_dir} is inside the dataset {root}, which must not be modified")
    if len(runs) == 2:
        return report_comparison(
            runs, output_dir, data_path=settings.data_path, resampling=resampling, examples=examples
        )
    return report_run(runs[0], output_dir, data_path=settings.data_path, resampling=resampling, examples=examples)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> exit status"""
    settings = tyro.cli(
        Settings, prog="report", args=argv, description=__doc__, use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes,)
    )  # fmt: skip
    show_messages(sys.stdout)
    try:
        page = write_report(settings)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped\n")
        return 1
    logger.info("wrote %s", page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

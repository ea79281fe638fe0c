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
from pathlib import Path

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # imported first: it reports missing packages

from VideoMAE.cli import run
from VideoMAE.reporting.config import ReportSettings

logger = logging.getLogger("report")


def report(settings: ReportSettings) -> None:
    """Writes the report and logs its path."""
    from VideoMAE.reporting.run_report import write_report  # deferred: importing it takes seconds

    logger.info("wrote %s", write_report(settings))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> exit status"""
    return run(report, ReportSettings, argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())

"""Report on a run, or compare two runs of the same task: `python -m VideoMAE.report RUN [RUN]`.

RUN is the output folder of a fine-tuning or a test. Writes `index.html`, a self-contained page; its charts as PNG
files; and every number as `report.json`. One run: metrics beside guesses with bootstrap intervals, calibration and
confusion matrix (VCE), score differences and lists (V2V), training curves, the best and the worst videos. Two runs:
their differences, by a paired bootstrap on the common test videos.

A run that has not finished its test gets a page with its training curves. Unreadable videos have no thumbnail.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a file: let `import VideoMAE` find the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import VideoMAE  # noqa: F401  # imported first: it names missing packages

import tyro

from VideoMAE.reporting.run_report import ReportSettings, write_report
from VideoMAE.runtime.messages import show_messages

logger = logging.getLogger("report")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> exit status"""
    settings = tyro.cli(
        ReportSettings, prog="report", args=argv, description=__doc__, use_underscores=True,
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

"""Runs VideoMAE.checkpoints.programs.convert; see --help."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from VideoMAE.checkpoints.programs import convert  # noqa: E402

if __name__ == "__main__":
    sys.exit(convert())

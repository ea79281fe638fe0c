"""Runs VideoMAE.checkpoints.programs.convert; see --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from VideoMAE.checkpoints.programs import convert

    sys.exit(convert())

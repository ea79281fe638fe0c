"""Runs VideoMAE.checkpoints.programs.inspect; see --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from VideoMAE.checkpoints.programs import inspect

    sys.exit(inspect())

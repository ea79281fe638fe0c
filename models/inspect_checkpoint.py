"""Runs VideoMAE.checkpoints.programs.inspect; see --help."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from VideoMAE.checkpoints.programs import inspect  # noqa: E402

if __name__ == "__main__":
    sys.exit(inspect())

"""Runs VideoMAE.checkpoints.download; see --help."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from VideoMAE.checkpoints.download import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())

"""Runs VideoMAE.dataset_tools.prepare_videos; see --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from VideoMAE.dataset_tools.prepare_videos import main

    sys.exit(main())

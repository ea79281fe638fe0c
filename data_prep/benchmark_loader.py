"""Runs VideoMAE.dataset_tools.benchmark_loader; see --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from VideoMAE.dataset_tools.benchmark_loader import main

    sys.exit(main())

"""Runs every case and prints what came of it as a table in Markdown: `python tests/faults/table.py --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from pathlib import Path

import killed
from cases import CASES
from lab import Lab

import damaged  # noqa: F401  # isort: skip
import surroundings  # noqa: F401  # isort: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--random_kills", type=int, default=3, help="how many runs are killed at random moments")
    parser.add_argument("--only", default="", help="only cases with this in their name")
    options = parser.parse_args()
    killed.add_random_kills(range(options.random_kills))
    failures, begun = 0, time.monotonic()
    print("| fault | what happens | outcome |\n|---|---|---|")  # noqa: T201
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        lab = Lab(Path(root))
        chosen = {name: case for name, case in CASES.items() if options.only in name}
        for name, case in chosen.items():
            try:
                result = case(lab)
            except Exception as error:  # the table shows all cases, whatever becomes of one
                failures += 1
                line = traceback.extract_tb(error.__traceback__)[-1].line
                result = f"**FAILED**: {type(error).__name__}: {error} [{line}]"
            cells = (name, case.__doc__ or "", result)
            print("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " / ") for cell in cells) + " |", flush=True)  # noqa: T201
    seconds = time.monotonic() - begun
    print(f"\n{len(chosen)} cases, {failures} failed, {seconds:.0f} s")  # noqa: T201
    sys.exit(min(failures, 1))


if __name__ == "__main__":
    main()

"""Show the test results of runs: `python -m VideoMAE.reporting.show_results OUTPUT_DIR [OUTPUT_DIR ...]`."""

import json
import sys
from pathlib import Path

from VideoMAE.training import results


def main() -> None:
    """Prints each run's metrics beside the guesses that need no model, and where its files lie."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    for output_dir in map(Path, sys.argv[1:]):
        try:
            measured = json.loads((output_dir / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            sys.exit(f"error: {output_dir}: holds no test results: {error}")
        table = results.table if "acc1" in measured else results.preference_table
        sys.stdout.write(f"\n{table(measured)}\n{results.describe_files(output_dir)}\n")


if __name__ == "__main__":
    main()

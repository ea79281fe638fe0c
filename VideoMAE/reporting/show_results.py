"""Prints the test results of runs: `python -m VideoMAE.reporting.show_results OUTPUT_DIR [OUTPUT_DIR ...]`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from VideoMAE.files import read_json
from VideoMAE.training import results


@dataclass(frozen=True)
class Settings:
    """Prints the metrics of each run beside the guesses, and the files in its folder."""

    output_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="OUTPUT_DIR")]
    """Output folders of tested runs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> exit status"""
    settings = tyro.cli(Settings, prog="show_results", args=argv, use_underscores=True)
    for folder in settings.output_dirs:
        try:
            measured = read_json(folder / "results.json", hint="the run has not finished its test")
        except ValueError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        table = results.table if "acc1" in measured else results.preference_table
        sys.stdout.write(f"\n{table(measured)}\n{results.describe_files(folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

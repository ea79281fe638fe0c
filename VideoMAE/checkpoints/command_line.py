"""What the programs of this folder share: flags, the two reports, the exit status."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import tyro


class Report(NamedTuple):
    """What a program found or did, for people and for programs, and why all is not well, if it is not."""

    text: str
    values: dict[str, Any]
    problem: str = ""


class WithJson(Protocol):
    """What the settings of every program have."""

    @property
    def json(self) -> bool: ...


Settings = TypeVar("Settings", bound=WithJson)


def run(
    settings_type: type[Settings],
    work: Callable[[Settings], Report],
    *,
    description: str | None,
    argv: Sequence[str] | None = None,
) -> int:
    """Parses the flags, works and reports -> the exit status: 0 only when all is well.

    With --json standard output is one JSON object and the readable report goes to standard error.
    """
    settings = tyro.cli(settings_type, args=argv, description=description, use_underscores=True)
    try:
        report = work(settings)
    except (ValueError, OSError) as error:
        report = Report("", {}, str(error))
    except KeyboardInterrupt:
        report = Report("", {}, "stopped; the same command goes on")
    if report.text:
        (sys.stderr if settings.json else sys.stdout).write(report.text + "\n")
    if settings.json:
        sys.stdout.write(json.dumps({"ok": not report.problem, "problem": report.problem, **report.values}, indent=2))
        sys.stdout.write("\n")
    sys.stdout.flush()
    if report.problem:
        sys.stderr.write(f"error: {report.problem}\n")
    return 1 if report.problem else 0

"""Start, reports and exit status of the programs in models/."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import tyro


class Report(NamedTuple):
    """The result of a program as text and as JSON values; `problem` is the error message, if any."""

    text: str
    values: dict[str, Any]
    problem: str = ""


class WithJson(Protocol):
    """Settings with the flag --json."""

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
    """Parses the flags, calls `work` and prints its report -> exit status, 0 if there is no problem.

    With --json, stdout gets one JSON object and stderr the text.
    """
    settings = tyro.cli(settings_type, args=argv, description=description, use_underscores=True)
    try:
        report = work(settings)
    except (ValueError, OSError) as error:
        report = Report("", {}, str(error))
    except KeyboardInterrupt:
        report = Report("", {}, "stopped; repeat the command to resume")
    if report.text:
        (sys.stderr if settings.json else sys.stdout).write(report.text + "\n")
    if settings.json:
        content = {"ok": not report.problem, "problem": report.problem, **report.values}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
    sys.stdout.flush()
    if report.problem:
        sys.stderr.write(f"error: {report.problem}\n")
    return 1 if report.problem else 0

"""What the programs of data_prep share: how they start and end."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeVar

import tyro

from VideoMAE.cli import show_messages
from VideoMAE.files import write_text

Settings = TypeVar("Settings")


def run_program(
    run: Callable[[Settings], bool],
    settings_type: type[Settings],
    description: str | None,
    *,
    if_stopped: str = "what was found of the videos is remembered",
) -> int:
    """Parse the flags and run; a reason to stop becomes one sentence -> exit status, 0 only if all is well."""
    show_messages(sys.stdout)
    settings = tyro.cli(settings_type, description=description, use_underscores=True)
    signal.signal(signal.SIGTERM, stop)
    try:
        return 0 if run(settings) else 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write(f"error: stopped; {if_stopped}\n")
    return 1


def stop(signal_number: int, _: FrameType | None) -> None:
    """Let a terminated program clean up as an interrupted one does."""
    raise KeyboardInterrupt(signal_number)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=4) + "\n")


def num_cores() -> int:
    """How many processes can run at the same time."""
    return len(os.sched_getaffinity(0))

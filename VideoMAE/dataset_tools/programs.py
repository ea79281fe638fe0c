"""Functions shared by the programs in data_prep/."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

import tyro

from VideoMAE.cli import show_messages
from VideoMAE.files import write_text

Settings = TypeVar("Settings")
Link = Literal["symbolic", "hard", "copy"]


def run_program(
    run: Callable[[Settings], bool],
    settings_type: type[Settings],
    description: str | None,
    *,
    if_stopped: str = "the results so far are cached and reused",
) -> int:
    """Parses the flags and calls `run`; errors become one line -> exit status, 0 if `run` returned True.

    Args:
        if_stopped: appended to the message when the program is interrupted.
    """
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
    """Handles SIGTERM like Ctrl-C, so that the program cleans up."""
    raise KeyboardInterrupt(signal_number)


def write_new_files(contents: Mapping[Path, str], *, overwrite: bool) -> None:
    """Writes text files; unless `overwrite`, none of them if one exists with other content.

    Raises:
        ValueError: a file exists with other content, or cannot be written.
    """
    changed = {file: text for file, text in contents.items() if not file.exists() or file.read_bytes() != text.encode()}
    existing = [file for file in changed if file.exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} exists with other content; pass --overwrite to replace it")
    for file, text in changed.items():
        write_text(file, text)


def place_video(source: Path, target: Path, *ways: Link) -> None:
    """Puts a video into a dataset folder in the first of these ways that works; a link in the source is resolved.

    Raises:
        ValueError: none works.
    """
    place: dict[str, Callable[[Path, Path], Any]] = {"hard": os.link, "symbolic": os.symlink, "copy": shutil.copy2}
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    for way in ways:
        try:
            place[way](source, target)
            return
        except OSError as error:
            reason = f"{way}: {error.strerror}"
    raise ValueError(f"{source} cannot be placed in {target.parent} ({reason}); choose another kind of link or a copy")


def num_cores() -> int:
    """Number of processor cores available to this process."""
    return len(os.sched_getaffinity(0))


def check_ranges(settings: object, *, at_least_1: Iterable[str] = (), above_0: Iterable[str] = ()) -> None:
    """Raises ValueError, naming the flag and its value, for a setting that is too small; None is allowed."""
    for names, is_allowed, text in (
        (at_least_1, lambda value: value >= 1, "at least 1"),
        (above_0, lambda value: value > 0, "above 0"),
    ):
        for name in names:
            value = getattr(settings, name)
            if value is not None and not is_allowed(value):
                raise ValueError(f"--{name} {value:g}: must be {text}")

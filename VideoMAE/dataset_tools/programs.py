"""Functions shared by the programs in data_prep/."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from VideoMAE.files import write_text

Link = Literal["symbolic", "hard", "copy"]


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

"""Functions shared by the programs in data_prep/."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from VideoMAE.files import write_text

Link = Literal["symbolic", "hard", "copy"]


def write_new_files(contents: Mapping[Path, str], *, overwrite: bool) -> None:
    """Writes text files; unless `overwrite`, none of them if one exists with other content.

    Raises ValueError if a file exists with other content, or cannot be written.
    """
    changed = {file: text for file, text in contents.items() if not file.exists() or file.read_bytes() != text.encode()}
    existing = [file for file in changed if file.exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} exists with other content; pass --overwrite to replace it")
    for file, text in changed.items():
        write_text(file, text)


def place_video(source: Path, target: Path, *ways: Link) -> None:
    """Puts a video into a dataset folder in the first of these ways that works; a link in the source is resolved.

    Raises ValueError if none works.
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


def first_names(names: Sequence[str]) -> str:
    """The first ten names as text, and the number of the others."""
    others = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + others


def num_cores() -> int:
    """Number of processor cores available to this process."""
    return len(os.sched_getaffinity(0))


def check_ranges(settings: object, *, above_0: Iterable[str] = (), **at_least: float) -> None:
    """Raises ValueError, naming the flag and its value, for a setting that is too small; None is allowed."""
    for name, least in (*at_least.items(), *((name, None) for name in above_0)):
        value = getattr(settings, name)
        if value is not None and (value <= 0 if least is None else value < least):
            raise ValueError(f"--{name} {value:g}: must be {'above 0' if least is None else f'at least {least}'}")


def refuse_non_empty(folder: Path) -> None:
    """Raises ValueError unless a folder to create is missing or empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; choose another name, or delete it first")

"""The folder that prepare_videos.py makes: whose it is, what is done in it, and how a copy gets into it.

`prepared.json` has the settings and, in the end, the totals; `prepared_videos.jsonl` a line for each copy, with its
checksum. A copy gets its name before its line, so that what a killed process leaves is at most made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from VideoMAE.dataset_tools.programs import write_json
from VideoMAE.files import clear_leftovers, is_temporary, write_atomically, write_errors_name, write_text
from VideoMAE.runtime.folder_lock import LOCK_NAME, hold_folder
from VideoMAE.video.copy_video import Copied
from VideoMAE.video.reader import VideoInfo

SETTINGS_FILE = "prepared.json"
JOURNAL = "prepared_videos.jsonl"
UNFINISHED = ".unfinished"

Entry = dict[str, Any]


class PreparedFolder:
    """A folder of copies that this process alone works in, until `close`."""

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        """Make the folder, or take it up where it was left.

        Raises ValueError when it is of other settings, nothing of ours, or another process works in it.
        """
        self.root, self.identity = root, identity
        refuse_foreign(root, identity)
        hold_folder(root, remedy="choose another DST")
        refuse_foreign(root, identity)  # another process may have begun it in the meantime
        clear_leftovers(root)
        if not (root / SETTINGS_FILE).is_file():
            self.write_settings(complete=False)
        shutil.rmtree(self.unfinished, ignore_errors=True)
        with write_errors_name(self.unfinished):
            self.unfinished.mkdir(exist_ok=True)  # a process left behind may still write in it
        self.entries: dict[str, Entry] = {}

    @property
    def unfinished(self) -> Path:
        return self.root / UNFINISHED

    def close(self) -> None:
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def write_settings(self, *, complete: bool, **totals: Any) -> None:
        write_json(self.root / SETTINGS_FILE, {**self.identity, "complete": complete, **totals})

    def remember(self, files: Mapping[str, Path]) -> None:
        """Take over what earlier calls did: copies that are there, of sources that have not changed since."""
        found = {entry.get("file"): entry for entry in _lines(self.root / JOURNAL)}
        kept = [found[file] for file, path in files.items() if file in found and self._is_done(found[file], path)]
        self.entries = {entry["file"]: entry for entry in kept}
        write_text(self.root / JOURNAL, "".join(f"{json.dumps(entry)}\n" for entry in kept))

    def _is_done(self, entry: Entry, source: Path) -> bool:
        try:
            if (self.root / entry["file"]).stat().st_size != entry["bytes"]:
                return False
            stamp = source.stat()
        except FileNotFoundError:
            return (self.root / entry["file"]).is_file()  # the source is gone; what it left is whole
        except (KeyError, OSError):
            return False
        return [stamp.st_size, stamp.st_mtime_ns] == [entry.get("source_bytes"), entry.get("source_modified_ns")]

    def take(self, file: str, copied: Copied) -> None:
        """Give a finished copy its name, and remember it."""
        target = self.root / file
        with write_errors_name(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(copied.temporary, target)
        entry = {"file": file, **copied._asdict()}
        del entry["temporary"]
        entry["info"] = copied.info._asdict()
        with write_errors_name(self.root / JOURNAL), (self.root / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry) + "\n")
        self.entries[file] = entry

    def copy_of(self, path: Path) -> None:
        """Copy a small file, byte by byte, unless it is there already."""
        target, content = self.root / path.name, path.read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            write_atomically(target, lambda temporary: temporary.write_bytes(content))

    def infos(self) -> dict[str, VideoInfo]:
        """What each copy holds, on its source's time."""
        return {file: VideoInfo(**entry["info"]) for file, entry in self.entries.items()}


def refuse_foreign(root: Path, identity: Mapping[str, Any]) -> None:
    """Raise ValueError unless a folder is new, empty, or of just these settings."""
    file = root / SETTINGS_FILE
    if file.is_file():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            theirs = {name: content.get(name) for name in identity}
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(f"{file}: cannot be read as this program's ({error}); choose another DST") from error
        if theirs != dict(identity):
            raise ValueError(
                f"{root} was made {_differences(theirs, identity)}; choose another DST, or delete it first"
            )
    elif root.is_dir():
        others = [path.name for path in root.iterdir() if path.name != LOCK_NAME and not is_temporary(path)]
        if others:
            raise ValueError(
                f"{root} holds files that prepare_videos.py did not make ({others[0]}); choose another DST"
            )
    elif root.exists() or root.is_symlink():
        raise ValueError(f"{root} is not a folder; choose another DST")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Where two settings differ: with gop 4, not 8, and crf 21, not 23."""

    def flat(content: Mapping[str, Any]) -> dict[str, Any]:
        return {**content, **(content.get("settings") or {}), "settings": None}

    before, now = flat(theirs), flat(ours)
    different = [name for name in now if before.get(name) != now[name]]
    return " and ".join(f"with {name} {before.get(name)}, not {now[name]}" for name in different)


def _lines(file: Path) -> Iterable[Entry]:
    """The lines of a journal that are whole."""
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry

"""The folder that prepare_videos.py creates, which one process at a time can work in and resume.

`prepared.json` has the settings and, when finished, the totals; `prepared_videos.jsonl` has one line per copy, with its
checksum. A copy is renamed before its line is written, so that after a crash at most one copy is made again.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from VideoMAE import files
from VideoMAE.runtime.folder_lock import LOCK_NAME, hold_folder
from VideoMAE.video.copy_video import Copied

SETTINGS_FILE = "prepared.json"
JOURNAL = "prepared_videos.jsonl"

Entry = dict[str, Any]


class PreparedFolder:
    """A folder of copies, locked by this process until `release_folders`."""

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        """Creates the folder, or resumes it.

        Raises ValueError if it has other settings or foreign files, or another process uses it.
        """
        self.root, self.identity = root, identity
        refuse_foreign(root, identity)
        hold_folder(root, remedy="choose another DST")
        refuse_foreign(root, identity)  # another process may have created it in the meantime
        files.clear_leftovers(root)
        if not (root / SETTINGS_FILE).is_file():
            self.write_settings(complete=False)
        self.unfinished = root / ".unfinished"
        self.remove_unfinished()
        with files.write_errors_name(self.unfinished):
            self.unfinished.mkdir(exist_ok=True)  # an orphaned worker process may still write in it
        self.entries: dict[str, Entry] = {}

    def remove_unfinished(self) -> None:
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def write_settings(self, *, complete: bool, **totals: Any) -> None:
        files.write_json(self.root / SETTINGS_FILE, {**self.identity, "complete": complete, **totals}, indent=4)

    def load_journal(self, sources: Mapping[str, Path]) -> None:
        """Keeps the copies of earlier runs that are complete and whose sources have not changed."""
        found = {entry.get("file"): entry for entry in files.read_complete_json_lines(self.root / JOURNAL)}
        kept = [found[file] for file, path in sources.items() if file in found and self._is_done(found[file], path)]
        self.entries = {entry["file"]: entry for entry in kept}
        files.write_json_lines(self.root / JOURNAL, kept)

    def _is_done(self, entry: Entry, source: Path) -> bool:
        try:
            if (self.root / entry["file"]).stat().st_size != entry["bytes"]:
                return False
            status = source.stat()
        except FileNotFoundError:
            return (self.root / entry["file"]).is_file()  # the source is gone, its copy is complete
        except (KeyError, OSError):
            return False
        return [status.st_size, status.st_mtime_ns] == [entry.get("source_bytes"), entry.get("source_modified_ns")]

    def add(self, file: str, copied: Copied) -> None:
        """Renames a finished copy to its final name and appends it to the journal."""
        target = self.root / file
        with files.write_errors_name(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(copied.temporary, target)
        entry = {"file": file, **copied._asdict(), "info": copied.info._asdict()}
        del entry["temporary"]
        with files.write_errors_name(self.root / JOURNAL), (self.root / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(files.json_line(entry))
        self.entries[file] = entry


def refuse_foreign(root: Path, identity: Mapping[str, Any]) -> None:
    """Raises ValueError unless a folder is new, empty, or has these settings."""
    file = root / SETTINGS_FILE
    if file.is_file():
        try:
            content = files.read_json(file)
        except ValueError as error:
            raise ValueError(f"{error}; choose another DST, or delete it first") from error
        saved = {name: content.get(name) for name in identity}
        if saved != dict(identity):
            raise ValueError(f"{root} was made {_differences(saved, identity)}; choose another DST, or delete it first")
    elif root.is_dir():
        others = [path.name for path in root.iterdir() if path.name != LOCK_NAME and not files.is_temporary(path)]
        if others:
            reason = f"contains files that prepare_videos.py did not make ({others[0]})"
            raise ValueError(f"{root} {reason}; choose another DST")
    elif root.exists() or root.is_symlink():
        raise ValueError(f"{root} is not a folder; choose another DST")


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """The differences between two settings, as "with gop 4, not 8, and with crf 21, not 23"."""
    before, now = ({**content, **(content["settings"] or {}), "settings": None} for content in (saved, current))
    different = [name for name in now if before.get(name) != now[name]]
    return " and ".join(f"with {name} {before.get(name)}, not {now[name]}" for name in different)

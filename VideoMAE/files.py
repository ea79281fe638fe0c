"""Reading and writing of JSON, JSON lines and other files.

Every writer replaces a file atomically: after a crash or a full disk, the file has either its old or its new content.
Readers raise ValueError with the file, the reason and, for JSON lines, the line number.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(file: Path, write: Callable[[Path], object], *, keep_old_as: Path | None = None) -> None:
    """Calls `write(temporary_path)`, then renames the temporary file to `file`; on failure, `file` is unchanged.

    The previous file, if there is one, is moved to `keep_old_as`. Raises ValueError if the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        if keep_old_as is not None and file.is_file():
            os.replace(file, keep_old_as)
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{file}: cannot be written: {_write_failure(error, file)}; its previous content is unchanged"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def write_errors_name(path: Path) -> Iterator[None]:
    """Re-raises an OSError as a ValueError that names the file or folder being written."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {_write_failure(error, path)}") from error


def _write_failure(error: OSError | RuntimeError, path: Path) -> str:
    number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    if number == errno.ENOSPC or (path.parent.is_dir() and shutil.disk_usage(path.parent).free < 2**20):
        return "the disk is full"
    if reason:
        return reason
    if "inline_container" in str(error):  # torch.save does not report the cause
        return "the write was incomplete; check the disk quota and the file size limit"
    return next(iter(str(error).splitlines()), type(error).__name__)


def is_temporary(file: Path) -> bool:
    """Whether this is a temporary file of `write_atomically`."""
    return file.suffix == ".tmp" and file.stem.rpartition(".")[2].isdigit()


def clear_leftovers(folder: Path) -> None:
    """Deletes the temporary files of killed processes. No other process may be writing to the folder."""
    for path in filter(is_temporary, folder.iterdir()):
        path.unlink()


def write_text(file: Path, text: str) -> None:
    """Writes a text file atomically, as UTF-8."""
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(file: Path, content: Any, *, indent: int | None = 2) -> None:
    """Writes a JSON file atomically."""
    write_text(file, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def write_json_lines(file: Path, entries: Iterable[Any]) -> None:
    """Writes a JSON lines file atomically."""
    write_text(file, "".join(map(json_line, entries)))


def json_line(entry: Any) -> str:
    """One entry of a JSON lines file, with its newline."""
    return json.dumps(entry, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def remedy(text: str) -> Iterator[None]:
    """Appends a remedy to the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}; {text}") from error


def read_text(file: Path, *, hint: str = "") -> str:
    """The content of a UTF-8 text file. `hint` is appended to the error for a missing file."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ValueError(f"{file}: no such file" + (f"; {hint}" if hint else "")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read: {error}") from error


def read_json(
    file: Path, *, expect: type = dict, convert: Callable[[dict[str, Any]], Any] | None = None, hint: str = ""
) -> Any:
    """The content of a JSON file, of type `expect`: a dict or a list. `convert` is applied to every object, innermost
    first. Duplicate keys, which the json module accepts, are errors.
    """

    def unique(pairs: list[tuple[str, Any]]) -> Any:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            keys = [key for key, _ in pairs]
            raise KeyError(next(key for number, key in enumerate(keys) if key in keys[:number]))
        return convert(entry) if convert else entry

    text = read_text(file, hint=hint)
    if not text.strip():
        raise ValueError(f"{file}: the file is empty")
    try:
        content = json.loads(text, object_pairs_hook=unique)
    except KeyError as error:
        raise ValueError(f"{file}: an object has the key {error} twice") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(content, expect):
        kinds: dict[Any, str] = {dict: "an object", list: "a list"}
        raise ValueError(f"{file}: expected {kinds[expect]}, found {kinds.get(type(content), 'a single value')}")
    return content


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file; blank lines are ignored."""
    entries = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: not valid JSON: {error}") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{file}, line {number}: expected an object")
        entries.append(entry)
    return entries


def read_complete_json_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a log up to the first line that an interruption or power loss damaged; [] if there is no file."""
    entries = []
    with contextlib.suppress(ValueError):
        for line in file.read_bytes().splitlines() if file.is_file() else []:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                break
            entries.append(entry)
    return entries


def to_jsonable(value: Any) -> Any:
    """The value with arrays as lists, numpy scalars as numbers, paths as strings, and NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return to_jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; renames it to `folder`, replacing an old one, when the block ends without error.

    On an error, the new folder is deleted and the old one is unchanged.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as name:
        partial = Path(name)
        (partial / "new").mkdir()
        yield partial / "new"
        for file in filter(Path.is_file, (partial / "new").iterdir()):
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        if folder.exists():
            shutil.move(folder, partial / "old")
        (partial / "new").rename(folder)


def sha256_of(file: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()

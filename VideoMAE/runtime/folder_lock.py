"""One run at a time in an output folder."""

import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
PATIENCE_SECONDS = 10.0
PATIENCE_AFTER_RESTART_SECONDS = 300.0
"""For a job that Slurm started again: what its last start left on a lost node may take a while to end, and a file
server keeps the locks of a machine that is gone for a minute or two."""

_held: dict[Path, int] = {}  # folder -> file descriptor


def hold_folder(
    folder: Path, *, patience_seconds: float = PATIENCE_SECONDS, instead: str = "choose another --output_dir"
) -> None:
    """Keeps other runs out of a folder until `release_folders` or the end of this process, however it ends.

    Waits for a run that is about to leave. A POSIX lock: children do not inherit it, and the kernel frees it.

    Raises:
        ValueError: another process holds the folder.
    """
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    begin, said = time.monotonic(), False
    while not _try_lock(descriptor, folder):
        waited = time.monotonic() - begin
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        if waited > patience_seconds:
            os.close(descriptor)
            raise ValueError(f"{folder}: {holder} works in it; wait for its end or {instead}")
        if waited > 2 and not said:
            logger.info("%s: %s works in it; waiting up to %g s for its end", folder, holder, patience_seconds)
            said = True
        time.sleep(0.2)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _held[folder] = descriptor


def _try_lock(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        logger.warning("%s: its file system knows no locks; see to it that no second run uses the folder", folder)
    return True


def check_still_held(folder: Path) -> None:
    """Tells a folder that this process holds from one that has taken its place, which may be another run's.

    Raises:
        ValueError: the folder is gone or another one.
    """
    if folder not in _held:
        return
    try:
        same = os.path.samestat(os.stat(folder / LOCK_NAME), os.fstat(_held[folder]))
    except FileNotFoundError:
        same = False
    if not same:
        raise ValueError(f"{folder}: was deleted or replaced while this run worked in it")


def release_folders() -> None:
    """Lets others in."""
    while _held:
        os.close(_held.popitem()[1])

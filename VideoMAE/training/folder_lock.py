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

_held: dict[Path, int] = {}  # folder -> file descriptor


def hold_folder(folder: Path) -> None:
    """Keeps other runs out of a folder until `release_folders` or the end of this process, however it ends.

    Waits a little for a run that is about to leave. A POSIX lock: children do not inherit it, and the kernel frees it.

    Raises:
        ValueError: another process holds the folder.
    """
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _try_lock(descriptor, folder):
        if time.monotonic() > deadline:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise ValueError(f"{folder}: {holder} works in it; wait for its end or choose another --output_dir")
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


def release_folders() -> None:
    """Lets others in."""
    while _held:
        os.close(_held.popitem()[1])

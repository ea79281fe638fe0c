"""Locks output folders, so that each is used by one run at a time."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
WAIT_SECONDS = 10.0
WAIT_AFTER_REQUEUE_SECONDS = 300.0
"""For a job that Slurm requeued: processes on a lost node may take a while to end, and a file server keeps the locks of
a lost node for a minute or two."""

_held: dict[Path, int] = {}  # folder -> file descriptor


def hold_folder(
    folder: Path, *, wait_seconds: float = WAIT_SECONDS, remedy: str = "choose another --output_dir"
) -> None:
    """Locks a folder until `release_folders` or the end of this process; waits for a run that is about to end.

    It is a POSIX lock: child processes do not inherit it, and the kernel releases it when this process ends. Raises
    ValueError if another process holds the folder for longer than `wait_seconds`.
    """
    if folder in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    start, logged = time.monotonic(), False
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                logger.warning("%s: the file system does not support locks; do not start a second run in it", folder)
                break
        waited = time.monotonic() - start
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        if waited > wait_seconds:
            os.close(descriptor)
            raise ValueError(f"{folder}: in use by {holder}; wait until it ends, or {remedy}")
        if waited > 2 and not logged:
            logger.info("%s: in use by %s; waiting up to %g s for it to end", folder, holder, wait_seconds)
            logged = True
        time.sleep(0.2)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    _held[folder] = descriptor


def check_still_held(folder: Path) -> None:
    """Raises ValueError if this process holds the folder and it was deleted or replaced by another one."""
    if folder not in _held:
        return
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(folder / LOCK_NAME), os.fstat(_held[folder])):
            return
    raise ValueError(f"{folder}: was deleted or replaced during the run")


def release_folders() -> None:
    """Releases all locks of this process."""
    while _held:
        os.close(_held.popitem()[1])

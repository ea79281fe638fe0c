"""Probes all files of a dataset in worker processes that can be killed: a hanging decoder affects one file only."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from VideoMAE.files import read_json, write_json
from VideoMAE.video.reader import UnreadableVideoError, VideoInfo, probe

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
MIN_FILES_FOR_PROGRESS_BAR = 200
SECONDS_BETWEEN_SAVES = 60.0
START_LIMIT_SECONDS = 120.0

# Results by id, with the file's version; None if the result may change for the same version: the file was missing, or
# its process hung or died.
CacheEntries = dict[str, tuple[list[Any] | None, VideoInfo | str]]


class VideoCheck(NamedTuple):
    """Infos of the readable videos and reasons for the unreadable ones, by id, in the order of the request."""

    infos: dict[str, VideoInfo]
    unreadable: dict[str, str]


class ProbeResult(NamedTuple):
    """What the function returned for a file, or the reason of its failure, which is not final after an unexpected
    error, a crash or the time limit: the file is tried again next time."""

    video_id: str
    result: Any
    is_final: bool


def check_videos(
    videos: Mapping[str, Path],
    *,
    num_processes: int,
    limit_seconds: float = 30.0,
    cache: Path | None = None,
    frozen: bool = False,
    describe: str = "checking videos",
    probe_function: Callable[[Path], VideoInfo] = probe,
) -> VideoCheck:
    """Probes each file once -> VideoCheck. A file that crashes or hangs the decoder does not stop the others.

    Args:
        num_processes: worker processes; 0 probes in this process, without that protection.
        limit_seconds: see `run_in_processes`; also for `probe_function`.
        cache: JSON file of results, reused for files with the same path, size and modification time.
        frozen: reuse cached results even if a file has changed, so that a resumed run keeps the same videos.
    """
    versions = {video_id: _version(path) for video_id, path in videos.items()}
    entries = _read_cache(cache)
    results = {
        video_id: entries[video_id][1]
        for video_id, version in versions.items()
        if video_id in entries and (frozen or (version is not None and entries[video_id][0] == version))
    }
    tasks = [(video_id, Path(path)) for video_id, path in videos.items() if video_id not in results]
    if num_processes:
        stream = run_in_processes(tasks, min(num_processes, len(tasks)), limit_seconds, probe_function)
    else:
        stream = (_probe_one(video_id, path, probe_function) for video_id, path in tasks)
    is_hidden = True if len(tasks) <= MIN_FILES_FOR_PROGRESS_BAR else None  # None: hidden unless stderr is a terminal
    progress = tqdm(stream, desc=describe, total=len(tasks), unit="video", disable=is_hidden)
    next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
    try:
        for video_id, result, is_final in progress:
            results[video_id] = result
            entries[video_id] = (versions[video_id] if is_final else None, result)
            if cache is not None and time.monotonic() > next_save:  # so that a long check survives a power failure
                _write_cache(cache, entries)
                next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
    finally:
        if cache is not None and tasks:
            _write_cache(cache, entries)
    return VideoCheck(
        {video_id: result for video_id in videos if isinstance(result := results[video_id], VideoInfo)},
        {video_id: result for video_id in videos if isinstance(result := results[video_id], str)},
    )


def _version(path: str | Path) -> list[Any] | None:
    """Identifies the version of a file; None for a file that cannot be read now but may be later."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [str(path), status.st_size, status.st_mtime_ns] if os.access(path, os.R_OK) else None


def _read_cache(cache: Path | None) -> CacheEntries:
    if cache is None or not cache.exists():
        return {}
    try:
        content = read_json(cache)
        videos = content["videos"].items() if content["version"] == CACHE_VERSION else ()
        return {
            video_id: (version, result if isinstance(result, str) else VideoInfo(*result))
            for video_id, (version, result) in videos
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("ignoring the damaged cache %s (%s: %s)", cache, type(error).__name__, error)
        return {}


def _write_cache(cache: Path, entries: CacheEntries) -> None:
    try:
        write_json(cache, {"version": CACHE_VERSION, "videos": entries}, indent=None)
    except ValueError as error:
        logger.warning("%s; the videos will be checked again next time", error)


def _probe_one(video_id: str, path: Path, probe_function: Callable[[Path], Any]) -> ProbeResult:
    try:
        return ProbeResult(video_id, probe_function(path), is_final=True)
    except UnreadableVideoError as error:
        return ProbeResult(video_id, error.reason or str(error), is_final=True)
    except Exception as error:  # decoder bindings may raise anything; one file must not stop the others
        return ProbeResult(video_id, f"{type(error).__name__}: {error}", is_final=False)


class _Worker:
    """A process that probes one file at a time.

    It is not a multiprocessing.Process: "spawn" and "forkserver" import the caller's main module, and with it torch, in
    each process, which takes seconds; "fork" copies the locks of torch's threads.
    """

    def __init__(self, probe_function: Callable[[Path], Any]) -> None:
        self.connection, child_end = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _serve; _serve({child_end.fileno()})"
        with child_end:
            self._process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[child_end.fileno()])
        self.video_id: str | None = None
        self.deadline = time.monotonic() + START_LIMIT_SECONDS
        self.connection.send_bytes(pickle.dumps(probe_function))

    def receive(self, limit_seconds: float) -> ProbeResult | None:
        """The result; None from a process that has just started. A process that died or hung is killed."""
        try:
            if self.connection.poll():
                return self.connection.recv()
            self.kill()
            reason = f"did not answer within {limit_seconds:g} s"
            start_failure = f"did not start within {START_LIMIT_SECONDS:g} s"
        except (EOFError, ConnectionError):
            reason = f"crashed its reader ({self.kill()})"
            start_failure = "could not start; see its error message above"
        if self.video_id is None:
            raise RuntimeError(f"a process that checks videos {start_failure}")
        return ProbeResult(self.video_id, reason, is_final=False)

    def kill(self) -> str:
        """Kills the process unless it has ended -> how it ended."""
        self.connection.close()
        self._process.kill()
        try:
            exit_code = self._process.wait(5)
        except subprocess.TimeoutExpired:  # blocked in the kernel on a dead disk
            return "still running"
        return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


def _serve(file_descriptor: int) -> None:
    """Main function of a worker process: probes the files received through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent process kills this one
    connection = Connection(file_descriptor)
    with suppress(EOFError, ConnectionError):
        probe_function = pickle.loads(connection.recv_bytes())
        connection.send(None)
        while True:
            video_id, path = connection.recv()
            connection.send(_probe_one(video_id, path, probe_function))


def run_in_processes(
    tasks: list[tuple[str, Path]], num_processes: int, limit_seconds: float, probe_function: Callable[[Path], Any]
) -> Generator[ProbeResult, None, None]:
    """Calls a function, importable by name, on every file in worker processes; yields results as they arrive.

    A process that dies, or takes longer than `limit_seconds` for a file, is replaced, and its file fails with a reason.
    A process starts its next file only after its previous result has been consumed.
    """
    waiting = deque(tasks)
    workers: list[_Worker] = []
    try:
        workers += [_Worker(probe_function) for _ in range(num_processes)]
        while workers:
            seconds_left = min(worker.deadline for worker in workers) - time.monotonic()
            ready = wait([worker.connection for worker in workers], max(0.0, seconds_left))
            for index, worker in reversed(list(enumerate(workers))):
                if worker.connection not in ready and worker.deadline > time.monotonic():
                    continue
                if (result := worker.receive(limit_seconds)) is not None:
                    yield result
                if not waiting:
                    workers.pop(index).kill()
                elif worker.connection.closed:
                    workers[index] = _Worker(probe_function)
                else:
                    worker.deadline = time.monotonic() + limit_seconds
                    worker.video_id, path = waiting.popleft()
                    worker.connection.send((worker.video_id, path))
    finally:
        for worker in workers:
            worker.kill()

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

Probe = Callable[[Path], VideoInfo]


class VideoCheck(NamedTuple):
    """Infos of the readable videos and reasons for the unreadable ones, by id, in the order of the request."""

    infos: dict[str, VideoInfo]
    unreadable: dict[str, str]


class _Stamp(NamedTuple):
    """The identity of a version of a file."""

    path: str
    size_bytes: int
    modified_ns: int


class _CacheEntry(NamedTuple):
    """`stamp` is None if the result may change for the same file: it was missing, or its process hung or died."""

    stamp: _Stamp | None
    result: VideoInfo | str


class ProbeResult(NamedTuple):
    """What the function returned for a file, or the reason of its failure.

    `is_final`: the function itself returned or raised; a file whose process died or hung is tried again next time.
    """

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
    probe_function: Probe = probe,
) -> VideoCheck:
    """Probes each file once -> VideoCheck. A file that crashes or hangs the decoder does not stop the others.

    Args:
        num_processes: worker processes; 0 probes in this process, without that protection.
        limit_seconds: a process that takes longer for a file is replaced, and the file counts as unreadable.
        cache: JSON file of results, reused for files with the same path, size and modification time.
        frozen: reuse cached results even if a file has changed, so that a resumed run keeps the same videos.
        describe: label of the progress bar.
        probe_function: must be importable by name.
    """
    stamps = {video_id: _stamp(path) for video_id, path in videos.items()}
    entries = _read_cache(cache)
    results = {
        i: entries[i].result
        for i, stamp in stamps.items()
        if i in entries and (frozen or (stamp is not None and entries[i].stamp == stamp))
    }
    tasks = [(video_id, Path(path)) for video_id, path in videos.items() if video_id not in results]
    if num_processes:
        stream = run_in_processes(tasks, min(num_processes, len(tasks)), limit_seconds, probe_function)
    else:
        stream = (_probe_one(video_id, path, probe_function) for video_id, path in tasks)
    is_hidden = True if len(tasks) <= MIN_FILES_FOR_PROGRESS_BAR else None  # None: hidden unless stderr is a terminal
    next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
    try:
        for probed in tqdm(stream, desc=describe, total=len(tasks), unit="video", disable=is_hidden):
            results[probed.video_id] = probed.result
            entries[probed.video_id] = _CacheEntry(stamps[probed.video_id] if probed.is_final else None, probed.result)
            if cache is not None and time.monotonic() > next_save:  # so that a long check survives a power failure
                _write_cache(cache, entries)
                next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
    finally:
        if cache is not None and tasks:
            _write_cache(cache, entries)
    ordered = {video_id: results[video_id] for video_id in videos}
    return VideoCheck(
        infos={video_id: result for video_id, result in ordered.items() if isinstance(result, VideoInfo)},
        unreadable={video_id: result for video_id, result in ordered.items() if isinstance(result, str)},
    )


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
        self.task: tuple[str, Path] | None = None
        self.deadline = time.monotonic() + START_LIMIT_SECONDS
        self.connection.send_bytes(pickle.dumps(probe_function))

    def submit(self, task: tuple[str, Path], limit_seconds: float) -> None:
        self.task, self.deadline = task, time.monotonic() + limit_seconds
        self.connection.send(task)

    def receive(self) -> tuple[ProbeResult | None, bool]:
        """The result (None from a process that has just started), and whether the process is alive."""
        try:
            return self.connection.recv(), True
        except (EOFError, ConnectionError) as error:
            if self.task is None:
                raise RuntimeError(
                    "a process that checks videos could not start; see its error message above"
                ) from error
            return self.fail(f"crashed its reader ({self.kill()})"), False

    def fail(self, reason: str) -> ProbeResult:
        """Kills the process -> the failure of its current file."""
        if self.task is None:
            raise RuntimeError(f"a process that checks videos did not start within {START_LIMIT_SECONDS:g} s")
        self.kill()
        return ProbeResult(self.task[0], reason, is_final=False)

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
    try:
        probe_function = pickle.loads(connection.recv_bytes())
        connection.send(None)
        while True:
            video_id, path = connection.recv()
            connection.send(_probe_one(video_id, path, probe_function))
    except (EOFError, ConnectionError):
        pass


def run_in_processes(
    tasks: list[tuple[str, Path]], num_processes: int, limit_seconds: float, probe_function: Callable[[Path], Any]
) -> Generator[ProbeResult, None, None]:
    """Calls a function, importable by name, on every file in worker processes; yields results as they arrive.

    A process that hangs or dies is replaced, and its file fails with a reason. A process starts its next file only
    after its previous result has been consumed.
    """
    waiting = deque(tasks)
    workers: list[_Worker] = []
    try:
        workers += [_Worker(probe_function) for _ in range(num_processes)]
        while workers:
            seconds_left = min(worker.deadline for worker in workers) - time.monotonic()
            ready = wait([worker.connection for worker in workers], max(0.0, seconds_left))
            for index, worker in reversed(list(enumerate(workers))):
                if worker.connection in ready:
                    result, is_alive = worker.receive()
                elif worker.deadline <= time.monotonic():
                    result, is_alive = worker.fail(f"did not answer within {limit_seconds:g} s"), False
                else:
                    continue
                if result is not None:
                    yield result
                if not is_alive and waiting:
                    workers[index] = _Worker(probe_function)
                elif is_alive and waiting:
                    worker.submit(waiting.popleft(), limit_seconds)
                else:
                    workers.pop(index).kill()
    finally:
        for worker in workers:
            worker.kill()


def _stamp(path: str | Path) -> _Stamp | None:
    """The version of a file; None for a file that cannot be read now but may be later."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _Stamp(str(path), status.st_size, status.st_mtime_ns) if os.access(path, os.R_OK) else None


def _read_cache(cache: Path | None) -> dict[str, _CacheEntry]:
    if cache is None or not cache.exists():
        return {}
    try:
        content = read_json(cache)
        if content["version"] != CACHE_VERSION:
            return {}
        return {
            video_id: _CacheEntry(
                _Stamp(*stamp) if stamp else None, result if isinstance(result, str) else VideoInfo(*result)
            )
            for video_id, (stamp, result) in content["videos"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("ignoring the damaged cache %s (%s: %s)", cache, type(error).__name__, error)
        return {}


def _write_cache(cache: Path, entries: dict[str, _CacheEntry]) -> None:
    try:
        write_json(cache, {"version": CACHE_VERSION, "videos": entries}, indent=None)
    except ValueError as error:
        logger.warning("%s; the videos will be checked again next time", error)

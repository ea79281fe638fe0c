"""Probing every file of a dataset beforehand, in processes that can be killed: a hanging decoder costs one file."""

from __future__ import annotations

import contextlib
import json
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

from VideoMAE.video.reader import UnreadableVideoError, VideoInfo, probe

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
MIN_FILES_FOR_PROGRESS_BAR = 200
SECONDS_BETWEEN_SAVES = 60.0
START_LIMIT_SECONDS = 120.0

Probe = Callable[[Path], VideoInfo]


class VideoCheck(NamedTuple):
    """Infos of the readable videos and reasons for the unreadable ones, by id and in the order asked for."""

    infos: dict[str, VideoInfo]
    unreadable: dict[str, str]


class _Stamp(NamedTuple):
    path: str
    size_bytes: int
    modified_ns: int


class _Remembered(NamedTuple):
    """`stamp` is None where the answer says nothing of the file itself: it was missing, or its reader hung or died."""

    stamp: _Stamp | None
    result: VideoInfo | str


class Answer(NamedTuple):
    """What the function said of a file, or why it said nothing, in a text. `is_final`: said by the function; a file at
    which the process died or hung is tried again the next time."""

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
    """Probe each file once -> VideoCheck; no file, whatever it does to the decoder, stops the check of the others.

    A process that gives no answer within `limit_seconds`, or dies, is replaced and its file counted as unreadable.
    `num_processes=0` probes in this process, without that protection. `cache` is a JSON file that remembers answers for
    files of unchanged path, size and modification time; `frozen` takes its answers whatever has become of the files,
    so that a run that goes on has the videos that it began with. `probe_function` must be importable by name.
    """
    stamps = {video_id: _stamp(path) for video_id, path in videos.items()}
    remembered = _read_cache(cache)
    answers = {
        i: remembered[i].result
        for i, stamp in stamps.items()
        if i in remembered and (frozen or (stamp is not None and remembered[i].stamp == stamp))
    }
    tasks = [(video_id, Path(path)) for video_id, path in videos.items() if video_id not in answers]
    if num_processes:
        stream = answers_of_processes(tasks, min(num_processes, len(tasks)), limit_seconds, probe_function)
    else:
        stream = (_probe_one(video_id, path, probe_function) for video_id, path in tasks)
    is_hidden = True if len(tasks) <= MIN_FILES_FOR_PROGRESS_BAR else None  # None: hidden unless stderr is a terminal
    next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
    try:
        for answer in tqdm(stream, desc=describe, total=len(tasks), unit="video", disable=is_hidden):
            answers[answer.video_id] = answer.result
            stamp = stamps[answer.video_id] if answer.is_final else None
            remembered[answer.video_id] = _Remembered(stamp, answer.result)
            if cache is not None and time.monotonic() > next_save:  # a check of days survives a power cut
                _write_cache(cache, remembered)
                next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
    finally:
        if cache is not None and tasks:
            _write_cache(cache, remembered)
    results = {video_id: answers[video_id] for video_id in videos}
    return VideoCheck(
        infos={video_id: result for video_id, result in results.items() if isinstance(result, VideoInfo)},
        unreadable={video_id: result for video_id, result in results.items() if isinstance(result, str)},
    )


def _probe_one(video_id: str, path: Path, probe_function: Callable[[Path], Any]) -> Answer:
    try:
        return Answer(video_id, probe_function(path), is_final=True)
    except UnreadableVideoError as error:
        return Answer(video_id, error.reason or str(error), is_final=True)
    except Exception as error:  # a decoder's bindings may raise anything, and one file must not stop the others
        return Answer(video_id, f"{type(error).__name__}: {error}", is_final=False)


class _Worker:
    """A process that probes one file at a time.

    Not multiprocessing's: "spawn" and "forkserver" import the caller's main module, and with it torch, in each process
    (seconds), and "fork" copies the locks of torch's threads.
    """

    def __init__(self, probe_function: Callable[[Path], Any]) -> None:
        self.connection, childs_end = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _serve; _serve({childs_end.fileno()})"
        with childs_end:
            self._process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[childs_end.fileno()])
        self.task: tuple[str, Path] | None = None
        self.deadline = time.monotonic() + START_LIMIT_SECONDS
        self.connection.send_bytes(pickle.dumps(probe_function))

    def give(self, task: tuple[str, Path], limit_seconds: float) -> None:
        self.task, self.deadline = task, time.monotonic() + limit_seconds
        self.connection.send(task)

    def receive(self) -> tuple[Answer | None, bool]:
        """The answer (None from a process that has just started), and whether the process lives on."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            if self.task is None:
                raise RuntimeError(
                    "a process that checks videos could not start; its own message stands above"
                ) from error
            return self.give_up(f"crashed its reader ({self.kill()})"), False
        return answer, True

    def give_up(self, what_happened: str) -> Answer:
        if self.task is None:
            raise RuntimeError(f"a process that checks videos did not start within {START_LIMIT_SECONDS:g} s")
        self.kill()
        return Answer(self.task[0], what_happened, is_final=False)

    def kill(self) -> str:
        """End the process, if it has not ended -> how it ended, in words."""
        self.connection.close()
        self._process.kill()
        try:
            exit_code = self._process.wait(5)
        except subprocess.TimeoutExpired:  # stuck in the kernel on a dead disk: leave it behind
            return "still stuck"
        return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


def _serve(file_descriptor: int) -> None:
    """Main function of a worker process: probe the files that come through the pipe until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent process ends this one
    connection = Connection(file_descriptor)
    try:
        probe_function = pickle.loads(connection.recv_bytes())
        connection.send(None)
        while True:
            video_id, path = connection.recv()
            connection.send(_probe_one(video_id, path, probe_function))
    except (EOFError, ConnectionError):
        pass


def answers_of_processes(
    tasks: list[tuple[str, Path]], num_processes: int, limit_seconds: float, probe_function: Callable[[Path], Any]
) -> Generator[Answer, None, None]:
    """What the function, importable by name, says of each file, in the order in which it is done; a process goes on
    only after its answer was taken. One that hangs or dies is replaced, and its file answered for by a reason."""
    waiting = deque(tasks)
    workers: list[_Worker] = []
    try:
        workers += [_Worker(probe_function) for _ in range(num_processes)]
        while workers:
            seconds_left = min(worker.deadline for worker in workers) - time.monotonic()
            answered = wait([worker.connection for worker in workers], max(0.0, seconds_left))
            for place, worker in reversed(list(enumerate(workers))):
                if worker.connection in answered:
                    answer, is_alive = worker.receive()
                elif worker.deadline <= time.monotonic():
                    answer, is_alive = worker.give_up(f"did not answer within {limit_seconds:g} s"), False
                else:
                    continue
                if answer is not None:
                    yield answer
                if not is_alive and waiting:
                    workers[place] = _Worker(probe_function)
                elif is_alive and waiting:
                    worker.give(waiting.popleft(), limit_seconds)
                else:
                    workers.pop(place).kill()
    finally:
        for worker in workers:
            worker.kill()


def _stamp(path: str | Path) -> _Stamp | None:
    """What tells whether a file has changed; None for a file that cannot be read now but may be later."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _Stamp(str(path), status.st_size, status.st_mtime_ns) if os.access(path, os.R_OK) else None


def _read_cache(cache: Path | None) -> dict[str, _Remembered]:
    if cache is None or not cache.exists():
        return {}
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        if content["version"] != CACHE_VERSION:
            return {}
        return {
            video_id: _Remembered(
                _Stamp(*stamp) if stamp else None, result if isinstance(result, str) else VideoInfo(*result)
            )
            for video_id, (stamp, result) in content["videos"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("ignoring the damaged cache %s (%s: %s)", cache, type(error).__name__, error)
        return {}


def _write_cache(cache: Path, remembered: dict[str, _Remembered]) -> None:
    """Replace the file in one step, so that a process stopped halfway leaves the old one; failing is worth a
    warning."""
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"version": CACHE_VERSION, "videos": remembered}), encoding="utf-8")
        os.replace(temporary, cache)
    except OSError as error:
        logger.warning("%s: cannot be written, so the videos will be checked again: %s", cache, error)
        with contextlib.suppress(OSError):
            temporary.unlink()

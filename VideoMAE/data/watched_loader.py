"""A DataLoader that a hanging decoder or a dying worker cannot stop: it names the video and the worker, and goes on.

Samples depend on their key alone (see vce.SampleKey), so that batches fetched anew after a restart are the same.
"""

import ctypes
import logging
import multiprocessing
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from VideoMAE.video.reader import UnreadableVideoError

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 1.0
DYING_SECONDS = 2.0
MAX_DEATHS_IN_A_ROW = 3
PATH_BYTES = 4096  # the longest path that Linux opens


class _Desk(ctypes.Structure):
    """What one worker does now; it writes, the main process reads. `turn` is odd while the worker is at `path`, even
    between videos."""

    _fields_ = (("turn", ctypes.c_uint64), ("path", ctypes.c_char * PATH_BYTES))


class WatchedClips:
    """Makes clips as `make_clips` does, telling the main process which video this worker is at.

    A video in `given_up` (path -> reason) is unreadable without being touched again.
    """

    def __init__(self, make_clips: Callable[[Path, np.random.Generator], Tensor], num_workers: int) -> None:
        self.make_clips = make_clips
        self.desks = multiprocessing.RawArray(_Desk, num_workers)
        self.given_up: dict[str, str] = {}

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        if str(path) in self.given_up:
            raise UnreadableVideoError(path, self.given_up[str(path)])
        worker = get_worker_info()
        assert worker is not None, "watched clips are made by the loader's workers"
        desk = self.desks[worker.id]
        desk.path = str(path).encode()[: PATH_BYTES - 1]
        desk.turn += 1
        try:
            return self.make_clips(path, rng)
        finally:
            desk.turn += 1

    def at(self, worker: int) -> tuple[str, int]:
        """The video that a worker is at, "" between videos, and a number that changes whenever that does."""
        desk = self.desks[worker]
        turn = desk.turn
        return (desk.path.decode(errors="replace") if turn % 2 else "", turn)


class _Shared:
    """Makes a batch, in shared memory. Otherwise torch puts it there in a thread of the worker, where a full /dev/shm
    loses the batch and the main process waits for ever."""

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, samples: Any) -> Any:
        batch = self.collate_fn(samples)
        for field in batch:
            if isinstance(field, Tensor):
                field.share_memory_()
        return batch


class Failure(NamedTuple):
    """A worker that hung or died: at which video ("" for none), and what happened in words."""

    worker: int
    video: str
    reason: str
    hung: bool


class _Rest(Sampler[Any]):
    """The batches that are still to come."""

    def __init__(self) -> None:
        self.batches: Sequence[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class WatchedLoader:
    """Batches of `dataset[key] for key in batch`, for each batch of keys that `sampler` yields, in that order.

    A worker that stays at one video while `decode_seconds` are waited is ended and the video counts as unreadable; so
    does a video at which a worker dies for the second time. A worker that owes the batch that is due and stands still
    between videos is ended too. All is said, and the loader starts anew at the batch that is due. Only time spent
    waiting counts, so that a run that is frozen for a while as a whole gives up nothing. Without workers videos are
    read in this process, and nothing watches over it. The dataset has `make_clips`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: Sampler[Any],
        *,
        num_workers: int,
        pin_memory: bool,
        collate_fn: Callable[[Any], Any],
        decode_seconds: float,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.num_workers, self.pin_memory, self.collate_fn = num_workers, pin_memory, collate_fn
        self.decode_seconds = decode_seconds
        self._rest = _Rest()
        self._died_at: set[str] = set()
        self._deaths_in_a_row = 0
        self._waited: dict[int, tuple[int, int]] = {}  # worker -> its turn, how many looks ago that began
        if num_workers:
            self._clips = dataset.make_clips = WatchedClips(dataset.make_clips, num_workers)  # type: ignore[attr-defined]
        self._loader = self._make()

    def _make(self) -> DataLoader[Any]:
        return DataLoader(
            self.dataset,
            batch_sampler=self._rest,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=_Shared(self.collate_fn) if self.num_workers else self.collate_fn,
            worker_init_fn=settle_worker,
            persistent_workers=self.num_workers > 0,
            timeout=self._look_every_seconds if self.num_workers else 0,
            multiprocessing_context="fork" if self.num_workers else None,  # Python 3.14's default imports torch anew
        )

    @property
    def _look_every_seconds(self) -> float:
        return min(LOOK_EVERY_SECONDS, self.decode_seconds / 2)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """Raises ValueError when workers keep dying, or shared memory is full."""
        batches, done = list(self.sampler), 0
        while done < len(batches):
            self._rest.batches = batches[done:]
            for batch in self._until_failure():
                done += 1
                self._deaths_in_a_row = 0
                yield batch

    def _until_failure(self) -> Iterator[Any]:
        """The remaining batches; ends early when a worker had to be given up, with a loader that can start anew."""
        iterator = iter(self._loader)
        if self.num_workers:
            # torch's handler would raise in the middle of whatever the main process does when a worker dies.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            try:
                with self._ending_frozen_workers(iterator):
                    batch = next(iterator)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # the latter two: a batch whose worker is just dying
                if not self.num_workers:
                    raise
                _raise_if_memory_is_full(error)
                timed_out = "timed out" in str(error)
                failures = self._hung(iterator) if timed_out else []
                failures += self._dead(iterator, within_seconds=0 if timed_out else DYING_SECONDS)
                if timed_out and not failures:
                    continue
                if not failures:
                    raise
                self._waited.clear()
                self._start_anew(iterator, failures)
                return
            yield batch

    @contextmanager
    def _ending_frozen_workers(self, iterator: Any) -> Iterator[None]:
        """Kills the workers when a batch that is announced does not come: torch fetches its memory from the worker
        without a limit, and a worker that is stopped as a whole never answers."""
        if not self.num_workers:
            yield
            return

        workers = iterator._workers  # not the iterator, whose end would wait for the timer's thread

        def kill() -> None:
            for process in workers:
                process.kill()

        timer = threading.Timer(self._look_every_seconds + self.decode_seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _dead(self, iterator: Any, *, within_seconds: float) -> list[Failure]:
        """The workers that died; waits that long for one that may be about to."""
        deadline = time.monotonic() + within_seconds
        while all(process.is_alive() for process in iterator._workers) and time.monotonic() < deadline:
            time.sleep(0.01)
        return [
            Failure(number, self._clips.at(number)[0], f"died ({_describe_exit(process.exitcode)})", hung=False)
            for number, process in enumerate(iterator._workers)
            if not process.is_alive()
        ]

    def _hung(self, iterator: Any) -> list[Failure]:
        """The workers that have been at the same video, or owe the batch that is due and have been at none, at every
        look for `decode_seconds`."""
        owing = iterator._task_info[iterator._rcvd_idx][0]
        found = []
        for number, process in enumerate(iterator._workers):
            video, turn = self._clips.at(number)
            before, looks = self._waited.get(number, (turn, -1))
            looks = looks + 1 if turn == before else 0
            self._waited[number] = (turn, looks)
            patient = looks * self._look_every_seconds < self.decode_seconds
            if process.is_alive() and not patient and (video or number == owing):
                found.append(Failure(number, video, f"did not answer within {self.decode_seconds:g} s", hung=True))
        return found

    def _start_anew(self, iterator: Any, failures: Sequence[Failure]) -> None:
        """Ends the workers, gives up what is to be given up, and makes a new loader."""
        for failure in failures:
            where = f" at {failure.video}" if failure.video else ""
            level = logging.INFO if "signal 15" in failure.reason else logging.WARNING  # 15: the whole run is to stop
            logger.log(level, "data loader: worker %d%s %s; it starts anew", failure.worker, where, failure.reason)
            if failure.video and (failure.hung or failure.video in self._died_at):
                self._clips.given_up[failure.video] = f"the reader {failure.reason}"
            self._died_at.add(failure.video)
            iterator._workers[failure.worker].kill()
        self._deaths_in_a_row += any(not failure.hung for failure in failures)
        if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
            raise ValueError(
                f"the data loader's workers died {self._deaths_in_a_row} times without a batch in between; the last "
                f"{failures[-1].reason}, with {_free_shared_memory()}"
            )
        iterator._shutdown_workers()
        for number in range(self.num_workers):
            self._clips.desks[number].turn = 0
        self._loader = self._make()


def settle_worker(worker_id: int = 0) -> None:
    """One thread for torch and OpenCV, since workers are the parallelism; signals are the main process's business.

    SIGTERM ends a worker, since that is how Python ends those that are left at its exit.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _describe_exit(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    hint = {signal.SIGKILL: ", out of memory?", signal.SIGBUS: ", no room in /dev/shm?"}.get(signal.Signals(-code), "")
    return f"signal {-code}{hint}"


def _free_shared_memory() -> str:
    try:
        return f"{shutil.disk_usage('/dev/shm').free / 2**20:.0f} MiB free in /dev/shm"
    except OSError:
        return "no /dev/shm"


def _raise_if_memory_is_full(error: Exception) -> None:
    """A worker that finds no room for a batch says so in a traceback; this says it in a sentence."""
    if "No space left on device" in str(error) or "insufficient shared memory" in str(error):
        raise ValueError(
            f"no room for a batch in shared memory ({_free_shared_memory()}); "
            "enlarge /dev/shm or pass a smaller --num_workers or --batch_size"
        ) from error

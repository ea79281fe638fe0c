"""A DataLoader that continues after a decoder hangs or a worker dies: it replaces the workers and logs the video.

Samples depend only on their key (see clips.SampleKey), so batches are the same when they are loaded again.
"""

import ctypes
import logging
import multiprocessing
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from VideoMAE.video.reader import UnreadableVideoError

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
DYING_SECONDS = 2.0
MAX_CONSECUTIVE_DEATHS = 3
PATH_BYTES = 4096  # longest path on Linux

Failure = tuple[int, str, str, bool]  # worker, the video that it was reading ("" for none), reason, whether it hung


class TrackedClips:
    """Calls `make_clips` and records the video that each worker is reading, in memory shared with the main process.

    A video in `unreadable` (path -> reason) is not read again.
    """

    def __init__(self, make_clips: Callable[[Path, np.random.Generator], Tensor], num_workers: int) -> None:
        self.make_clips = make_clips
        self.paths = multiprocessing.RawArray(ctypes.c_char * PATH_BYTES, num_workers)
        self.counters = multiprocessing.RawArray(ctypes.c_uint64, num_workers)  # odd while a worker reads its path
        self.unreadable: dict[str, str] = {}

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        if str(path) in self.unreadable:
            raise UnreadableVideoError(path, self.unreadable[str(path)])
        worker = get_worker_info()
        assert worker is not None, "only the loader's workers make tracked clips"
        self.paths[worker.id].value = str(path).encode()[: PATH_BYTES - 1]
        self.counters[worker.id] += 1
        try:
            return self.make_clips(path, rng)
        finally:
            self.counters[worker.id] += 1


def _collate_in_shared_memory(samples: Any, *, collate_fn: Callable[[Any], Any]) -> Any:
    """Collates a batch and moves it to shared memory.

    Otherwise torch does so in a thread of the worker, where a full /dev/shm loses the batch and the main process
    blocks.
    """
    batch = collate_fn(samples)
    for field in batch:
        if isinstance(field, Tensor):
            field.share_memory_()
    return batch


class WatchedLoader:
    """Loads the batches of keys that `sampler` yields, in order, with time limits.

    A worker that reads one video for longer than `decode_seconds` is killed, and the video counts as unreadable; so
    does a video on which workers die twice. A worker that is due to deliver the next batch and makes no progress
    between videos is also killed. Each failure is logged, and new workers continue with the next batch. Only the time
    that the main process spends waiting counts, so suspending the whole run has no effect. Without workers, this
    process reads the videos without a time limit. The attribute `make_clips` of the dataset is replaced.
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
        self._poll_seconds = min(POLL_SECONDS, decode_seconds / 2)
        self._remaining_batches: list[Any] = []  # of keys; the loader's batch sampler
        self._died_at: set[str] = set()
        self._consecutive_deaths = 0
        self._stalled: dict[int, tuple[int, int]] = {}  # worker -> its counter, number of polls without a change
        if num_workers:
            self._clips = dataset.make_clips = TrackedClips(dataset.make_clips, num_workers)  # type: ignore[attr-defined]
        self._loader = self._make_loader()

    def _make_loader(self) -> DataLoader[Any]:
        collate_fn = partial(_collate_in_shared_memory, collate_fn=self.collate_fn)
        return DataLoader(
            self.dataset,
            batch_sampler=self._remaining_batches,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=collate_fn if self.num_workers else self.collate_fn,
            worker_init_fn=init_worker,
            persistent_workers=self.num_workers > 0,
            timeout=self._poll_seconds if self.num_workers else 0,
            multiprocessing_context="fork" if self.num_workers else None,  # Python 3.14's default re-imports torch
        )

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """Raises ValueError if workers keep dying or shared memory is full."""
        batches, num_loaded = list(self.sampler), 0
        while num_loaded < len(batches):
            self._remaining_batches[:] = batches[num_loaded:]
            for batch in self._load_until_failure():
                num_loaded += 1
                self._consecutive_deaths = 0
                yield batch

    def _load_until_failure(self) -> Iterator[Any]:
        """The remaining batches, up to the failure of a worker; the workers are then replaced."""
        iterator = iter(self._loader)
        if self.num_workers:
            # torch's handler would raise at an arbitrary place in the main process when a worker dies.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        while True:
            try:
                batch = self._next_batch(iterator)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # the latter two: a worker died while sending a batch
                if not self.num_workers:
                    raise
                if "No space left on device" in str(error) or "insufficient shared memory" in str(error):
                    raise ValueError(
                        f"shared memory is full ({_free_shared_memory()}); "
                        "enlarge /dev/shm or pass a smaller --num_workers or --batch_size"
                    ) from error
                timed_out = "timed out" in str(error)
                failures = self._failures(iterator, timed_out=timed_out)
                if timed_out and not failures:
                    continue
                if not failures:
                    raise
                self._restart(iterator, failures)
                return
            yield batch

    def _next_batch(self, iterator: Any) -> Any:
        """The next batch; kills the workers if a batch that was announced does not arrive.

        torch fetches its memory from the worker without a time limit, and a suspended worker does not respond.
        """
        if not self.num_workers:
            return next(iterator)
        workers = iterator._workers  # not `iterator`: the timer's thread would keep it alive

        def kill() -> None:
            for process in workers:
                process.kill()

        timer = threading.Timer(self._poll_seconds + self.decode_seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            return next(iterator)
        finally:
            timer.cancel()

    def _failures(self, iterator: Any, *, timed_out: bool) -> list[Failure]:
        """The workers that died; after a timeout also those without progress for `decode_seconds`, while reading a
        video or due to deliver the next batch."""
        deadline = time.monotonic() + (0 if timed_out else DYING_SECONDS)
        while all(process.is_alive() for process in iterator._workers) and time.monotonic() < deadline:
            time.sleep(0.01)
        failures: list[Failure] = []
        for number, process in enumerate(iterator._workers):
            counter = self._clips.counters[number]
            video = self._clips.paths[number].value.decode(errors="replace") if counter % 2 else ""
            if not process.is_alive():
                code = process.exitcode
                hint = {-signal.SIGKILL: ", out of memory?", -signal.SIGBUS: ", /dev/shm full?"}.get(code, "")
                how = f"exit status {code}" if code >= 0 else f"signal {-code}{hint}"
                failures.append((number, video, f"died ({how})", False))
            elif timed_out:
                previous, polls = self._stalled.get(number, (counter, -1))
                polls = polls + 1 if counter == previous else 0
                self._stalled[number] = (counter, polls)
                is_due = video or number == iterator._task_info[iterator._rcvd_idx][0]
                if polls * self._poll_seconds >= self.decode_seconds and is_due:
                    failures.append((number, video, f"did not answer within {self.decode_seconds:g} s", True))
        return failures

    def _restart(self, iterator: Any, failures: Sequence[Failure]) -> None:
        """Logs the failures, marks videos as unreadable, and replaces all workers."""
        for number, video, reason, hung in failures:
            activity = f", reading {video}" if video else ""
            level = logging.INFO if "signal 15" in reason else logging.WARNING  # 15: the run is being stopped
            logger.log(level, "data loader: worker %d%s: %s; restarting the workers", number, activity, reason)
            if video and (hung or video in self._died_at):
                self._clips.unreadable[video] = f"the reader {reason}"
            self._died_at.add(video)
            iterator._workers[number].kill()
        deaths = [reason for _, _, reason, hung in failures if not hung]
        self._consecutive_deaths += bool(deaths)
        if self._consecutive_deaths > MAX_CONSECUTIVE_DEATHS:
            raise ValueError(
                f"the data loader's workers died {self._consecutive_deaths} times in a row; the last one "
                f"{deaths[-1]}, with {_free_shared_memory()}"
            )
        iterator._shutdown_workers()
        self._stalled.clear()
        self._clips.counters[:] = [0] * self.num_workers
        self._loader = self._make_loader()


def init_worker(worker_id: int = 0) -> None:
    """Limits torch and OpenCV to one thread per worker, and ignores SIGINT and SIGUSR1.

    The main process handles these signals. SIGTERM ends a worker: Python sends it to remaining workers at exit.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _free_shared_memory() -> str:
    try:
        return f"{shutil.disk_usage('/dev/shm').free / 2**20:.0f} MiB free in /dev/shm"
    except OSError:
        return "no /dev/shm"

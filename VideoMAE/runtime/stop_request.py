"""Signals that ask a run to stop: SIGTERM, SIGUSR1 (Slurm's warning before the time limit) and Ctrl-C.

Inside `deferred`, a signal is only recorded, and the training loop stops at the end of a step. Elsewhere, it ends the
program immediately, because there is nothing to save.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from VideoMAE.runtime.launch_environment import is_child_of_torchrun

REQUEUE_STATUS = 75
"""Exit status of a run that has saved and can be resumed (EX_TEMPFAIL); the sbatch files requeue the job."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class InterruptedRunError(Exception):
    """The run stopped on request, after saving; the message describes what was saved."""


class StopRequest:
    """Whether this process was asked to stop, by which signal, and when."""

    def __init__(self) -> None:
        self.signal_name = ""
        self._received_at = 0.0
        self._is_deferred = False

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals, and restores the previous handlers at the end."""
        self.signal_name = ""
        previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def seconds_ago(self) -> float:
        """Time since the signal; 0 if there was none."""
        return time.monotonic() - self._received_at if self else 0.0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Records signals; the caller checks for them and raises InterruptedRunError."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self:  # already stopping: a launcher repeats the signal once the first process has ended
            return
        self.signal_name, self._received_at = signal.Signals(number).name, time.monotonic()
        if not self._is_deferred:
            raise InterruptedRunError(f"{self.signal_name}: stopped before there was anything to save")


stop_request = StopRequest()
"""The stop request of this process."""


def end_with_launcher() -> None:
    """Makes the kernel send SIGTERM to this process when its torchrun or slurmstepd ends.

    Otherwise an orphaned process would continue unnoticed and keep the output folder locked.
    """
    if sys.platform != "linux":
        return
    launcher, program = os.getppid(), ""
    with suppress(OSError):  # it may not be visible in /proc
        program = Path(f"/proc/{launcher}/comm").read_text().strip()
    if is_child_of_torchrun(os.environ) or program == "slurmstepd":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)

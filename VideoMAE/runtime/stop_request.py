"""Signals that ask a run to stop: SIGTERM, SIGUSR1 (Slurm's warning before the time limit) and Ctrl-C.

Between `deferred` and its end a signal is only noted, for the loop to see at the end of a step; elsewhere, where
nothing would be lost, it ends the program at once.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from VideoMAE.runtime.launch_environment import is_child_of_torchrun

REQUEUE_STATUS = 75
"""Exit status of a run that saved and wants to be started again (EX_TEMPFAIL); the sbatch files requeue on it."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class InterruptedRunError(Exception):
    """The run was asked to stop and has saved what there was to save; the text says what."""


class StopRequest:
    """Whether, by which signal and when this process was asked to stop."""

    def __init__(self) -> None:
        self.signal_name = ""
        self._asked_at = 0.0
        self._is_deferred = False

    def __bool__(self) -> bool:
        return bool(self.signal_name)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over; gives them back at the end."""
        self.signal_name = ""
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def seconds_ago(self) -> float:
        """Time since the signal came; 0 when none did."""
        return time.monotonic() - self._asked_at if self else 0.0

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals are noted in here, and whoever is in here looks and raises InterruptedRunError."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self:  # already stopping: a launcher repeats the signal once the first process has ended
            return
        self.signal_name, self._asked_at = signal.Signals(number).name, time.monotonic()
        if not self._is_deferred:
            raise InterruptedRunError(f"{self.signal_name}: stopped before there was anything to save")


stop_request = StopRequest()
"""The one of this process: signals belong to a process."""


def end_with_launcher() -> None:
    """Asks the kernel for a SIGTERM when torchrun or the slurmstepd of srun's tasks ends, however it ends, so that its
    processes are never left alone: nobody would know of them, and they would hold the output folder."""
    if sys.platform != "linux":
        return
    launcher = os.getppid()
    if is_child_of_torchrun(os.environ) or _program_of(launcher) == "slurmstepd":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != launcher:
            os.kill(os.getpid(), signal.SIGTERM)


def _program_of(process: int) -> str:
    """The name of a process's program; "" where /proc does not show it."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""

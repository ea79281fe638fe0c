"""torchrun that forwards stop signals and reports the program's own error.

    python -m VideoMAE.runtime.launch ARGUMENTS

torchrun alone answers SIGTERM and Ctrl-C with a traceback and kills the processes after 30 seconds, whether they have
saved or not. This one forwards the signal, waits until they have ended, and ends with their status.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from VideoMAE.runtime.stop_request import REQUEUE_STATUS, SIGNALS, end_with_launcher

LEFT_TO_TORCHRUN = "SIGHUP,SIGQUIT"


class SignalForwarder:
    """Sends the signals that ask a run to stop to every process that this one has started."""

    def __init__(self) -> None:
        self.forwarded: set[int] = set()
        for number in SIGNALS:
            signal.signal(number, self._forward)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.forwarded.add(number)
        children = _children()
        if not children:
            stop_with_nothing_to_save(number)
        for child in children:
            os.kill(child, number)


def launch() -> None:
    """Runs torchrun with this command line; ends with the status of the first process that failed."""
    forwarder = SignalForwarder()  # before torch is imported, which takes seconds
    end_with_launcher()

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig
    from torch.distributed.run import determine_local_world_size, main, parse_args

    arguments = sys.argv[1:]
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun would set 1 and print a warning about it
        num_processes = determine_local_world_size(parse_args(arguments).nproc_per_node)
        os.environ["OMP_NUM_THREADS"] = str(max(len(os.sched_getaffinity(0)) // num_processes, 1))
    if hasattr(LaunchConfig, "signals_to_handle"):  # its flag overwrites the variable that earlier versions read
        arguments = [f"--signals-to-handle={LEFT_TO_TORCHRUN}", *arguments]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = LEFT_TO_TORCHRUN
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if -failure.exitcode in forwarder.forwarded:  # it came before the program had installed its handler
            stop_with_nothing_to_save(-failure.exitcode)
        if failure.exitcode < 0:
            sys.exit(f"error: process {rank} was ended by signal {-failure.exitcode}")
        sys.exit(failure.exitcode)


def stop_with_nothing_to_save(number: int) -> None:
    """Ends with the status that asks for a new start."""
    print(f"{signal.Signals(number).name}: stopped before there was anything to save", file=sys.stderr)  # noqa: T201
    sys.exit(REQUEUE_STATUS)


def _children() -> list[int]:
    """The processes that this one has started."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


if __name__ == "__main__":
    launch()

"""torchrun, with forwarded stop signals and the program's own error message and exit status.

    python -m VideoMAE.runtime.launch ARGUMENTS_OF_TORCHRUN

On SIGTERM or Ctrl-C, torchrun alone prints a traceback and kills the processes after 30 seconds, even if they are still
saving. This launcher forwards the signal, waits for the processes to end, and exits with their status.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from VideoMAE.runtime.stop_request import REQUEUE_STATUS, SIGNALS, end_with_launcher

SIGNALS_OF_TORCHRUN = "SIGHUP,SIGQUIT"


def forward_signals() -> set[int]:
    """Forwards stop signals to the child processes -> the signals forwarded so far, updated later."""
    forwarded: set[int] = set()

    def forward(number: int, frame: FrameType | None) -> None:
        forwarded.add(number)
        tasks = Path("/proc/self/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        if not children:
            exit_with_nothing_to_save(number)
        for child in children:
            os.kill(child, number)

    for number in SIGNALS:
        signal.signal(number, forward)
    return forwarded


def launch(arguments: Sequence[str]) -> None:
    """Runs torchrun with these arguments; exits with the status of the first process that failed."""
    forwarded = forward_signals()  # before torch is imported, which takes seconds
    end_with_launcher()

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig
    from torch.distributed.run import determine_local_world_size, main, parse_args

    if "OMP_NUM_THREADS" not in os.environ:  # torchrun would set 1 and print a warning about it
        num_processes = determine_local_world_size(parse_args(list(arguments)).nproc_per_node)
        os.environ["OMP_NUM_THREADS"] = str(max(len(os.sched_getaffinity(0)) // num_processes, 1))
    if hasattr(LaunchConfig, "signals_to_handle"):  # the flag overrides the variable, which earlier versions read
        arguments = [f"--signals-to-handle={SIGNALS_OF_TORCHRUN}", *arguments]
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = SIGNALS_OF_TORCHRUN
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main(list(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if -failure.exitcode in forwarded:  # it arrived before the program installed its handler
            exit_with_nothing_to_save(-failure.exitcode)
        if failure.exitcode < 0:
            sys.exit(f"error: process {rank} was killed by signal {-failure.exitcode}")
        sys.exit(failure.exitcode)


def exit_with_nothing_to_save(number: int) -> None:
    """Reports the signal and exits with REQUEUE_STATUS."""
    print(f"{signal.Signals(number).name}: stopped before there was anything to save", file=sys.stderr)  # noqa: T201
    sys.exit(REQUEUE_STATUS)


if __name__ == "__main__":
    launch(sys.argv[1:])

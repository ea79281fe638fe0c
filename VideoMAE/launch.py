"""torchrun whose last word is the program's own: `python -m VideoMAE.launch TORCHRUN_ARGUMENTS`.

When a process fails, torchrun prints a traceback of its own below the reason; this ends with the reason. Signals that
ask a run to stop go on to the processes, which save first.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import determine_local_world_size, main, parse_args

from VideoMAE.training.stop_request import end_with_launcher

STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def launch() -> None:
    """Runs torchrun with this command line; ends with the status of the first process that failed."""
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun would set 1, and fill the screen with that
        num_processes = determine_local_world_size(parse_args(sys.argv[1:]).nproc_per_node)
        os.environ["OMP_NUM_THREADS"] = str(max(len(os.sched_getaffinity(0)) // num_processes, 1))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"
    for number in STOPPING_SIGNALS:
        signal.signal(number, _pass_on)
    end_with_launcher()
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            sys.exit(f"error: process {rank} was ended by signal {-failure.exitcode}")
        sys.exit(failure.exitcode)


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Sends a signal on to every process that this one started."""
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            os.kill(int(child), number)


if __name__ == "__main__":
    launch()

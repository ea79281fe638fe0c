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
from torch.distributed.run import main

STOPPING_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def launch() -> None:
    """Runs torchrun with this command line; ends with the status of the first process that failed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own choice, without its banner
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"
    for number in STOPPING_SIGNALS:
        signal.signal(number, _pass_on)
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

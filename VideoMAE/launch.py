"""torchrun whose last word is the program's own: `python -m VideoMAE.launch TORCHRUN_ARGUMENTS`.

When a process fails, torchrun prints a traceback of its own below the reason; this ends with the reason.
"""

import logging
import os
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def launch() -> None:
    """Runs torchrun with this command line; ends with the status of the first process that failed."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own choice, without its banner
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            sys.exit(f"error: process {rank} was ended by signal {-failure.exitcode}")
        sys.exit(failure.exitcode)


if __name__ == "__main__":
    launch()

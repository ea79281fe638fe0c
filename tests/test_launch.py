"""The launcher gives each process its part of the processors, and leaves the user's choice alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("chosen", [{}, {"OMP_NUM_THREADS": "5"}], ids=["nothing set", "set"])
def test_threads_are_the_processors_of_the_processes_or_what_the_user_says(chosen: dict[str, str]) -> None:
    kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "VideoMAE.launch", "--standalone", "--nproc_per_node=1", "--no_python"]
    done = subprocess.run(
        [*command, "printenv", "OMP_NUM_THREADS"],
        cwd=Path(__file__).resolve().parents[1],
        env={**kept, **chosen},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == int(chosen.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))

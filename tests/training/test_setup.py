"""How many threads a process has, and how a run of several processes ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from VideoMAE.training.setup import num_threads

REPOSITORY = Path(__file__).resolve().parents[2]
EIGHT = set(range(8))


@pytest.mark.parametrize(
    ("everyone", "expected"),
    [
        ([("a", EIGHT)], 8),
        ([("a", EIGHT), ("a", EIGHT)], 4),
        ([("a", EIGHT), ("b", EIGHT)], 8),
        ([("a", EIGHT), ("a", EIGHT), ("b", EIGHT), ("b", EIGHT)], 4),
        ([("a", EIGHT), ("a", {8, 9})], 8),
        ([("a", EIGHT)] * 9, 1),
    ],
    ids=["alone", "two share", "a machine each", "two on each of two machines", "bound by Slurm", "too many"],
)
def test_processes_that_share_processors_divide_them(everyone: list[tuple[str, set[int]]], expected: int) -> None:
    assert num_threads("a", EIGHT, everyone) == expected


FAILING = """
import time
from types import SimpleNamespace
from VideoMAE.runtime import distributed
from VideoMAE.training.setup import start_and_run

def run(config, world):
    try:
        with distributed.raise_on_all_ranks():
            raise ValueError("broken")
    finally:
        time.sleep(0 if world.rank else 2)

start_and_run(run, SimpleNamespace(run=SimpleNamespace(device="cpu")))
"""


def test_the_error_of_all_processes_is_reported_even_if_the_main_process_is_the_last_to_fail(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    launch = [sys.executable, "-m", "VideoMAE.runtime.launch", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*launch, str(tmp_path / "failing.py")], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: broken\n")

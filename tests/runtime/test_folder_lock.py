"""A locked output folder is waited for, up to a time limit."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from VideoMAE.runtime.folder_lock import hold_folder, release_folders

REPOSITORY = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from VideoMAE.runtime.folder_lock import hold_folder
hold_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def release_all() -> Iterator[None]:
    yield
    release_folders()


def holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_that_is_released_in_time_is_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path, 1):
        hold_folder(tmp_path, wait_seconds=60)


def test_the_holder_of_a_lock_is_named(tmp_path: Path) -> None:
    with holder(tmp_path, 600) as process:
        with pytest.raises(ValueError, match=f"in use by process {process.pid} on .*; wait until it ends, or"):
            hold_folder(tmp_path, wait_seconds=0.1)
        process.kill()

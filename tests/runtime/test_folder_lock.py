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
(Path(sys.argv[1]) / "left").touch()
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


def test_a_run_waits_until_the_holder_of_its_folder_has_left(tmp_path: Path) -> None:
    with holder(tmp_path, 0.5):
        hold_folder(tmp_path, wait_seconds=60)
        assert (tmp_path / "left").exists()


def test_a_holder_that_stays_beyond_the_time_limit_is_named(tmp_path: Path) -> None:
    with holder(tmp_path, 600) as process:
        try:
            with pytest.raises(ValueError, match=f"in use by process {process.pid} on .*; wait until it ends, or"):
                hold_folder(tmp_path, wait_seconds=0.1)
        finally:
            process.kill()

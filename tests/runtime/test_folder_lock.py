"""Who comes while another works in an output folder waits, as long as it was told to."""

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
def nothing_held() -> Iterator[None]:
    yield
    release_folders()


def holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_whoever_leaves_in_time_is_waited_for(tmp_path: Path) -> None:
    with holder(tmp_path, 1):
        hold_folder(tmp_path, patience_seconds=60)


def test_whoever_stays_is_named(tmp_path: Path) -> None:
    with holder(tmp_path, 600) as process:
        with pytest.raises(ValueError, match=f"process {process.pid} on .* works in it; wait for its end"):
            hold_folder(tmp_path, patience_seconds=0.1)
        process.kill()

"""A process that a launcher left behind is told to stop."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from VideoMAE.runtime.stop_request import StopRequest

WAIT = """
import signal, sys, time
from VideoMAE.runtime.stop_request import end_with_launcher
told = []
signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
end_with_launcher()
print("ready", flush=True)
sys.stdin.readline()  # until the launcher has ended
deadline = time.monotonic() + 0.5
while not told and time.monotonic() < deadline:
    time.sleep(0.01)
print("told" if told else "left alone", flush=True)
"""


@pytest.mark.parametrize(
    ("launcher", "variables", "outcome"),
    [
        ("slurmstepd", "", "told"),
        ("torchrun", "TORCHELASTIC_RUN_ID=1", "told"),
        ("bash", "SLURM_STEP_NUM_TASKS=1", "left alone"),
    ],
)
def test_a_process_hears_of_the_end_of_torchrun_and_slurms_step_but_not_of_a_shells(
    tmp_path: Path, launcher: str, variables: str, outcome: str
) -> None:
    (tmp_path / launcher).symlink_to("/bin/bash")
    (tmp_path / "wait.py").write_text(WAIT)
    code = f"{variables} {sys.executable} {tmp_path / 'wait.py'} <&3 & wait"
    with subprocess.Popen(
        [str(tmp_path / launcher), "-c", f"exec 3<&0; {code}"],
        cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.write("ended\n")
        process.stdin.flush()
        assert process.stdout.read() == outcome + "\n"


def test_a_repeated_signal_does_not_disturb_a_run_that_is_already_stopping() -> None:
    request = StopRequest()
    with request.listening():
        with request.deferred():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert request.signal_name == "SIGINT"

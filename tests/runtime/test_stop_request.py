"""Orphaned processes stop, and repeated signals are ignored."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from VideoMAE.runtime.stop_request import StopRequest

WAIT = """
import signal, sys, time
from VideoMAE.runtime.stop_request import end_with_launcher
received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
end_with_launcher()
print("ready", flush=True)
sys.stdin.readline()  # until the launcher has ended
deadline = time.monotonic() + 0.5
while not received and time.monotonic() < deadline:
    time.sleep(0.01)
print("stopped" if received else "continued", flush=True)
"""


@pytest.mark.parametrize(
    ("launcher", "variables", "outcome"),
    [
        ("slurmstepd", "", "stopped"),
        ("torchrun", "TORCHELASTIC_RUN_ID=1", "stopped"),
        ("bash", "SLURM_STEP_NUM_TASKS=1", "continued"),
    ],
)
def test_a_process_is_stopped_when_torchrun_or_slurms_step_ends_but_not_a_shell(
    tmp_path: Path, launcher: str, variables: str, outcome: str
) -> None:
    (tmp_path / launcher).symlink_to("/bin/bash")
    (tmp_path / "wait.py").write_text(WAIT)
    code = f"{variables} {sys.executable} {tmp_path / 'wait.py'} <&3 & wait"
    with subprocess.Popen(
        [str(tmp_path / launcher), "-c", f"exec 3<&0; {code}"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
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

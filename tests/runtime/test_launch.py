"""The launcher: threads per process, forwarded stop signals, and exit status."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from gates import wait_until
from resume_helpers import REPOSITORY, children_of

from VideoMAE.runtime.stop_request import REQUEUE_STATUS

LAUNCH = [sys.executable, "-m", "VideoMAE.runtime.launch", "--standalone", "--no_python"]
LONGER_THAN_TORCHRUN_WAITS_SECONDS = 33  # torchrun kills after 30, without a flag to change that
STOPPING = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]


def started(*command: str, processes: int = 2, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LAUNCH, f"--nproc_per_node={processes}", *command],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def program(folder: Path, number: int, answer: str) -> list[str]:
    """A program that leaves a file named by its rank in `folder` and waits; `answer` is its reaction to a signal."""
    lines = (
        "import os, pathlib, signal, sys, time",
        f"here, rank = pathlib.Path({str(folder)!r}), os.environ['RANK']",
        f"def answer(*_):\n    {answer}\n    sys.exit({REQUEUE_STATUS})",
        f"signal.signal({int(number)}, answer)",
        "(here / rank).touch()",
        "while True:\n    signal.pause()",
    )
    return [sys.executable, "-c", "\n".join(lines)]


def wait_for_files(folder: Path, names: list[str], launcher: subprocess.Popen[str]) -> None:
    wait_until(lambda: all((folder / name).exists() for name in names), launcher)


@pytest.mark.parametrize("chosen", [{}, {"OMP_NUM_THREADS": "5"}], ids=["nothing set", "set"])
def test_threads_are_the_cores_per_process_or_the_users_choice(
    chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    launcher = started("printenv", "OMP_NUM_THREADS", processes=1, **chosen)
    output, messages = launcher.communicate()
    assert (launcher.returncode, messages) == (0, "")
    assert int(output) == int(chosen.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_reaches_every_process_and_the_launcher_exits_with_their_status(
    number: signal.Signals, tmp_path: Path
) -> None:
    launcher = started(*program(tmp_path, number, "(here / f'{rank}.asked').touch()"))
    wait_for_files(tmp_path, ["0", "1"], launcher)
    launcher.send_signal(number)
    _, messages = launcher.communicate()
    assert (launcher.returncode, messages) == (REQUEUE_STATUS, "")
    assert (tmp_path / "0.asked").exists() and (tmp_path / "1.asked").exists()


def test_a_process_that_saves_for_longer_than_torchrun_waits_is_not_killed(tmp_path: Path) -> None:
    save = f"time.sleep({LONGER_THAN_TORCHRUN_WAITS_SECONDS}); (here / 'saved').touch()"
    launcher = started(*program(tmp_path, signal.SIGTERM, save), processes=1)
    wait_for_files(tmp_path, ["0"], launcher)
    launcher.terminate()
    _, messages = launcher.communicate()
    assert (launcher.returncode, messages) == (REQUEUE_STATUS, "")
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_before_a_process_listens_requeues(number: signal.Signals, tmp_path: Path) -> None:
    answer = f"signal.signal({int(number)}, signal.SIG_DFL); os.kill(os.getpid(), {int(number)})"
    launcher = started(*program(tmp_path, number, answer), processes=1)
    wait_for_files(tmp_path, ["0"], launcher)
    launcher.send_signal(number)
    _, messages = launcher.communicate()
    assert launcher.returncode == REQUEUE_STATUS
    assert messages == f"{number.name}: stopped before there was anything to save\n"


def test_a_signal_before_there_are_processes_requeues() -> None:
    lines = (
        "import os, signal",
        "from VideoMAE.runtime.launch import forward_signals",
        "forward_signals()",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "raise AssertionError('the signal was ignored')",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == REQUEUE_STATUS
    assert done.stderr == "SIGTERM: stopped before there was anything to save\n"


def test_a_killed_process_is_named(tmp_path: Path) -> None:
    launcher = started(*program(tmp_path, signal.SIGUSR2, "pass"))
    wait_for_files(tmp_path, ["0", "1"], launcher)
    os.kill(rank_1_of(launcher), signal.SIGKILL)
    _, messages = launcher.communicate()
    assert (launcher.returncode, messages) == (1, "error: process 1 was killed by signal 9\n")


def rank_1_of(launcher: subprocess.Popen[str]) -> int:
    environments = {child: Path(f"/proc/{child}/environ").read_bytes() for child in children_of(launcher.pid)}
    return next(child for child, variables in environments.items() if b"\0RANK=1\0" in variables)

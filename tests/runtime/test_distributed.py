"""The rendezvous of processes, and errors for missing ones."""

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from VideoMAE.runtime import distributed
from VideoMAE.runtime.launch_environment import NAMES, port_of_step

REPOSITORY = Path(__file__).resolve().parents[2]


def tasks(count: int, *, job: int) -> list[dict[str, str]]:
    """The environments of the tasks of an srun on this machine."""
    own = {key: value for key, value in os.environ.items() if key not in NAMES}
    step = {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "localhost"}
    numbers = {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_NTASKS": str(count)}
    return [{**own, **step, **numbers, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(count)]


JOIN = """
import json, os
import numpy as np, torch
from VideoMAE.runtime import distributed
from VideoMAE.runtime.launch_environment import NAMES
world = distributed.start("cpu")
names = {name: os.environ[name] for name in NAMES}
said = distributed.gather([world.rank, world.size])
mean = distributed.mean_over_processes(torch.tensor([world.rank, 7.0]))
mine = [[3, 0], [2]][world.rank]  # shares of different size
indices, rows = distributed.gather_by_index(mine, np.array([[10 * index, 1] for index in mine]))
distributed.stop()
left = [name for name in NAMES if name in os.environ]
print(json.dumps([said, names, left, mean, indices.tolist(), rows.tolist()]))
"""


@pytest.fixture(scope="module")
def said_by_two_tasks() -> list[Any]:
    """What each of two tasks of an srun prints; see MEET."""
    job = os.getpid()
    running = [
        subprocess.Popen([sys.executable, "-c", JOIN], cwd=REPOSITORY, env=task, stdout=subprocess.PIPE, text=True)
        for task in tasks(2, job=job)
    ]
    return [json.loads(process.communicate()[0]) for process in running]


def test_tasks_of_srun_meet_and_find_torchruns_variables_set_for_deepspeed(said_by_two_tasks: list[Any]) -> None:
    port = str(port_of_step(os.getpid(), 2, restarts=0))
    for rank, (gathered, names, left, *_) in enumerate(said_by_two_tasks):
        assert gathered == [[0, 2], [1, 2]]
        assert list(names.values()) == [str(rank), str(rank), "2", "localhost", port]
        assert left == []


def test_means_and_rows_of_all_processes_are_known_to_each_and_rows_are_sorted(said_by_two_tasks: list[Any]) -> None:
    for *_, mean, indices, rows in said_by_two_tasks:
        assert mean == [0.5, 7.0]
        assert indices == [0, 2, 3]
        assert rows == [[0, 1], [20, 1], [30, 1]]


EXIT = """
import atexit, os, sys
from VideoMAE.runtime import distributed

class DeletedByFinalization:
    def __del__(self, write=os.write):
        write(1, b"finalized\\n")

kept = DeletedByFinalization()
atexit.register(print, "at exit")
print("printed")
distributed.exit_process({outcome!r})
"""


@pytest.mark.parametrize(
    ("outcome", "status", "message"), [(None, 0, ""), (75, 75, ""), ("error: broken", 1, "error: broken\n")]
)
def test_a_process_exits_with_its_status_and_output_and_without_finalization(
    outcome: int | str | None, status: int, message: str
) -> None:
    command = [sys.executable, "-c", EXIT.format(outcome=outcome)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, "printed\nat exit\n", message)


def test_rows_of_one_process_are_sorted_and_an_index_given_twice_is_an_error() -> None:
    indices, rows = distributed.gather_by_index([4, 1, 3], np.array([[0.4], [0.1], [0.3]]))
    assert (indices.tolist(), rows.tolist()) == ([1, 3, 4], [[0.1], [0.3], [0.4]])
    with pytest.raises(AssertionError, match="twice"):
        distributed.gather_by_index([4, 4], np.zeros((2, 1)))


def set_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("rank", "host", "reason"),
    [
        (0, "localhost", "process 0 of 3 could not join the others at localhost:.*: missing: process 1, 2"),
        (2, "localhost", "process 2 of 3 could not join the others at localhost:.*: .* refused"),
        (0, "nowhere.invalid", "process 0 of 3 could not join the others at nowhere.invalid:"),
        (2, "nowhere.invalid", "process 2 of 3 could not join the others at nowhere.invalid:"),
    ],
)
def test_missing_processes_are_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rank: int, host: str, reason: str
) -> None:
    job = os.getpid() + 1 + rank  # a port of its own: pytest keeps a failed start's store alive
    set_environment(monkeypatch, {**tasks(3, job=job)[rank], "SLURM_STEP_NODELIST": host})
    with pytest.raises(ValueError, match=reason) as caught:
        distributed.start("cpu", join_timeout=timedelta(seconds=1))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    assert "RANK" not in os.environ


def test_a_port_in_use_is_reported_immediately(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        set_environment(monkeypatch, {**tasks(2, job=1)[0], "MASTER_PORT": port})
        with pytest.raises(ValueError, match=f"localhost:{port} .*address already in use; if the address"):
            distributed.start("cpu")

"""The .sbatch files on a real Slurm: one node or two, every way of submitting, every interruption, and what a wrong
path does."""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from gates import STEP, Gate
from resume_helpers import lines, outcome
from script_runs import run_script
from slurm_cluster import Cluster
from v2v_dataset import write_dataset
from vce_files import make_vce_folder

from VideoMAE.runtime.launch_environment import first_host

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = [
    "--model",
    "vit_micro_patch16_224",
    "--input_size",
    "32",
    "--num_workers",
    "0",
    "--device",
    "cpu",
]
VCE = [
    *SMALL,
    *shlex.split("""
        --num_frames 8 --short_side_size 32 --epochs 4 --warmup_epochs 1 --layer_decay 1 --drop_path 0.2 --init_scale 1
        --lr 0.03 --save_ckpt_steps 1 --no_enable_deepspeed
    """),
]
V2V = [*SMALL, "--num_frames", "4", "--num_epochs", "1", "--opt", "adamw", "--lr", "1e-3"]
ONE_NODE = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1"]
TWO_NODES = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_folder(tmp_path_factory.mktemp("vce") / "vce_dataset", 20, 5)


def settings(data: Path, output_dir: Path, **more: str) -> dict[str, str]:
    """What the scripts are told by the environment."""
    told = {"DATA_PATH": str(data), "MODEL_PATH": "none", "OUTPUT_DIR": str(output_dir), "PYTHON": sys.executable}
    return {**told, "TOTAL_BATCH": "2", **more}


def stand_in(tmp_path: Path, code: str) -> dict[str, str]:
    """Settings under which the tasks run bash code in the place of training."""
    (tmp_path / "python").write_text(f'#!/bin/bash\n[ "$1" != -c ] || exit 0\n{code}\n')
    (tmp_path / "python").chmod(0o755)
    return settings(tmp_path, tmp_path / "run", REPO_PATH=str(REPOSITORY), PYTHON=str(tmp_path / "python"))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 1200
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Training:
    """A job that trains, and whose every start waits at a gate."""

    def __init__(self, job: str, output_dir: Path, gate: Gate) -> None:
        self.job, self.output_dir, self.gate = job, output_dir, gate
        self.processes: list[int] = []

    def pause(self) -> None:
        """Stops both processes, so that they cannot take a signal, once they have made two steps since the start."""
        before = len(lines(self.output_dir / "steps.jsonl"))
        wait_until(lambda: len(self.gate.waiting()) == 2, f"job {self.job} makes no step after step {before}")
        self.processes = self.gate.waiting()
        self._send(signal.SIGSTOP)
        self.gate.open(self.processes)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def is_warned(self) -> bool:
        """Whether SIGUSR1 waits for each of the processes that are held, or they have gone on and ended by it."""
        for process in self.processes:
            with suppress(FileNotFoundError):
                status = Path(f"/proc/{process}/status").read_text()
                if not int(status.split("ShdPnd:")[1].split()[0], 16) >> (signal.SIGUSR1 - 1) & 1:
                    return False
        return True


@pytest.fixture(scope="module")
def interrupted(slurm: Cluster, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A job on two nodes that was interrupted four times, each time in another way, and then left to end."""
    folder = tmp_path_factory.mktemp("interrupted")
    gate = Gate(folder / "gate", STEP, calls=3)
    told = settings(dataset, folder / "run", SLURM_WAIT="2", **gate.environment())  # half a minute otherwise
    file = ["--output", str(folder / "%x-%j.out"), "finetune_vce.sbatch"]
    job = slurm.submit(*TWO_NODES, *file, *VCE, cwd=REPOSITORY / "scripts", **told)
    training = Training(job, folder / "run", gate)

    slurm.wait_for(job, "start 1")
    training.pause()
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=5")  # Slurm looks every half minute
    wait_until(training.is_warned, "no warning before the time limit")
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=UNLIMITED")
    training.resume()

    slurm.wait_for(job, "start 2")
    training.pause()
    slurm.run("scancel", "--signal=USR1", job)
    wait_until(training.is_warned, "no signal from scancel")
    training.resume()

    slurm.wait_for(job, "start 3")
    training.pause()
    slurm.run("scontrol", "requeue", job)
    training.resume()

    slurm.wait_for(job, "start 4")
    training.pause()
    slurm.tell("crash n2")
    gate.open()
    training.resume()
    try:  # by slurm.sh, or by Slurm itself where that is quicker
        wait_until(lambda: int(slurm.job(job)["Restarts"]) >= 4, "a job that lost a node was not queued again")
    finally:
        slurm.tell("start n2")
    finished(slurm, job)
    return training


@pytest.fixture(scope="module")
def plain(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes without Slurm."""
    output_dir = tmp_path_factory.mktemp("plain") / "run"
    done = run_script("finetune_vce.sh", *VCE, **settings(dataset, output_dir, NUM_PROCESSES="2"))
    assert done.returncode == 0, done.stderr[-3000:]
    return output_dir


def finished(slurm: Cluster, job: str) -> str:
    """What a job that ended well has said."""
    fields, said = slurm.wait(job), slurm.output(job)
    assert (fields["JobState"], fields["ExitCode"]) == ("COMPLETED", "0:0"), said[-3000:]
    return said


def test_two_tasks_on_one_node_have_the_numbers_of_a_plain_run(
    slurm: Cluster, dataset: Path, plain: Path, tmp_path: Path
) -> None:
    file = ["--output", str(tmp_path / "%x-%j.out"), "scripts/finetune_vce.sbatch"]
    job = slurm.submit(*ONE_NODE, *file, *VCE, cwd=REPOSITORY, **settings(dataset, tmp_path / "run"))
    said = finished(slurm, job)
    assert (tmp_path / f"finetune_vce-{job}.out").read_text() == said
    assert f"job {job}, start 1: 2 tasks on n1" in said
    assert "batch_size 1 x update_freq 1 x 2 processes" in said
    assert outcome(tmp_path / "run") == outcome(plain)


def test_a_job_comes_back_after_its_time_limit_a_signal_a_requeue_and_a_lost_node(
    slurm: Cluster, interrupted: Training
) -> None:
    job, said = interrupted.job, slurm.output(interrupted.job)  # of all starts: appended
    assert slurm.job(job)["Restarts"] == "4"
    assert [said.count(f"job {job}, start {number}: 1(x2) tasks on n[1-2]") for number in range(1, 6)] == [1] * 5
    assert [said.count(text) for text in ("SIGUSR1: saved", "resumed from")] == [2, 4]
    assert said.count("is requeued") in (2, 3)  # 2 where Slurm itself was quicker about the lost node


def test_one_task_on_each_of_two_nodes_has_the_numbers_of_a_plain_run_whatever_interrupted_it(
    interrupted: Training, plain: Path
) -> None:
    assert outcome(interrupted.output_dir) == outcome(plain)


def test_v2v_trains_from_a_copy_elsewhere_and_keeps_slurms_settings(slurm: Cluster, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    copy = tmp_path / "scripts/finetune_v2v.sbatch"
    copy.parent.mkdir()
    copy.write_text((REPOSITORY / "scripts/finetune_v2v.sbatch").read_text())
    told = settings(data, Path("run"), REPO_PATH=str(REPOSITORY))
    job = slurm.submit(*TWO_NODES, str(copy), *V2V, cwd=tmp_path, **told)
    fields = slurm.job(job)
    assert fields["Requeue"] == "1"
    assert fields["StdOut"] == str(tmp_path / f"finetune_v2v-{job}.out")
    said = finished(slurm, job)
    assert "total batch size 2 (batch_size 1 x update_freq 1 x 2 processes)" in said
    assert json.loads((tmp_path / "run/results.json").read_text())["num_pairs"] == 14


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"DATA_PATH": "/absent"}, "error: DATA_PATH=/absent: no such file or folder"),
        ({"MODEL_PATH": "/absent.pth"}, "error: MODEL_PATH=/absent.pth: no such file or folder"),
        ({"REPO_PATH": "/absent"}, "error: /absent has no scripts/lib/slurm.sh: submit from the repository"),
    ],
    ids=["data", "model", "repository"],
)
def test_a_wrong_path_ends_the_job_with_the_reason_in_its_output(
    slurm: Cluster, tmp_path: Path, wrong: dict[str, str], reason: str
) -> None:
    told = {**settings(tmp_path, tmp_path / "run", REPO_PATH=str(REPOSITORY)), **wrong}
    job = slurm.submit(*ONE_NODE, str(REPOSITORY / "scripts/finetune_vce.sbatch"), cwd=tmp_path, **told)
    fields = slurm.wait(job)
    said = slurm.output(job)
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "1:0", "0")
    assert reason in said
    assert not [line for line in said.splitlines() if not line.startswith(("error: ", "job ", "srun: error: "))]
    assert not (tmp_path / "run").exists()


def test_a_dead_task_takes_the_others_down_and_the_job_stays_down(slurm: Cluster, tmp_path: Path) -> None:
    told = stand_in(tmp_path, '[ "$SLURM_PROCID" = 0 ] || { echo "the reason" >&2; kill -9 $$; }; sleep 300')
    told["SLURM_WAIT"] = "2"  # half a minute otherwise
    job = slurm.submit(*TWO_NODES, str(REPOSITORY / "scripts/finetune_vce.sbatch"), cwd=tmp_path, **told)
    fields = slurm.wait(job)
    assert (fields["JobState"], fields["Restarts"]) == ("FAILED", "0")
    assert "the reason\n" in slurm.output(job)


@pytest.mark.parametrize("nodes", ["n1", "n[1-2]", "node[01-03,7],gpu2", "gpu2,node[01-03]", "rack[0-1]node[3,5-7]"])
def test_the_first_host_of_a_list_is_slurms(slurm: Cluster, nodes: str) -> None:
    assert first_host(nodes) == slurm.run("scontrol", "show", "hostnames", nodes).split()[0]

"""The .sbatch files on a real Slurm: one node or two, every way of submitting, and what a wrong path does."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster
from test_run_v2v_finetuning import write_dataset
from test_scripts import run_script
from vce_files import make_vce_folder

from VideoMAE.training.launch_environment import first_host

pytestmark = pytest.mark.slurm

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = [
    "--model", "vit_micro_patch16_224", "--input_size", "32", "--num_workers", "0", "--device", "cpu",
    "--drop_path", "0",
]  # fmt: skip
VCE = [
    *SMALL, "--num_frames", "8", "--short_side_size", "32", "--aa", "none", "--epochs", "2", "--warmup_epochs", "0",
    "--layer_decay", "1", "--init_scale", "1", "--lr", "0.03",
]  # fmt: skip
V2V = [*SMALL, "--num_frames", "4", "--num_epochs", "1", "--opt", "adamw", "--lr", "1e-3", "--no_enable_deepspeed"]
ONE_NODE = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1"]
TWO_NODES = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--cpus-per-task=1"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_folder(tmp_path_factory.mktemp("vce") / "vce_dataset", 20, 5)


def settings(data: Path, output_dir: Path, **more: str) -> dict[str, str]:
    """What the scripts are told by the environment."""
    told = {"DATA_PATH": str(data), "MODEL_PATH": "none", "OUTPUT_DIR": str(output_dir), "PYTHON": sys.executable}
    return {**told, **more}


def stand_in(tmp_path: Path, code: str) -> dict[str, str]:
    """Settings under which the tasks run bash code in the place of training."""
    (tmp_path / "python").write_text(f'#!/bin/bash\n[ "$1" != -c ] || exit 0\n{code}\n')
    (tmp_path / "python").chmod(0o755)
    return settings(tmp_path, tmp_path / "run", REPO_PATH=str(REPOSITORY), PYTHON=str(tmp_path / "python"))


@pytest.fixture(scope="module", autouse=True)
def warned_job(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job near its time limit from the start. Submitted before all tests: Slurm looks at limits every 30 s only."""
    folder = tmp_path_factory.mktemp("warned")
    code = """
    [ -z "$SLURM_RESTART_COUNT" ] || { echo "goes on"; exit 0; }
    trap 'echo warned; sleep "$SLURM_PROCID"; exit 75' USR1  # one task leaves after the other, who must not be killed
    for _ in {1..600}; do sleep 0.1; done"""
    told = stand_in(folder, code)
    file = str(REPOSITORY / "scripts/finetune_vce.sbatch")
    return slurm.submit(*TWO_NODES, "--gpus-per-node=0", "--time=1", file, cwd=folder, **told)


@pytest.fixture(scope="module")
def plain(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes without Slurm."""
    output_dir = tmp_path_factory.mktemp("plain") / "run"
    done = run_script("finetune_vce.sh", *VCE, **settings(dataset, output_dir, NUM_PROCESSES="2"))
    assert done.returncode == 0, done.stderr[-3000:]
    return output_dir


def numbers(output_dir: Path) -> tuple[Any, ...]:
    """Everything that a run has measured: every step, every epoch, every prediction, the results."""
    names = ("steps.jsonl", "log.txt", "predictions.jsonl")
    measured = [[json.loads(line) for line in (output_dir / name).read_text().splitlines()] for name in names]
    return (*measured, json.loads((output_dir / "results.json").read_text()))


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
    assert "batch_size 4 x update_freq 1 x 2 processes" in said
    assert numbers(tmp_path / "run") == numbers(plain)


def test_one_task_on_each_of_two_nodes_has_the_numbers_of_a_plain_run(
    slurm: Cluster, dataset: Path, plain: Path, tmp_path: Path
) -> None:
    file = ["--output", str(tmp_path / "%x-%j.out"), "finetune_vce.sbatch"]
    job = slurm.submit(*TWO_NODES, *file, *VCE, cwd=REPOSITORY / "scripts", **settings(dataset, tmp_path / "run"))
    said = finished(slurm, job)
    assert f"job {job}, start 1: 1(x2) tasks on n[1-2]" in said
    assert "batch_size 4 x update_freq 1 x 2 processes" in said
    assert numbers(tmp_path / "run") == numbers(plain)


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
    assert "total batch 4 comparisons (batch_size 2 x update_freq 1 x 2 processes)" in said
    assert json.loads((tmp_path / "run/results.json").read_text())["num_pairs"] == 14


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"DATA_PATH": "/absent"}, "error: DATA_PATH=/absent: there is no such file or folder"),
        ({"MODEL_PATH": "/absent.pth"}, "error: MODEL_PATH=/absent.pth: there is no such file or folder"),
        ({"REPO_PATH": "/absent"}, "error: /absent holds no scripts/slurm.sh: submit from the repository"),
    ],
    ids=["data", "model", "repository"],
)
def test_a_wrong_path_ends_the_job_with_the_reason_in_its_output(
    slurm: Cluster, tmp_path: Path, wrong: dict[str, str], reason: str
) -> None:
    told = {**settings(tmp_path, tmp_path / "run", REPO_PATH=str(REPOSITORY)), **wrong}
    job = slurm.submit(*ONE_NODE, str(REPOSITORY / "scripts/finetune_vce.sbatch"), cwd=tmp_path, **told)
    fields = slurm.wait(job, timeout=60)
    said = slurm.output(job)
    assert (fields["JobState"], fields["ExitCode"], fields["Restarts"]) == ("FAILED", "1:0", "0")
    assert reason in said
    assert not [line for line in said.splitlines() if not line.startswith(("error: ", "job ", "srun: error: "))]
    assert not (tmp_path / "run").exists()


def test_a_job_that_was_told_to_requeue_and_then_lost_a_node_starts_again(slurm: Cluster, tmp_path: Path) -> None:
    code = """
    case "$SLURM_RESTART_COUNT$SLURM_PROCID" in
        0 | 1) sleep 300 ;;
        10) until [ -e lost ]; do sleep 0.1; done; echo "the other is gone" >&2; exit 1 ;;
        11) sleep 300 ;;
        *) echo "goes on" ;;
    esac"""
    told = {**stand_in(tmp_path, code), "SLURM_WAIT": "2"}
    job = slurm.submit(*TWO_NODES, str(REPOSITORY / "scripts/finetune_vce.sbatch"), cwd=tmp_path, **told)
    slurm.wait_for(job, "start 1")
    slurm.run("scontrol", "requeue", job)
    slurm.wait_for(job, "start 2")
    slurm.tell("crash n2")
    (tmp_path / "lost").touch()
    slurm.wait_for(job, "has lost a node and goes back to the queue")
    slurm.tell("start n2")
    fields = slurm.wait(job, "COMPLETED", timeout=60)
    assert fields["Restarts"] == "2"
    assert slurm.output(job).count("goes on\n") == 2


def test_a_dead_task_takes_the_others_down_and_the_job_stays_down(slurm: Cluster, tmp_path: Path) -> None:
    told = stand_in(tmp_path, '[ "$SLURM_PROCID" = 0 ] || { echo "the reason" >&2; kill -9 $$; }; sleep 300')
    told["SLURM_WAIT"] = "2"  # half a minute otherwise
    job = slurm.submit(*TWO_NODES, str(REPOSITORY / "scripts/finetune_vce.sbatch"), cwd=tmp_path, **told)
    fields = slurm.wait(job, timeout=60)
    assert (fields["JobState"], fields["Restarts"]) == ("FAILED", "0")
    assert "the reason\n" in slurm.output(job)


@pytest.mark.parametrize("nodes", ["n1", "n[1-2]", "node[01-03,7],gpu2", "gpu2,node[01-03]", "rack[0-1]node[3,5-7]"])
def test_the_first_host_of_a_list_is_slurms(slurm: Cluster, nodes: str) -> None:
    assert first_host(nodes) == slurm.run("scontrol", "show", "hostnames", nodes).split()[0]


def test_the_warning_before_the_time_limit_reaches_the_tasks_and_their_status_75_queues_the_job_again(
    slurm: Cluster, warned_job: str
) -> None:
    fields = slurm.wait(warned_job, "COMPLETED")
    assert fields["Restarts"] == "1"
    said = slurm.output(warned_job)  # of both starts: appended
    assert [said.count(text) for text in ("warned\n", "goes on\n", "goes back to the queue")] == [2, 2, 1]
    assert said.index(f"job {warned_job}, start 1") < said.index(f"job {warned_job}, start 2")

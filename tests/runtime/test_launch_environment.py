"""The launch by the variables of torchrun or Slurm, and errors for contradictions."""

import pytest

from VideoMAE.runtime.launch_environment import Launch, first_host, gpu_of, port_of_step, read_launch

TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29400",
    "GROUP_WORLD_SIZE": "2",
}
SRUN = {
    "SLURM_JOB_ID": "31",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NODELIST": "cpu1,gpu[07-08]",
}
BATCH_SHELL = {"SLURM_JOB_ID": "31", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
FROM_SLURM = {key: value for key, value in TORCHRUN.items() if key != "GROUP_WORLD_SIZE"}
PORT = port_of_step(31, 2, restarts=0)


def without(environment: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch("", 0, 0, 1, "127.0.0.1", 29500)),
        (TORCHRUN, Launch("torchrun", 3, 1, 4, "host", 29400)),
        (SRUN, Launch("srun", 3, 1, 4, "gpu07", PORT)),
        ({**SRUN, "SLURM_RESTART_COUNT": "1"}, Launch("srun", 3, 1, 4, "gpu07", PORT + 53)),
        ({**SRUN, "MASTER_ADDR": "ib0", "MASTER_PORT": "4444"}, Launch("srun", 3, 1, 4, "ib0", 4444)),
        ({**SRUN, "WORLD_SIZE": "4"}, Launch("srun", 3, 1, 4, "gpu07", PORT)),
        (BATCH_SHELL, Launch("", 0, 0, 1, "127.0.0.1", 29500)),
        ({"SLURM_JOB_ID": "31", "SLURM_NTASKS": "4"}, Launch("", 0, 0, 1, "127.0.0.1", 29500)),
        ({**BATCH_SHELL, "SLURM_STEP_NUM_TASKS": "1"}, Launch("", 0, 0, 1, "127.0.0.1", 29500)),
        ({**SRUN, **TORCHRUN, "SLURM_STEP_NUM_TASKS": "2"}, Launch("torchrun", 3, 1, 4, "host", 29400)),
        ({**SRUN, **FROM_SLURM}, Launch("torchrun", 3, 1, 4, "host", 29400)),
        ({**BATCH_SHELL, **TORCHRUN}, Launch("torchrun", 3, 1, 4, "host", 29400)),
    ],
    ids=[
        "alone",
        "torchrun",
        "srun",
        "requeued",
        "address and port of the user",
        "world size repeated",
        "batch shell",
        "salloc shell",
        "a single task",
        "torchrun in one task per node",
        "torchrun's variables made from Slurm's",
        "torchrun in a batch shell",
    ],
)
def test_a_launch_is_read_from_the_variables(environment: dict[str, str], expected: Launch) -> None:
    assert read_launch(environment) == expected


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (without(TORCHRUN, "WORLD_SIZE"), ["RANK", "WORLD_SIZE"]),
        (without(without(TORCHRUN, "MASTER_ADDR"), "MASTER_PORT"), ["RANK", "MASTER_ADDR, MASTER_PORT"]),
        ({"WORLD_SIZE": "4"}, ["WORLD_SIZE=4", "RANK is not set"]),
        ({"LOCAL_RANK": "2"}, ["LOCAL_RANK=2", "RANK is not set"]),
        ({**TORCHRUN, "RANK": "4"}, ["RANK=4", "WORLD_SIZE=4"]),
        ({**TORCHRUN, "RANK": "first"}, ["RANK=first", "whole number"]),
        (without(SRUN, "SLURM_PROCID"), ["SLURM_PROCID is not set"]),
        (without(SRUN, "SLURM_JOB_ID"), ["SLURM_JOB_ID is not set"]),
        (without(without(SRUN, "SLURM_STEP_NODELIST"), "SLURM_JOB_NODELIST"), ["SLURM_STEP_NODELIST", "MASTER_ADDR"]),
        ({**SRUN, "SLURM_PROCID": "4"}, ["SLURM_PROCID=4", "SLURM_STEP_NUM_TASKS=4"]),
        ({**SRUN, "SLURM_NTASKS": "8"}, ["SLURM_NTASKS=8", "SLURM_STEP_NUM_TASKS"]),
        ({**SRUN, "WORLD_SIZE": "8"}, ["WORLD_SIZE=8", "SLURM_STEP_NUM_TASKS"]),
        (without(SRUN, "SLURM_STEP_NUM_TASKS"), ["SLURM_PROCID=3", "srun started no tasks"]),
        ({**SRUN, **TORCHRUN, "GROUP_WORLD_SIZE": "1"}, ["GROUP_WORLD_SIZE=1", "SLURM_STEP_NUM_TASKS", "--nnodes=4"]),
        ({**SRUN, **FROM_SLURM, "WORLD_SIZE": "8"}, ["WORLD_SIZE=8", "SLURM_STEP_NUM_TASKS"]),
        ({**SRUN, **FROM_SLURM, "RANK": "0"}, ["RANK=0", "SLURM_STEP_NUM_TASKS"]),
    ],
)
def test_a_contradiction_names_the_variables(environment: dict[str, str], names: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        read_launch(environment)
    message = str(caught.value)
    assert "\n" not in message
    assert not [name for name in names if name not in message], message


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("node[01-03,7],gpu2", "node01"),
        ("gpu2,node[01-03]", "gpu2"),
        ("rack[0-1]node[3,5-7]", "rack0node3"),
        ("n[12,14].example.org", "n12.example.org"),
    ],
)
def test_the_first_host_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_neighboring_jobs_steps_and_starts_have_different_ports() -> None:
    around = [(job, step, again) for job in (900, 901, 902) for step in range(20) for again in range(2)]
    ports = [port_of_step(job, step, restarts=again) for job, step, again in around]
    assert len(set(ports)) == len(ports)
    assert all(1024 < port_of_step(job, 0, restarts=0) < 32768 for job in range(0, 10**7, 997))


def test_a_process_uses_the_gpu_of_its_local_rank_or_the_only_visible_one() -> None:
    task, process = read_launch(SRUN), read_launch(TORCHRUN)
    assert gpu_of(task, 2, {"SLURM_GPUS_ON_NODE": "2"}) == 1
    assert gpu_of(task, 1, {"SLURM_GPUS_ON_NODE": "2"}) == 0
    for launch, environment in (
        (task, {"SLURM_GPUS_ON_NODE": "1"}),
        (task, {}),
        (process, {"SLURM_GPUS_ON_NODE": "2"}),
    ):
        with pytest.raises(ValueError, match="process 1 of this machine has no GPU: there are 1"):
            gpu_of(launch, 1, environment)

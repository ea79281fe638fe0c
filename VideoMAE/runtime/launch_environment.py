"""Rank and rendezvous address of this process, from torchrun's or Slurm's variables. No other module reads them."""

import re
from collections.abc import Mapping
from typing import NamedTuple

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PORTS = range(20000, 32000)  # for Slurm jobs; below the ports of outgoing connections on Linux


class Launch(NamedTuple):
    """The position of a process in a launch."""

    launcher: str  # torchrun, srun, or "" for a single process
    rank: int
    local_rank: int
    size: int
    address: str
    port: int
    is_store_hosted: bool = False  # by torchrun, not by the main process


def read_launch(environment: Mapping[str, str]) -> Launch:
    """The launch according to torchrun's variables, else those of srun's tasks, else a single process.

    A shell of `salloc` or `sbatch` has the job's variables but no step of several tasks: a single process. Raises
    ValueError if variables are missing, malformed, or contradict each other.
    """
    num_tasks = _number(environment, "SLURM_STEP_NUM_TASKS", default=1)
    expected: dict[str, int] = {}
    reason = "one process each"
    if "RANK" in environment:
        missing = [name for name in NAMES if name not in environment]
        if missing:
            raise ValueError(f"the launcher set RANK but not {', '.join(missing)}; start with torchrun or srun")
        rank, local_rank, size, port = (_number(environment, name) for name in (*NAMES[:3], NAMES[4]))
        if rank >= size:
            raise ValueError(f"RANK={rank}: must be below WORLD_SIZE={size}")
        is_store_hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        launch = Launch("torchrun", rank, local_rank, size, environment["MASTER_ADDR"], port, is_store_hosted)
        if num_tasks > 1 and "GROUP_WORLD_SIZE" in environment:  # one torchrun agent per task
            expected, reason = {"GROUP_WORLD_SIZE": num_tasks}, f"so torchrun needs --nnodes={num_tasks}"
        elif num_tasks > 1:  # a script copied Slurm's values to torchrun's names: one process per task
            expected = {"WORLD_SIZE": num_tasks, "RANK": _number(environment, "SLURM_PROCID")}
    elif num_tasks > 1:
        rank, local_rank, job = (_number(environment, f"SLURM_{name}") for name in ("PROCID", "LOCALID", "JOB_ID"))
        if rank >= num_tasks:
            raise ValueError(f"SLURM_PROCID={rank}: must be below SLURM_STEP_NUM_TASKS={num_tasks}")
        expected = {"WORLD_SIZE": num_tasks, "LOCAL_RANK": local_rank, "SLURM_NTASKS": num_tasks}
        launch = Launch("srun", rank, local_rank, num_tasks, "", 0)
    else:
        launch = Launch("", 0, 0, 1, "127.0.0.1", 29500)
        expected = {"WORLD_SIZE": 1, "LOCAL_RANK": 0, "SLURM_PROCID": 0}
        reason = "and RANK is not set: expected a single process"
    started = f"{num_tasks} tasks (SLURM_STEP_NUM_TASKS)" if num_tasks > 1 else "no tasks here"
    for name, value in expected.items():
        if _number(environment, name, default=value) != value:
            raise ValueError(f"{name}={environment[name]} contradicts the launch: srun started {started}, {reason}")
    if launch.launcher != "srun":
        return launch
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if "MASTER_ADDR" not in environment and not nodes:
        raise ValueError("srun started several tasks but SLURM_STEP_NODELIST is not set; set MASTER_ADDR")
    address = environment.get("MASTER_ADDR", first_host(nodes or ""))
    port = port_of_step(job, _number(environment, "SLURM_STEP_ID", default=0), restarts=num_restarts(environment))
    return launch._replace(address=address, port=_number(environment, "MASTER_PORT", default=port))


def _number(environment: Mapping[str, str], name: str, *, default: int | None = None) -> int:
    if name not in environment and default is not None:
        return default
    if name not in environment:
        raise ValueError(f"srun started several tasks but {name} is not set; start with srun or torchrun")
    if not re.fullmatch(r"[0-9]+", environment[name]):
        raise ValueError(f"{name}={environment[name]}: must be a whole number of at least 0")
    return int(environment[name])


def first_host(nodes: str) -> str:
    """The first host of Slurm's list: node[01-03,7],gpu2 -> node01. Containers often lack `scontrol`."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]


def port_of_step(job: int, step: int, *, restarts: int) -> int:
    """A port that differs between neighboring jobs and steps, and between the starts of a requeued job, because
    processes on a lost node may still hold the previous port."""
    return PORTS[(101 * job + step + 53 * restarts) % len(PORTS)]


def gpu_of(launch: Launch, num_visible: int, environment: Mapping[str, str]) -> int:
    """The index of this process's GPU among the visible ones; Slurm may show each task only its own."""
    bound_by_slurm = launch.launcher == "srun" and num_visible == 1
    if bound_by_slurm and launch.local_rank < _number(environment, "SLURM_GPUS_ON_NODE", default=1):
        return 0
    if launch.local_rank >= num_visible:
        raise ValueError(
            f"process {launch.local_rank} of this machine has no GPU: there are {num_visible}; "
            "start fewer processes or pass --device cpu"
        )
    return launch.local_rank


def is_child_of_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in environment


def num_restarts(environment: Mapping[str, str]) -> int:
    """How often Slurm has requeued this job; 0 without Slurm."""
    return _number(environment, "SLURM_RESTART_COUNT", default=0)

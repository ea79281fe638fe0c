"""Rank and rendezvous address of this process, from torchrun's or Slurm's variables. No other module reads them."""

import re
from collections.abc import Mapping, Sequence
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


def read_launch(environment: Mapping[str, str]) -> Launch:
    """The launch according to torchrun's variables, else those of srun's tasks, else a single process.

    A shell of `salloc` or `sbatch` has the job's variables but no step of several tasks: a single process.

    Raises:
        ValueError: variables are missing, malformed, or contradict each other.
    """
    num_tasks = _number(environment, "SLURM_STEP_NUM_TASKS", default=1)
    if "RANK" in environment:
        return _launched_by_torchrun(environment, num_tasks)
    if num_tasks > 1:
        return _launched_by_srun(environment, num_tasks)
    expected = [("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("SLURM_PROCID", 0)]
    _check_agreement(environment, expected, "and RANK is not set: expected a single process", num_tasks)
    return Launch("", 0, 0, 1, "127.0.0.1", 29500)


def _launched_by_torchrun(environment: Mapping[str, str], num_tasks: int) -> Launch:
    missing = [name for name in NAMES if name not in environment]
    if missing:
        raise ValueError(f"the launcher set RANK but not {', '.join(missing)}; start with torchrun or srun")
    rank, local_rank, size, port = (_number(environment, name) for name in (*NAMES[:3], NAMES[4]))
    _check_below("RANK", rank, "WORLD_SIZE", size)
    if num_tasks > 1 and "GROUP_WORLD_SIZE" in environment:  # one torchrun agent per task
        reason = f"so torchrun needs --nnodes={num_tasks}"
        _check_agreement(environment, [("GROUP_WORLD_SIZE", num_tasks)], reason, num_tasks)
    elif num_tasks > 1:  # a script copied Slurm's values to torchrun's names: one process per task
        expected = [("WORLD_SIZE", num_tasks), ("RANK", _number(environment, "SLURM_PROCID"))]
        _check_agreement(environment, expected, "one process each", num_tasks)
    return Launch("torchrun", rank, local_rank, size, environment["MASTER_ADDR"], port)


def _launched_by_srun(environment: Mapping[str, str], num_tasks: int) -> Launch:
    rank, local_rank, job = (_number(environment, f"SLURM_{name}") for name in ("PROCID", "LOCALID", "JOB_ID"))
    _check_below("SLURM_PROCID", rank, "SLURM_STEP_NUM_TASKS", num_tasks)
    expected = [("WORLD_SIZE", num_tasks), ("LOCAL_RANK", local_rank), ("SLURM_NTASKS", num_tasks)]
    _check_agreement(environment, expected, "one process each", num_tasks)
    address = environment.get("MASTER_ADDR")
    if address is None:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
        if not nodes:
            raise ValueError("srun started several tasks but SLURM_STEP_NODELIST is not set; set MASTER_ADDR")
        address = first_host(nodes)
    step, restarts = (_number(environment, f"SLURM_{name}", default=0) for name in ("STEP_ID", "RESTART_COUNT"))
    port = _number(environment, "MASTER_PORT", default=port_of_step(job, step, restarts=restarts))
    return Launch("srun", rank, local_rank, num_tasks, address, port)


def _number(environment: Mapping[str, str], name: str, *, default: int | None = None) -> int:
    if name not in environment and default is not None:
        return default
    text = environment.get(name)
    if text is None:
        raise ValueError(f"srun started several tasks but {name} is not set; start with srun or torchrun")
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"{name}={text}: must be a whole number of at least 0")
    return int(text)


def _check_below(name: str, value: int, bound_name: str, bound: int) -> None:
    if value >= bound:
        raise ValueError(f"{name}={value}: must be below {bound_name}={bound}")


def _check_agreement(
    environment: Mapping[str, str], expected: Sequence[tuple[str, int]], reason: str, num_tasks: int
) -> None:
    """Checks the values of the expected variables that are set."""
    if num_tasks > 1:
        started = f"srun started {num_tasks} tasks (SLURM_STEP_NUM_TASKS)"
    else:
        started = "srun started no tasks here"
    for name, value in expected:
        if _number(environment, name, default=value) != value:
            raise ValueError(f"{name}={environment[name]} contradicts the launch: {started}, {reason}")


def first_host(nodes: str) -> str:
    """The first host of Slurm's list: node[01-03,7],gpu2 -> node01.

    This avoids `scontrol`, which containers often lack. SLURM_LAUNCH_NODE_IPADDR is the host of srun, not of the tasks.
    """
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]


def port_of_step(job: int, step: int, *, restarts: int) -> int:
    """A port that differs between neighboring jobs and steps, and between the starts of a requeued job.

    Processes on a lost node may still hold the port of the previous start.
    """
    return PORTS[(101 * job + step + 53 * restarts) % len(PORTS)]


def gpu_of(launch: Launch, num_visible: int, environment: Mapping[str, str]) -> int:
    """The index of this process's GPU among the visible ones; Slurm may show each task only its own.

    Raises:
        ValueError: there are fewer GPUs than processes on this machine.
    """
    bound_by_slurm = launch.launcher == "srun" and num_visible == 1
    if bound_by_slurm and launch.local_rank < _number(environment, "SLURM_GPUS_ON_NODE", default=1):
        return 0
    if launch.local_rank >= num_visible:
        raise ValueError(
            f"process {launch.local_rank} of this machine has no GPU: there are {num_visible}; "
            "start fewer processes or pass --device cpu"
        )
    return launch.local_rank


def is_store_hosted(environment: Mapping[str, str]) -> bool:
    """Whether torchrun itself hosts the rendezvous store."""
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def is_child_of_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in environment


def num_restarts(environment: Mapping[str, str]) -> int:
    """How often Slurm has requeued this job; 0 without Slurm."""
    return _number(environment, "SLURM_RESTART_COUNT", default=0)

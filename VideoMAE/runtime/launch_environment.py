"""Who this process is among how many, by torchrun's or Slurm's variables. The only module that reads those."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PORTS = range(20000, 32000)  # of Slurm jobs: below the ports that Linux gives to outgoing connections


class Launch(NamedTuple):
    """What a launcher says: who this process is among how many, and where they meet."""

    launcher: str  # torchrun, srun, or "" for a process that stands alone
    rank: int
    local_rank: int
    size: int
    address: str
    port: int


def read_launch(environment: Mapping[str, str]) -> Launch:
    """Where this process stands by torchrun's variables, else by those of srun's tasks, else alone.

    A shell inside `salloc` or `sbatch` has the job's variables, but belongs to no step of several tasks: alone.

    Raises:
        ValueError: names variables that are missing, senseless, or contradict each other.
    """
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", default=1)
    if "RANK" in environment:
        return _launched_by_torchrun(environment, tasks)
    if tasks > 1:
        return _launched_by_srun(environment, tasks)
    contradictions = [("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("SLURM_PROCID", 0)]
    _check_agreement(environment, contradictions, "and RANK is not set, so this process is alone", tasks)
    return Launch("", 0, 0, 1, "127.0.0.1", 29500)


def _launched_by_torchrun(environment: Mapping[str, str], tasks: int) -> Launch:
    missing = [name for name in NAMES if name not in environment]
    if missing:
        raise ValueError(f"the launcher set RANK but not {', '.join(missing)}; start with torchrun or srun")
    rank, local_rank, size, port = (_number(environment, name) for name in (*NAMES[:3], NAMES[4]))
    _check_below("RANK", rank, "WORLD_SIZE", size)
    if tasks > 1 and "GROUP_WORLD_SIZE" in environment:  # torchrun's agents: one in each task
        _check_agreement(environment, [("GROUP_WORLD_SIZE", tasks)], f"torchrun is to run with --nnodes={tasks}", tasks)
    elif tasks > 1:  # somebody gave Slurm's values torchrun's names: each task is one process
        agreed = [("WORLD_SIZE", tasks), ("RANK", _number(environment, "SLURM_PROCID"))]
        _check_agreement(environment, agreed, "each is one process", tasks)
    return Launch("torchrun", rank, local_rank, size, environment["MASTER_ADDR"], port)


def _launched_by_srun(environment: Mapping[str, str], tasks: int) -> Launch:
    rank, local_rank, job = (_number(environment, f"SLURM_{name}") for name in ("PROCID", "LOCALID", "JOB_ID"))
    _check_below("SLURM_PROCID", rank, "SLURM_STEP_NUM_TASKS", tasks)
    agreed = [("WORLD_SIZE", tasks), ("LOCAL_RANK", local_rank), ("SLURM_NTASKS", tasks)]
    _check_agreement(environment, agreed, "each is one process", tasks)
    address = environment.get("MASTER_ADDR")
    if address is None:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
        if not nodes:
            raise ValueError("srun started several tasks but SLURM_STEP_NODELIST is not set; set MASTER_ADDR")
        address = first_host(nodes)
    step, restarts = (_number(environment, f"SLURM_{name}", default=0) for name in ("STEP_ID", "RESTART_COUNT"))
    port = _number(environment, "MASTER_PORT", default=port_of_step(job, step, restarts=restarts))
    return Launch("srun", rank, local_rank, tasks, address, port)


def _number(environment: Mapping[str, str], name: str, *, default: int | None = None) -> int:
    if name not in environment and default is not None:
        return default
    text = environment.get(name)
    if text is None:
        raise ValueError(f"srun started several tasks but {name} is not set; start with srun or torchrun")
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f"{name}={text}: it is a whole number from 0 on")
    return int(text)


def _check_below(name: str, value: int, bound_name: str, bound: int) -> None:
    if value >= bound:
        raise ValueError(f"{name}={value} must be below {bound_name}={bound}")


def _check_agreement(
    environment: Mapping[str, str], expected: Sequence[tuple[str, int]], hence: str, tasks: int
) -> None:
    """Each of these variables that is set must have this value."""
    started = f"srun started {tasks} tasks (SLURM_STEP_NUM_TASKS)" if tasks > 1 else "srun started no tasks here"
    for name, value in expected:
        if _number(environment, name, default=value) != value:
            raise ValueError(f"{name}={environment[name]} contradicts the launch: {started}, {hence}")


def first_host(nodes: str) -> str:
    """The first host of Slurm's list: node[01-03,7],gpu2 -> node01. Only that one is needed, which saves asking
    `scontrol`: containers often lack it. SLURM_LAUNCH_NODE_IPADDR would be where srun runs, not where the tasks do."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]


def port_of_step(job: int, step: int, *, restarts: int) -> int:
    """A port that neighbouring jobs and steps do not share, nor the starts of a job that is queued again: a lost node's
    processes may still hold the port of the start before."""
    return PORTS[(101 * job + step + 53 * restarts) % len(PORTS)]


def gpu_of(launch: Launch, num_visible: int, environment: Mapping[str, str]) -> int:
    """The number of this process's GPU among those it sees; Slurm may show each task only its own."""
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
    """Whether torchrun itself listens where the processes are to meet."""
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def is_child_of_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether the parent of this process is torchrun."""
    return "TORCHELASTIC_RUN_ID" in environment


def num_restarts(environment: Mapping[str, str]) -> int:
    """How often Slurm has queued this job again; 0 without Slurm."""
    return _number(environment, "SLURM_RESTART_COUNT", default=0)

"""The launch environment, and results of all processes put back in order. The only module that reads rank variables."""

import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist

Result = TypeVar("Result")

_set_here: list[str] = []  # launch variables of a process that stands alone, until it stops


class World(NamedTuple):
    """This process among all: its rank, its rank on this machine, how many there are, and its device."""

    rank: int
    local_rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0


def start(device: str) -> World:
    """Joins the processes that torchrun started, or stands alone; `device` is auto, cuda or cpu.

    A process group is made in both cases, gloo on CPUs and NCCL on GPUs, since DeepSpeed wants one.

    Raises:
        ValueError: some of torchrun's variables are set and others not, or there is no GPU for this process.
    """
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if missing and "RANK" in os.environ:
        raise ValueError(f"the launcher set RANK but not {', '.join(missing)}; start with torchrun")
    if missing and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise ValueError(
            f"srun started {os.environ['SLURM_STEP_NUM_TASKS']} tasks that know nothing of each other; "
            "start one task per node and let the script start torchrun there"
        )
    if missing:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=str(_free_port()))  # DeepSpeed reads them too
        _set_here.extend(names)
    rank, local_rank, size = (int(os.environ[name]) for name in names[:3])
    use_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if use_gpu and local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            "start fewer processes or pass --device cpu"
        )
    chosen = torch.device("cuda", local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(chosen)
    patience = timedelta(hours=2)  # the main process alone checks every video of a dataset before training
    dist.init_process_group("nccl" if use_gpu else "gloo", rank=rank, world_size=size, timeout=patience)
    return World(rank, local_rank, size, chosen)


def stop() -> None:
    """Leaves the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
    while _set_here:
        os.environ.pop(_set_here.pop(), None)


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mean_over_processes(values: torch.Tensor) -> list[float]:
    """The means of some numbers over all processes; not finite where one is so anywhere. (n,) -> n floats"""
    values = values.detach().float().clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return [float(value) for value in values]


def gather(value: Any) -> list[Any]:
    """The (picklable) value of every process, in rank order, at every process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """The value that the first process has, at every process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_by_index(indices: Sequence[int], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every process's rows, sorted by index. indices (n,), rows (n, ...) -> (V,) int64, (V, ...)

    Raises:
        AssertionError: an index came from two processes.
    """
    parts = [part for part in gather((np.asarray(indices, dtype=np.int64), rows)) if len(part[0])]
    if not parts:
        return np.empty(0, dtype=np.int64), rows
    all_indices = np.concatenate([part[0] for part in parts])
    all_rows = np.concatenate([part[1] for part in parts])
    order = np.argsort(all_indices, kind="stable")
    assert len(np.unique(all_indices)) == len(all_indices), "a video was evaluated twice"
    return all_indices[order], all_rows[order]


def on_main(world: World, function: Callable[[], Result]) -> Result:
    """Runs a function at the main process only and gives its result to every process; its ValueError is raised at
    all."""
    result, error = None, None
    if world.is_main:
        try:
            result = function()
        except (ValueError, OSError) as reason:
            error = str(reason)
    result, error = from_main((result, error))
    if error is not None:
        raise ValueError(error)
    return result

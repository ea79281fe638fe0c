"""The process group of a run, and collective operations on it."""

import atexit
import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
import torch.distributed as dist

from VideoMAE.runtime.launch_environment import NAMES, Launch, gpu_of, read_launch

JOIN_TIMEOUT = timedelta(minutes=5)  # importing torch from a shared disk takes different times on different nodes
COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the main process alone checks all videos before training
REPORT_TIMEOUT = timedelta(seconds=10)

_variables_set: list[str] = []  # launch variables that `start` has set and `stop` removes


class World(NamedTuple):
    """This process: its rank, the number of processes, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


class ErrorOnAllRanks(ValueError):
    """An error that every process raises, so that only the main process reports it."""


@contextlib.contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Re-raises a ValueError as an ErrorOnAllRanks, for code that fails on every process if it fails on one."""
    try:
        yield
    except ValueError as error:
        raise ErrorOnAllRanks(str(error)) from error


def start(device: str, *, join_timeout: timedelta = JOIN_TIMEOUT) -> World:
    """Initializes the process group: gloo on CPUs, NCCL on GPUs. `device` is auto, cuda or cpu.

    A single process has a group too, and torchrun's variables are set, because DeepSpeed needs both. Raises ValueError
    if the launcher's variables contradict each other, there is no GPU, or not all processes join before the timeout.
    """
    launch = read_launch(os.environ)
    use_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    chosen = torch.device("cpu")
    if use_gpu:
        launch = launch._replace(local_rank=gpu_of(launch, torch.cuda.device_count(), os.environ))
        chosen = torch.device("cuda", launch.local_rank)
        torch.cuda.set_device(chosen)
    store = _rendezvous(launch, join_timeout)
    values = (launch.rank, launch.local_rank, launch.size, launch.address, launch.port)
    for name, value in zip(NAMES, values, strict=True):
        if name not in os.environ:
            os.environ[name] = str(value)
            _variables_set.append(name)
    try:
        backend, rank, size = "nccl" if use_gpu else "gloo", launch.rank, launch.size
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
        dist.barrier(device_ids=[launch.local_rank] if use_gpu else None)  # connects all pairs within the join timeout
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the {launch.size} processes at {launch.address}:{launch.port} could not initialize their group: {reason}"
        ) from error
    store.set_timeout(COLLECTIVE_TIMEOUT)
    return World(launch.rank, launch.size, chosen)


def _rendezvous(launch: Launch, timeout: timedelta) -> dist.Store:
    """Connects to the store of the process group, and waits for all processes."""
    if launch.size == 1:
        return dist.HashStore()
    deadline = time.monotonic() + timeout.total_seconds()
    hosts_store = launch.rank == 0 and not launch.is_store_hosted
    address = (launch.address, launch.port)
    try:
        if hosts_store:
            socket.getaddrinfo(*address)  # its error for an unknown host is shorter than libtorch's
        while not hosts_store:  # libtorch would print stack traces while it waits for the main process to listen
            try:
                socket.create_connection(address, timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        store = dist.TCPStore(*address, launch.size, is_master=hosts_store, timeout=timeout, wait_for_workers=False)
        store.set(f"joined/{launch.rank}", "")
        missing = list(range(launch.size))
        while missing := [rank for rank in missing if not store.check([f"joined/{rank}"])]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"missing: process {', '.join(map(str, missing))}")
            time.sleep(0.05)
    except (dist.DistError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"process {launch.rank} of {launch.size} could not join the others at {launch.address}:{launch.port} "
            f"(time limit {timeout.total_seconds():g} s): {reason}; if the address is wrong, set MASTER_ADDR and "
            "MASTER_PORT"
        ) from error
    return store


def stop() -> None:
    """Destroys the process group and unsets the variables of `start`."""
    if dist.is_initialized():
        dist.destroy_process_group()
    while _variables_set:
        os.environ.pop(_variables_set.pop(), None)


def exit_process(outcome: int | str | None) -> NoReturn:
    """Exits like `sys.exit(outcome)`, without finalizing the interpreter.

    DDP keeps the threads of Gloo alive after `stop`. A thread that releases a tensor while the interpreter is finalized
    aborts the process (pytorch/pytorch#179291), and the exit status is lost.
    """
    if isinstance(outcome, str):
        sys.stderr.write(f"{outcome}\n")
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if isinstance(outcome, str) else outcome or 0)


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended."""
    messages = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
    return isinstance(error, dist.DistError) or any(message in str(error) for message in messages)


def wait_for_all() -> None:
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def wait_for_report() -> None:
    """Called by the main process after its last message, and by the others before they end: torchrun stops the main
    process as soon as another one has ended. The others do not wait long, because they may have ended alone."""
    store = dist.distributed_c10d._get_default_store()
    with contextlib.suppress(dist.DistError):
        if dist.get_rank() == 0:
            store.set("reported", "")
        else:
            store.wait(["reported"], REPORT_TIMEOUT)


def mean_over_processes(values: torch.Tensor) -> list[float]:
    """The means of n numbers over all processes, (n,) -> n floats; not finite if any value is not finite."""
    values = values.detach().float().clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return [float(value) for value in values]


def gather(value: Any) -> list[Any]:
    """The (picklable) value of every process, in rank order, on every process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_by_index(indices: Sequence[int], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of all processes, sorted by index: indices (n,), rows (n, ...) -> (V,) int64, (V, ...)"""
    parts = [part for part in gather((np.asarray(indices, dtype=np.int64), rows)) if len(part[0])]
    if not parts:
        return np.empty(0, dtype=np.int64), rows
    all_indices, all_rows = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(all_indices, kind="stable")
    assert len(np.unique(all_indices)) == len(all_indices), "a video was evaluated twice"
    return all_indices[order], all_rows[order]


def on_main(world: World, function: Callable[[], Any]) -> Any:
    """Runs a function on the main process only; every process gets its result or raises its error as ValueError."""
    values: list[Any] = [None, None]
    try:
        values[0] = function() if world.is_main else None
    except (ValueError, OSError) as error:
        values[1] = str(error)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    if values[1] is not None:
        raise ValueError(values[1])
    return values[0]

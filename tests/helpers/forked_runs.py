"""Programs as processes of their own without the cost of imports: a server imports them once and forks each process.

Signals, locks, limits and namespaces are a process's own, so that everything but the import is as under a shell. A real
launcher's processes are in resume_helpers.started.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from gates import Gate, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
VCE, V2V = "VideoMAE.run_class_finetuning", "VideoMAE.run_v2v_finetuning"
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(  # the programs, and what they import only when they need it
    [
        VCE,
        V2V,
        "VideoMAE.training.finetune_vce",
        "VideoMAE.training.finetune_v2v",
        "deepspeed",
        "timm.optim",
        "timm.data.mixup",
        "torch._dynamo",
        "torch._inductor",
    ]
)


@cache
def start_server() -> None:
    """Starts the server, which takes the folders that it imports from, and DeepSpeed's ninja, from the environment."""
    folders = [str(REPOSITORY), str(REPOSITORY / "tests/helpers")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(folders), PATH=path, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()


class Run:
    """One or more processes of one run; each leads a process group, to which its data-loader workers belong."""

    def __init__(
        self,
        arguments: list[str],
        *,
        said: Path,
        processes: int,
        before: Callable[[], None] | None,
        gates: Sequence[Gate],
        program: str,
    ) -> None:
        start_server()
        self._said = said
        port = free_port()
        self.ranks = []
        for rank in range(processes):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
            environment = {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
            process = SERVER.Process(
                target=_be_the_program, args=(program, arguments, environment, before, gates, said)
            )
            process.start()
            self.ranks.append(process)
        for process in self.ranks:
            while process.is_alive() and os.getpgid(process.pid) != process.pid:
                time.sleep(0.001)

    @property
    def pid(self) -> int:
        return self.ranks[0].pid

    @property
    def is_alive(self) -> bool:
        return any(process.is_alive() for process in self.ranks)

    @property
    def status(self) -> int:
        """Of the first process that failed; 0 when none did."""
        return next((process.exitcode for process in self.ranks if process.exitcode), 0)

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace") if self._said.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """To every process and its workers, as Slurm does."""
        for process in self.ranks:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def kill(self) -> None:
        """Ends everything at once."""
        self.signal(signal.SIGKILL)
        self.wait()

    def poll(self) -> int | None:
        """The status; None as long as a process is alive."""
        return None if self.is_alive else self.status

    def wait(self) -> int:
        """The status, once every process has ended."""
        for process in self.ranks:
            process.join()
        return self.status

    def wait_until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self)

    def wait_at(self, gate: Gate) -> None:
        """Waits until every process is at the gate."""
        gate.wait(self, processes=len(self.ranks))


@contextmanager
def forked(
    arguments: list[str],
    *,
    said: Path,
    processes: int = 1,
    before: Callable[[], None] | None = None,
    gates: Sequence[Gate] = (),
    program: str = VCE,
) -> Iterator[Run]:
    """A run of a module's `main`, killed at the end if anything is left of it; `before` is called in each of its
    processes first."""
    said.unlink(missing_ok=True)
    started = Run(arguments, said=said, processes=processes, before=before, gates=gates, program=program)
    try:
        yield started
    finally:
        started.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _be_the_program(
    program: str,
    arguments: list[str],
    environment: dict[str, str],
    before: Callable[[], None] | None,
    gates: Sequence[Gate],
    said: Path,
) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as it is in a process that a shell started
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if environment["WORLD_SIZE"] != "1":
        os.environ.update(environment)
    if before is not None:
        before()
    import torch

    from VideoMAE.training import metric_logger

    for gate in gates:
        gate.install()
    torch.set_num_threads(1)
    metric_logger.draw_curves = lambda folder: None  # a third of such a small run's time, and the last thing it does
    importlib.import_module(program).main(arguments)

"""Gates: a tested process waits at one of its own calls until the test lets it continue.

With a gate, a test meets the tested process in a known state, whatever the speed of the machine:

    gate = Gate(tmp_path / "gate", STEP, calls=3)
    process = subprocess.Popen(command, env={**os.environ, **gate.environment()})
    gate.wait(process)  # two steps are done, the third has not begun
    process.send_signal(signal.SIGTERM)
    gate.open()

Nothing here has a time limit: pytest's own ends a test that waits in vain.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.abc
import importlib.util
import json
import multiprocessing.process
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

STEP = "VideoMAE.engine_for_finetuning:set_step_values"
"""Called at the beginning of every optimizer step; all that belongs to the step before is done, its checkpoint too."""

EVERY_SECONDS = 0.005
VARIABLE = "EMODIVERSITY_TEST_GATES"


class Ends(Protocol):
    """A process, or a group of them; `poll` returns None as long as it runs."""

    def poll(self) -> int | None: ...


Process = Ends | multiprocessing.process.BaseProcess


@dataclasses.dataclass(frozen=True)
class Gate:
    """Holds every process in which it is installed at the call number `calls` of `function`, "module:name".

    A process counts its own calls; one that was forked continues its parent's count. `argument`: only calls with this
    text in an argument count. `until_asked`: the gate also opens when the process has noticed a signal that asks it to
    stop, which may reach it by way of a launcher.
    """

    folder: Path
    function: str
    calls: int = 1
    until_asked: bool = False
    argument: str = ""

    def environment(self, *others: Gate) -> dict[str, str]:
        """Variables that install this gate, and others, in a new Python process and in all that it starts."""
        gates = [{**dataclasses.asdict(gate), "folder": str(gate.folder)} for gate in (self, *others)]
        path = [str(Path(__file__).with_name("at_start")), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {VARIABLE: json.dumps(gates), "PYTHONPATH": os.pathsep.join(path)}

    def install(self) -> None:
        """Installs the gate in this process: now where the module is loaded, as soon as it is loaded otherwise."""
        self.folder.mkdir(parents=True, exist_ok=True)
        module = self.function.partition(":")[0]
        if module in sys.modules:
            self._replace_in(sys.modules[module])
        else:
            sys.meta_path.insert(0, _AfterLoading(module, self._replace_in))

    def _replace_in(self, module: ModuleType) -> None:
        *owners, name = self.function.partition(":")[2].split(".")
        owner = functools.reduce(getattr, owners, module)
        original = getattr(owner, name)
        count = 0

        @functools.wraps(original)
        def held(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            if not self.argument or any(self.argument in str(value) for value in arguments):
                count += 1
                if count == self.calls:
                    self._hold()
            return original(*arguments, **named)

        setattr(owner, name, held)

    def _hold(self) -> None:
        (self.folder / f"{os.getpid()}.waits").touch()
        parent = os.getppid()
        while not self._is_open() and not (self.until_asked and _is_asked_to_stop()):
            if os.getppid() != parent and not self.until_asked:
                os._exit(1)  # the test has ended
            time.sleep(EVERY_SECONDS)
        (self.folder / f"{os.getpid()}.waits").unlink()

    def _is_open(self) -> bool:
        return (self.folder / "open").exists() or (self.folder / f"{os.getpid()}.open").exists()

    def waiting(self) -> list[int]:
        """The processes that wait at the gate."""
        found = sorted(int(path.stem) for path in self.folder.glob("*.waits"))
        return [process for process in found if Path(f"/proc/{process}").exists()]

    def wait(self, process: Process, *, processes: int = 1) -> list[int]:
        """Waits until as many processes are at the gate -> their ids."""
        wait_until(lambda: len(self.waiting()) >= processes, process)
        return self.waiting()

    def open(self, processes: Iterable[int] = ()) -> None:
        """Lets these processes through; without any, everybody, now and later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in [f"{process}.open" for process in processes] or ["open"]:
            (self.folder / name).touch()


class _AfterLoading(importlib.abc.MetaPathFinder):
    """Calls a function with one module when that has been loaded, before anybody else sees it."""

    def __init__(self, name: str, function: Callable[[ModuleType], None]) -> None:
        self.name, self.function = name, function

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            self.function(module)

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


def install_from_environment() -> None:
    """What tests/at_start/sitecustomize.py does at the start of a process."""
    for settings in json.loads(os.environ.get(VARIABLE, "[]")):
        Gate(**{**settings, "folder": Path(settings["folder"])}).install()


def wait_until(condition: Callable[[], Any], process: Process) -> None:
    """Waits for a state that a process brings about; fails when the process ends before."""
    while not condition():
        status = process.poll() if hasattr(process, "poll") else process.exitcode
        if status is not None and not condition():
            said = process.communicate()[1] if isinstance(process, subprocess.Popen) else getattr(process, "said", "")
            raise AssertionError(f"ended with {status}: {said}")
        time.sleep(EVERY_SECONDS)


def _is_asked_to_stop() -> bool:
    return bool(importlib.import_module("VideoMAE.runtime.stop_request").stop_request)

"""What cases share: a dataset, an unbroken run, an interrupted one, and what "finished" and "stopped" mean."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = [str(folder) for folder in (TESTS.parent, TESTS / "helpers", TESTS / "faults")]
sys.path[:0] = [folder for folder in FOLDERS if folder not in sys.path]

from forked_runs import Run, forked  # noqa: E402
from gates import STEP, Gate  # noqa: E402
from resume_helpers import flags, lines, outcome  # noqa: E402
from vce_files import make_vce_folder  # noqa: E402

from VideoMAE.runtime.stop_request import REQUEUE_STATUS  # noqa: E402
from VideoMAE.training import checkpoint  # noqa: E402

STEPS_PER_EPOCH = 6
ZERO = ["--enable_deepspeed", "--zero_stage", "1"]
TWO = ["--batch_size", "1"]  # on two processes, the total batch of one
COMPARED = ("log.txt", "steps.jsonl", "checkpoint-*")


class Lab:
    """A folder with a dataset of 14 training videos (12 are trained on, in 6 steps an epoch) and 3 test videos."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.numbers = itertools.count()
        self.checked: Path | None = None  # what the first run found out of each video, which costs a second
        self.dataset = make_vce_folder(root / "vce_dataset", 14, 3, num_frames=75)
        self.unbroken()

    def new(self, name: str = "run") -> Path:
        """A path where nothing is."""
        return self.root / f"{name}{next(self.numbers)}"

    def own_dataset(self) -> Path:
        """A copy of the dataset to spoil."""
        return Path(shutil.copytree(self.dataset, self.new("dataset")))

    @contextlib.contextmanager
    def running(
        self,
        output_dir: Path,
        *more: str,
        dataset: Path | None = None,
        processes: int = 1,
        before: Callable[[], None] | None = None,
        gates: Sequence[Gate] = (),
    ) -> Iterator[Run]:
        if self.checked and dataset is None and not output_dir.exists():
            output_dir.mkdir()
            shutil.copy(self.checked, output_dir)
        arguments = flags(dataset or self.dataset, output_dir, *more)
        with forked(arguments, said=self.new("said"), processes=processes, before=before, gates=gates) as run:
            yield run

    @contextlib.contextmanager
    def held(
        self,
        output_dir: Path,
        *more: str,
        steps: int,
        dataset: Path | None = None,
        processes: int = 1,
        gates: Sequence[Gate] = (),
    ) -> Iterator[tuple[Run, Gate]]:
        """A run that waits, after so many steps, at a gate; and the gate."""
        gate = self.gate(STEP, calls=steps + 1)
        with self.running(output_dir, *more, dataset=dataset, processes=processes, gates=[gate, *gates]) as run:
            run.wait_at(gate)
            assert num_steps(output_dir) == steps
            yield run, gate

    def gate(self, function: str, **more: Any) -> Gate:
        """A new gate; see gates.py."""
        return Gate(self.new("gate"), function, **more)

    @functools.cache  # noqa: B019
    def unbroken(self, processes: int = 1, more: tuple[str, ...] = ()) -> dict[str, Any]:
        """The outcome of a run to which nothing happens."""
        output_dir = self.new("unbroken")
        with self.running(output_dir, *more, processes=processes) as run:
            assert run.wait() == 0, run.said
        self.checked = output_dir / "video_check.json"
        return outcome(output_dir)

    @functools.cached_property
    def _interrupted(self) -> Path:
        output_dir = self.new("interrupted")
        with self.held(output_dir, steps=3) as (run, gate):
            run.signal(signal.SIGUSR1)
            gate.open()
            assert run.wait() == REQUEUE_STATUS, run.said
        assert num_steps(output_dir) == 4
        return output_dir

    def interrupted(self) -> Path:
        """A copy of the output folder of a run that was asked to stop after a few steps."""
        return Path(shutil.copytree(self._interrupted, self.new()))

    def finishes(
        self,
        output_dir: Path,
        *more: str,
        dataset: Path | None = None,
        processes: int = 1,
        before: Callable[[], None] | None = None,
        expected: dict[str, Any] | None = None,
    ) -> str:
        """Starts the same command; it must end with the unbroken run's numbers. Returns what it said."""
        with self.running(output_dir, *more, dataset=dataset, processes=processes, before=before) as run:
            assert run.wait() == 0, run.said
            said = run.said
        assert "Traceback" not in said, said
        self.is_right(output_dir, expected)
        return said

    def is_right(self, output_dir: Path, expected: dict[str, Any] | None = None) -> None:
        """A finished run has the unbroken run's numbers, and nothing lies about."""
        assert outcome(output_dir) == (expected or self.unbroken())
        assert not leftovers(output_dir)

    def stops(
        self,
        output_dir: Path,
        *more: str,
        dataset: Path | None = None,
        before: Callable[[], None] | None = None,
        untouched: bool = True,
    ) -> str:
        """Starts the same command; it must refuse in one sentence, which is returned, and leave every file as it is."""
        old = content_of(output_dir)
        with self.running(output_dir, *more, dataset=dataset, before=before) as run:
            sentence = sentence_of(run)
        if untouched:
            assert content_of(output_dir) == old
        return sentence


def sentence_of(run: Run) -> str:
    """The one sentence with which a run ends that cannot go on."""
    assert run.wait() == 1, f"status {run.status}\n{run.said}"
    said = run.said
    reasons = [line for line in said.splitlines() if line.startswith("error")]
    assert len(reasons) == 1 and "Traceback" not in said and "Exception" not in said, said
    return reasons[0]


def all_whole(output_dir: Path) -> None:
    """No file of a run is damaged."""
    checkpoints = list(output_dir.glob("checkpoint-*"))
    assert checkpoints
    for path in checkpoints:
        checkpoint.check_whole(path)
    json.loads((output_dir / "config.json").read_text())
    for name in ("steps.jsonl", "log.txt"):
        lines(output_dir / name)


def content_of(output_dir: Path) -> dict[str, str]:
    """Checksums of the files that a run needs to go on."""
    found = [path for pattern in COMPARED for path in output_dir.glob(pattern)]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def leftovers(output_dir: Path) -> list[Path]:
    return [path for path in output_dir.iterdir() if path.name.endswith(".tmp")]


def num_steps(output_dir: Path) -> int:
    return len(lines(output_dir / "steps.jsonl"))


def num_epochs(output_dir: Path) -> int:
    return len(lines(output_dir / "log.txt"))


def finished(restarts: int) -> str:
    """An outcome in words."""
    times = {0: "without a restart", 1: "after 1 restart"}.get(restarts, f"after {restarts} restarts")
    return f"finished with the unbroken run's numbers {times}"


def stopped(sentence: str, root: Path) -> str:
    """An outcome in words."""
    short = sentence.replace(f"{root}/", "").removeprefix("error: ").removeprefix("error (process 0): ")
    return f"stopped: {short}; nothing lost, finished with the unbroken run's numbers once mended"

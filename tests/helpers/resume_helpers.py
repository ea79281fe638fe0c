"""Runs that are broken off and gone on with, as real processes, and what they share with unbroken ones."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gates import Gate

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # as the tests themselves: sums depend on how work is cut
FLAGS = shlex.split("""
    --model vit_micro_patch16_224 --num_frames 8 --input_size 32 --short_side_size 32 --epochs 2 --warmup_epochs 1
    --lr 0.03 --layer_decay 1 --drop_path 0.2 --init_scale 1 --batch_size 2 --model_ema --num_workers 1
    --save_ckpt_freq 1 --save_ckpt_steps 1 --device cpu
""")


def flags(dataset: Path, output_dir: Path, *more: str) -> list[str]:
    return ["--data_path", str(dataset), "--output_dir", str(output_dir), *FLAGS, *more]


def command(*arguments: str, processes: int = 1, module: str = "VideoMAE.run_class_finetuning") -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", module, *arguments]
    launch = [sys.executable, "-m", "VideoMAE.runtime.launch", "--standalone", f"--nproc_per_node={processes}"]
    return [*launch, "-m", module, *arguments]


@contextmanager
def started(
    *arguments: str, processes: int = 1, stderr: Any = subprocess.PIPE, gate: Gate | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A run in a process group of its own, which is killed at the end if anything is left of it."""
    environment = ONE_THREAD | (gate.environment() if gate else {})
    process = subprocess.Popen(
        command(*arguments, processes=processes),
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log, of which a process may be writing the last."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


def outcome(output_dir: Path) -> dict[str, Any]:
    """Everything that must not depend on whether a run was broken off: losses of all steps, metrics, predictions."""
    return {
        "steps": lines(output_dir / "steps.jsonl"),
        "epochs": lines(output_dir / "log.txt"),
        "results": json.loads((output_dir / "results.json").read_text()),
        "predictions": (output_dir / "predictions.jsonl").read_text(),
    }

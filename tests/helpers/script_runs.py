"""Runs one of the shell scripts as a person does."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def run_script(name: str, *arguments: str, cwd: Path = REPOSITORY, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        ["bash", str(REPOSITORY / "scripts" / name), *arguments],
        cwd=cwd,
        env={**environment, "PYTHON": sys.executable, **settings},
        capture_output=True,
        text=True,
    )

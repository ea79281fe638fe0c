"""The demo as a process of its own on loopback, and a browser to look at it with."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")
MAX_UPLOAD_MB, MAX_SECONDS = 1, 5


def why_no_server() -> str | None:
    return None if find_spec("gradio") else "Gradio is not installed (pip install gradio)"


def why_no_browser() -> str | None:
    if find_spec("playwright") is None:
        return "Playwright is not installed (pip install playwright)"
    return None if CHROMIUM else "there is no chromium (apt-get install chromium)"


class Site:
    """The running server. `temp` is the folder that holds its temporary one."""

    def __init__(self, process: subprocess.Popen[str], url: str, temp: Path, log: Path) -> None:
        self.process, self.url, self.temp, self.log = process, url, temp, log
        self._earlier: list[Path] = []

    def uploads(self) -> list[Path]:
        """Files and folders of uploads that are there now and were not at `forget_uploads`."""
        found = [path for folder in self.temp.glob("emodiversity-*/uploads") for path in folder.rglob("*")]
        return [path for path in found if path not in self._earlier]

    def forget_uploads(self) -> None:
        self._earlier = [*self._earlier, *self.uploads()]

    def stop(self, number: signal.Signals) -> int:
        """-> the exit status"""
        self.process.send_signal(number)
        return self.process.wait()


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Site]:
    """`python -m VideoMAE.demo` with these flags, from another folder; it ends with this process, however that ends."""
    temp, log = folder / "temp", folder / "log.txt"
    temp.mkdir(parents=True)
    limits = ["--max_upload_mb", str(MAX_UPLOAD_MB), "--max_seconds", str(MAX_SECONDS), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temp), "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "VideoMAE.demo", "--port", "0", *limits, *flags],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_end_with_parent,
        )
    try:
        yield Site(process, _wait_for_url(process, log), temp, log)
    finally:
        process.kill()
        process.wait()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _wait_for_url(process: subprocess.Popen[str], log: Path) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("the page is at "):
                return line.split()[4].rstrip(",")
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()}")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Debian's Chromium without a window, through Playwright -> playwright.sync_api.Browser"""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


def hang(path: Path, *, max_seconds: float) -> None:
    """A decoder that never comes back."""
    time.sleep(600)

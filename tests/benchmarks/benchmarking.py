"""What the benchmarks share: the project on the path, timing in turns, peak memory, a test film, lines of output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

Times = dict[str, list[float]]


def say(line: str = "") -> None:
    """One line of the result, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def use_threads(num_threads: int) -> None:
    """So many threads for torch, one for OpenCV and decord: a worker of the data loader has no more either."""
    torch.set_num_threads(num_threads)
    cv2.setNumThreads(0)


def time_interleaved(functions: dict[str, Callable[[], Any]], *, repeats: int, warm_up: bool = True) -> Times:
    """CPU seconds of each call, all threads of this process, A B C A B C ...

    On an idle core that is the time on the clock of a single-threaded call; on a shared one it still tells what the
    call costs. Taking turns spreads what is left of the others' load (caches, clock rate) over all alike.
    """
    if warm_up:
        for function in functions.values():
            function()
    seconds: Times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return seconds


def say_times(seconds: Times) -> None:
    """A line each: least and median CPU seconds."""
    width = max(map(len, seconds))
    for name, values in seconds.items():
        say(f"  {name:{width}}  min {min(values):8.3f} s   median {median(values):8.3f} s   ({len(values)} times)")


def say_ratio(what: str, numerator: list[float], denominator: list[float], target: str) -> None:
    """Ratios of minima and of medians beside the target."""
    of_minima, of_medians = min(numerator) / min(denominator), median(numerator) / median(denominator)
    say(f"{what}: {of_minima:.2f} of minima, {of_medians:.2f} of medians (target: {target})")


def peak_memory_mb(function: Callable[..., Callable[[], Any]], *args: Any) -> float:
    """Additional memory of a call in a fresh process: its peak minus what was held just before, in MB.

    `function(*args)` prepares, and returns what is measured. Linux only.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure_peak_mb, function, args).result()


def _measure_peak_mb(function: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> float:
    measured = function(*args)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
    before_mb = memory_mb("VmHWM")
    kept = measured()
    peak_mb = memory_mb("VmHWM")
    del kept
    return peak_mb - before_mb


def memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def write_film(
    path: Path, *, seconds: float = 12, fps: int = 30, width: int = 426, height: int = 320, seed: int = 0
) -> Path:
    """An H.264 film as a phone takes it and a web site encodes it: a panning textured scene, things that move in it,
    grain; about 0.7 Mbit/s."""
    rng = np.random.default_rng(seed)
    num_frames = round(seconds * fps)
    scene = sum(
        cv2.resize(rng.normal(0, 26, (height * 2 // grain, width * 2 // grain, 3)), (width * 2, height * 2))
        for grain in (4, 16, 64)
    )
    scene = np.clip(scene + 120, 0, 255).astype(np.uint8)
    things = [(rng.uniform(0, 6.28, 2), rng.uniform(0.5, 3, 2), rng.integers(0, 256, 3).tolist()) for _ in range(6)]
    grain = rng.normal(0, 3, (height + 16, width + 16, 3)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 700_000
        stream.codec_context.time_base = Fraction(1, fps)
        for i in range(num_frames):
            time_seconds = i / fps
            top = int((1 + np.sin(time_seconds * 0.7)) * height * 0.49)
            left = int((1 + np.cos(time_seconds * 0.4)) * width * 0.49)
            picture = scene[top : top + height, left : left + width].copy()
            for phase, speed, colour in things:
                x, y = (0.5 + 0.45 * np.sin(phase + speed * time_seconds)) * (width, height)
                cv2.circle(picture, (int(x), int(y)), height // 9, colour, -1, cv2.LINE_AA)
            down, right = rng.integers(0, 16, 2)
            noisy = picture + grain[down : down + height, right : right + width]
            frame = av.VideoFrame.from_ndarray(np.clip(noisy, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    megabits = os.path.getsize(path) * 8e-6 / seconds
    say(f"film: {seconds:g} s, {fps} fps, {width} x {height}, H.264, {megabits:.2f} Mbit/s")
    return path

"""Predicting against its floor, decoding plus bare forward passes; and the time from the command to its first answer.

python tests/benchmarks/benchmark_predict.py
python tests/benchmarks/benchmark_predict.py --soak 200
"""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from benchmarking import ROOT, memory_mb, say, say_ratio, say_times, use_threads, write_film

from VideoMAE.data.clip_sampling import segment_starts, strided_frames
from VideoMAE.inference.predictor import load_predictor
from VideoMAE.modeling_finetune import MODELS, VisionTransformer
from VideoMAE.video.reader import Video

CLIP_LEN, STRIDE, NUM_SEGMENTS, NUM_CROPS, BATCH_SIZE = 16, 4, 2, 3, 8


def save_model(folder: Path, size: str) -> Path:
    """Random weights in the published form, with VCE's head."""
    file = folder / f"{size}.pth"
    torch.save({"model": MODELS[f"vit_{size}_patch16_224"](num_classes=27, all_frames=CLIP_LEN).state_dict()}, file)
    return file


def decode(path: Path) -> np.ndarray:
    """The frames that some view shows, opening included."""
    with Video(path) as video:
        strided = strided_frames(video.num_frames, clip_len=CLIP_LEN, stride=STRIDE)
        starts = segment_starts(len(strided), num_segments=NUM_SEGMENTS, clip_len=CLIP_LEN)
        return video.frames_at(np.unique(np.concatenate([strided[start : start + CLIP_LEN] for start in starts])))


@torch.inference_mode()
def floor(film: Path, num_videos: int, model: VisionTransformer, batch: torch.Tensor) -> None:
    """Each video decoded, and each batch of clips, made before, through the network."""
    for _ in range(num_videos):
        decode(film)
    num_clips = num_videos * NUM_SEGMENTS * NUM_CROPS
    for start in range(0, num_clips, BATCH_SIZE):
        model(batch[: num_clips - start])


def timed(functions: dict[str, Callable[[], Any]], *, repeats: int) -> tuple[dict[str, list[float]], ...]:
    """CPU seconds and seconds by the clock of each call, in turns."""
    cpu: dict[str, list[float]] = {name: [] for name in functions}
    clock: dict[str, list[float]] = {name: [] for name in functions}
    for name, function in [item for _ in range(repeats) for item in functions.items()]:
        starts = time.process_time(), time.perf_counter()
        function()
        cpu[name].append(time.process_time() - starts[0])
        clock[name].append(time.perf_counter() - starts[1])
    return cpu, clock


def compare(film: Path, checkpoint: Path, *, num_videos: int, repeats: int) -> None:
    predictor = load_predictor(checkpoint, device="cpu", batch_size=BATCH_SIZE)
    model = predictor.networks["vce"].model
    batch = torch.randn(BATCH_SIZE, 3, CLIP_LEN, 224, 224)
    predictor(film)  # warm
    times = timed(
        {
            "predict": lambda: predictor([film] * num_videos),
            "decode + forward": partial(floor, film, num_videos, model, batch),
            "split: decode": lambda: [decode(film) for _ in range(num_videos)],
        },
        repeats=repeats,
    )
    for kind, seconds in zip(("CPU seconds", "seconds by the clock"), times, strict=True):
        say(f"\n{checkpoint.stem}, {num_videos} videos of {NUM_SEGMENTS} x {NUM_CROPS} views, {kind}")
        say_times(seconds)
        say_ratio("predict / decode + forward", seconds["predict"], seconds["decode + forward"], "at most 1.2")


def run_once(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """CPU seconds of a process and its children, and seconds until its first line of output."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    clock = time.perf_counter() - start
    process.stdout.read()
    assert process.wait() == 0 and first
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def measure_start(film: Path, checkpoint: Path, *, repeats: int) -> None:
    """The whole command on one video, seen once and in all views, and what it cannot do without."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["-m", "VideoMAE.predict", str(film), "--checkpoint", str(checkpoint), "--device", "cpu"]
    commands = {
        "one view": [*arguments, "--num_segments", "1", "--num_crops", "1"],
        f"{NUM_SEGMENTS} x {NUM_CROPS} views": arguments,
        "floor: import torch": ["-c", "import torch; print()"],
    }
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    clock: dict[str, list[float]] = {name: [] for name in cpu}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            of_cpu, of_clock = run_once(command, environment)
            cpu[name].append(of_cpu)
            clock[name].append(of_clock)
    for kind, seconds in (("CPU seconds, to the end", cpu), ("seconds by the clock, to the first line", clock)):
        say(f"\nstart-up, {checkpoint.stem}, {kind} (target: below 6 s)")
        say_times({name: values[1:] for name, values in seconds.items()})


def watch_memory(film: Path, checkpoint: Path, num_videos: int) -> None:
    """Memory of this process while it predicts the film again and again."""
    every = max(num_videos // 10, 1)
    stream = load_predictor(checkpoint, device="cpu").stream([film] * num_videos)
    for number, _ in enumerate(stream, start=1):
        if number % every == 0:
            gc.collect()
            say(f"{number:6d} videos predicted: {memory_mb('VmRSS'):8.1f} MB held")


def main(
    *,
    sizes: tuple[str, ...] = ("small", "base"),
    num_videos: int = 4,
    repeats: int = 3,
    threads: int = 1,
    soak: int = 0,
) -> None:
    """Time both in turn for each model, then the start.

    Args:
        sizes: of the ViT.
        num_videos: how often the film is predicted in a call.
        repeats: timed calls of each.
        threads: torch's.
        soak: above 0, predict so many videos with the smallest model instead and show the memory held.
    """
    use_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = write_film(folder / "film.mp4")
        if soak:
            watch_memory(film, save_model(folder, "micro"), soak)
            return
        for size in sizes:
            compare(film, save_model(folder, size), num_videos=num_videos, repeats=repeats)
        measure_start(film, save_model(folder, "small"), repeats=repeats)


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

"""Logs of a run: log.txt, steps.jsonl, tensorboard events, a progress bar, curves.png."""

import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar
from tqdm import tqdm

from VideoMAE.files import json_line, read_complete_json_lines, to_jsonable, write_errors_name, write_json_lines

Item = TypeVar("Item")


class MetricLogger:
    """Writes one line per optimizer step to steps.jsonl and one per epoch to log.txt; only on the main process."""

    def __init__(self, output_dir: Path, *, enabled: bool, num_processes: int = 1, show_progress: bool = True) -> None:
        self.output_dir, self.enabled = output_dir, enabled
        self.num_processes, self.show_progress = num_processes, show_progress
        self.steps: TextIO | None = None
        self.events: Events | None = None
        self._bar: tqdm | None = None

    def open(self, log_dir: Path | None, *, epoch: int, steps: int, first_step: int) -> None:
        """Opens the files of a run that continues after `steps` steps of `epoch`, and drops later lines of an
        interrupted run. `first_step` is the number of the next step."""
        if not self.enabled:
            return
        for name, kept_of_epoch in (("log.txt", 0), ("steps.jsonl", steps)):
            lines = read_complete_json_lines(self.output_dir / name)
            kept = [line for line in lines if line["epoch"] < epoch]
            kept += [line for line in lines if line["epoch"] == epoch][:kept_of_epoch]
            write_json_lines(self.output_dir / name, kept)
        self.steps = (self.output_dir / "steps.jsonl").open("a", encoding="utf-8", buffering=1)
        self.events = Events(log_dir or self.output_dir / "tensorboard", first_step=first_step)

    def sync(self) -> None:
        """Writes the lines of all steps to disk, so that a checkpoint never contains more steps than the log."""
        if self.steps is not None:
            with write_errors_name(self.output_dir / "steps.jsonl"):
                os.fsync(self.steps.fileno())

    def step(self, *, epoch: int, step: int, values: Mapping[str, float | None]) -> None:
        """Logs an optimizer step."""
        if self.steps is not None and self.events is not None:
            with write_errors_name(self.output_dir / "steps.jsonl"):
                self.steps.write(json_line(to_jsonable({"epoch": epoch, "step": step, **values})))
            self.events.write("step", values, step)

    def epoch(self, epoch: int, values: Mapping[str, Any]) -> None:
        """Logs an epoch: a JSON line in log.txt."""
        if self.events is not None:
            path = self.output_dir / "log.txt"
            with write_errors_name(path), path.open("a", encoding="utf-8") as file:
                file.write(json_line({"epoch": epoch, **values}))
            self.events.write("epoch", values, epoch)
            self.events.flush()

    def progress(self, items: Iterable[Item], *, describe: str, total: int, done: int = 0) -> Iterator[Item]:
        """Yields the batches and shows a progress bar with clips/s, remaining time and memory."""
        if not (self.enabled and self.show_progress):
            yield from items
            return
        interval, delay = (0.5, 0.0) if sys.stderr.isatty() else (30.0, 30.0)
        clips = 0
        with tqdm(
            items,
            describe,
            total,
            initial=done,
            mininterval=interval,
            delay=delay,
            unit="batch",
            leave=False,
            dynamic_ncols=True,
        ) as bar:
            self._bar = bar
            for item in bar:
                yield item
                clips += len(item.clips) * self.num_processes
                elapsed = max(bar.format_dict["elapsed"], 1e-9)
                bar.set_postfix_str(f"{clips / elapsed:.1f} clips/s, {memory_gib():.1f} GiB", refresh=False)

    def say(self, text: str) -> None:
        """Prints a line to the terminal."""
        if self.enabled:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Closes the files and draws the curves."""
        if self.steps is not None and self.events is not None:
            self.events.flush()
            with write_errors_name(self.output_dir):
                self.steps.close()
                self.events.close()
                draw_curves(self.output_dir)

    def abandon(self) -> None:
        """Closes the files, ignoring errors, and the progress bar, so that an error message can follow."""
        if self._bar is not None:
            self._bar.delay = 0  # otherwise a delayed bar that a message has made visible would remain
            self._bar.close()
        for file in (self.steps, self.events):
            if file is not None:
                with suppress(OSError, ValueError):
                    file.close()


class Events:
    """A file of scalars for tensorboard. A full disk would end the thread of tensorboardX's SummaryWriter and block the
    run forever."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        self.folder = folder
        with write_errors_name(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
            if first_step:  # tensorboard discards this step and later ones of an interrupted run
                start = SessionLog(status=SessionLog.SessionStatus.START)
                self._writer.write_event(Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, group: str, values: Mapping[str, Any], position: int) -> None:
        """Writes the numeric values as group/name."""
        with write_errors_name(self.folder):
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    summary = scalar(f"{group}/{name}", value)
                    self._writer.write_event(Event(wall_time=time.time(), step=position, summary=summary))

    def flush(self) -> None:
        """Flushes to the operating system."""
        with write_errors_name(self.folder):
            self._writer.flush()

    def close(self) -> None:
        """Closes the file. Raises OSError if the remaining events cannot be written."""
        self._writer.close()


def memory_gib() -> float:
    """Peak memory of this process: of the GPU if one is used, otherwise of the host."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


def draw_curves(output_dir: Path) -> None:
    """Draws log.txt and steps.jsonl of a run as curves.png, once an epoch has ended."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, epochs = (read_complete_json_lines(output_dir / name) for name in ("steps.jsonl", "log.txt"))
    if not epochs:
        return
    titles = ["loss", "validation accuracy, %", *(["learning rate of the head"] if steps else [])]
    figure, axes = pyplot.subplots(1, len(titles), figsize=(4.3 * len(titles), 3.6), layout="constrained")
    loss, accuracy = axes[:2]
    per_epoch = max(len(steps) / len(epochs), 1)
    positions = [(line["step"] + 1) / per_epoch for line in steps]
    loss.plot(positions, [line["loss"] for line in steps], lw=0.6, alpha=0.4, color="tab:blue")
    ends = [line["epoch"] + 1 for line in epochs]
    loss.plot(ends, [line["train_loss"] for line in epochs], color="tab:blue", label="training, mean of the epoch")
    if any(line.get("val_bce") is not None for line in epochs):
        loss.plot(ends, [line.get("val_bce") for line in epochs], color="tab:orange", label="validation")
    for name in ("acc1", "acc3", "acc5", "pair_accuracy"):
        if epochs[-1].get(f"val_{name}") is not None:
            accuracy.plot(ends, [line.get(f"val_{name}") for line in epochs], marker=".", label=name)
    if steps:
        axes[2].plot(positions, [line["lr"] for line in steps], color="tab:green")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small")
    figure.savefig(output_dir / "curves.png", dpi=110)
    pyplot.close(figure)

"""What a loader's measurement says: the lines, the advice, the chart."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from VideoMAE.dataset_tools.loader_datasets import Subject
from VideoMAE.dataset_tools.loader_parts import PARTS, Split
from VideoMAE.dataset_tools.loader_workers import Held, Rate
from VideoMAE.dataset_tools.programs import num_cores
from VideoMAE.reporting.chart_style import LIGHT, Theme, add_legend, label_axes, new_figure, stacked_png

PREPARE = "data_prep/prepare_videos.py makes a copy that decodes faster"
LARGE_SHARE = 0.5  # of the whole, from which on a part is worth advice
POOR_SCALING = 0.7
FLAT = 0.05


def split_lines(split: Split) -> list[str]:
    """The table of the parts."""
    lines = [f"one core, CPU time of {split.num_clips} clips:", f"  {'':10}{'ms a clip':>10}{'share':>8}"]
    for part in PARTS:
        if part == "convert" and not split.seconds[part]:
            lines.append(f"  {part:10}{'(within decode)':>18}")
            continue
        milliseconds = 1000 * split.seconds[part] / split.num_clips
        lines.append(f"  {part:10}{milliseconds:10.1f}{100 * split.share(part):6.0f} %")
    for name, seconds, rate, more in (
        ("whole", split.whole_seconds, split.clips_per_second, ""),
        ("floor", split.floor_seconds, split.floor_clips_per_second, ": bare decoding of the same windows by decord"),
    ):
        milliseconds = 1000 * seconds / split.num_clips
        lines.append(f"  {name:10}{milliseconds:10.1f}{'':8}  {rate:.1f} clips/s and core{more}")
    lines.append(f"  the loader runs at {split.clips_per_second / split.floor_clips_per_second:.2f} of the floor")
    return lines


def rate_lines(rates: Sequence[Rate], split: Split) -> list[str]:
    """The table of the workers; their floor is bare decoding on as many cores."""
    lines = [f"by the clock, on {num_cores()} cores:"]
    lines.append(f"  {'workers':>8}{'clips/s':>9}{'floor':>8}{'first batch after':>20}")
    for rate in rates:
        floor = cores_of(rate) * split.floor_clips_per_second
        lines.append(
            f"  {rate.num_workers:8}{rate.clips_per_second:9.1f}{floor:8.1f}{rate.first_batch_seconds:18.1f} s"
        )
    return lines


def cores_of(rate: Rate) -> int:
    """How many cores can be at work; without workers the main process is."""
    return min(max(rate.num_workers, 1), num_cores())


def cores_needed(gpu_clips_per_second: float, clips_per_second: float) -> int:
    """How many cores feed a GPU."""
    return math.ceil(gpu_clips_per_second / clips_per_second)


def workers(rate: Rate) -> str:
    return f"{rate.num_workers} worker{'' if rate.num_workers == 1 else 's'}"


def advice(split: Split, rates: Sequence[Rate], subject: Subject, gpu_clips_per_second: float) -> list[str]:
    """How many cores a GPU needs, and where the time goes."""
    needed = cores_needed(gpu_clips_per_second, split.clips_per_second)
    least = cores_needed(gpu_clips_per_second, split.floor_clips_per_second)
    cores = num_cores()
    feeds = 100 * cores * split.clips_per_second / gpu_clips_per_second
    lines = [
        f"a GPU of {gpu_clips_per_second:g} clips/s needs {needed} cores for this (bare decoding alone: {least}); the "
        f"{cores} here feed {feeds:.0f} % of it"
    ]
    reading, pixels = split.share("open", "decode", "convert"), split.share("augment")
    if reading >= LARGE_SHARE:
        more = "" if subject.is_prepared else f": {PREPARE}"
        lines.append(f"reading videos takes {100 * reading:.0f} %{more}")
    elif pixels >= LARGE_SHARE:
        exact = getattr(subject.config.augment, "augment", None) == "exact"
        lines.append(
            f"making pixels takes {100 * pixels:.0f} %" + (": --augment fused does it faster" if exact else "")
        )
    for rate in rates:
        usable = cores_of(rate)
        if rate.num_workers and rate.clips_per_second < POOR_SCALING * usable * split.clips_per_second:
            lines.append(
                f"{workers(rate)} gave {rate.clips_per_second:.1f} clips/s by the clock where the CPU time of {usable} "
                f"would do for {usable * split.clips_per_second:.1f}: cores or disk were busy with other things"
            )
            break
    busy = os.getloadavg()[0]
    if busy > cores + 1:
        lines.append(f"the load here is {busy:.0f} on {cores} cores: the figures by the clock are too low")
    return lines


def held_line(held: Held) -> str:
    return (
        f"  after {held.num_items:6} items: {held.memory_mb:8.1f} MB, {held.num_files} open files, "
        f"{held.num_threads} threads"
    )


def growth(looks: Sequence[Held]) -> float:
    """How much the memory has grown since the first look, as a share of it."""
    return looks[-1].memory_mb / looks[0].memory_mb - 1


def as_numbers(split: Split) -> dict[str, Any]:
    """For JSON."""
    return {
        "num_clips": split.num_clips,
        "num_items": split.num_items,
        "num_windows": split.num_windows,
        "cpu_seconds": split.seconds,
        "whole_cpu_seconds": split.whole_seconds,
        "floor_cpu_seconds": split.floor_seconds,
        "clips_per_second_and_core": split.clips_per_second,
        "floor_clips_per_second_and_core": split.floor_clips_per_second,
        "of_the_floor": split.clips_per_second / split.floor_clips_per_second,
    }


def draw(split: Split, rates: Sequence[Rate]) -> bytes:
    """Where a clip's time goes, above how the rate grows with the workers -> a PNG file's content."""
    figures = [parts_figure(split, LIGHT)]
    if rates:
        figures.append(rates_figure(split, rates, LIGHT))
    return stacked_png(figures)


def parts_figure(split: Split, theme: Theme) -> Figure:
    """A bar of the parts above a bar of the floor, in milliseconds a clip."""
    per_clip = 1000 / split.num_clips
    whole, floor = split.whole_seconds * per_clip, split.floor_seconds * per_clip
    title = f"A clip costs {whole:.0f} ms of one core; bare decoding of the same frames costs {floor:.0f} ms"
    figure, axes = new_figure(theme, title, height=1.7)
    colours = dict(
        zip(PARTS, (theme.muted, theme.series[0], theme.soft, theme.series[1], theme.series[2]), strict=True)
    )
    left = 0.0
    for part in PARTS:
        width = split.seconds[part] * per_clip
        if width:
            axes.barh(0, width, left=left, height=0.62, color=colours[part], label=part)
            left += width
    axes.barh(1, floor, height=0.62, color=theme.series[0], alpha=0.45)
    axes.set_yticks([0, 1], ["loader", "bare decoding"])
    axes.set_ylim(1.5, -0.5)
    axes.set_xlim(0, 1.05 * max(whole, floor))
    label_axes(axes, theme, x="CPU milliseconds a clip")
    add_legend(figure, axes, theme)
    return figure


def rates_figure(split: Split, rates: Sequence[Rate], theme: Theme) -> Figure:
    """Clips a second against workers, beside what that many cores' CPU time is worth."""
    best = max(rates, key=lambda rate: rate.clips_per_second)
    title = f"{best.clips_per_second:.1f} clips/s by the clock with {workers(best)} on {num_cores()} cores"
    figure, axes = new_figure(theme, title, height=2.6)
    numbers = [rate.num_workers for rate in sorted(rates)]
    spread = np.linspace(0, max(numbers[-1], 1), 100)
    cores = np.clip(spread, 1, num_cores())
    axes.plot(spread, cores * split.floor_clips_per_second, color=theme.muted, lw=1.2, ls="--", label="bare decoding")
    axes.plot(spread, cores * split.clips_per_second, color=theme.series[0], lw=1.2, label="CPU time of the cores")
    axes.plot(
        numbers, [rate.clips_per_second for rate in sorted(rates)], marker="o", ms=5, lw=1.6, color=theme.series[1],
        label="by the clock", clip_on=False,
    )  # fmt: skip
    axes.set_xticks(numbers)
    axes.set_ylim(bottom=0)
    label_axes(axes, theme, x="workers", y="clips a second", grid="y")
    add_legend(figure, axes, theme)
    return figure


def write_plot(file: Path, split: Split, rates: Sequence[Rate]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(draw(split, rates))

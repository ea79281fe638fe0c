"""The demo's charts, as HTML and SVG that fit any width, light or dark, and load nothing.

N windows in time, K emotions. What comes from a user is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np

NUM_CURVES = 5
NUM_DIFFERENCES = 8
NUM_BINS = 24


def bars(intensities: Mapping[str, float], *, usual: Mapping[str, float]) -> str:
    """Every emotion as a bar, the most intense first; a tick marks what is `usual`."""
    ranked = sorted(intensities.items(), key=lambda entry: -entry[1])
    full = _round_up(max([*intensities.values(), *usual.values()]))
    rows = []
    for place, (name, value) in enumerate(ranked):
        tick = f'<u style="left:{_percent(usual[name] / full)}"></u>' if name in usual else ""
        kind = ' class="top"' if place < 3 else ""
        rows.append(
            f'<li{kind}><span>{escape(name)}</span><div><i style="width:{_percent(value / full)}"></i>{tick}</div>'
            f"<b>{value:.2f}</b></li>"
        )
    return f'<ol class="emo-bars" data-full="{full:g}">{"".join(rows)}</ol>'


def gauge(score: float, reference: np.ndarray) -> str:
    """Where a score lies among the test videos': their histogram, and a needle. reference (V,), rising"""
    low, high = min(score, reference[0]), max(score, reference[-1])
    margin = 0.04 * ((high - low) or 1.0)
    low, high = low - margin, high + margin
    counts, edges = np.histogram(reference, bins=NUM_BINS, range=(low, high))
    columns = "".join(
        f'<rect class="{"below" if right <= score else "above"}" x="{100 * index / NUM_BINS + 0.3:.2f}" '
        f'y="{100 - 92 * count / counts.max():.2f}" width="{100 / NUM_BINS - 0.6:.2f}" '
        f'height="{92 * count / counts.max():.2f}"/>'
        for index, (count, (_, right)) in enumerate(zip(counts, pairwise(edges), strict=True))
    )
    at = _percent((score - low) / (high - low))
    return (
        f'<div class="emo-gauge"><svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{columns}'
        f'</svg><i style="left:{at}"></i></div><div class="emo-ends"><span>least pleasant</span>'
        f"<span>most pleasant</span></div>"
    )


def curves(times: np.ndarray, names: Sequence[str], values: np.ndarray, *, duration: float) -> str:
    """The emotions that become most intense, over time. times (N,) seconds, values (N, K)"""
    shown = np.argsort(-values.max(axis=0), kind="stable")[:NUM_CURVES]
    series = {names[k]: values[:, k] for k in shown}
    return _plot(times, series, low=0.0, high=_round_up(float(values.max())), duration=duration)


def score_curve(times: np.ndarray, scores: np.ndarray, reference: np.ndarray, *, duration: float) -> str:
    """The pleasantness over time, between the test videos' extremes. times (N,) seconds, scores (N,)"""
    every = np.concatenate([scores, reference])
    low, high = float(every.min()), float(every.max())
    margin = 0.05 * ((high - low) or 1.0)
    usual = float(np.median(reference)) if len(reference) else None
    return _plot(times, {"score": scores}, low=low - margin, high=high + margin, duration=duration, usual=usual)


def differences(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """The emotions in which two videos differ most: to the left where the first has more of it, to the right the
    second."""
    gaps = {name: second[name] - first[name] for name in first}
    ranked = sorted(gaps.items(), key=lambda entry: -abs(entry[1]))[:NUM_DIFFERENCES]
    full = _round_up(max(abs(gap) for gap in gaps.values()))
    rows = []
    for name, gap in ranked:
        side = "right" if gap >= 0 else "left"
        rows.append(
            f'<li><span>{escape(name)}</span><div><i class="{side}" style="width:{_percent(abs(gap) / full / 2)}"></i>'
            f"</div><b>{first[name]:.2f} / {second[name]:.2f}</b></li>"
        )
    return f'<ol class="emo-bars emo-differences">{"".join(rows)}</ol>'


def strip(uri: str, name: str) -> str:
    """A video's frames, side by side."""
    return f'<img class="emo-strip" src="{uri}" alt="Frames of {escape(name, quote=True)}"/>'


def _plot(
    times: np.ndarray,
    series: Mapping[str, np.ndarray],
    *,
    low: float,
    high: float,
    duration: float,
    usual: float | None = None,
) -> str:
    """Lines over 0 to `duration` seconds; hovering tells the values of a window, and the dashes mark `usual`."""
    if len(times) == 1:  # a line needs two ends
        times = np.array([0.0, duration])
        series = {name: np.repeat(values, 2) for name, values in series.items()}
    x = 100 * np.clip(times / duration, 0, 1)
    lines, legend = [], []
    for place, (name, values) in enumerate(series.items()):
        y = 100 - 100 * (values - low) / (high - low)
        points = " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))
        lines.append(f'<polyline class="line-{place}" points="{points}"/>')
        legend.append(f'<span><i class="line-{place}"></i>{escape(name)}</span>')
    if usual is not None:
        at = 100 - 100 * (usual - low) / (high - low)
        lines.insert(0, f'<line class="usual" x1="0" x2="100" y1="{at:.2f}" y2="{at:.2f}"/>')
        legend.append('<span><i class="usual"></i>median of the test videos</span>')
    edges = np.concatenate([[0], (x[:-1] + x[1:]) / 2, [100]])
    hovered = "".join(
        f'<rect x="{left:.2f}" y="0" width="{right - left:.2f}" height="100"><title>{time:.1f} s\n'
        + "\n".join(f"{escape(name)}: {values[index]:.2f}" for name, values in series.items())
        + "</title></rect>"
        for index, (time, (left, right)) in enumerate(zip(times, pairwise(edges), strict=True))
    )
    ticks = "".join(
        f'<b style="bottom:{25 * quarter}%">{low + quarter / 4 * (high - low):.2f}</b>' for quarter in range(5)
    )
    seconds = "".join(f"<span>{duration * quarter / 4:.1f} s</span>" for quarter in range(5))
    return (
        f'<div class="emo-legend">{"".join(legend)}</div><div class="emo-plot">{ticks}<svg viewBox="0 0 100 100" '
        f'preserveAspectRatio="none">{"".join(lines)}<g class="hover">{hovered}</g></svg></div>'
        f'<div class="emo-seconds">{seconds}</div>'
    )


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def _round_up(value: float) -> float:
    """The next tenth, at least 0.1, so that the axis ends at a round number."""
    return max(0.1, float(np.ceil(value * 10 - 1e-9)) / 10)

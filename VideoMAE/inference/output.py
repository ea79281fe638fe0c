"""Predictions as text (table, JSON lines, CSV), and curves as files and plots."""

import csv
import io
import itertools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from VideoMAE.cli import counted
from VideoMAE.files import json_line, write_atomically, write_json_lines, write_text
from VideoMAE.inference.config import PredictConfig
from VideoMAE.inference.predictor import Curves, Prediction, Predictor
from VideoMAE.video.check import check_videos
from VideoMAE.video.reader import UnreadableVideoError

BAR_CELLS = 20
DIGITS = 6


def write_predictions(predictor: Predictor, videos: Sequence[Path], config: PredictConfig) -> list[Path]:
    """Writes one entry per video to --output at the end, or to standard output immediately -> the unreadable videos"""
    columns = [*(["score"] if "v2v" in predictor.tasks else []), *predictor.emotions]
    texts: list[str] = []
    unreadable: list[Path] = []
    with tqdm(total=len(videos), unit="video", file=sys.stderr, disable=None) as progress:

        def put(text: str) -> None:
            if config.output is not None:
                texts.append(text)
                return
            progress.write(text, file=sys.stdout, end="")
            sys.stdout.flush()

        if config.format == "csv":
            put(_csv_line(["path", "duration_seconds", *columns, "error"]))
        for prediction in predictor.stream(videos):
            progress.update()
            if prediction.error is not None:
                unreadable.append(prediction.path)
                progress.write(f"unreadable: {prediction.path}: {prediction.error}", file=sys.stderr)
            put(text_of(prediction, columns, config))
    if config.output is not None:
        write_text(config.output, "".join(texts))
    return unreadable


def text_of(prediction: Prediction, columns: Sequence[str], config: PredictConfig) -> str:
    """The lines of a prediction in --format."""
    path, intensities, score, duration_seconds, error = prediction
    if config.format == "csv":
        values = {"score": score, **(intensities or {})}
        return _csv_line([path, *map(_rounded, (duration_seconds, *map(values.get, columns))), error])
    if config.format == "jsonl":
        rounded = {name: _rounded(value) for name, value in (intensities or {}).items()}
        entry = {"path": str(path), "intensities": rounded or None, "score": _rounded(score)}
        entry |= {"duration_seconds": _rounded(duration_seconds), "error": error}
        return json_line({name: value for name, value in entry.items() if value is not None})
    if error is not None:
        return f"{path}: cannot be read: {error}\n"
    encoding = "utf-8" if config.output is not None else sys.stdout.encoding
    bar = "█" if "█".encode(encoding, "ignore") else "#"
    pleasantness = "" if score is None else f", pleasantness {score:.3f}"
    lines = [f"{path}: {duration_seconds:.1f} s{pleasantness}"]
    strongest = sorted((intensities or {}).items(), key=lambda item: -item[1])[: config.top]
    width = max((len(name) for name, _ in strongest), default=0)
    for name, value in strongest:
        lines.append(f"  {name:<{width}}  {value:.2f}  {bar * round(BAR_CELLS * value)}".rstrip())
    return "\n".join(lines) + "\n"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def write_all_curves(predictor: Predictor, videos: Sequence[Path], config: PredictConfig) -> list[Path]:
    """Writes the curves of every video and their plot to --output_dir -> the unreadable videos"""
    assert config.output_dir is not None
    unreadable: list[Path] = []
    reasons: dict[str, str] = {}
    if config.inference.num_workers:  # in separate processes with a time limit, because a video may hang its decoder
        reasons = check_videos(
            {str(path): path for path in videos},
            num_processes=config.inference.num_workers,
            limit_seconds=config.inference.decode_seconds,
        ).unreadable
    suffix = ".jsonl" if config.format == "jsonl" else ".csv"
    with tqdm(total=len(videos), unit="video", file=sys.stderr, disable=None) as progress:
        for name, path in by_distinct_names(videos).items():
            file = config.output_dir / f"{name}{suffix}"
            try:
                if str(path) in reasons:
                    raise UnreadableVideoError(path, reasons[str(path)])
                curves = predictor.over_time(path, window_seconds=config.window_seconds, hop_seconds=config.hop_seconds)
            except UnreadableVideoError as error:
                unreadable.append(path)
                progress.write(f"unreadable: {path}: {error.reason}", file=sys.stderr)
                progress.write(f"{path}: cannot be read: {error.reason}", file=sys.stdout)
            else:
                write_curves(curves, file, top=config.top)
                windows = counted(len(curves.times_seconds), "window")
                progress.write(f"{path}: {windows}: {file}, {file.with_suffix('.png').name}", file=sys.stdout)
            progress.update()
    return unreadable


def by_distinct_names(videos: Iterable[Path]) -> dict[str, Path]:
    """The videos by name without suffix, numbered if it is not unique: `a/x.mp4, b/x.avi` -> keys x, x-2."""
    named: dict[str, Path] = {}
    for path in videos:
        candidates = itertools.chain([path.stem], (f"{path.stem}-{number}" for number in itertools.count(2)))
        named[next(name for name in candidates if name not in named)] = path
    return named


def write_curves(curves: Curves, file: Path, *, top: int) -> None:
    """Writes curves to a .csv or .jsonl file, one window per line, and a plot of the score and of the `top` emotions
    with the highest peaks to a .png file of the same name.

    Raises ValueError if a file cannot be written.
    """
    from VideoMAE.reporting.chart_style import LIGHT, stacked_png  # deferred: importing matplotlib takes half a second
    from VideoMAE.reporting.report_charts import over_time_charts

    path, times, emotions, intensities, scores = curves
    columns = [values for values in (times, scores, intensities) if values is not None]
    names = ["seconds", *(["score"] if scores is not None else []), *emotions]
    rows = [[round(value, DIGITS) for value in row] for row in np.column_stack(columns).tolist()]
    if file.suffix == ".jsonl":
        write_json_lines(file, [dict(zip(names, row, strict=True)) for row in rows])
    else:
        write_text(file, "".join(map(_csv_line, [names, *rows])))
    charts = over_time_charts(times, emotions, intensities, scores, top=top, video=path.name)
    picture = stacked_png([chart.draw(LIGHT) for chart in charts])
    write_atomically(file.with_suffix(".png"), lambda temporary: temporary.write_bytes(picture))

"""Predictions as text (table, JSON lines, CSV), and curves as files and plots."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from VideoMAE.files import json_line, write_atomically, write_json_lines, write_text
from VideoMAE.inference.predictor import Curves, Prediction, Predictor

BAR_CELLS = 20
DIGITS = 6


class PredictionFormatter:
    """Formats predictions as `table`, `jsonl` or `csv`."""

    def __init__(self, predictor: Predictor, *, format: str, top: int, bar: str = "█") -> None:
        self.format, self.top, self.bar = format, top, bar
        self.columns = [*(["score"] if "v2v" in predictor.tasks else []), *predictor.emotions]

    def header(self) -> str:
        """The text before the first prediction."""
        return _csv_line(["path", "duration_seconds", *self.columns, "error"]) if self.format == "csv" else ""

    def text_of(self, prediction: Prediction) -> str:
        """The lines of a prediction."""
        if self.format == "jsonl":
            return json_line(_json_entry(prediction))
        if self.format == "csv":
            values = {"score": prediction.score, **(prediction.intensities or {})}
            cells = [_rounded(values.get(name)) for name in self.columns]
            return _csv_line([str(prediction.path), _rounded(prediction.duration_seconds), *cells, prediction.error])
        return self._table(prediction)

    def _table(self, prediction: Prediction) -> str:
        path, intensities, score, duration_seconds, error = prediction
        if error is not None:
            return f"{path}: cannot be read: {error}\n"
        pleasantness = "" if score is None else f", pleasantness {score:.3f}"
        lines = [f"{path}: {duration_seconds:.1f} s{pleasantness}"]
        strongest = sorted((intensities or {}).items(), key=lambda item: -item[1])[: self.top]
        width = max((len(name) for name, _ in strongest), default=0)
        for name, value in strongest:
            lines.append(f"  {name:<{width}}  {value:.2f}  {self.bar * round(BAR_CELLS * value)}".rstrip())
        return "\n".join(lines) + "\n"


def _json_entry(prediction: Prediction) -> dict[str, Any]:
    """The values that are not None."""
    entry = {**prediction._asdict(), "path": str(prediction.path)}
    for name in ("score", "duration_seconds"):
        entry[name] = _rounded(entry[name])
    if prediction.intensities is not None:
        entry["intensities"] = {name: _rounded(value) for name, value in prediction.intensities.items()}
    return {name: value for name, value in entry.items() if value is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(["" if cell is None else cell for cell in cells])
    return line.getvalue()


def write_curves(curves: Curves, file: Path, *, top: int) -> None:
    """Writes curves to a .csv or .jsonl file, one window per line, and their plot to a .png file of the same name.

    Raises:
        ValueError: a file cannot be written.
    """
    rows = list(_rows(curves))
    if file.suffix == ".jsonl":
        write_json_lines(file, rows)
    else:
        write_text(file, _csv_line(list(rows[0])) + "".join(_csv_line(list(row.values())) for row in rows))
    write_atomically(file.with_suffix(".png"), lambda temporary: draw_curves(curves, temporary, top=top))


def _rows(curves: Curves) -> Iterator[dict[str, float | None]]:
    for window, seconds in enumerate(curves.times_seconds):
        row = {"seconds": _rounded(seconds)}
        if curves.scores is not None:
            row["score"] = _rounded(curves.scores[window])
        if curves.intensities is not None:
            row |= {
                name: _rounded(value) for name, value in zip(curves.emotions, curves.intensities[window], strict=True)
            }
        yield row


def draw_curves(curves: Curves, file: Path, *, top: int) -> None:
    """Plots the score and the `top` emotions with the highest peaks over time, as a PNG file."""
    from VideoMAE.reporting.charts import LIGHT, stacked_png  # deferred: importing matplotlib takes half a second
    from VideoMAE.reporting.report_charts import over_time_charts

    path, times, emotions, intensities, scores = curves
    charts = over_time_charts(times, emotions, intensities, scores, top=top, video=path.name)
    file.write_bytes(stacked_png([chart.draw(LIGHT) for chart in charts]))

"""Predictions and curves as people and programs read them: tables, JSON lines, CSV, plots."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from VideoMAE.files import write_atomically, write_text
from VideoMAE.inference.predictor import Curves, Prediction, Predictor

BAR_CELLS = 20
DIGITS = 6


class Lines:
    """What a predictor says, in one of the formats `table`, `jsonl` and `csv`."""

    def __init__(self, predictor: Predictor, *, format: str, top: int, bar: str = "█") -> None:
        self.format, self.top, self.bar = format, top, bar
        self.columns = [*(["score"] if "v2v" in predictor.tasks else []), *predictor.emotions]

    def header(self) -> str:
        """What stands before the first video."""
        return _csv_line(["path", "duration_seconds", *self.columns, "error"]) if self.format == "csv" else ""

    def of(self, prediction: Prediction) -> str:
        """A video's line, or lines."""
        if self.format == "jsonl":
            return _json_line(_plain(prediction))
        if self.format == "csv":
            values = {"score": prediction.score, **(prediction.intensities or {})}
            cells = [_rounded(values.get(name)) for name in self.columns]
            return _csv_line([str(prediction.path), _rounded(prediction.duration_seconds), *cells, prediction.error])
        return self._for_people(prediction)

    def _for_people(self, prediction: Prediction) -> str:
        path, intensities, score, duration_seconds, error = prediction
        if error is not None:
            return f"{path}: cannot be read: {error}\n"
        said = "" if score is None else f", pleasantness {score:.3f}"
        lines = [f"{path}: {duration_seconds:.1f} s{said}"]
        strongest = sorted((intensities or {}).items(), key=lambda item: -item[1])[: self.top]
        width = max((len(name) for name, _ in strongest), default=0)
        for name, value in strongest:
            lines.append(f"  {name:<{width}}  {value:.2f}  {self.bar * round(BAR_CELLS * value)}".rstrip())
        return "\n".join(lines) + "\n"


def _plain(prediction: Prediction) -> dict[str, Any]:
    """What there is of a prediction, for JSON."""
    entry = {**prediction._asdict(), "path": str(prediction.path)}
    for name in ("score", "duration_seconds"):
        entry[name] = _rounded(entry[name])
    if prediction.intensities is not None:
        entry["intensities"] = {name: _rounded(value) for name, value in prediction.intensities.items()}
    return {name: value for name, value in entry.items() if value is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), DIGITS)


def _json_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _csv_line(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(["" if cell is None else cell for cell in cells])
    return line.getvalue()


def write_curves(curves: Curves, file: Path, *, top: int) -> None:
    """Writes a video's curves to `file`, one window a line, as its suffix says (.csv or .jsonl), and their plot beside
    it. Raises ValueError when a file cannot be written."""
    rows = list(_rows(curves))
    if file.suffix == ".jsonl":
        text = "".join(map(_json_line, rows))
    else:
        text = _csv_line(list(rows[0])) + "".join(_csv_line(list(row.values())) for row in rows)
    write_text(file, text)
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
    """Plots the `top` most intense emotions and the score over time, as a PNG file."""
    from VideoMAE.reporting.chart_style import LIGHT, stacked_png  # deferred: matplotlib takes half a second to import
    from VideoMAE.reporting.report_charts import over_time_charts

    path, times, emotions, intensities, scores = curves
    charts = over_time_charts(times, emotions, intensities, scores, top=top, video=path.name)
    file.write_bytes(stacked_png([chart.draw(LIGHT) for chart in charts]))

"""The demo's predictions for one video and for two: as values for programs, and as HTML with charts for the page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from VideoMAE.demo_app.reference import Reference
from VideoMAE.demo_app.videos import DemoVideo, probe_videos
from VideoMAE.inference.predictor import PREFERENCE_WINDOW_SECONDS, Curves, Prediction, Predictor
from VideoMAE.reporting import charts
from VideoMAE.reporting.charts import Chart
from VideoMAE.reporting.page import draw, environment
from VideoMAE.reporting.report_charts import over_time_charts
from VideoMAE.video.reader import UnreadableVideoError

MAX_WINDOWS = 24  # in one video, which bounds the time that a long video takes
NUM_CURVES, NUM_DIFFERENCES, NUM_BINS = 5, 8, 24


def to_html(macro: str, *values: Any, **more: Any) -> str:
    """The HTML of a macro in templates/demo.html; all values are escaped."""
    return str(getattr(environment().get_template("demo.html").module, macro)(*values, **more))


@dataclass(frozen=True, eq=False)
class Answers:
    """A predictor, the test videos to compare its predictions with, and the maximum duration of a video."""

    predictor: Predictor
    reference: Reference
    max_seconds: float

    def probe(self, path: Path) -> DemoVideo:
        """Opens a file. Raises ValueError if the file cannot be read, or is too long or too large."""
        (found,) = probe_videos([path], max_seconds=self.max_seconds)
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def predict(self, video: DemoVideo) -> Prediction:
        """Raises ValueError if the video cannot be read."""
        (prediction,) = self.predictor([video.path])
        if prediction.error is not None:
            raise ValueError(f"{video.name}: {prediction.error}")
        return prediction

    def over_time(self, video: DemoVideo) -> Curves:
        """Predictions for at most `MAX_WINDOWS` windows, at least half a second apart. Raises as `predict` does."""
        duration = video.duration_seconds
        # without a VCE network, the window has no fixed length: a quarter of a short video gives a curve
        window = None if "vce" in self.predictor.tasks else min(PREFERENCE_WINDOW_SECONDS, duration / 4)
        hop = max(0.5, duration / MAX_WINDOWS)
        try:
            return self.predictor.over_time(video.path, window_seconds=window, hop_seconds=hop)
        except UnreadableVideoError as error:
            raise ValueError(f"{video.name}: {error.reason}") from error

    def values(self, video: DemoVideo, prediction: Prediction) -> dict[str, Any]:
        """A prediction for programs; `percentile` is null without test scores."""
        score = prediction.score
        return {
            "video": video.name,
            "duration_seconds": video.duration_seconds,
            "intensities": prediction.intensities,
            "score": score,
            "percentile": None if score is None or not len(self.reference.scores) else self.reference.percentile(score),
        }

    def html(self, video: DemoVideo, prediction: Prediction) -> str:
        """A prediction for the page."""
        ranked = sorted((prediction.intensities or {}).items(), key=lambda entry: -entry[1])
        names, means = [name for name, _ in ranked], self.reference.mean_intensities
        found = self._pleasantness(prediction.score)
        if names:
            label = f"mean of {self.reference.num_intensities} test videos"
            dots = {label: [means.get(name, np.nan) for name in names]} if means else {}
            title, caption = f"Mostly {', then '.join(names[:3])}", "0: none, 1: strongest."
            bars = {"this video": [value for _, value in ranked]}
            found.append(charts.bars_and_dots("emotions", title, caption, names, bars=bars, dots=dots, x="intensity"))
        return to_html("prediction", video, draw(found), ranked, means)

    def _pleasantness(self, score: float | None) -> list[Chart]:
        """The score of a video in the histogram of the test scores."""
        if score is None:
            return []
        scores = self.reference.scores if len(self.reference.scores) else np.array([score])
        low, high = min(score, scores[0]), max(score, scores[-1])
        margin = 0.04 * ((high - low) or 1.0)
        counts, edges = np.histogram(scores, bins=NUM_BINS, range=(low - margin, high + margin))
        caption = f"Score {score:+.2f}; only differences have a meaning."
        return [
            charts.histogram(
                "pleasantness", self.reference.rank_of(score), caption, edges, x="score, from least to most pleasant",
                y="videos", filled={"test videos": counts}, marks={"this video": score}
            )
        ]  # fmt: skip

    def curves_html(self, video: DemoVideo, found: Curves) -> str:
        """Curves for the page, with a table of the scores and of all intensities."""
        _, times, emotions, intensities, scores = found
        median = float(np.median(self.reference.scores)) if len(self.reference.scores) else None
        plotted = over_time_charts(times, emotions, intensities, scores, top=NUM_CURVES, median_score=median)
        columns = [values for values in (times, scores, intensities) if values is not None]
        header = ["seconds", *(["score"] if scores is not None else []), *emotions]
        return to_html("curves", video, draw(plotted), header, np.column_stack(columns).tolist())

    def compare(self, first: Prediction, second: Prediction) -> dict[str, Any]:
        """The more pleasant video ("first", "second", "equal"; null without scores), and the differences of the second
        from the first, the largest first."""
        values: dict[str, Any] = {"more_pleasant": None, "score_difference": None, "intensity_differences": None}
        if first.score is not None and second.score is not None:
            gap = second.score - first.score
            values["score_difference"] = gap
            values["more_pleasant"] = "second" if gap > 0 else "first" if gap < 0 else "equal"
        if first.intensities is not None and second.intensities is not None:
            gaps = {name: second.intensities[name] - first.intensities[name] for name in first.intensities}
            values["intensity_differences"] = dict(sorted(gaps.items(), key=lambda entry: -abs(entry[1])))
        return values

    def comparison_html(self, first: tuple[DemoVideo, Prediction], second: tuple[DemoVideo, Prediction]) -> str:
        """A comparison for the page."""
        (video_a, a), (video_b, b) = first, second
        compared = self.compare(a, b)
        finding = {
            "first": f"{video_a.name} is more pleasant",
            "second": f"{video_b.name} is more pleasant",
            "equal": "Both are equally pleasant",
            None: "",
        }[compared["more_pleasant"]]
        columns = [("A", video_a, draw(self._pleasantness(a.score))), ("B", video_b, draw(self._pleasantness(b.score)))]
        rows, found = [], []
        if a.intensities is not None and b.intensities is not None:
            names = list(compared["intensity_differences"])[:NUM_DIFFERENCES]
            rows = [(name, a.intensities[name], b.intensities[name]) for name in names]
            _, in_a, in_b = zip(*rows, strict=True)
            title = f"The largest difference is in {names[0]}: {in_a[0]:.2f} in A, {in_b[0]:.2f} in B"
            bars, dots = {"A": in_a}, {"B": in_b}
            found = [charts.bars_and_dots("differences", title, "", names, bars=bars, dots=dots, x="intensity")]
        return to_html("comparison", finding, columns, draw(found), rows)

"""What the demo answers about one video and about two: as plain values for programs, as HTML for the page."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from VideoMAE.demo_app import charts as demo_charts
from VideoMAE.demo_app.reference import Reference
from VideoMAE.demo_app.videos import SeenVideo, look_at
from VideoMAE.inference.predictor import PREFERENCE_WINDOW_SECONDS, Curves, Prediction, Predictor
from VideoMAE.video.reader import UnreadableVideoError

MAX_WINDOWS = 24  # in a video, so that a long one takes no longer


class Answers:
    """A model, what its scores are compared with, and how long a video may last."""

    def __init__(self, predictor: Predictor, reference: Reference, *, max_seconds: float) -> None:
        self.predictor = predictor
        self.reference = reference
        self.max_seconds = max_seconds

    def see(self, path: Path) -> SeenVideo:
        """Look at a file in another process, which a decoder may hang or crash.

        Raises:
            ValueError: it cannot be read, or is too long or too large.
        """
        (seen,) = look_at([path], max_seconds=self.max_seconds)
        if isinstance(seen, str):
            raise ValueError(seen)
        return seen

    def predict(self, seen: SeenVideo) -> Prediction:
        """Raises ValueError for a video that the model cannot be shown."""
        (prediction,) = self.predictor([seen.path])
        if prediction.error is not None:
            raise ValueError(f"{seen.name}: {prediction.error}")
        return prediction

    def over_time(self, seen: SeenVideo) -> Curves:
        """At most `MAX_WINDOWS` windows, half a second apart where that suffices; raises as `predict` does."""
        duration = seen.duration_seconds
        # V2V's network alone has no length of its own: a fourth of a short video shows how it goes on
        window = None if "vce" in self.predictor.tasks else min(PREFERENCE_WINDOW_SECONDS, duration / 4)
        try:
            return self.predictor.over_time(
                seen.path, window_seconds=window, hop_seconds=max(0.5, duration / MAX_WINDOWS)
            )
        except UnreadableVideoError as error:
            raise ValueError(f"{seen.name}: {error.reason}") from error

    def as_values(self, seen: SeenVideo, prediction: Prediction) -> dict[str, Any]:
        """A prediction for programs; `percentile` is null without test scores."""
        score = prediction.score
        is_ranked = score is not None and len(self.reference.scores) > 0
        return {
            "video": seen.name,
            "duration_seconds": seen.duration_seconds,
            "intensities": prediction.intensities,
            "score": score,
            "percentile": self.reference.percentile(score) if is_ranked and score is not None else None,
        }

    def about(self, seen: SeenVideo, prediction: Prediction) -> str:
        """A prediction for people, as HTML."""
        parts = [f'<h3 class="emo-name">{escape(seen.name)}</h3>', demo_charts.strip(seen.strip_uri, seen.name)]
        if prediction.score is not None:
            parts.append(self._pleasantness(prediction.score))
        if prediction.intensities is not None:
            parts.append(self._emotions(prediction.intensities))
        return _card("".join(parts))

    def _pleasantness(self, score: float) -> str:
        gauge = demo_charts.gauge(score, self.reference.scores) if len(self.reference.scores) else ""
        words = self.reference.in_words(score)
        return (
            f'<section class="emo-pleasantness"><h4>Pleasantness</h4><p class="emo-finding">{words[0].upper()}'
            f"{words[1:]}</p>{gauge}<p>Score {score:+.2f}; only differences mean something.</p></section>"
        )

    def _emotions(self, intensities: dict[str, float]) -> str:
        top = sorted(intensities, key=lambda name: -intensities[name])[:3]
        note = "0 is none, 1 is strongest."
        if self.reference.mean_intensities:
            note += f" The ticks mark the mean over {self.reference.num_intensities} test videos."
        return (
            f'<section class="emo-emotions"><h4>Emotions</h4><p class="emo-finding">Mostly {escape(top[0])}, then '
            f"{escape(top[1])} and {escape(top[2])}</p>"
            f"{demo_charts.bars(intensities, usual=self.reference.mean_intensities)}<p>{note}</p></section>"
        )

    def about_time(self, seen: SeenVideo, found: Curves) -> str:
        """Curves for people, as HTML."""
        duration = max(seen.duration_seconds, float(found.times_seconds[-1]))
        parts = ["<h3>Over time</h3>"]
        if found.intensities is not None:
            plot = demo_charts.curves(found.times_seconds, found.emotions, found.intensities, duration=duration)
            parts.append(f'<section class="emo-curves"><h4>The most intense emotions</h4>{plot}</section>')
        if found.scores is not None:
            plot = demo_charts.score_curve(found.times_seconds, found.scores, self.reference.scores, duration=duration)
            parts.append(f'<section class="emo-curves"><h4>Pleasantness</h4>{plot}</section>')
        parts.append(f'<div class="emo-aligned">{demo_charts.strip(seen.strip_uri, seen.name)}</div>')
        return _card("".join(parts))

    def compared(self, first: Prediction, second: Prediction) -> dict[str, Any]:
        """Which of two is more pleasant ("first", "second", "equal"; null without scores), and how the second differs
        from the first, the largest difference first."""
        values: dict[str, Any] = {"more_pleasant": None, "score_difference": None, "intensity_differences": None}
        if first.score is not None and second.score is not None:
            gap = second.score - first.score
            values["score_difference"] = gap
            values["more_pleasant"] = "second" if gap > 0 else "first" if gap < 0 else "equal"
        if first.intensities is not None and second.intensities is not None:
            gaps = {name: second.intensities[name] - first.intensities[name] for name in first.intensities}
            values["intensity_differences"] = dict(sorted(gaps.items(), key=lambda entry: -abs(entry[1])))
        return values

    def about_two(self, first: tuple[SeenVideo, Prediction], second: tuple[SeenVideo, Prediction]) -> str:
        """A comparison for people, as HTML."""
        compared = self.compared(first[1], second[1])
        parts = []
        if compared["more_pleasant"] is not None:
            name = {"first": first[0].name, "second": second[0].name}.get(compared["more_pleasant"])
            finding = f"{escape(name)} is more pleasant" if name else "Both are equally pleasant"
            parts.append(f'<p class="emo-finding">{finding}</p>')
        columns = []
        for label, (seen, prediction) in zip("AB", (first, second), strict=True):
            score = "" if prediction.score is None else self._pleasantness(prediction.score)
            head = f'<h4 class="emo-name">{label} · {escape(seen.name)}</h4>'
            columns.append(f"<div>{head}{demo_charts.strip(seen.strip_uri, seen.name)}{score}</div>")
        parts.append(f'<div class="emo-two">{"".join(columns)}</div>')
        if first[1].intensities is not None and second[1].intensities is not None:
            chart = demo_charts.differences(first[1].intensities, second[1].intensities)
            parts.append(
                '<section><h4>Where the emotions differ most</h4><div class="emo-ends emo-sides"><span>more in A</span>'
                f"<span>more in B</span></div>{chart}</section>"
            )
        return _card("".join(parts))


def problem(reason: str) -> str:
    """One sentence for people, where a result would stand."""
    return f'<div class="emo-card emo-problem" role="alert">{escape(reason)}</div>'


def _card(content: str) -> str:
    return f'<div class="emo-card">{content}</div>'

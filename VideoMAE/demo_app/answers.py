"""The demo's predictions, as values for programs and as HTML with charts, beside the test videos of its runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from VideoMAE.cli import counted
from VideoMAE.config import flat
from VideoMAE.data.vce import EMOTIONS
from VideoMAE.demo_app.videos import DemoVideo, probe_videos
from VideoMAE.files import read_json, read_json_lines
from VideoMAE.inference.predictor import PREFERENCE_WINDOW_SECONDS, Curves, Prediction, Predictor
from VideoMAE.reporting import charts
from VideoMAE.reporting.chart_style import Chart
from VideoMAE.reporting.page import ENVIRONMENT, draw
from VideoMAE.reporting.report_charts import over_time_charts
from VideoMAE.video.reader import UnreadableVideoError
from VideoMAE.video.search import find_videos

MAX_WINDOWS = 24  # in one video, which bounds the time that a long video takes
RATINGS = {"vce": "the emotions they felt", "v2v": "which of two is more pleasant"}  # in the published datasets
NUM_EXAMPLES, NUM_CURVES, NUM_DIFFERENCES, NUM_BINS = 8, 5, 8, 24


class Reference(NamedTuple):
    """The test videos of the runs."""

    scores: np.ndarray  # (V,), sorted; empty without a V2V run
    mean_intensities: dict[str, float]  # by emotion; empty without a VCE run
    num_intensities: int
    facts: list[str]
    is_synthetic: bool = False  # the runs were trained on the videos of make_sample.py

    def percentile(self, score: float) -> float:
        """The percentage of the test videos with a lower score; equal scores count half."""
        below = np.searchsorted(self.scores, score, "left") + np.searchsorted(self.scores, score, "right")
        return 50.0 * float(below) / len(self.scores)

    def rank_of(self, score: float) -> str:
        """`More pleasant than 83 % of the 106 test videos`"""
        if not len(self.scores):
            return "Pleasantness (no test scores beside the checkpoint to compare with)"
        return f"More pleasant than {self.percentile(score):.0f} % of the {counted(len(self.scores), 'test video')}"


Entries = list[dict[str, Any]]


def _read_run_folder(checkpoint: Path) -> tuple[Path | None, dict[str, Any], Entries, Entries]:
    """Reads files beside a checkpoint, all empty if missing. -> dataset folder, results, entries of the readable test
    videos with a score, and with intensities"""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    config, results = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in ("config.json", "results.json")
    )
    settings = flat(config)
    root = settings.get("data_dir") or settings.get("data_path")
    entries = []
    for name, key in (("scores.jsonl", "score"), ("predictions.jsonl", "predicted")):
        file = folder / name
        entries.append([line for line in read_json_lines(file) if key in line] if file.is_file() else [])
        if not all(isinstance(line.get("id"), str) for line in entries[-1]):
            raise ValueError(f"{file}: an entry has no video id")
    return Path(root) if root else None, results, entries[0], entries[1]


def read_reference(checkpoints: Sequence[Path]) -> Reference:
    """Reads the results beside the checkpoints (folders of runs, or files in them); missing files are skipped.
    Raises ValueError if a results file is damaged."""
    scores, intensities, facts, is_synthetic = [], [], [], False
    for root, results, with_score, with_intensities in map(_read_run_folder, checkpoints):
        scores += [line["score"] for line in with_score]
        intensities += [line["predicted"] for line in with_intensities]
        is_synthetic |= root is not None and (root.parent / "make_sample.json").is_file()
        if "acc3" in results:
            k = 3 if len(results.get("emotions", EMOTIONS)) > 3 else 1
            videos = counted(results["num_videos"], "test video") if "num_videos" in results else "its test videos"
            facts.append(f"top-{k} accuracy {results[f'acc{k}']:.0f} % on {videos}")
        if results.get("pair_accuracy") is not None:
            facts.append(f"{results['pair_accuracy']:.0f} % of the test pairs in the correct order")
    emotions = intensities[0] if intensities else {}
    means = {name: float(np.mean([entry[name] for entry in intensities])) for name in emotions}
    return Reference(np.sort(np.asarray(scores, dtype=np.float64)), means, len(intensities), facts, is_synthetic)


def find_examples(checkpoints: Sequence[Path], folder: Path | None) -> list[Path]:
    """Up to `NUM_EXAMPLES` videos of `folder`, or else test videos of the runs, sorted by score if it is known.
    Raises ValueError if `folder` is not a folder, or contains no video."""
    if folder is not None:
        if not folder.is_dir():
            raise ValueError(f"--examples {folder}: no such folder")
        files = find_videos([folder]).paths
        if not files:
            raise ValueError(f"--examples {folder}: contains no video file")
        return files[:NUM_EXAMPLES]
    for checkpoint in reversed(checkpoints):  # the V2V run, which has scores, is usually the last
        root, _, with_score, with_intensities = _read_run_folder(checkpoint)
        lines = sorted(with_score, key=lambda line: line["score"]) or with_intensities
        if lines and root is not None:
            chosen = np.linspace(0, len(lines) - 1, min(NUM_EXAMPLES, len(lines))).round().astype(int)
            files = [root / "videos" / f"{lines[place]['id']}.mp4" for place in chosen]
            if found := [path for path in files if path.is_file()]:
                return found
    return []


def to_html(macro: str, *values: Any, **more: Any) -> str:
    """The HTML of a macro in templates/demo.html; all values are escaped."""
    return str(getattr(ENVIRONMENT.get_template("demo.html").module, macro)(*values, **more))


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

    def head_html(self) -> str:
        """The head of the page; a network with the emotions of VCE, or for pairs, counts as trained on VCE or V2V."""
        predictor = self.predictor
        published = [task for task in predictor.tasks if task == "v2v" or predictor.emotions == EMOTIONS]
        return to_html("head", [RATINGS[task] for task in published], self.reference)

    def html(self, video: DemoVideo, prediction: Prediction) -> str:
        """A prediction for the page."""
        ranked = sorted((prediction.intensities or {}).items(), key=lambda entry: -entry[1])
        names, means = [name for name, _ in ranked], self.reference.mean_intensities
        found = self._pleasantness(prediction.score)
        if names:
            label = f"mean of {counted(self.reference.num_intensities, 'test video')}"
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
                "pleasantness",
                self.reference.rank_of(score),
                caption,
                edges,
                x="score, from least to most pleasant",
                y="videos",
                filled={"test videos": counts},
                marks={"this video": score},
            )
        ]

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

"""The charts of reports and comparisons: each function states what its chart finds in the numbers of `report.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from VideoMAE.cli import counted
from VideoMAE.reporting import charts
from VideoMAE.reporting.bootstrap import estimate
from VideoMAE.reporting.chart_style import Chart
from VideoMAE.reporting.charts import MAX_EMOTIONS, ROW_INCHES, Line, Mark, Rows
from VideoMAE.reporting.page import digits_of, interval, number, signed, with_unit

PREDICTORS = {"model": ("model", 0), "majority_guess": ("majority guess", 1), "chance": ("chance", -1)}
ACCURACIES = {"val_acc1": "top-1", "val_acc3": "top-3", "val_acc5": "top-5", "val_pair_accuracy": "pair accuracy"}
NUM_NAMED = 8  # in the list beside a chart
NO_BIAS = 0.0005


def metrics_chart(metrics: Mapping[str, Any]) -> Chart:
    """The metrics of a run beside those of guesses; the title compares the first with a guess."""
    first = next(iter(metrics.values()))
    model, guess = first["model"], next(first[key] for key in ("majority_guess", "chance") if key in first)
    title = f"{first['title'].capitalize()} is {number(model['value'], 1)} %"
    if model["low"] is None:
        title += f"; guessing gets {number(guess['value'], 1)} %"
    else:
        verdict = "" if model["low"] > (guess["high"] or guess["value"]) else "not "
        title += f" ({interval(model, '%')}), {verdict}clearly better than guessing ({number(guess['value'], 1)} %)"
    caption = "Dots: values of the test. Lines: 95 % intervals. Lower losses and errors are better."
    return charts.interval_chart("metrics", title, caption, _by_unit(metrics, PREDICTORS))


def comparison_charts(metrics: Mapping[str, Any], emotions: Mapping[str, Any]) -> list[Chart]:
    """The differences of two runs, and the change of each emotion's correlation."""
    first = next(iter(metrics.values()))
    found, digits = first["difference"], digits_of(first["unit"])
    bounds = f"{signed(found['low'], digits)} to {signed(found['high'], digits)}"
    title = f"{first['title'].capitalize()}: "
    if found["low"] <= 0 <= found["high"]:
        title += f"no clear difference, {signed(found['value'], digits)} points ({bounds})"
    else:
        better = "B" if found["value"] > 0 else "A"
        title += f"{better} is better, {signed(found['value'], digits)} points for B ({bounds})"
    caption = (
        "B minus A, with 95 % intervals of the paired bootstrap. If an interval does not include 0, other test videos "
        "would rarely reverse the difference. Lower losses and errors are better."
    )
    rows = _by_unit(metrics, {"difference": (None, 0)})
    differences = charts.interval_chart("differences", title, caption, rows, zero=True)
    known = {name: found["difference"] for name, found in emotions.items() if found["difference"]["value"] is not None}
    if not known:
        return [differences]
    names = sorted(known, key=lambda name: -known[name]["value"])[:MAX_EMOTIONS]
    most, least = (f"{name}, {signed(known[name]['value'], 2)}" for name in (names[0], names[-1]))
    title = f"Correlation changes from {most}, to {least}"
    num_better = sum((found["low"] or 0) > 0 for found in known.values())
    num_worse = sum((found["high"] or 0) < 0 for found in known.values())
    caption = (
        f"With 95 % intervals of the paired bootstrap. Of {counted(len(known), 'emotion')}, B predicts {num_better} "
        f"clearly better and {num_worse} clearly worse."
    )
    groups = [("Pearson correlation, B minus A", {name: [Mark(None, 0, known[name])] for name in names})]
    changes = charts.interval_chart("emotion_differences", title, caption, groups, zero=True, row_inches=ROW_INCHES)
    return [differences, changes]


def _by_unit(metrics: Mapping[str, Any], marks: Mapping[str, tuple[str | None, int]]) -> list[tuple[str, Rows]]:
    """The estimates named in `marks` (label and color of each), grouped by axis: metrics of one unit share an axis,
    metrics without a unit have their own."""
    groups: dict[str, tuple[str, dict[str, list[Mark]]]] = {}
    for entry in metrics.values():
        label = entry["unit"]
        if "difference" in marks:
            label = {"": "difference", "%": "difference, percentage points"}.get(label, f"difference, {label}")
        row = [Mark(*marks[name], entry[name]) for name in marks if name in entry]
        groups.setdefault(entry["unit"] or entry["title"], (label, {}))[1][entry["title"]] = row
    return list(groups.values())


def curve_charts(runs: Mapping[str, Mapping[str, Any]]) -> list[Chart]:
    """Loss, validation accuracy and learning rate over the epochs, of one run or of several by label.

    `runs` holds what `run_files.curves_of` returns; the label of a single run is "".
    """
    runs = {label: curves for label, curves in runs.items() if curves}
    if not runs:
        return []
    logged = [name for name in ACCURACIES if all(_values(curves, name)[0] for curves in runs.values())]
    losses, accuracies, rates = [], [], []
    loss_changes, best, peaks = [], [], []
    for place, (label, curves) in enumerate(runs.items()):
        prefix = f"{label}, " if label else ""
        epochs, values = _values(curves, "train_loss")
        loss_changes.append(f"{label and f'{label}: '}{number(values[0], 3)} to {number(values[-1], 3)}")
        losses.append(Line(epochs, values, f"{prefix}training", place))
        losses.append(Line(*_values(curves, "loss", part="steps"), "", place, "steps"))
        validation = _values(curves, "val_bce")
        if validation[0]:
            losses.append(Line(*validation, f"{prefix}validation", place if len(runs) > 1 else 1, "dashed"))
        for index, name in enumerate(logged if len(runs) == 1 else logged[:1]):
            epochs, values = _values(curves, name)
            accuracies.append(Line(epochs, values, prefix + ACCURACIES[name], (place + index) % 3))
            if name == logged[0]:
                top = int(np.argmax(values))
                best.append(
                    f"{ACCURACIES[name]}{label and f' of {label}'} was highest, {with_unit(values[top], '%')}, after "
                    f"epoch {epochs[top]} of {epochs[-1]}"
                )
        by_epoch, by_step = _values(curves, "lr"), _values(curves, "lr", part="steps")
        rates.append(Line(*(by_step if by_step[0] else by_epoch), label or "learning rate", place, "plain"))
        peaks.append(f"{max(by_epoch[1], default=0.0):.3g}")
    caption = "Thick: mean per epoch. Thin: steps, averaged in small groups."
    if any(line.kind == "dashed" for line in losses):
        caption += " Dashed: cross-entropy on the validation videos."
    title = f"Training loss, first to last epoch: {'; '.join(loss_changes)}"
    found = [charts.line_chart("curves_loss", title, caption, losses, x="epochs", y="loss")]
    if logged:
        videos = "validation pairs" if logged[0] == "val_pair_accuracy" else "validation videos"
        title = f"On {videos}, {'; '.join(best)}"
        caption = "The epoch with the highest value of the first metric was tested."
        found.append(charts.line_chart("curves_validation", title, caption, accuracies, x="epochs", y=f"% of {videos}"))
    if any(line.x for line in rates):
        title = f"Learning rate of the head, up to {' and '.join(dict.fromkeys(peaks))}"
        caption, y = "Earlier layers can have lower learning rates (--layer_decay).", "learning rate"
        found.append(charts.line_chart("curves_learning_rate", title, caption, rates, x="epochs", y=y, height=2.0))
    return found


def _values(curves: Mapping[str, Any], name: str, *, part: str = "epochs") -> tuple[list[float], list[float]]:
    """The epochs (or fractions of epochs) that have a value, and their values."""
    x = "epochs_done" if part == "epochs" else "epoch"
    lines = [line for line in curves[part] if line.get(name) is not None]
    return [line[x] for line in lines], [line[name] for line in lines]


def emotion_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    """Calibration, correlation and confusion of a VCE test."""
    found = numbers["emotions"]
    # the emotions that fit into a chart: those that are first most often
    shown = sorted(found, key=lambda name: -found[name]["num_first"])[:MAX_EMOTIONS]
    calibration, calibration_by_emotion = _calibration_charts(numbers, shown)
    names = [name for name in shown if found[name]["pearson"]["value"] is not None]
    names.sort(key=lambda name: -found[name]["pearson"]["value"])
    correlation = []
    if names:
        best, worst = (number(found[name]["pearson"]["value"], 2) for name in (names[0], names[-1]))
        title = f"{names[0]} is predicted best (r = {best}), {names[-1]} worst ({worst})"
        if len(names) == 1:
            title = f"Predicted and true {names[0]} correlate with r = {best}"
        caption = (
            "Correlation of predicted and true values over the test videos, with 95 % intervals of the Pearson "
            "correlation. Emotions with constant values are left out."
        )
        rows = {}
        for name in names:
            spearman = estimate(found[name]["spearman"])
            rows[name] = [Mark("Pearson", 0, found[name]["pearson"]), Mark("Spearman (ranks)", 1, spearman)]
        groups = [("correlation of predicted and true values over videos", rows)]
        correlation = [charts.interval_chart("correlation", title, caption, groups, zero=True, row_inches=ROW_INCHES)]
    total = sum(entry["num_first"] for entry in found.values())
    true, predicted = (
        np.array([100 * found[name][key] / total for name in shown]) for key in ("num_first", "num_predicted_first")
    )
    excess = predicted - true
    most, least = (
        f"{name} ({found[name]['num_predicted_first']:,}, truly {found[name]['num_first']:,})"
        for name in (shown[int(excess.argmax())], shown[int(excess.argmin())])
    )
    title = f"Predicted too often: {most}; too rarely: {least}"
    if not excess.any():
        title = "Each emotion is predicted to be first as often as it is"
    caption = "How often each emotion is the most intense one of a test video, and how often it is predicted to be."
    first_places = charts.bars_and_dots(
        "first_places",
        title,
        caption,
        shown,
        bars={"true": true},
        dots={"predicted": predicted},
        x="% of the test videos",
    )
    return [calibration, *correlation, first_places, calibration_by_emotion, _confusion_chart(numbers["confusion"])]


def _calibration_charts(numbers: Mapping[str, Any], names: Sequence[str]) -> tuple[Chart, Chart]:
    """Reliability diagrams of all predictions, and of each of these emotions."""
    found, quantity = numbers["calibration"], numbers["prediction_meaning"]
    overall, num_bins = found["overall"], found["num_bins"]
    direction = "too high" if overall["bias"] > 0 else "too low"
    bias = "unbiased" if abs(overall["bias"]) < NO_BIAS else f"{number(abs(overall['bias']), 3)} {direction}"
    title = f"Predictions are {bias} on average; calibration error {overall['error']:.3f}"
    caption = (
        f"All emotions of all videos, in {num_bins} bins of the prediction. On the dotted line, predictions equal the "
        "truth. Below: how many predictions each bin has, on a logarithmic scale. The calibration error is the mean "
        "distance from the line."
    )
    first = charts.reliability_chart("calibration", title, caption, overall, num_bins=num_bins, quantity=quantity)
    by_emotion = {name: found["by_emotion"][name] for name in names}
    by_emotion = dict(sorted(by_emotion.items(), key=lambda entry: -entry[1]["error"]))
    errors = [(name, f"{entry['error']:.3f}") for name, entry in by_emotion.items()]
    title = f"Worst calibrated: {', '.join(f'{name} ({error})' for name, error in errors[:3])}"
    caption = (
        "The predictions of each emotion in bins of equal count, the worst calibrated emotion first; each has its own "
        "scale. Above the dotted line, predictions are too low, below it too high; where the curve is flat, they do "
        "not depend on the truth."
    )
    notes = {"Worst": [f"{name}: {error}" for name, error in errors[:NUM_NAMED]]}
    second = charts.reliability_grid("calibration_by_emotion", title, caption, by_emotion, quantity=quantity)
    return first, second._replace(is_wide=True, notes=notes)


def _confusion_chart(confusion: Mapping[str, Any]) -> Chart:
    names = confusion["emotions"][:MAX_EMOTIONS]
    counts = np.array(confusion["counts"], dtype=float)[: len(names), : len(names)]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    mistaken = np.where(np.eye(len(names), dtype=bool), 0, counts)
    found = [
        (names[place // len(names)], names[place % len(names)], counted(int(counts.flat[place]), "video"))
        for place in np.argsort(-mistaken, axis=None, kind="stable")[:NUM_NAMED]
        if mistaken.flat[place] > 0
    ]
    title, notes = "No emotion is mistaken for another", {}
    if found:
        title = f"Most often mistaken: {found[0][0]} for {found[0][1]}, in {found[0][2]}"
        notes = {"Most often": [f"{true} → {predicted}: {videos}" for true, predicted, videos in found]}
    caption = (
        "Rows: the most intense emotion. Columns: the emotion predicted to be the most intense, in % of the row; "
        "correct predictions are on the diagonal. The most frequent emotion is on top. Emotions that are first in "
        "neither are left out; a blank row is first in predictions only."
    )
    return charts.heat_map(
        "confusion",
        title,
        caption,
        shares,
        names,
        limit=np.nanmax(shares, initial=1),
        legend="% of the row's videos",
        x="predicted to be the most intense",
        y="the most intense",
        notes=notes,
    )


def preference_charts(numbers: Mapping[str, Any]) -> list[Chart]:
    """Scores and pair accuracy by score difference of a V2V test."""
    found, scores, bins = [], numbers["scores"], numbers["margins"]
    if numbers["num_pairs"]:
        direction = "higher" if scores["mean_margin"] >= 0 else "lower"
        title = (
            f"The preferred video of a pair scores {number(abs(scores['mean_margin']), 2)} {direction} on average; the "
            f"standard deviation of the scores is {number(scores['standard_deviation'], 2)}"
        )
        caption = "Only differences of scores have a meaning; their zero is arbitrary."
        shares = {side: 100 * np.array(scores[side]) / max(sum(scores[side]), 1) for side in ("all", "better", "worse")}
        outlined = {"preferred": shares["better"], "less preferred": shares["worse"]}
        histogram = charts.histogram(
            "scores",
            title,
            caption,
            np.array(scores["edges"]),
            x="score",
            y="% of each",
            filled={"all videos": shares["all"]},
            outlined=outlined,
        )
        found.append(histogram)
    if bins:
        first, last = bins[0]["accuracy"]["value"], bins[-1]["accuracy"]["value"]
        title = (
            f"{number(first, 1)} % of the pairs with the closest scores are correct, {number(last, 1)} % of those with "
            "the largest difference"
        )
        caption = (
            f"The pairs in {counted(len(bins), 'bin')} of equal count by the difference of their scores, with 95 % "
            "intervals. Dotted: chance."
        )
        x = [entry["mean_distance"] for entry in bins]
        lines = [Line(x, [entry["accuracy"]["value"] for entry in bins], "correct", 0)]
        if "promised" in bins[0]:
            lines.append(Line(x, [entry["promised"] for entry in bins], "predicted by the scores", 1, "dashed"))
            caption += " Dashed: 1 / (1 + exp(−difference)), the probability that the loss assigns to the difference."
        curve = charts.line_chart(
            "margins",
            title,
            caption,
            lines,
            x="difference of the two scores",
            y="% of the pairs",
            height=3.0,
            y_limits=(None, 103),
            level=50,
            intervals=[entry["accuracy"] for entry in bins],
        )
        found.append(curve)
    return found


def over_time_charts(
    times: np.ndarray,
    emotions: Sequence[str],
    intensities: np.ndarray | None,
    scores: np.ndarray | None,
    *,
    top: int,
    video: str = "",
    median_score: float | None = None,
) -> list[Chart]:
    """The `top` most intense emotions and the score over the windows of a video. times (N,), (N, K), (N,)"""
    of_video, x = f" in {video}" if video else "", "middle of the window, seconds"
    found = []
    if intensities is not None:
        ranked = np.argsort(-intensities.max(axis=0), kind="stable")[:top]
        lines = [
            Line(times, intensities[:, k], emotions[k], place % 5, "curve" if place < 5 else "dashed")
            for place, k in enumerate(ranked)
        ]
        title = f"The most intense emotions over time{of_video}"
        found.append(charts.line_chart("curves_emotions", title, "", lines, x=x, y="intensity", y_limits=(0, None)))
    if scores is not None:
        title, line = f"Pleasantness over time{of_video}", [Line(times, scores, "score", 0)]
        caption = "" if median_score is None else "Dotted: median of the test videos."
        found.append(
            charts.line_chart("curves_score", title, caption, line, x=x, y="score (no unit)", level=median_score)
        )
    return found

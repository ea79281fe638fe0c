"""What the page of one run says, in which order; every number of it is one of `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from VideoMAE.reporting.page import (
    Drawn,
    Picture,
    Strip,
    card,
    charts,
    folded,
    page,
    paragraph,
    section,
    strip,
    strips,
    table,
    tiles,
    unreadable,
)
from VideoMAE.reporting.words import counted, digits_of, in_unit, interval, number

NUMBERS_FILE = "report.json"
NO_PICTURE = "no picture"
LEAD = f"Made by VideoMAE.report; every number is in {NUMBERS_FILE}."
GUESSES = {"majority_guess": "majority guess", "chance": "chance"}


def render(numbers: Mapping[str, Any], drawn: Sequence[Drawn], thumbnails: Mapping[str, bytes]) -> str:
    """The page as HTML."""
    name = numbers["name"]
    if "test" not in numbers:
        return page(
            f"{name}: the curves of a run that has no test results yet",
            LEAD,
            [notes(numbers["notes"]), curve_tiles(numbers), section("The run so far", charts(drawn))],
        )
    by_name = {entry.chart.name: entry for entry in drawn}
    is_vce = numbers["task"] == "vce"
    curves = [by_name.pop(key) for key in list(by_name) if key.startswith("curves_")]
    how_good = [by_name.pop(key) for key in ("metrics", "calibration", "scores", "margins") if key in by_name]
    title, parts = (_emotion_parts if is_vce else _preference_parts)(numbers["test"], list(by_name.values()))
    found = [
        notes(numbers["notes"]),
        parts[0],
        section(
            "How good it is",
            paragraph(method(numbers["test"]) + lost(numbers["test"])),
            charts(how_good),
            metric_table(numbers["test"]),
        ),
        *parts[1:],
        section("The run", charts(curves)) if curves else "",
        *(_emotion_examples if is_vce else _preference_examples)(numbers, thumbnails),
        _unreadable_part(numbers["unreadable"]),
    ]
    return page(f"{name}: {title}", LEAD, filter(None, found))


def notes(said: Sequence[str]) -> str:
    return card("".join(map(paragraph, said)), "warn") if said else ""


def curve_tiles(numbers: Mapping[str, Any]) -> str:
    curves = numbers["curves"]
    last = curves["epochs"][-1]
    return tiles(
        {
            "epochs done": f"{len(curves['epochs'])}",
            "steps done": f"{curves['num_steps']:,}",
            "training loss of the last epoch": number(last.get("train_loss"), 3),
        }
    )


def method(test: Mapping[str, Any]) -> str:
    """How the intervals came about."""
    how = test["method"]
    said = (
        f"Intervals hold {how['level_percent']} % of {how['num_resamples']:,} bootstrap draws (percentiles; seed "
        f"{how['seed']}). Each draw takes {how['num_resampled']:,} {how['resampled']} with replacement"
    )
    if "num_components_of_lists" in how:
        said += (
            f", and for the lists {how['num_components_of_lists']:,} of theirs: pairs and lists that share videos, "
            "directly or through others, are not independent, so they are drawn together"
        )
        if min(how["num_resampled"], how["num_components_of_lists"]) < 20:
            said += ". So few components make the intervals rough, and of a single one there is none"
    return said + ". Where all draws agree, there is no interval."


def lost(test: Mapping[str, Any]) -> str:
    """What of V2V's comparisons could not be judged, in words; nothing of VCE."""
    if "num_pairs_lost" not in test:
        return ""
    pairs, lists = counted(test["num_pairs_lost"], "pair"), counted(test["num_lists_lost"], "list")
    return (
        f" {pairs} and {lists} are lost with unreadable videos; {counted(test['num_ties'], 'pair')} have equal scores, "
        "which counts as wrong."
    )


def metric_table(test: Mapping[str, Any]) -> str:
    guesses = [key for key in GUESSES if any(key in entry for entry in test["metrics"].values())]
    header = ["metric", "model", "95 % interval"]
    for key in guesses:
        header += [GUESSES[key], "95 % interval"]
    rows = []
    for entry in test["metrics"].values():
        unit = entry["unit"]
        cells = [entry["title"] + (f", {unit}" if unit else "")]
        for key in ("model", *guesses):
            found = entry.get(key, {"value": None, "low": None, "high": None})
            cells += [number(found["value"], digits_of(unit)), interval(found, unit)]
        rows.append(cells)
    return card(table(header, rows))


def tile_of(test: Mapping[str, Any], metric: str) -> dict[str, str]:
    entry = test["metrics"].get(metric)
    if entry is None:
        return {}
    found = entry["model"]
    around = f" ({interval(found, entry['unit'])})" if found["low"] is not None else ""
    return {f"{entry['title']}{around}": in_unit(found["value"], entry["unit"])}


def _emotion_parts(test: Mapping[str, Any], drawn: Sequence[Drawn]) -> tuple[str, list[str]]:
    top1 = test["metrics"]["acc1"]
    shown = {
        **tile_of(test, "acc1"),
        **tile_of(test, "acc3"),
        **tile_of(test, "mean_correlation"),
        "top-1 accuracy of the majority guess": in_unit(top1["majority_guess"]["value"], "%"),
        "test videos": f"{test['num_videos']:,}",
        "of them unreadable": f"{test['num_unreadable']:,}",
    }
    title = f"{in_unit(top1['model']['value'], '%')} top-1 on {test['num_videos']:,} test videos"
    return title, [
        tiles(shown),
        section("Emotion by emotion", charts(drawn), folded("The numbers of every emotion", _emotion_table(test))),
    ]


def _emotion_table(test: Mapping[str, Any]) -> str:
    header = [
        "emotion", "Pearson", "95 % interval", "Spearman", "true mean", "predicted mean", "mean error", "comes first",
        "predicted first", "of first, found",
    ]  # fmt: skip
    rows = [
        [
            name,
            number(found["pearson"]["value"], 3),
            interval(found["pearson"], ""),
            *(number(found[key], 3) for key in ("spearman", "mean_true", "mean_predicted", "mean_absolute_error")),
            f"{found['num_first']:,}",
            f"{found['num_said_first']:,}",
            in_unit(found["percent_of_first_found"], "%"),
        ]
        for name, found in test["emotions"].items()
    ]
    return table(header, rows)


def said_text(said: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{name} {number(value, 2)}" for name, value in said)


def _emotion_examples(numbers: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> list[str]:
    test = numbers["test"]
    if not test["best"]:
        return []
    explained = paragraph(
        "The videos whose predictions are closest to the truth, and furthest from it: by the mean absolute error over "
        f"the emotions. Below each, its most intense emotions, predicted and true, with their {test['says']}."
    )
    rows = [
        strip(
            Strip(heading, "", [Picture(entry["id"], _caption(entry)) for entry in test[key]]),
            thumbnails,
            missing=NO_PICTURE,
        )
        for key, heading in (("best", "Best"), ("worst", "Worst"))
    ]
    return [section("Best and worst videos", explained, *rows)]


def _caption(entry: Mapping[str, Any]) -> str:
    return (
        f"predicted {said_text(entry['predicted'])}; true {said_text(entry['true'])}; error {number(entry['error'], 3)}"
    )


def _preference_parts(test: Mapping[str, Any], drawn: Sequence[Drawn]) -> tuple[str, list[str]]:
    shown = {
        **tile_of(test, "pair_accuracy"),
        **tile_of(test, "list_accuracy"),
        **tile_of(test, "mean_kendall_tau"),
        "test pairs": f"{test['num_pairs']:,}",
        "lists": f"{test['num_lists']:,}",
        "videos, of which unreadable": f"{test['num_videos']:,}, {test['num_unreadable']:,}",
    }
    pairs = test["metrics"].get("pair_accuracy")
    title = f"no pair of {test['num_videos']:,} videos could be judged"
    if pairs:
        title = f"{in_unit(pairs['model']['value'], '%')} of {counted(test['num_pairs'], 'test pair')} right"
    header = ["videos in the list", "lists", "whole order right", "by chance", "pairs inside right", "mean Kendall tau"]
    rows = [
        [
            str(entry["length"]), f"{entry['num_lists']:,}", in_unit(entry["list_accuracy"], "%"),
            in_unit(entry["chance_of_order"], "%"), in_unit(entry["pair_accuracy_in_lists"], "%"),
            number(entry["mean_kendall_tau"], 3),
        ]
        for entry in test["lists_by_length"]
    ]  # fmt: skip
    by_length = [section("Lists by length", card(table(header, rows)))] if rows else []
    return title, [tiles(shown), *by_length]


def _preference_examples(numbers: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> list[str]:
    test = numbers["test"]
    parts = []
    for key, heading in (("lists_best", "Lists ordered best"), ("lists_worst", "Lists ordered worst")):
        if test[key]:
            parts.append(section(heading, *(_list_card(entry, thumbnails) for entry in test[key])))
    said = {
        "pairs_wrong": ("Most wrong pairs", "The model scores the other video far higher than the preferred one."),
        "pairs_right": ("Surest right pairs", "The preferred video scores far higher, as it should."),
    }
    for key, (heading, explained) in said.items():
        if test[key]:
            cards = [strip(pair_strip(entry), thumbnails, missing=NO_PICTURE) for entry in test[key]]
            parts.append(section(heading, paragraph(explained), *cards))
    return parts


def pair_strip(entry: Mapping[str, Any]) -> Strip:
    pictures = [Picture(entry["worse"], "less preferred"), Picture(entry["better"], "preferred")]
    return Strip(f"{entry['worse']} < {entry['better']}", f"scores differ by {number(entry['margin'], 2)}", pictures)


def _list_card(entry: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> str:
    """A list in its true order and, where that is another one, in the model's, each from least to most preferred."""
    true = list(zip(entry["ids"], entry["scores"], strict=True))
    said = sorted(true, key=lambda item: item[1])
    orders = {"True order and the model's": true} if said == true else {"True order": true, "The model's order": said}
    rows = [
        Strip(
            heading,
            f"from least to most preferred; Kendall tau {number(entry['kendall_tau'], 2)}",
            [Picture(key, f"score {number(score, 2)}") for key, score in order],
        )
        for heading, order in orders.items()
    ]
    return strips(rows, thumbnails, missing=NO_PICTURE)


def _unreadable_part(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    said = (
        f"{counted(len(reasons), 'test video')} could not be read when the run was tested, and no other took the place."
    )
    return section("Unreadable videos", paragraph(said), unreadable(reasons, more_in=NUMBERS_FILE))

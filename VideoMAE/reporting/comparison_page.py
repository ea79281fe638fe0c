"""What the page of a comparison says, in which order; every number of it is one of `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from VideoMAE.reporting import page as html
from VideoMAE.reporting.page import Drawn, Picture, Strip, paragraph, section
from VideoMAE.reporting.page_parts import LEAD, NO_PICTURE, NUMBERS_FILE, method, notes, said_text
from VideoMAE.reporting.words import counted, digits_of, interval, number, signed

NAMES = {"a": "A", "b": "B"}


def render_comparison(numbers: Mapping[str, Any], drawn: Sequence[Drawn], thumbnails: Mapping[str, bytes]) -> str:
    """The page as HTML."""
    test = numbers["test"]
    curves = [entry for entry in drawn if entry.chart.name.startswith("curves_")]
    others = [entry for entry in drawn if entry not in curves]
    names = numbers["runs"]["a"]["name"], numbers["runs"]["b"]["name"]
    first = next(iter(test["metrics"].values()))
    found = [
        notes(numbers["notes"]),
        html.tiles(_tiles(numbers)),
        section("What differs", paragraph(_explained(test)), html.charts(others), _metric_table(test), _emotions(test)),
        section("The runs", paragraph(f"A is {names[0]}, B is {names[1]}."), html.charts(curves)) if curves else "",
        *_examples(test, thumbnails),
        *(_only(numbers["only"][who], NAMES[who]) for who in ("a", "b") if numbers["only"][who]),
    ]
    change = f"{first['title']} {signed(first['difference']['value'], digits_of(first['unit']))}"
    points = " percentage points" if first["unit"] == "%" else ""
    return html.page(f"A {names[0]}, B {names[1]}: {change}{points}", LEAD, filter(None, found))


def _tiles(numbers: Mapping[str, Any]) -> dict[str, str]:
    test = numbers["test"]
    shared = test["agreement"]
    what = "videos" if numbers["task"] == "vce" else "pairs"
    shown = {
        f"{what} that both were tested on": f"{test['num_common']:,}",
        f"{what} that both have right": f"{shared['both']:,}",
        f"{what} that only A has right": f"{shared['only_a']:,}",
        f"{what} that only B has right": f"{shared['only_b']:,}",
        f"{what} that neither has right": f"{shared['neither']:,}",
    }
    if "num_common_lists" in test:
        shown["lists that both were tested on"] = f"{test['num_common_lists']:,}"
    return shown


def _explained(test: Mapping[str, Any]) -> str:
    said = (
        f"{method(test)} Both runs are measured on the same draws, so that what is hard about a draw cancels out. The "
        "last column is the share of draws in which B is better, half of those without a difference included."
    )
    if "num_only" in test:
        left = [
            f"{counted(test['num_only'][who]['pairs'], 'pair')} and {counted(test['num_only'][who]['lists'], 'list')} "
            f"only {NAMES[who]} has"
            for who in ("a", "b")
            if any(test["num_only"][who].values())
        ]
        if left:
            said += f" Left out: {'; '.join(left)}."
    return said


def _metric_table(test: Mapping[str, Any]) -> str:
    header = ["metric", "A", "95 % interval", "B", "95 % interval", "B minus A", "95 % interval", "B is better in"]
    rows = []
    for entry in test["metrics"].values():
        unit = entry["unit"]
        cells = [entry["title"] + (f", {unit}" if unit else "")]
        for who in ("a", "b"):
            cells += [number(entry[who]["value"], digits_of(unit)), interval(entry[who], unit)]
        cells += [signed(entry["difference"]["value"], digits_of(unit)), interval(entry["difference"], unit)]
        rows.append([*cells, f"{number(entry['percent_b_better'], 1)} %"])
    return html.card(html.table(header, rows))


def _emotions(test: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            number(found["a"], 3),
            number(found["b"], 3),
            signed(found["difference"]["value"], 3),
            interval(found["difference"], ""),
        ]
        for name, found in test["emotions"].items()
    ]
    header = ["emotion", "A, Pearson", "B, Pearson", "B minus A", "95 % interval"]
    return html.folded("The numbers of every emotion", html.table(header, rows)) if rows else ""


def _examples(test: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> list[str]:
    parts = []
    for key, better in (("better_in_b", "B"), ("better_in_a", "A")):
        entries = test[key]
        if entries and "id" in entries[0]:
            pictures = [Picture(entry["id"], _caption(entry)) for entry in entries]
            shown = [
                html.strip(
                    Strip("", "by the mean absolute error over the emotions", pictures), thumbnails, missing=NO_PICTURE
                )
            ]
            parts.append(section(f"Videos that {better} predicts better", *shown))
        elif entries:
            explained = paragraph(
                "The pairs whose difference of scores changes most, in standard deviations of each run's scores; above "
                "0 is right."
            )
            cards = [html.strip(_pair(entry), thumbnails, missing=NO_PICTURE) for entry in entries]
            parts.append(section(f"Pairs that {better} judges better", explained, *cards))
    return parts


def _caption(entry: Mapping[str, Any]) -> str:
    return (
        f"true {said_text(entry['true'])}; A {said_text(entry['predicted_a'])}, error {number(entry['error_a'], 3)}; "
        f"B {said_text(entry['predicted_b'])}, error {number(entry['error_b'], 3)}"
    )


def _pair(entry: Mapping[str, Any]) -> Strip:
    pictures = [Picture(entry["worse"], "less preferred"), Picture(entry["better"], "preferred")]
    differences = f"A {signed(entry['margin_a'], 2)}, B {signed(entry['margin_b'], 2)}"
    return Strip(f"{entry['worse']} < {entry['better']}", f"difference of scores: {differences}", pictures)


def _only(reasons: Mapping[str, str], who: str) -> str:
    said = f"{counted(len(reasons), 'video')} only {who} has a prediction of; the comparison leaves them out."
    return section(f"Videos that only {who} has", paragraph(said), html.unreadable(reasons, more_in=NUMBERS_FILE))

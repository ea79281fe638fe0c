"""What the pages of reports have in common; every number is one of `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from VideoMAE.reporting.page import (
    card,
    paragraph,
    table,
)
from VideoMAE.reporting.words import counted, digits_of, in_unit, interval, number

NUMBERS_FILE = "report.json"
NO_PICTURE = "no picture"
LEAD = f"Made by VideoMAE.report; every number is in {NUMBERS_FILE}."
GUESSES = {"majority_guess": "majority guess", "chance": "chance"}


def notes(said: Sequence[str]) -> str:
    return card("".join(map(paragraph, said)), "warn") if said else ""


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
    """What of V2V's comparisons could not be judged, in words; empty where there is nothing to say."""
    if not any(test.get(key) for key in ("num_pairs_lost", "num_lists_lost", "num_ties")):
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


def said_text(said: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{name} {number(value, 2)}" for name, value in said)

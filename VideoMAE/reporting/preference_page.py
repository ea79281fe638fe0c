"""What the page of a V2V run says of its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from VideoMAE.reporting.page import (
    Drawn,
    Picture,
    Strip,
    card,
    paragraph,
    section,
    strip,
    strips,
    table,
    tiles,
)
from VideoMAE.reporting.page_parts import (
    NO_PICTURE,
    tile_of,
)
from VideoMAE.reporting.words import counted, in_unit, number


def preference_parts(test: Mapping[str, Any], drawn: Sequence[Drawn]) -> tuple[str, list[str]]:
    shown = {
        **tile_of(test, "pair_accuracy"),
        **tile_of(test, "list_accuracy"),
        **tile_of(test, "mean_kendall_tau"),
        "test pairs": f"{test['num_pairs']:,}",
        "lists": f"{test['num_lists']:,}",
        f"videos, {test['num_unreadable']:,} of them unreadable": f"{test['num_videos']:,}",
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


def preference_examples(numbers: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> list[str]:
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

"""What the page of a VCE run says of its test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from VideoMAE.reporting.page import (
    Drawn,
    Picture,
    Strip,
    charts,
    folded,
    paragraph,
    section,
    strip,
    table,
    tiles,
)
from VideoMAE.reporting.page_parts import (
    NO_PICTURE,
    said_text,
    tile_of,
)
from VideoMAE.reporting.words import in_unit, interval, number


def emotion_parts(test: Mapping[str, Any], drawn: Sequence[Drawn]) -> tuple[str, list[str]]:
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


def emotion_examples(numbers: Mapping[str, Any], thumbnails: Mapping[str, bytes]) -> list[str]:
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

"""What the page of one run says, in which order; every number of it is one of `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from VideoMAE.reporting.emotion_page import emotion_examples, emotion_parts
from VideoMAE.reporting.page import (
    Drawn,
    charts,
    page,
    paragraph,
    section,
    tiles,
    unreadable,
)
from VideoMAE.reporting.page_parts import (
    LEAD,
    NUMBERS_FILE,
    lost,
    method,
    metric_table,
    notes,
)
from VideoMAE.reporting.preference_page import preference_examples, preference_parts
from VideoMAE.reporting.words import counted, number


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
    title, parts = (emotion_parts if is_vce else preference_parts)(numbers["test"], list(by_name.values()))
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
        *(emotion_examples if is_vce else preference_examples)(numbers, thumbnails),
        _unreadable_part(numbers["unreadable"]),
    ]
    return page(f"{name}: {title}", LEAD, filter(None, found))


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


def _unreadable_part(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    said = (
        f"{counted(len(reasons), 'test video')} could not be read when the run was tested, and no other took the place."
    )
    return section("Unreadable videos", paragraph(said), unreadable(reasons, more_in=NUMBERS_FILE))

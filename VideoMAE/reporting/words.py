"""Numbers as the pages of reports say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_KNOWN = "–"


def number(value: float | None, digits: int) -> str:
    """With a true minus sign: -0.25 -> −0.25"""
    if value is None:
        return NOT_KNOWN
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int) -> str:
    """With its sign, + too."""
    if value is None:
        return NOT_KNOWN
    return ("+" if value > 0 else "") + number(value, digits)


def digits_of(unit: str) -> int:
    """How many decimals a value of this unit is worth."""
    return 1 if unit == "%" else 3


def in_unit(value: float | None, unit: str) -> str:
    return number(value, digits_of(unit)) + (f"\N{NO-BREAK SPACE}{unit}" if unit and value is not None else "")


def interval(estimate: Mapping[str, Any], unit: str) -> str:
    """40.0 to 66.7"""
    if estimate["low"] is None:
        return NOT_KNOWN
    digits = digits_of(unit)
    return f"{number(estimate['low'], digits)} to {number(estimate['high'], digits)}"


def the_epoch(who: str, what: str, epochs: Sequence[float], values: Sequence[float]) -> str:
    """When a value was highest: top-1 was best, 65.0 %, after epoch 8 of 12"""
    place = max(range(len(values)), key=lambda index: values[index])
    of_whom = f" of {who}" if who else ""
    return f"{what}{of_whom} was best, {in_unit(values[place], '%')}, after epoch {epochs[place]} of {epochs[-1]}"


def counted(how_many: int, what: str) -> str:
    """1 video, 2 videos"""
    return f"{how_many:,} {what}" + ("" if how_many == 1 else "s")

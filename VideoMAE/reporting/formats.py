"""Number formats of pages and charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN = "–"


def number(value: float | None, digits: int) -> str:
    """A number with a typographic minus sign: -0.25 -> −0.25"""
    return UNKNOWN if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int) -> str:
    """The same with a plus sign: 0.25 -> +0.25"""
    return ("+" if value is not None and value > 0 else "") + number(value, digits)


def digits_of(unit: str) -> int:
    """The number of decimals shown for a unit."""
    return 1 if unit == "%" else 3


def with_unit(value: float | None, unit: str) -> str:
    return number(value, digits_of(unit)) + (f"\N{NO-BREAK SPACE}{unit}" if unit and value is not None else "")


def interval(estimate: Mapping[str, Any], unit: str) -> str:
    """40.0 to 66.7"""
    if estimate["low"] is None:
        return UNKNOWN
    return f"{number(estimate['low'], digits_of(unit))} to {number(estimate['high'], digits_of(unit))}"


def percent(share: float) -> str:
    """0.1234 -> 12.3 %"""
    return f"{100 * share:.1f} %"

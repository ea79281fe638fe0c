"""Comparing what networks computed: CPU kernels, and so the last bits, differ with the batch size and the machine."""

from __future__ import annotations

from typing import Any

import pytest


def nearly(value: Any, *, abs: float = 2e-6) -> Any:
    """Equal to values whose numbers, at any depth of dicts and lists, are as close as this."""
    if isinstance(value, dict):
        return {key: nearly(entry, abs=abs) for key, entry in value.items()}
    if isinstance(value, list):
        return [nearly(entry, abs=abs) for entry in value]
    return pytest.approx(value, abs=abs) if isinstance(value, float) else value

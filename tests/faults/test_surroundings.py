"""Runs whose disk, memory, clock, numbers or videos fail them."""

from collections.abc import Callable

import pytest
from cases import CASES, Case, names

import surroundings  # noqa: F401  # isort: skip


@pytest.mark.parametrize("name", names("surroundings"))
def test_fault(ends_well: Callable[[Case], None], name: str) -> None:
    ends_well(CASES[name])

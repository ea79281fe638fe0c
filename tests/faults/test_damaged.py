"""Runs whose output folder is damaged between stop and start."""

from collections.abc import Callable

import pytest
from cases import CASES, Case, names

import damaged  # noqa: F401  # isort: skip


@pytest.mark.parametrize("name", names("damaged"))
def test_fault(ends_well: Callable[[Case], None], name: str) -> None:
    ends_well(CASES[name])

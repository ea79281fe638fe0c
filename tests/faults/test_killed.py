"""Runs whose processes are killed, stopped or asked to stop."""

from collections.abc import Callable

import pytest
from cases import CASES, Case, names
from killed import add_random_kills

add_random_kills(range(3))


@pytest.mark.parametrize("name", names("killed"))
def test_fault(ends_well: Callable[[Case], None], name: str) -> None:
    ends_well(CASES[name])

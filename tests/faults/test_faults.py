"""Every fault ends in a finished run with right numbers or in a clear stop; table.py prints how."""

import pytest
from cases import CASES
from killed import add_random_kills
from lab import Lab

import damaged  # noqa: F401  # isort: skip
import surroundings  # noqa: F401  # isort: skip

add_random_kills(range(3))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", CASES)
def test_fault(lab: Lab, name: str) -> None:
    outcome = CASES[name](lab)
    assert outcome.startswith(("finished", "stopped: "))
    print(f"{name}: {outcome}")  # noqa: T201


def test_the_table_has_at_least_28_cases() -> None:
    assert len(CASES) >= 28

"""One dataset and one unbroken run for all cases of a file."""

from collections.abc import Callable

import pytest
from cases import Case
from lab import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def ends_well(lab: Lab) -> Callable[[Case], None]:
    """Runs one case: it must end in a finished run with right numbers or in a clear stop, which table.py prints."""

    def check(case: Case) -> None:
        outcome = case(lab)
        assert outcome.startswith(("finished", "stopped: "))
        print(outcome)  # noqa: T201

    return check

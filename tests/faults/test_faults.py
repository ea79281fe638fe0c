"""Every fault ends in a finished run with right numbers or in a clear stop; table.py prints how."""

import pytest
from cases import CASES
from killed import add_random_kills
from lab import Lab

import damaged  # noqa: F401  # isort: skip
import surroundings  # noqa: F401  # isort: skip

add_random_kills(range(1))

# What is left to `-m soak` and to table.py, so that all tests together stay short; kin of each is in the suite.
SOAK = {
    "kill -9 during the final test",
    "kill -9 between the last checkpoint and the test",
    "SIGUSR1 to one rank",
    "Ctrl-C",
    "a second signal while saving",
    "the whole run is frozen for a while",
    "one rank is frozen for a while",
    "more processes than before",
    "fewer processes than before, ZeRO 2",
    "two runs on one output folder",
    "the disk is full to the last byte",
    "files may not grow any more",
    "the output folder is deleted",
    "the clock is set back",
    "a test video is removed",
    "a training video is truncated",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.soak if name in SOAK else ()) for name in CASES])
def test_fault(lab: Lab, name: str) -> None:
    outcome = CASES[name](lab)
    assert outcome.startswith(("finished", "stopped: "))
    print(f"{name}: {outcome}")  # noqa: T201


def test_the_table_has_at_least_28_cases() -> None:
    assert len(CASES) >= 28
    assert set(CASES) >= SOAK

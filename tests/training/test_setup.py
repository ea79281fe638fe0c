"""How many threads a process has."""

import pytest

from VideoMAE.training.setup import num_threads

EIGHT = set(range(8))


@pytest.mark.parametrize(
    ("everyone", "expected"),
    [
        ([("a", EIGHT)], 8),
        ([("a", EIGHT), ("a", EIGHT)], 4),
        ([("a", EIGHT), ("b", EIGHT)], 8),
        ([("a", EIGHT), ("a", EIGHT), ("b", EIGHT), ("b", EIGHT)], 4),
        ([("a", EIGHT), ("a", {8, 9})], 8),
        ([("a", EIGHT)] * 9, 1),
    ],
    ids=["alone", "two share", "a machine each", "two on each of two machines", "bound by Slurm", "too many"],
)
def test_processes_that_share_processors_divide_them(everyone: list[tuple[str, set[int]]], expected: int) -> None:
    assert num_threads("a", EIGHT, everyone) == expected

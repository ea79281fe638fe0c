"""The list of cases; each module adds its own."""

from __future__ import annotations

from collections.abc import Callable

from lab import Lab

Case = Callable[[Lab], str]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Adds a function to the list. Its docstring says in one sentence what happens, it asserts how that ends, and
    returns that in words."""

    def add(function: Case) -> Case:
        assert name not in CASES and function.__doc__
        CASES[name] = function
        return function

    return add


def names(module: str) -> list[str]:
    """Those of one module."""
    return [name for name, function in CASES.items() if function.__module__ == module]

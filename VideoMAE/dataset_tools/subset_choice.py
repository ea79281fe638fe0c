"""Which videos a subset takes: shares of every stratum, such that with one seed a larger subset contains a smaller one.

The rule behind all of it: of a stratum of n things in random order, the r-th (from 0) has the place (r + 1/2) / n on
a line from 0 to 1, and what comes first on the line is taken first. So each stratum gives its share, rounded, whatever
the number taken, and what was taken stays taken when more is. Between splits this is Webster's method of apportionment.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from VideoMAE.data.v2v import Comparison, connected_groups
from VideoMAE.dataset_tools.read_labels import ids_in

Thing = TypeVar("Thing")


class Choice(NamedTuple):
    """The ids taken in each split, and what is said of each."""

    ids: dict[str, set[str]]
    report: dict[str, dict[str, Any]]


def in_shares(things: Sequence[Thing], strata: Sequence[Hashable], rng: np.random.Generator) -> list[Thing]:
    """Reorder things so that every beginning of the list holds each stratum in its share, rounded."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index in rng.permutation(len(things)).tolist():
        members[strata[index]].append(index)
    places = [
        ((rank + 0.5) / len(indices), order, index)
        for order, indices in enumerate(members.values())  # among equals, the stratum that chance put first
        for rank, index in enumerate(indices)
    ]
    return [things[index] for _, _, index in sorted(places)]


def apportion(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """How many of each split's videos to take: {"train": 30, "test": 10}, wanted=8 -> {"train": 6, "test": 2}.

    Raises ValueError when a split would be empty.
    """
    places = sorted(((rank + 0.5) / size, split) for split, size in sizes.items() for rank in range(size))
    taken = [split for _, split in places[:wanted]]
    counts = {split: taken.count(split) for split in sizes}
    for split, count in counts.items():
        if not count:
            raise ValueError(
                f"{wanted} of {sum(sizes.values())} videos leave none of the {sizes[split]} of {split}; take more"
            )
    return counts


def choose_videos(top_emotions: Mapping[str, Mapping[str, str]], wanted: int, *, seed: int) -> Choice:
    """Take videos of each split such that each most intense emotion keeps its share; `top_emotions[split][id]`."""
    counts = apportion({split: len(tops) for split, tops in top_emotions.items()}, wanted)
    ids, report = {}, {}
    for number, (split, tops) in enumerate(top_emotions.items()):
        order = in_shares(list(tops), list(tops.values()), np.random.default_rng((seed, number)))
        ids[split] = set(order[: counts[split]])
        before, now = Counter(tops.values()), Counter(tops[key] for key in ids[split])
        strata = {name: (now[name], before[name]) for name in sorted(before)}
        report[split] = {
            "counts": {"videos": [len(ids[split]), len(tops)]},
            "top_emotions": strata,
            "notes": [_largest_change(strata)],
        }
    return Choice(ids, report)


def _largest_change(strata: Mapping[str, Sequence[int]]) -> str:
    now, before = np.array(list(strata.values()), dtype=float).T
    points = 100 * np.abs(now / now.sum() - before / before.sum()).max()
    return f"each most intense emotion has its share within {points:.1f} points"


def choose_comparisons(comparisons: Mapping[str, Sequence[Comparison]], wanted: int, *, seed: int) -> Choice:
    """Take whole connected components of each split, all sizes in their shares, and a part of at most one more."""
    counts = apportion({split: len(ids_in(entries)) for split, entries in comparisons.items()}, wanted)
    ids, report = {}, {}
    for number, (split, entries) in enumerate(comparisons.items()):
        found = connected_groups(entries)
        order = in_shares(found, [len(group) for group in found], np.random.default_rng((seed, number)))
        ids[split], num_whole, cut = _fill(order, entries, counts[split])
        if not ids[split]:
            raise ValueError(f"{wanted} videos leave no comparison of {split}; take more")
        num_comparisons = sum(ids[split].issuperset(entry) for entry in entries)
        report[split] = {
            "counts": {
                "videos": [len(ids[split]), len(ids_in(entries))],
                "comparisons": [num_comparisons, len(entries)],
                "connected components": [num_whole + bool(cut), len(found)],
            },
            "cut_component": cut,
            "notes": [f"one of them cut: {cut[0]} of its {cut[1]} videos, connected" if cut else "all of them whole"],
        }
    return Choice(ids, report)


def _fill(
    groups: Iterable[list[str]], entries: Sequence[Comparison], wanted: int
) -> tuple[set[str], int, tuple[int, int] | None]:
    """Take groups until `wanted` videos are -> the videos, the number of whole groups, (taken, size) of a cut one."""
    taken: set[str] = set()
    num_whole = 0
    for group in groups:
        if len(taken) + len(group) > wanted:
            part = _connected_part(group, entries, wanted - len(taken))
            return taken | part, num_whole, (len(part), len(group)) if part else None
        taken.update(group)
        num_whole += 1
    return taken, num_whole, None


def _connected_part(group: list[str], entries: Sequence[Comparison], room: int) -> set[str]:
    """At most `room` videos of a component that comparisons among them connect; none where not even one fits.

    Grows from the component's first comparison, the nearest ones first, and stops at the first that finds no room, so
    that more room gives a part that contains this one.
    """
    inside = set(group)
    of_video: dict[str, list[Comparison]] = defaultdict(list)
    for entry in entries:
        if entry[0] in inside:
            for key in entry:
                of_video[key].append(entry)
    part: set[str] = set()
    queue = [of_video[group[0]][0]]
    for entry in queue:
        new = [key for key in entry if key not in part]
        if len(part) + len(new) > room:
            break
        for key in new:
            part.add(key)
            queue += of_video[key]
    return part

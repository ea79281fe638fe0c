"""The comparisons of a dataset of V2V's form, checked one by one and as a graph of preferences.

The vertices of the graph are videos, its edges lead from the less to the more preferred one.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from VideoMAE.data.v2v import Comparison, Pair, comparison_name, pairs_in, parse_comparison
from VideoMAE.dataset_tools.check_report import Report
from VideoMAE.dataset_tools.label_checks import Files, check_id, read_object

PUBLISHED_COMPARISONS = {"train": (11_038, 16_125), "test": (3_189, 6_223), "listwise": (1_758, 4_322)}  # and videos

Splits = dict[str, list[Comparison]]


def check_v2v(root: Path, report: Report) -> Files:
    """Check the pairs and lists of a V2V folder -> the files of their videos."""
    splits: Splits = {split: _read(root / f"{split}_labels.json", split, report) for split in PUBLISHED_COMPARISONS}
    _check_splits(splits, report)
    contradictory = _check_contradictions(splits, report)
    pairs = dict.fromkeys(pairs_in(itertools.chain(*splits.values())))
    for circle in circles([pair for pair in pairs if pair not in contradictory]):
        report.add("cycle", f"{comparison_name((*circle, circle[0]))}: a circle through {len(circle)} videos", *circle)
    ids = dict.fromkeys(key for entry in itertools.chain(*splits.values()) for key in entry)
    return {key: f"videos/{key}.mp4" for key in ids}


def _read(file: Path, split: str, report: Report) -> list[Comparison]:
    """The usable comparisons of a file; the others are reported."""
    content = read_object(file, report)
    if content is None:
        return []
    entries = content.get("comparisons")
    if not isinstance(entries, list) or (not entries and split != "listwise"):
        said = "holds no comparisons" if entries == [] else 'has no list "comparisons"'
        report.add("malformed_file", f"{file.name}: {said}")
        return []
    found = []
    for number, entry in enumerate(entries, start=1):
        where = f"{file.name}: comparison {number}"
        try:
            comparison = parse_comparison(entry, where=where, only_pairs=split != "listwise")
        except ValueError as error:
            keys = [key for key in entry if isinstance(key, str)] if isinstance(entry, list) else []
            report.add("bad_comparison", str(error), *dict.fromkeys(keys))
            continue
        usable = [check_id(key, where, report) for key in comparison]
        if all(usable):
            found.append(comparison)
    counted = (len(entries), len({key for entry in found for key in entry}))
    if counted != PUBLISHED_COMPARISONS[split]:
        published = "{:,} over {:,}".format(*PUBLISHED_COMPARISONS[split])
        here = "{:,} comparisons over {:,} videos".format(*counted)
        report.add("counts", f"{file.name}: {here}, the published file has {published}")
    for entry, times in Counter(found).items():
        if times > 1:
            report.add("repeated_comparison", f"{file.name}: {comparison_name(entry)}, {times} times", *entry)
    return found


def _check_splits(splits: Splits, report: Report) -> None:
    """Report the videos of several splits."""
    splits_of: dict[str, list[str]] = defaultdict(list)
    for split, entries in splits.items():
        for key in dict.fromkeys(key for entry in entries for key in entry):
            splits_of[key].append(split)
    for key, names in splits_of.items():
        if len(names) > 1:
            report.add("several_splits", f"{key} is in {' and '.join(names)}", key)


def _check_contradictions(splits: Splits, report: Report) -> set[Pair]:
    """Report the pairs of videos that stand there in both orders -> those pairs, in both orders."""
    places: dict[Pair, str] = {}
    for split, entries in splits.items():
        for entry in entries:
            for pair in pairs_in([entry]):
                places.setdefault(pair, f"{comparison_name(entry)} in {split}")
    contradictory = set()
    for pair, place in places.items():
        reverse = Pair(pair.better, pair.worse)
        if reverse in places and pair not in contradictory:
            report.add("contradiction", f"{place}, but {places[reverse]}", *pair)
            contradictory |= {pair, reverse}
    return contradictory


def circles(pairs: list[Pair]) -> list[list[str]]:
    """One shortest circle through the first video of every group in which preferences run in circles."""
    ids = list(dict.fromkeys(key for pair in pairs for key in pair))
    if not ids:
        return []
    position = {key: index for index, key in enumerate(ids)}
    edges = np.array([(position[pair.worse], position[pair.better]) for pair in pairs])
    graph = csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(ids), len(ids)))
    _, group_of = connected_components(graph, connection="strong")
    found = []
    for group in np.flatnonzero(np.bincount(group_of) > 1):
        start = int(np.flatnonzero(group_of == group)[0])
        order, before = breadth_first_order(graph, start)
        last = next(vertex for vertex in order if graph[vertex, start])  # the nearest from which an edge leads back
        circle = [int(last)]
        while circle[-1] != start:
            circle.append(int(before[circle[-1]]))
        found.append([ids[vertex] for vertex in reversed(circle)])
    return found

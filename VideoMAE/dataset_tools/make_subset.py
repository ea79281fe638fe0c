"""Make a small dataset from a large one, in the same layout: for a first run, a class, or a hyperparameter search.

    python data_prep/make_subset.py vce_dataset vce_small --num_videos 2000
    python data_prep/make_subset.py v2v_dataset v2v_small --fraction 0.05 --link copy

Each split gives the same fraction of its videos. In VCE, each most intense emotion keeps its proportion of a split. In
V2V, videos that are compared with each other, directly or through others, stay together: whole connected components are
selected, stratified by size. Where the next component is larger than the remaining number of videos, a connected part
of it is selected; this affects at most one component per split and is reported.

With the same seed, a larger subset contains every smaller one. `subset.json` in the new folder records the settings.
The source is only read. Videos without a file are not selected; they are listed, and set the exit status to 1.
"""

import logging
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import tyro
from tqdm import tqdm

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.data.v2v import Comparison, connected_groups, without_videos
from VideoMAE.data.vce import EMOTIONS_FILE
from VideoMAE.dataset_tools.programs import (
    Link,
    check_ranges,
    first_names,
    ids_in,
    kind_of,
    label_file,
    place_video,
    read_emotions,
    read_preferences,
    read_videos,
    refuse_non_empty,
)
from VideoMAE.files import new_folder, read_json, write_json

logger = logging.getLogger("make_subset")

REPORT_FILE = "subset.json"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Dataset folder in the layout of VCE or V2V."""
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Folder to create; must not exist or be empty."""
    num_videos: int | None = None
    """Number of videos to select, over all splits together."""
    fraction: float | None = None
    """Fraction of the videos to select instead, above 0 and at most 1."""
    link: Link = "symbolic"
    """symbolic: absolute links, which remain valid when the new folder is moved and break when the source is; hard:
    hard links (same file system); copy: copies."""
    seed: int = 0
    """Seed of the selection."""


class Selection(NamedTuple):
    """The selected ids, label file content and report, each by split."""

    ids: dict[str, set[str]]
    labels: dict[str, Any]
    report: dict[str, dict[str, Any]]


def stratified_order(items: Sequence[Item], strata: Sequence[Hashable], rng: np.random.Generator) -> list[Item]:
    """Shuffles items so that every prefix of the list contains each stratum in its proportion, rounded.

    In a stratum of n items in random order, the r-th (from 0) gets the key (r + 1/2) / n; all items are sorted by key.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index in rng.permutation(len(items)).tolist():
        members[strata[index]].append(index)
    keys = [
        ((rank + 0.5) / len(indices), order, index)
        for order, indices in enumerate(members.values())  # random order among equal keys
        for rank, index in enumerate(indices)
    ]
    return [items[index] for _, _, index in sorted(keys)]


def apportion(sizes: Mapping[str, int], settings: Settings) -> dict[str, int]:
    """How many videos to select from each split (Webster's method): {"train": 30, "test": 10}, 8 videos -> {"train": 6,
    "test": 2}. Raises ValueError if too many are wanted, or a split would be empty.
    """
    available = sum(sizes.values())
    wanted = settings.num_videos or max(1, round((settings.fraction or 0) * available))
    if wanted > available:
        raise ValueError(f"--num_videos {wanted} is more than the {available} videos of {settings.src}")
    keys = sorted(((rank + 0.5) / size, split) for split, size in sizes.items() for rank in range(size))
    counts = Counter(split for _, split in keys[:wanted])
    for split, size in sizes.items():
        if not counts[split]:
            raise ValueError(f"{wanted} of {available} videos leave none of the {size} of {split}; select more")
    return counts


def select_videos(missing: Set[str], settings: Settings) -> Selection:
    """Selects videos of VCE; each most intense emotion keeps its proportion of a split."""
    selection = Selection({}, {}, {})
    top_emotions = {
        split: {
            key: found.emotions[place]
            for key, place in zip(found.ids, found.intensities.argmax(axis=1), strict=True)
            if key not in missing
        }
        for split, found in read_emotions(settings.src).items()
    }
    counts = apportion({split: len(tops) for split, tops in top_emotions.items()}, settings)
    for number, (split, tops) in enumerate(top_emotions.items()):
        order = stratified_order(list(tops), list(tops.values()), np.random.default_rng((settings.seed, number)))
        ids = selection.ids[split] = set(order[: counts[split]])
        selection.labels[split] = keep(read_json(label_file(settings.src, split)), ids)
        before, now = Counter(tops.values()), Counter(tops[key] for key in ids)
        change = max(abs(now[name] / len(ids) - before[name] / len(tops)) for name in before)
        selection.report[split] = {
            "counts": {"videos": [len(ids), len(tops)]},
            "top_emotions": {name: (now[name], before[name]) for name in sorted(before)},
            "notes": [f"the share of each most intense emotion changes by at most {100 * change:.1f} points"],
        }
    return selection


def select_comparisons(missing: Set[str], settings: Settings) -> Selection:
    """Selects whole connected components of each split of V2V, stratified by size, and a part of at most one more."""
    selection = Selection({}, {}, {})
    comparisons = read_preferences(settings.src)
    complete = {split: without_videos(entries, missing)[0] for split, entries in comparisons.items()}
    counts = apportion({split: len(ids_in(entries)) for split, entries in complete.items()}, settings)
    for number, (split, entries) in enumerate(complete.items()):
        found = connected_groups(entries)
        order = stratified_order(found, list(map(len, found)), np.random.default_rng((settings.seed, number)))
        ids, num_whole, cut = _fill(order, entries, counts[split])
        if not ids:
            raise ValueError(f"{sum(counts.values())} videos leave no comparison of {split}; select more")
        selected = [list(entry) for entry in entries if ids.issuperset(entry)]
        selection.ids[split], selection.labels[split] = ids, {"comparisons": selected}
        selection.report[split] = {
            "counts": {
                "videos": [len(ids), len(ids_in(entries))],
                "comparisons": [len(selected), len(entries)],
                "connected components": [num_whole + bool(cut), len(found)],
            },
            "cut_component": cut,
            "notes": [f"one component cut to {cut[0]} of its {cut[1]} videos" if cut else "all components whole"],
        }
    if label_file(settings.src, "listwise").is_file():
        selection.labels.setdefault("listwise", {"comparisons": []})
    return selection


def _fill(
    groups: Iterable[list[str]], entries: Sequence[Comparison], wanted: int
) -> tuple[set[str], int, tuple[int, int] | None]:
    """Takes groups up to `wanted` videos -> the videos, the number of whole groups, (taken, size) of the cut one."""
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
    """A connected part of a component, of at most `room` videos; empty if its first comparison does not fit.

    Breadth-first search from the component's first comparison. It stops at the first comparison that does not fit, so
    that a larger part contains every smaller one.
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


def checked(settings: Settings) -> Settings:
    """The settings with absolute paths. Raises ValueError for invalid settings."""
    src, dst = settings.src.expanduser().resolve(), settings.dst.expanduser().resolve()
    if (settings.num_videos is None) == (settings.fraction is None):
        raise ValueError("pass either --num_videos or --fraction")
    check_ranges(settings, num_videos=1, seed=0, above_0=["fraction"])
    if settings.fraction is not None and settings.fraction > 1:
        raise ValueError(f"--fraction {settings.fraction:g}: must be at most 1")
    if dst.is_relative_to(src):
        raise ValueError(f"{dst} is inside the source {src}, which is only read")
    refuse_non_empty(dst)
    return replace(settings, src=src, dst=dst)


def keep(entries: Mapping[str, Any], ids: Set[str]) -> dict[str, Any]:
    """The entries with these ids, in the original order."""
    return {key: entry for key, entry in entries.items() if key in ids}


def write_dataset(folder: Path, labels: Mapping[str, Any], videos: Mapping[str, Path], settings: Settings) -> None:
    """Fills an empty folder with videos, labels and, if the source has them, metadata and emotion names."""
    src = settings.src
    for path in tqdm(videos.values(), desc="placing videos", unit="video", disable=None, leave=False):
        place_video(path, folder / path.relative_to(src), settings.link)
    if (src / "metadata.json").is_file():
        write_json(folder / "metadata.json", keep(read_json(src / "metadata.json"), videos.keys()), indent=4)
    if (src / EMOTIONS_FILE).is_file():
        shutil.copy2(src / EMOTIONS_FILE, folder / EMOTIONS_FILE)
    for split, content in labels.items():
        write_json(label_file(folder, split), content, indent=4)


def make_subset(settings: Settings) -> dict[str, Any]:
    """Makes the new folder, completely or not at all. -> its report"""
    settings = checked(settings)
    src, dst, kind = settings.src, settings.dst, kind_of(settings.src)
    videos = read_videos(src, kind)
    bar = tqdm(videos.items(), desc="checking files", unit="video", disable=None, leave=False)
    missing = {key for key, path in bar if not path.is_file()}
    selection = (select_videos if kind == "vce" else select_comparisons)(missing, settings)
    videos = keep(videos, set().union(*selection.ids.values()))
    report = {
        "kind": kind, "source": str(src),
        "asked_for": {"num_videos": settings.num_videos, "fraction": settings.fraction},
        "seed": settings.seed, "link": settings.link,
        "num_videos": len(videos), "splits": selection.report, "missing_in_source": sorted(missing),
    }  # fmt: skip
    for leftover in dst.parent.glob(f".{escape(dst.name)}.partial-*"):  # of killed runs
        shutil.rmtree(leftover)
    with new_folder(dst) as folder:
        write_dataset(folder, selection.labels, videos, settings)
        write_json(folder / REPORT_FILE, report, indent=4)
    return report


def run(settings: Settings) -> bool:
    """Makes the subset and prints a summary -> whether all videos of the source have a file."""
    report = make_subset(settings)
    for split, selected in report["splits"].items():
        counts = ", ".join(f"{now:,} of {before:,} {noun}" for noun, (now, before) in selected["counts"].items())
        logger.info("%s", "; ".join([f"{split}: {counts}", *selected["notes"]]))
    logger.info("made %s: %s", settings.dst, counted(report["num_videos"], "video"))
    missing = report["missing_in_source"]
    if missing:
        sys.stderr.write(
            f"error: {counted(len(missing), 'video')} of the source without a file, not selected: "
            f"{first_names(missing)}; the subset is complete without them\n"
        )
    return not missing


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="the subset was not made")

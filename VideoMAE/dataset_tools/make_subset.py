"""Make a small dataset from a large one, in the same layout: for a first run, a class, or a hyperparameter search.

    emodiversity subset vce_dataset vce_small --num_videos 2000
    emodiversity subset v2v_dataset v2v_small --fraction 0.05 --link copy

Each split gives the same fraction of its videos. In VCE, each most intense emotion keeps its proportion of a split. In
V2V, videos that are compared with each other, directly or through others, stay together: whole connected components are
selected, stratified by size. Where the next component is larger than the remaining number of videos, a connected part
of it is selected; this affects at most one component per split and is reported.

With the same seed, a larger subset contains every smaller one. `subset.json` in the new folder records the settings.
The source is only read. Videos without a file are not selected; they are listed, and set the exit status to 1.
"""

import logging
import math
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Annotated, Any

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


Selection = tuple[set[str], dict[str, Any], dict[str, Any]]
"""The selected ids of a split, the content of its label file, and its entry in the report."""


def stratified_order(items: Sequence[Any], strata: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """Shuffles items so that every prefix of the list contains each stratum in its proportion, rounded.

    In a stratum of n items in random order, the r-th (from 0) gets the key (r + 1/2) / n; all items are sorted by key.
    """
    members: dict[Any, list[int]] = defaultdict(list)
    for index in rng.permutation(len(items)).tolist():
        members[strata[index]].append(index)
    keys = [
        ((rank + 0.5) / len(indices), order, index)
        for order, indices in enumerate(members.values())  # random order among equal keys
        for rank, index in enumerate(indices)
    ]
    return [items[index] for _, _, index in sorted(keys)]


def select(src: Path, missing: Set[str], settings: Settings) -> dict[str, Selection]:
    """Selects videos that have a file, from each split in proportion to its size (Webster's method).

    Raises ValueError if too many are wanted, or a split would be empty.
    """
    contents: dict[str, Any] = {}  # VCE: most intense emotions by id; V2V: comparisons
    is_vce = kind_of(src) == "vce"
    if is_vce:
        for split, found in read_emotions(src).items():
            tops = zip(found.ids, found.intensities.argmax(axis=1), strict=True)
            contents[split] = {key: found.emotions[place] for key, place in tops if key not in missing}
    else:
        contents = {split: without_videos(entries, missing)[0] for split, entries in read_preferences(src).items()}
    sizes = {split: len(content if is_vce else ids_in(content)) for split, content in contents.items()}
    available = sum(sizes.values())
    wanted = settings.num_videos or max(1, round((settings.fraction or 0) * available))
    if wanted > available:
        raise ValueError(f"--num_videos {wanted} is more than the {available} videos of {src}")
    keys = sorted(((rank + 0.5) / size, split) for split, size in sizes.items() for rank in range(size))
    counts = Counter(split for _, split in keys[:wanted])
    selections = {}
    for number, (split, content) in enumerate(contents.items()):
        if not counts[split]:
            raise ValueError(f"{wanted} of {available} videos leave none of the {sizes[split]} of {split}; select more")
        rng = np.random.default_rng((settings.seed, number))
        if is_vce:
            selections[split] = select_videos(content, read_json(label_file(src, split)), counts[split], rng)
        else:
            selections[split] = select_comparisons(content, counts[split], rng)
        if not selections[split][0]:
            raise ValueError(f"{wanted} videos leave no comparison of {split}; select more")
    return selections


def select_videos(
    tops: Mapping[str, str], labels: Mapping[str, Any], wanted: int, rng: np.random.Generator
) -> Selection:
    """Selects videos of VCE; each most intense emotion (`tops`, by id) keeps its proportion of the split."""
    ids = set(stratified_order(list(tops), list(tops.values()), rng)[:wanted])
    before, now = Counter(tops.values()), Counter(tops[key] for key in ids)
    change = max(abs(now[name] - len(ids) * count / len(tops)) for name, count in before.items())
    within = counted(max(1, math.ceil(change)), "video")
    report = {
        "counts": {"videos": [len(ids), len(tops)]},
        "top_emotions": {name: (now[name], before[name]) for name in sorted(before)},
        "notes": [f"each most intense emotion keeps its share to within {within}"],
    }
    return ids, keep(labels, ids), report


def select_comparisons(entries: Sequence[Comparison], wanted: int, rng: np.random.Generator) -> Selection:
    """Selects whole connected components of V2V, stratified by size, and a part of at most one more."""
    groups = connected_groups(entries)
    ids: set[str] = set()
    num_groups, cut = 0, None
    for group in stratified_order(groups, list(map(len, groups)), rng):
        part = set(group) if len(ids) + len(group) <= wanted else _connected_part(group, entries, wanted - len(ids))
        ids |= part
        num_groups += bool(part)
        if len(part) < len(group):
            cut = (len(part), len(group)) if part else None
            break
    selected = [list(entry) for entry in entries if ids.issuperset(entry)]
    report = {
        "counts": {
            "videos": [len(ids), len(ids_in(entries))],
            "comparisons": [len(selected), len(entries)],
            "connected components": [num_groups, len(groups)],
        },
        "cut_component": cut,
        "notes": [f"one component cut to {cut[0]} of its {cut[1]} videos" if cut else "all components whole"],
    }
    return ids, {"comparisons": selected}, report


def _connected_part(group: list[str], entries: Sequence[Comparison], room: int) -> set[str]:
    """A connected part of a component, of at most `room` videos; empty if its first comparison does not fit.

    Breadth-first search from the component's first comparison. It stops at the first comparison that does not fit, so
    that a larger part contains every smaller one.
    """
    of_video: dict[str, list[Comparison]] = defaultdict(list)
    for entry in entries:
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


def keep(entries: Mapping[str, Any], ids: Set[str]) -> dict[str, Any]:
    """The entries with these ids, in the original order."""
    return {key: entry for key, entry in entries.items() if key in ids}


def run(settings: Settings) -> bool:
    """Makes the new folder, completely or not at all, and logs a summary. -> whether all videos have a file"""
    src, dst = settings.src.expanduser().resolve(), settings.dst.expanduser().resolve()
    if (settings.num_videos is None) == (settings.fraction is None):
        raise ValueError("pass either --num_videos or --fraction")
    check_ranges(settings, num_videos=1, seed=0, above_0=["fraction"])
    if settings.fraction is not None and settings.fraction > 1:
        raise ValueError(f"--fraction {settings.fraction:g}: must be at most 1")
    if dst.is_relative_to(src):
        raise ValueError(f"{dst} is inside the source {src}, which is only read")
    refuse_non_empty(dst)

    kind = kind_of(src)
    videos = read_videos(src, kind)
    bar = tqdm(videos.items(), desc="checking files", unit="video", disable=None, leave=False)
    missing = sorted(key for key, path in bar if not path.is_file())
    selections = select(src, set(missing), settings)
    videos = keep(videos, set().union(*(ids for ids, _, _ in selections.values())))
    labels = {split: content for split, (_, content, _) in selections.items()}
    if label_file(src, "listwise").is_file():
        labels.setdefault("listwise", {"comparisons": []})
    reports = {split: report for split, (_, _, report) in selections.items()}

    for leftover in dst.parent.glob(f".{escape(dst.name)}.partial-*"):  # of killed runs
        shutil.rmtree(leftover)
    with new_folder(dst) as folder:
        for path in tqdm(videos.values(), desc="placing videos", unit="video", disable=None, leave=False):
            place_video(path, folder / path.relative_to(src), settings.link)
        if (src / "metadata.json").is_file():
            write_json(folder / "metadata.json", keep(read_json(src / "metadata.json"), videos.keys()), indent=4)
        if (src / EMOTIONS_FILE).is_file():
            shutil.copy2(src / EMOTIONS_FILE, folder / EMOTIONS_FILE)
        for split, content in labels.items():
            write_json(label_file(folder, split), content, indent=4)
        content = {
            "kind": kind,
            "source": str(src),
            "asked_for": {"num_videos": settings.num_videos, "fraction": settings.fraction},
            "seed": settings.seed,
            "link": settings.link,
            "num_videos": len(videos),
            "splits": reports,
            "missing_in_source": missing,
        }
        write_json(folder / "subset.json", content, indent=4)
    for split, report in reports.items():
        counts = (f"{now:,} of {counted(before, noun[:-1])}" for noun, (now, before) in report["counts"].items())
        logger.info("%s: %s; %s", split, ", ".join(counts), report["notes"][0])
    logger.info("made %s: %s", settings.dst, counted(len(videos), "video"))
    if missing:
        sys.stderr.write(
            f"error: {counted(len(missing), 'video')} of the source without a file, not selected: "
            f"{first_names(missing)}; the subset is complete without them\n"
        )
    return not missing


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="the subset was not made")

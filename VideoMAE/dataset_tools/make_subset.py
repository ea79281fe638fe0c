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

from __future__ import annotations

import itertools
import logging
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
import tyro
from tqdm import tqdm

from VideoMAE import cli
from VideoMAE.cli import counted
from VideoMAE.data.v2v import Comparison, connected_groups, videos_of
from VideoMAE.data.vce import EMOTIONS_FILE
from VideoMAE.dataset_tools.programs import Link, place_video
from VideoMAE.dataset_tools.read_labels import ids_in, kind_of, label_file, read_emotions, read_preferences
from VideoMAE.files import read_json, write_json

logger = logging.getLogger("make_subset")

REPORT_FILE = "subset.json"
NUM_NAMED = 10  # missing videos in the error message; the report contains all

Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """What to select, and where to put it."""

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


class Subset(NamedTuple):
    """The content of the new folder: label files by split, videos by id, and the report."""

    labels: dict[str, Any]
    videos: dict[str, Path]
    report: dict[str, Any]


class Choice(NamedTuple):
    """The selected ids and the report of each split."""

    ids: dict[str, set[str]]
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


def apportion(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """How many videos to select from each split (Webster's method): sizes {"train": 30, "test": 10}, wanted=8 ->
    {"train": 6, "test": 2}.

    Raises:
        ValueError: a split would be empty.
    """
    keys = sorted(((rank + 0.5) / size, split) for split, size in sizes.items() for rank in range(size))
    taken = [split for _, split in keys[:wanted]]
    counts = {split: taken.count(split) for split in sizes}
    for split, count in counts.items():
        if not count:
            raise ValueError(
                f"{wanted} of {sum(sizes.values())} videos leave none of the {sizes[split]} of {split}; select more"
            )
    return counts


def choose_videos(top_emotions: Mapping[str, Mapping[str, str]], wanted: int, *, seed: int) -> Choice:
    """Selects videos; each most intense emotion, `top_emotions[split][id]`, keeps its proportion of the split."""
    counts = apportion({split: len(tops) for split, tops in top_emotions.items()}, wanted)
    ids, report = {}, {}
    for number, (split, tops) in enumerate(top_emotions.items()):
        order = stratified_order(list(tops), list(tops.values()), np.random.default_rng((seed, number)))
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
    return f"the share of each most intense emotion changes by at most {points:.1f} points"


def choose_comparisons(comparisons: Mapping[str, Sequence[Comparison]], wanted: int, *, seed: int) -> Choice:
    """Selects whole connected components of each split, stratified by size, and a part of at most one more."""
    counts = apportion({split: len(ids_in(entries)) for split, entries in comparisons.items()}, wanted)
    ids, report = {}, {}
    for number, (split, entries) in enumerate(comparisons.items()):
        found = connected_groups(entries)
        order = stratified_order(found, [len(group) for group in found], np.random.default_rng((seed, number)))
        ids[split], num_whole, cut = _fill(order, entries, counts[split])
        if not ids[split]:
            raise ValueError(f"{wanted} videos leave no comparison of {split}; select more")
        num_comparisons = sum(ids[split].issuperset(entry) for entry in entries)
        report[split] = {
            "counts": {
                "videos": [len(ids[split]), len(ids_in(entries))],
                "comparisons": [num_comparisons, len(entries)],
                "connected components": [num_whole + bool(cut), len(found)],
            },
            "cut_component": cut,
            "notes": [f"one component cut to {cut[0]} of its {cut[1]} videos" if cut else "all components whole"],
        }
    return Choice(ids, report)


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


def checked(settings: Settings) -> tuple[Path, Path]:
    """The absolute source and target. Raises ValueError for invalid settings."""
    src, dst = settings.src.expanduser().resolve(), settings.dst.expanduser().resolve()
    if (settings.num_videos is None) == (settings.fraction is None):
        raise ValueError("pass either --num_videos or --fraction")
    if settings.num_videos is not None and settings.num_videos < 1:
        raise ValueError(f"--num_videos must be at least 1, not {settings.num_videos}")
    if settings.fraction is not None and not 0 < settings.fraction <= 1:
        raise ValueError(f"--fraction must be above 0 and at most 1, not {settings.fraction:g}")
    if settings.seed < 0:
        raise ValueError(f"--seed must be at least 0, not {settings.seed}")
    if dst.is_relative_to(src):
        raise ValueError(f"{dst} is inside the source {src}, which is only read")
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        raise ValueError(f"{dst} exists and is not an empty folder; choose another name, or delete it first")
    return src, dst


def num_wanted(settings: Settings, available: int) -> int:
    if settings.num_videos is None:
        return max(1, round((settings.fraction or 0) * available))
    if settings.num_videos > available:
        raise ValueError(f"--num_videos {settings.num_videos} is more than the {available} videos of {settings.src}")
    return settings.num_videos


def missing_files(videos: Mapping[str, Path]) -> list[str]:
    """The ids of videos without a file."""
    bar = tqdm(videos.items(), desc="checking files", unit="video", disable=None, leave=False)
    return [key for key, path in bar if not path.is_file()]


def subset_of_vce(src: Path, settings: Settings) -> Subset:
    annotations = read_emotions(src)
    videos = {key: path for found in annotations.values() for key, path in zip(found.ids, found.paths, strict=True)}
    missing = set(missing_files(videos))
    tops = {
        split: {
            key: found.emotions[place]
            for key, place in zip(found.ids, found.intensities.argmax(axis=1), strict=True)
            if key not in missing
        }
        for split, found in annotations.items()
    }
    choice = choose_videos(tops, num_wanted(settings, sum(map(len, tops.values()))), seed=settings.seed)
    labels = {split: keep(read_json(label_file(src, split)), choice.ids[split]) for split in annotations}
    return as_subset(labels, choice, videos, missing)


def subset_of_v2v(src: Path, settings: Settings) -> Subset:
    comparisons = read_preferences(src)
    every = videos_of(src, itertools.chain(*comparisons.values()))
    videos = dict(zip(every.ids, every.paths, strict=True))
    missing = set(missing_files(videos))
    whole = {split: [entry for entry in entries if missing.isdisjoint(entry)] for split, entries in comparisons.items()}
    available = sum(len(ids_in(entries)) for entries in whole.values())
    choice = choose_comparisons(whole, num_wanted(settings, available), seed=settings.seed)
    labels = {
        split: {"comparisons": [list(entry) for entry in entries if choice.ids[split].issuperset(entry)]}
        for split, entries in comparisons.items()
    }
    if label_file(src, "listwise").is_file():
        labels.setdefault("listwise", {"comparisons": []})
    return as_subset(labels, choice, videos, missing)


def as_subset(labels: dict[str, Any], choice: Choice, videos: Mapping[str, Path], missing: Iterable[str]) -> Subset:
    chosen = set().union(*choice.ids.values())
    kept = {key: path for key, path in videos.items() if key in chosen}
    report = {"num_videos": len(kept), "splits": choice.report, "missing_in_source": sorted(missing)}
    return Subset(labels, kept, report)


def keep(entries: Mapping[str, Any], ids: Iterable[str]) -> dict[str, Any]:
    """The entries with these ids, in the original order."""
    wanted = set(ids)
    return {key: entry for key, entry in entries.items() if key in wanted}


def write_dataset(folder: Path, subset: Subset, src: Path, link: Link) -> None:
    """Fills an empty folder with videos, labels, report and, if the source has them, metadata and emotion names."""
    for path in tqdm(subset.videos.values(), desc="placing videos", unit="video", disable=None, leave=False):
        place_video(path, folder / path.relative_to(src), link)
    if (src / "metadata.json").is_file():
        write_json(folder / "metadata.json", keep(read_json(src / "metadata.json"), subset.videos), indent=4)
    if (src / EMOTIONS_FILE).is_file():
        shutil.copy2(src / EMOTIONS_FILE, folder / EMOTIONS_FILE)
    for split, content in subset.labels.items():
        write_json(label_file(folder, split), content, indent=4)
    write_json(folder / REPORT_FILE, subset.report, indent=4)


def start_partial(partial: Path) -> None:
    """Creates an empty folder, after deleting what a killed run left there.

    Raises:
        ValueError: the folder exists and make_subset.py did not make it.
    """
    mark = partial / f"{REPORT_FILE}.unfinished"
    if partial.is_symlink() or partial.exists():
        if not mark.is_file():
            raise ValueError(f"{partial} exists, and make_subset.py did not make it; move it")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    mark.touch()


def make_subset(settings: Settings) -> Subset:
    """Makes the new folder, completely or not at all."""
    src, dst = checked(settings)
    kind = kind_of(src)
    subset = (subset_of_vce if kind == "vce" else subset_of_v2v)(src, settings)
    asked = {"num_videos": settings.num_videos, "fraction": settings.fraction}
    made_by = {"kind": kind, "source": str(src), "asked_for": asked, "seed": settings.seed, "link": settings.link}
    subset = subset._replace(report={**made_by, **subset.report})
    partial = dst.with_name(f"{dst.name}.partial")
    start_partial(partial)
    try:
        write_dataset(partial, subset, src, settings.link)
        (partial / f"{REPORT_FILE}.unfinished").unlink()
        partial.rename(dst)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return subset


def run(settings: Settings) -> bool:
    """Makes the subset and prints a summary -> whether all videos of the source have a file."""
    report = make_subset(settings).report
    for split, selected in report["splits"].items():
        counts = ", ".join(f"{now:,} of {before:,} {noun}" for noun, (now, before) in selected["counts"].items())
        logger.info("%s", "; ".join([f"{split}: {counts}", *selected["notes"]]))
    logger.info("made %s: %s", settings.dst, counted(report["num_videos"], "video"))
    missing = report["missing_in_source"]
    if missing:
        others = f" and {len(missing) - NUM_NAMED} more" if len(missing) > NUM_NAMED else ""
        sys.stderr.write(
            f"error: {counted(len(missing), 'video')} of the source without a file, not selected: "
            f"{', '.join(missing[:NUM_NAMED])}{others}; the subset is complete without them\n"
        )
    return not missing


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see --help. -> exit status"""
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="the subset was not made")

"""Make a small dataset from a large one, in the same layout: for a first run, a class, or a search for settings.

    python data_prep/make_subset.py vce_dataset vce_small --num_videos 2000
    python data_prep/make_subset.py v2v_dataset v2v_small --fraction 0.05 --link copy

Each split gives the same share of its videos. In VCE each most intense emotion keeps its share of a split, rounded. In
V2V, videos that are compared with each other, directly or through others, stay together: connected components of all
sizes are taken whole, in their shares. Where the next one is larger than what is left to take, a connected part of it
is taken; that happens to at most one component of a split, and is said.

With one seed, a larger subset contains every smaller one. `subset.json` in the new folder tells how it was made.
The source is only read. Videos whose files are missing cannot be drawn; they are named, and the exit status is 1.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from tqdm import tqdm

from VideoMAE.cli import show_messages
from VideoMAE.data.v2v import videos_of
from VideoMAE.dataset_tools.read_labels import (
    kind_of,
    label_file,
    read_emotions,
    read_preferences,
)
from VideoMAE.dataset_tools.subset_choice import Choice, choose_comparisons, choose_videos
from VideoMAE.files import read_json

logger = logging.getLogger("make_subset")

REPORT_FILE = "subset.json"
EMOTIONS_FILE = "emotions.json"  # the names, of a dataset with other emotions than VCE's
NUM_NAMED = 10  # of missing videos; the report has all

Link = Literal["symbolic", "hard", "copy"]


@dataclass(frozen=True)
class Settings:
    """What to take, and where to put it."""

    src: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Folder in the layout of VCE or V2V."""
    dst: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Folder to make; must not exist, or be empty."""
    num_videos: int | None = None
    """How many videos to take, over all splits together."""
    fraction: float | None = None
    """Which share of the videos to take instead, above 0 up to 1."""
    link: Link = "symbolic"
    """How the videos get there: absolute symbolic links, which stay right when the new folder is moved and break when
    the source is; hard links (same file system); copies."""
    seed: int = 0
    """Another seed draws other videos."""


class Subset(NamedTuple):
    """What the new folder is to hold: the content of its label files, its videos by id, and what is said of them."""

    labels: dict[str, Any]
    videos: dict[str, Path]
    report: dict[str, Any]


def checked(settings: Settings) -> tuple[Path, Path]:
    """The absolute source and target. Raises ValueError for settings that cannot be."""
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
        raise ValueError(f"{dst} lies in the source {src}, which is only read")
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
    """The ids of videos that have no file."""
    bar = tqdm(videos.items(), desc="looking for files", unit="video", disable=None, leave=False)
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
    every = videos_of(src, [entry for entries in comparisons.values() for entry in entries])
    videos = dict(zip(every.ids, every.paths, strict=True))
    missing = set(missing_files(videos))
    whole = {split: [entry for entry in entries if missing.isdisjoint(entry)] for split, entries in comparisons.items()}
    available = sum(len({key for entry in entries for key in entry}) for entries in whole.values())
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
    """The entries of these ids, in their order."""
    wanted = set(ids)
    return {key: entry for key, entry in entries.items() if key in wanted}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def place_video(source: Path, target: Path, link: Link) -> None:
    """Link or copy a file; what the source itself links to is the file meant."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link == "symbolic":
        target.symlink_to(source.resolve())
    elif link == "copy":
        shutil.copy2(source, target)
    else:
        try:
            os.link(source.resolve(), target)
        except OSError as error:
            raise ValueError(
                f"{source} cannot be hard-linked to {target.parent} ({error.strerror}); pass --link copy or symbolic"
            ) from error


def write_dataset(folder: Path, subset: Subset, src: Path, link: Link) -> None:
    """Fill an empty folder: videos, labels, report; metadata and names of emotions where the source has them."""
    for path in tqdm(subset.videos.values(), desc="placing videos", unit="video", disable=None, leave=False):
        place_video(path, folder / path.relative_to(src), link)
    if (src / "metadata.json").is_file():
        write_json(folder / "metadata.json", keep(read_json(src / "metadata.json"), subset.videos))
    if (src / EMOTIONS_FILE).is_file():
        shutil.copy2(src / EMOTIONS_FILE, folder / EMOTIONS_FILE)
    for split, content in subset.labels.items():
        write_json(label_file(folder, split), content)
    write_json(folder / REPORT_FILE, subset.report)


def start_partial(partial: Path) -> None:
    """An empty folder to build in; what a killed run left there goes, anything else stays and is an error."""
    mark = partial / f"{REPORT_FILE}.unfinished"
    if partial.is_symlink() or partial.exists():
        if not mark.is_file():
            raise ValueError(f"{partial} is in the way, and make_subset.py did not make it; move it")
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    mark.touch()


def make_subset(settings: Settings) -> Subset:
    """Make the new folder, whole or not at all."""
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


def summary(report: Mapping[str, Any]) -> str:
    """What was taken, a line a split."""
    lines = []
    for split, taken in report["splits"].items():
        shown = ", ".join(f"{now:,} of {before:,} {what}" for what, (now, before) in taken["counts"].items())
        lines.append("; ".join([f"{split}: {shown}", *taken["notes"]]))
    return "\n".join(lines)


def warn_of(missing: Sequence[str]) -> None:
    others = f" and {len(missing) - NUM_NAMED} more" if len(missing) > NUM_NAMED else ""
    sys.stderr.write(
        f"error: {len(missing)} videos of the source have no file and were not drawn: "
        f"{', '.join(missing[:NUM_NAMED])}{others}; the subset is whole without them\n"
    )


def stop(signal_number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal_number)


def main() -> int:
    settings = tyro.cli(Settings, description=__doc__, config=(tyro.conf.OmitArgPrefixes,), use_underscores=True)
    show_messages(sys.stdout)
    signal.signal(signal.SIGTERM, stop)
    try:
        report = make_subset(settings).report
    except KeyboardInterrupt:
        sys.stderr.write(f"error: stopped, {settings.dst} was not made\n")
        return 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    logger.info("%s\nmade %s: %d videos", summary(report), settings.dst, report["num_videos"])
    if report["missing_in_source"]:
        warn_of(report["missing_in_source"])
        return 1
    return 0

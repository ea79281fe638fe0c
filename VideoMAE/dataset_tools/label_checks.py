"""Checks of the label files of a VCE or V2V dataset, entry by entry; all defects are collected."""

import itertools
import json
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from VideoMAE.data.v2v import (
    Comparison,
    Pair,
    comparison_name,
    connected_groups,
    pairs_in,
    parse_comparison,
    video_file_of,
)
from VideoMAE.data.vce import EMOTIONS_FILE, read_emotions, video_path
from VideoMAE.dataset_tools.read_labels import ids_in
from VideoMAE.files import read_text

PUBLISHED_VIDEOS = {"train": 50_000, "test": 11_046}
PUBLISHED_COMPARISONS = {"train": (11_038, 16_125), "test": (3_189, 6_223), "listwise": (1_758, 4_322)}  # and videos
NUM_TOP = 3  # emotions in 'topK'
LONGEST_ID = 200  # characters, so that ID.mp4 is a valid file name everywhere
MAX_SHOWN = 20  # findings per kind; the JSON report contains all


class Kind(NamedTuple):
    """A kind of finding.

    `is_problem`: otherwise a note, which does not affect the exit status. `excluded`: excluding the ids from a run
    solves the problem.
    """

    heading: str
    is_problem: bool = True
    excluded: bool = True


_not_excluded = partial(Kind, excluded=False)
_note = partial(Kind, is_problem=False, excluded=False)

KINDS = {
    "missing_file": _not_excluded("missing dataset files"),
    "malformed_file": _not_excluded("malformed dataset files"),
    "duplicate_key": _not_excluded("duplicate keys in objects"),
    "bad_id": _not_excluded("invalid ids"),
    "several_splits": Kind("videos in several splits"),
    "same_video": Kind("videos under several ids"),
    "bad_file_name": Kind("labels with an invalid file name"),
    "bad_emotions": Kind("labels with missing or unknown emotions"),
    "bad_intensity": Kind("labels with an intensity outside [0, 1]"),
    "bad_top_k": Kind("'topK' that contradict the intensities"),
    "bad_comparison": Kind("invalid comparisons"),
    "no_metadata": _not_excluded("videos missing from metadata.json"),
    "bad_metadata": _not_excluded("malformed entries in metadata.json"),
    "metadata_differs": _not_excluded("metadata.json entries that differ from their videos"),
    "unreadable": Kind("unreadable videos"),
    "counts": _note("counts that differ from the published dataset"),
    "contradiction": _note("pairs of videos in both orders"),
    "cycle": _note("cycles of preferences"),
    "repeated_comparison": _note("duplicate comparisons"),
    "unusual_video": _note("unusual videos, which are read correctly"),
    "unlabelled": _note("videos without a label"),
}


class Finding(NamedTuple):
    """A defect or note, and the videos that it concerns."""

    kind: str
    text: str
    ids: tuple[str, ...]
    excluded: bool


class Report:
    """All findings of a check, in order."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, kind: str, text: str, *ids: str, excluded: bool | None = None) -> None:
        """`excluded` overrides the kind's value."""
        self.findings.append(Finding(kind, text, ids, KINDS[kind].excluded if excluded is None else excluded))

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if KINDS[finding.kind].is_problem]

    @property
    def notes(self) -> list[Finding]:
        return [finding for finding in self.findings if not KINDS[finding.kind].is_problem]

    def bad_ids(self) -> dict[str, str]:
        """The ids to exclude from a run, sorted, with reasons."""
        reasons = {key: finding.text for finding in reversed(self.problems) if finding.excluded for key in finding.ids}
        return dict(sorted(reasons.items()))

    def to_json(self) -> dict[str, Any]:
        problems, notes = (
            [{"kind": kind, "text": text, "ids": list(ids)} for kind, text, ids, _ in findings]
            for findings in (self.problems, self.notes)
        )
        return {"fine": not problems, "problems": problems, "remarks": notes, "bad_ids": list(self.bad_ids())}

    def to_text(self) -> str:
        """The findings grouped by kind, the first MAX_SHOWN of each."""
        lines = []
        for name, kind in KINDS.items():
            texts = [finding.text for finding in self.findings if finding.kind == name]
            if texts:
                lines.append(f"{'' if kind.is_problem else 'note: '}{kind.heading}: {len(texts)}")
                lines += [f"  {text}" for text in texts[:MAX_SHOWN]]
                lines += [f"  ... and {len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
        return "\n".join(lines)


class DuplicateKeys(dict[str, Any]):
    """A JSON object with duplicate keys; the last value of each is kept."""

    duplicates: tuple[str, ...] = ()


def read_object(file: Path, report: Report) -> dict[str, Any] | None:
    """Reads a JSON object; returns None, with the reason in the report, where that fails."""

    def keep_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            entry = DuplicateKeys(entry)
            entry.duplicates = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return entry

    if not file.exists():
        report.add("missing_file", file.name)
        return None
    try:
        text = read_text(file)
        if not text.strip():
            raise ValueError("the file is empty")
        content = json.loads(text, object_pairs_hook=keep_duplicates)
        if not isinstance(content, dict):
            raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    except json.JSONDecodeError as error:
        report.add("malformed_file", f"{file.name}: not valid JSON (truncated?): {error}")
    except (ValueError, RecursionError) as error:
        report.add("malformed_file", f"{file.name}: {error}")
    else:
        for key in content.duplicates if isinstance(content, DuplicateKeys) else ():
            report.add("duplicate_key", f"{file.name}: duplicate key {key!r}", key)
        return content
    return None


def is_id(key: str) -> bool:
    """Whether a text can be an id: part of a file name, and a line of an --exclude file."""
    is_plain = key.isprintable() and not set(key) & set("/\\#") and key == key.strip() and not key.startswith(".")
    return is_plain and 0 < len(key) <= LONGEST_ID


def check_id(key: str, where: str, report: Report) -> bool:
    """Whether an id is valid; an invalid one is reported."""
    if is_id(key):
        return True
    report.add("bad_id", f"{where}: invalid id {key!r}: expected a part of a file name without / and #")
    return False


def check_vce(root: Path, report: Report) -> dict[str, str]:
    """Checks the labels of a VCE folder -> the videos of its valid labels, paths relative to `root` by id."""
    try:
        emotions = read_emotions(root)
    except ValueError as error:
        report.add("malformed_file", str(error))
        return {}
    files: dict[str, str] = {}
    split_of: dict[str, str] = {}
    for split in PUBLISHED_VIDEOS:
        name = f"{split}_labels.json"
        entries = read_object(root / name, report)
        if entries is None:
            continue
        if not entries:
            report.add("malformed_file", f"{name}: holds no videos")
        if not (root / EMOTIONS_FILE).exists() and len(entries) != PUBLISHED_VIDEOS[split]:
            report.add("counts", f"{name}: {len(entries):,} videos, the published file has {PUBLISHED_VIDEOS[split]:,}")
        for key, entry in entries.items():
            if not check_id(key, name, report):
                continue
            if key in split_of:
                report.add("several_splits", f"{key} is in {split_of[key]} and {split}", key)
            split_of[key] = split
            try:
                video_path(root, entry, where=f"{name}: {key}")
                files.setdefault(key, str(entry["file"]))
            except ValueError as error:
                report.add("bad_file_name", str(error), key)
            if defect := label_defect(entry, emotions):
                report.add(defect[0], f"{name}: {key}: {defect[1]}", key)
    by_file: dict[str, str] = {}
    for key, file in files.items():
        if by_file.setdefault(file, key) != key:
            text = f"{by_file[file]} ({split_of[by_file[file]]}) and {key} ({split_of[key]}) both name {file}"
            report.add("same_video", text, key)
    return files


def label_defect(entry: Any, emotions: Sequence[str]) -> tuple[str, str] | None:
    """The kind and the description of the first defect of a label; None if there is none."""
    intensities = entry.get("emotions") if isinstance(entry, dict) else None
    if not isinstance(intensities, dict):
        return "bad_emotions", "has no 'emotions' object"
    if isinstance(intensities, DuplicateKeys):
        return "duplicate_key", f"duplicate {', '.join(intensities.duplicates)}"
    missing = [emotion for emotion in emotions if emotion not in intensities]
    unknown = [emotion for emotion in intensities if emotion not in emotions]
    if missing or unknown:
        lists = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(map(repr, unknown)) or 'none'}"
        return "bad_emotions", f"{len(intensities)} emotions, expected {len(emotions)}; {lists}"
    bad = {
        name: value
        for name, value in intensities.items()
        if type(value) not in (int, float) or not 0 <= value <= 1  # NaN or a bool too
    }
    if bad:
        return "bad_intensity", ", ".join(f"{name} is {json.dumps(value)[:40]}" for name, value in bad.items())
    fault = top_k_fault(entry.get("topK"), intensities)
    return ("bad_top_k", fault) if fault else None


def top_emotions(intensities: Mapping[str, float]) -> list[str]:
    """The three most intense emotions in descending order, alphabetically among equals."""
    return sorted(sorted(intensities), key=lambda name: -intensities[name])[:NUM_TOP]


def label_entry(intensities: Mapping[str, float], key: str) -> dict[str, Any]:
    """A video's entry in a VCE label file."""
    return {"emotions": dict(intensities), "file": video_file_of(key), "topK": top_emotions(intensities)}


def top_k_fault(top: Any, intensities: Mapping[str, float]) -> str | None:
    """What is wrong with a label's 'topK'; None if nothing is. Equal intensities may be in any order."""
    expected = top_emotions(intensities)
    are_names = isinstance(top, list) and all(isinstance(name, str) for name in top) and len(set(top)) == len(top)
    if are_names and [intensities.get(name) for name in top] == [intensities[name] for name in expected]:
        return None
    return f"'topK' is {json.dumps(top)[:200]}, expected {expected} from the intensities"


def check_v2v(root: Path, report: Report) -> dict[str, str]:
    """Checks the comparisons of a V2V folder -> their videos, paths relative to `root` by id."""
    splits = {split: _read_comparisons(root / f"{split}_labels.json", split, report) for split in PUBLISHED_COMPARISONS}
    splits_of: dict[str, list[str]] = defaultdict(list)
    for split, entries in splits.items():
        for key in ids_in(entries):
            splits_of[key].append(split)
    for key, names in splits_of.items():
        if len(names) > 1:
            report.add("several_splits", f"{key} is in {' and '.join(names)}", key)
    contradictory = _check_contradictions(splits, report)
    pairs = dict.fromkeys(pairs_in(itertools.chain(*splits.values())))
    for cycle in cycles([pair for pair in pairs if pair not in contradictory]):
        report.add("cycle", f"{comparison_name((*cycle, cycle[0]))}: a cycle of {len(cycle)} videos", *cycle)
    return {key: video_file_of(key) for key in splits_of}


def _read_comparisons(file: Path, split: str, report: Report) -> list[Comparison]:
    """The valid comparisons of a file; the others are reported."""
    content = read_object(file, report)
    if content is None:
        return []
    entries = content.get("comparisons")
    if not isinstance(entries, list) or (not entries and split != "listwise"):
        report.add("malformed_file", f'{file.name}: has no list "comparisons", or an empty one')
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
        if sum(check_id(key, where, report) for key in comparison) == len(comparison):
            found.append(comparison)
    counts = (len(entries), len(ids_in(found)))
    if counts != PUBLISHED_COMPARISONS[split]:
        published = "{:,} over {:,}".format(*PUBLISHED_COMPARISONS[split])
        here = "{:,} comparisons over {:,} videos".format(*counts)
        report.add("counts", f"{file.name}: {here}, the published file has {published}")
    for entry, times in Counter(found).items():
        if times > 1:
            report.add("repeated_comparison", f"{file.name}: {comparison_name(entry)}, {times} times", *entry)
    return found


def _check_contradictions(splits: Mapping[str, Sequence[Comparison]], report: Report) -> set[Pair]:
    """Reports pairs of videos that occur in both orders -> these pairs, in both orders."""
    places: dict[Pair, str] = {}
    for split, entries in splits.items():
        for entry in entries:
            for pair in pairs_in([entry]):
                places.setdefault(pair, f"{comparison_name(entry)} in {split}")
    contradictory: set[Pair] = set()
    for pair, place in places.items():
        reverse = Pair(pair.better, pair.worse)
        if reverse in places and pair not in contradictory:
            report.add("contradiction", f"{place}, but {places[reverse]}", *pair)
            contradictory |= {pair, reverse}
    return contradictory


def cycles(pairs: Sequence[Pair]) -> list[list[str]]:
    """A shortest cycle through the first video of every strongly connected component of two or more videos."""
    better_than: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        better_than[pair.worse].add(pair.better)
    found = []
    for group in connected_groups(pairs, strong=True):
        if len(group) > 1:
            position = {key: index for index, key in enumerate(group)}
            paths, seen = deque([group[:1]]), set(group[:1])
            while group[0] not in better_than[paths[0][-1]]:  # breadth-first search
                path = paths.popleft()
                new = (better_than[path[-1]] & position.keys()) - seen
                seen |= new
                paths.extend([*path, key] for key in sorted(new, key=position.__getitem__))
            found.append(paths[0])
    return found

"""Checks of the label files of a VCE or V2V dataset, entry by entry; all defects are collected."""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from VideoMAE.data import v2v
from VideoMAE.data.v2v import Comparison, Pair, video_file_of
from VideoMAE.data.vce import EMOTIONS, read_emotions, video_path
from VideoMAE.dataset_tools.programs import ids_in, label_file
from VideoMAE.files import read_text

PUBLISHED_VIDEOS = {"train": 50_000, "test": 11_046}
PUBLISHED_COMPARISONS = {"train": (11_038, 16_125), "test": (3_189, 6_223), "listwise": (1_758, 4_322)}  # and videos
MAX_SHOWN = 20  # findings per kind; the JSON report contains all

KINDS = {
    "missing_file": "missing dataset files",
    "malformed_file": "malformed dataset files",
    "duplicate_key": "duplicate keys in objects",
    "bad_id": "invalid ids",
    "several_splits": "videos in several splits",
    "same_video": "videos under several ids",
    "bad_file_name": "labels with an invalid file name",
    "bad_emotions": "labels with missing or unknown emotions",
    "bad_intensity": "labels with an intensity outside [0, 1]",
    "bad_top_k": "'topK' that contradict the intensities",
    "bad_comparison": "invalid comparisons",
    "no_metadata": "videos missing from metadata.json",
    "bad_metadata": "malformed entries in metadata.json",
    "metadata_differs": "metadata.json entries that differ from their videos",
    "unreadable": "unreadable videos",
    "counts": "counts that differ from the published dataset",
    "contradiction": "pairs of videos in both orders",
    "cycle": "cycles of preferences",
    "repeated_comparison": "duplicate comparisons",
    "unusual_video": "unusual videos, which are read correctly",
    "unlabelled": "videos without a label",
}
"""The kinds of findings and their headings."""
NOTES = ("counts", "contradiction", "cycle", "repeated_comparison", "unusual_video", "unlabelled")
"""The kinds that are no problems: they do not affect the exit status."""
NOT_EXCLUDED = (
    "missing_file",
    "malformed_file",
    "duplicate_key",
    "bad_id",
    "no_metadata",
    "bad_metadata",
    "metadata_differs",
)
"""The kinds of problems that excluding the videos from a run does not solve."""


class Finding(NamedTuple):
    """A defect or note, and the videos that it concerns."""

    kind: str
    text: str
    ids: tuple[str, ...]
    excluded: bool


class Report:
    """All findings of a check, in order."""

    def __init__(self) -> None:
        self.problems: list[Finding] = []
        self.notes: list[Finding] = []

    def add(self, kind: str, text: str, *ids: str, excluded: bool | None = None) -> None:
        """`excluded`: whether excluding the videos solves the problem; None: as for most of this kind."""
        findings = self.notes if kind in NOTES else self.problems
        findings.append(Finding(kind, text, ids, kind not in NOT_EXCLUDED if excluded is None else excluded))

    def to_text(self) -> str:
        """The findings grouped by kind, the first MAX_SHOWN of each."""
        lines = []
        for kind, heading in KINDS.items():
            texts = [finding.text for finding in (*self.problems, *self.notes) if finding.kind == kind]
            if texts:
                lines.append(f"{'note: ' if kind in NOTES else ''}{heading}: {len(texts)}")
                lines += [f"  {text}" for text in texts[:MAX_SHOWN]]
                lines += [f"  ... and {len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
        return "\n".join(lines)


class JSONObject(dict[str, Any]):
    """A JSON object and its duplicate keys, of which the last value is kept."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.duplicates = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def read_object(file: Path, report: Report) -> JSONObject | None:
    """Reads a JSON object; returns None, with the reason in the report, where that fails."""
    if not file.exists():
        report.add("missing_file", file.name)
        return None
    try:
        text = read_text(file)
        if not text.strip():
            raise ValueError("the file is empty")
        content = json.loads(text, object_pairs_hook=JSONObject)
        if not isinstance(content, JSONObject):
            raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    except (ValueError, RecursionError) as error:
        is_json_error = isinstance(error, json.JSONDecodeError)
        report.add("malformed_file", f"{file.name}: {'not valid JSON (truncated?): ' if is_json_error else ''}{error}")
        return None
    for key in content.duplicates:
        report.add("duplicate_key", f"{file.name}: duplicate key {key!r}", key)
    return content


def is_id(key: str) -> bool:
    """Whether a text can be an id: part of a file name, and a line of an --exclude file."""
    is_plain = key.isprintable() and not set(key) & set("/\\#") and key == key.strip() and not key.startswith(".")
    return is_plain and 0 < len(key) <= 200  # so that ID.mp4 is a valid file name everywhere


def report_bad_ids(keys: Iterable[str], where: str, report: Report) -> list[str]:
    """Reports the invalid ids -> these ids."""
    bad = [key for key in keys if not is_id(key)]
    for key in bad:
        report.add("bad_id", f"{where}: invalid id {key!r}: expected a part of a file name without / and #")
    return bad


def check_labels(root: Path, kind: str, report: Report) -> dict[str, str]:
    """Checks the label files of a dataset -> the videos of its valid labels, paths relative to `root` by id."""
    files: dict[str, str] = {}
    first_of: dict[str, str] = {}  # the first id with a file
    splits_of: dict[str, list[str]] = defaultdict(list)
    comparisons: dict[str, list[Comparison]] = {}
    try:
        emotions = read_emotions(root)
    except ValueError as error:
        report.add("malformed_file", str(error))
        return {}
    for split in PUBLISHED_VIDEOS if kind == "vce" else PUBLISHED_COMPARISONS:
        content = read_object(label_file(root, split), report)
        if content is None:
            continue
        if kind == "vce":
            found = check_emotions(content, split, emotions, report)
        else:
            comparisons[split] = check_comparisons(content, split, report)
            found = {key: video_file_of(key) for key in ids_in(comparisons[split])}
        for key, file in found.items():
            splits_of[key].append(split)
            if file and key not in files:
                files[key], first = file, first_of.setdefault(file, key)
                if first != key:
                    text = f"{first} ({splits_of[first][-1]}) and {key} ({split}) both name {file}"
                    report.add("same_video", text, key)
    for key, splits in splits_of.items():
        if len(splits) > 1:
            report.add("several_splits", f"{key} is in {' and '.join(splits)}", key)
    places: dict[Pair, str] = {}
    for split, entries in comparisons.items():
        for entry in entries:
            for pair in v2v.pairs_in([entry]):
                places.setdefault(pair, f"{v2v.comparison_name(entry)} in {split}")
    contradictory: set[Pair] = set()
    for pair, place in places.items():
        reverse = Pair(pair.better, pair.worse)
        if reverse in places and pair not in contradictory:
            report.add("contradiction", f"{place}, but {places[reverse]}", *pair)
            contradictory |= {pair, reverse}
    for cycle in cycles([pair for pair in places if pair not in contradictory]):
        report.add("cycle", f"{v2v.comparison_name((*cycle, cycle[0]))}: a cycle of {len(cycle)} videos", *cycle)
    return files


def check_emotions(entries: JSONObject, split: str, emotions: Sequence[str], report: Report) -> dict[str, str]:
    """Checks the labels of a VCE file -> the videos of the valid ids; "" for an invalid path."""
    name = f"{split}_labels.json"
    if not entries:
        report.add("malformed_file", f"{name}: holds no videos")
    if set(emotions) == set(EMOTIONS) and len(entries) != PUBLISHED_VIDEOS[split]:
        report.add("counts", f"{name}: {len(entries):,} videos, the published file has {PUBLISHED_VIDEOS[split]:,}")
    found: dict[str, str] = {}
    for key, entry in entries.items():
        if report_bad_ids([key], name, report):
            continue
        try:
            video_path(Path(), entry, where=f"{name}: {key}")
            found[key] = str(entry["file"])
        except ValueError as error:
            found[key] = ""
            report.add("bad_file_name", str(error), key)
        if defect := label_defect(entry, emotions):
            report.add(defect[0], f"{name}: {key}: {defect[1]}", key)
    return found


def label_defect(entry: Any, emotions: Sequence[str]) -> tuple[str, str] | None:
    """The kind and the description of the first defect of a label; None if there is none."""
    intensities = entry.get("emotions") if isinstance(entry, dict) else None
    if not isinstance(intensities, JSONObject):
        return "bad_emotions", "has no 'emotions' object"
    if intensities.duplicates:
        return "duplicate_key", f"duplicate {', '.join(intensities.duplicates)}"
    missing = [emotion for emotion in emotions if emotion not in intensities]
    unknown = [emotion for emotion in intensities if emotion not in emotions]
    if missing or unknown:
        lists = f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(map(repr, unknown)) or 'none'}"
        return "bad_emotions", f"{len(intensities)} emotions, expected {len(emotions)}; {lists}"
    bad = [
        f"{name} is {json.dumps(value)[:40]}"
        for name, value in intensities.items()
        if type(value) not in (int, float) or not 0 <= value <= 1  # NaN or a bool too
    ]
    if bad:
        return "bad_intensity", ", ".join(bad)
    top, expected = entry.get("topK"), top_emotions(intensities)
    are_names = isinstance(top, list) and all(isinstance(name, str) for name in top) and len(set(top)) == len(top)
    # Equal intensities may be in any order.
    if are_names and [intensities.get(name) for name in top] == [intensities[name] for name in expected]:
        return None
    return "bad_top_k", f"'topK' is {json.dumps(top)[:200]}, expected {expected} from the intensities"


def top_emotions(intensities: Mapping[str, float]) -> list[str]:
    """The three most intense emotions in descending order, alphabetically among equals."""
    return sorted(sorted(intensities), key=lambda name: -intensities[name])[:3]


def label_entry(intensities: Mapping[str, float], key: str) -> dict[str, Any]:
    """A video's entry in a VCE label file."""
    return {"emotions": dict(intensities), "file": video_file_of(key), "topK": top_emotions(intensities)}


def check_comparisons(content: JSONObject, split: str, report: Report) -> list[Comparison]:
    """The valid comparisons of a V2V file; the others are reported."""
    name, entries = f"{split}_labels.json", content.get("comparisons")
    if not isinstance(entries, list) or (not entries and split != "listwise"):
        report.add("malformed_file", f'{name}: has no list "comparisons", or an empty one')
        return []
    found = []
    for number, entry in enumerate(entries, start=1):
        where = f"{name}: comparison {number}"
        try:
            comparison = v2v.parse_comparison(entry, where=where, only_pairs=split != "listwise")
        except ValueError as error:
            keys = [key for key in entry if isinstance(key, str)] if isinstance(entry, list) else []
            report.add("bad_comparison", str(error), *dict.fromkeys(keys))
            continue
        if not report_bad_ids(comparison, where, report):
            found.append(comparison)
    counts, published = (len(entries), len(ids_in(found))), PUBLISHED_COMPARISONS[split]
    if counts != published and 0.5 < len(entries) / published[0] < 2:  # otherwise the user's own data
        here = "{:,} comparisons over {:,} videos".format(*counts)
        report.add("counts", f"{name}: {here}, the published file has {'{:,} over {:,}'.format(*published)}")
    for entry, times in Counter(found).items():
        if times > 1:
            report.add("repeated_comparison", f"{name}: {v2v.comparison_name(entry)}, {times} times", *entry)
    return found


def cycles(pairs: Sequence[Pair]) -> list[list[str]]:
    """A shortest cycle through the first video of every strongly connected component of two or more videos."""
    better_than: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        better_than[pair.worse].add(pair.better)
    found = []
    for group in v2v.connected_groups(pairs, strong=True):
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

"""What a check of a dataset finds, as people and programs read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

MAX_SHOWN = 20  # findings of a kind; the JSON report has all


class Kind(NamedTuple):
    """A kind of finding. A remark is said and does not make the dataset wrong; `excluded`: leaving its ids out of a run
    cures it."""

    heading: str
    is_problem: bool = True
    excluded: bool = True


KINDS = {
    "missing_file": Kind("files of the dataset that are missing", excluded=False),
    "malformed_file": Kind("files of the dataset that cannot be used", excluded=False),
    "duplicate_key": Kind("ids or names that stand twice in one object", excluded=False),
    "bad_id": Kind("ids that cannot be", excluded=False),
    "several_splits": Kind("videos in several splits"),
    "same_video": Kind("videos under several ids"),
    "bad_file_name": Kind("labels that name no usable video file"),
    "bad_emotions": Kind("labels with missing or unknown emotions"),
    "bad_intensity": Kind("intensities that are no numbers in [0, 1]"),
    "bad_top_k": Kind("'topK' that disagrees with the intensities"),
    "bad_comparison": Kind("pairs and lists that cannot be"),
    "no_metadata": Kind("videos without an entry in metadata.json", excluded=False),
    "bad_metadata": Kind("malformed entries of metadata.json", excluded=False),
    "metadata_differs": Kind("entries of metadata.json that disagree with the file", excluded=False),
    "unreadable": Kind("videos that cannot be read"),
    "counts": Kind("counts unlike the published dataset's", is_problem=False, excluded=False),
    "contradiction": Kind("pairs of videos that stand in both orders", is_problem=False, excluded=False),
    "cycle": Kind("preferences that run in a circle", is_problem=False, excluded=False),
    "repeated_comparison": Kind("comparisons that stand there more than once", is_problem=False, excluded=False),
    "unusual_video": Kind("unusual videos, which are read correctly", is_problem=False, excluded=False),
    "unlabelled": Kind("videos that no label names", is_problem=False, excluded=False),
}


class Finding(NamedTuple):
    """One thing that is wrong or worth saying; `ids` are the videos that it concerns."""

    kind: str
    text: str
    ids: tuple[str, ...]
    excluded: bool


class Report:
    """Findings in the order in which they were made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, kind: str, text: str, *ids: str, excluded: bool | None = None) -> None:
        """`excluded` decides for this finding what its kind decides otherwise."""
        self.findings.append(Finding(kind, text, ids, KINDS[kind].excluded if excluded is None else excluded))

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if KINDS[finding.kind].is_problem]

    @property
    def remarks(self) -> list[Finding]:
        return [finding for finding in self.findings if not KINDS[finding.kind].is_problem]

    def bad_ids(self) -> dict[str, str]:
        """The ids whose exclusion from a run cures what was found, with reasons, in their order."""
        reasons = {key: finding.text for finding in reversed(self.problems) if finding.excluded for key in finding.ids}
        return dict(sorted(reasons.items()))

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""

        def plain(findings: Iterable[Finding]) -> list[dict[str, Any]]:
            return [{"kind": entry.kind, "text": entry.text, "ids": list(entry.ids)} for entry in findings]

        return {
            "fine": not self.problems,
            "problems": plain(self.problems),
            "remarks": plain(self.remarks),
            "bad_ids": list(self.bad_ids()),
        }

    def to_text(self) -> str:
        """Everything, grouped by kind, for people; of each kind the first few."""
        lines = []
        for name, kind in KINDS.items():
            texts = [finding.text for finding in self.findings if finding.kind == name]
            if texts:
                lines += [f"{'' if kind.is_problem else 'by the way, '}{len(texts)} x {kind.heading}:"]
                lines += [f"  {text}" for text in texts[:MAX_SHOWN]]
                lines += [f"  ... and {len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
        return "\n".join(lines)

"""Excluded videos: the file of their ids, and how many videos or comparisons each split loses."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from VideoMAE.cli import counted
from VideoMAE.files import read_text

logger = logging.getLogger(__name__)


def read_excluded(file: Path) -> dict[str, str]:
    """The ids and reasons of a file with lines `ID  # reason`; blank lines and comments are ignored."""
    excluded: dict[str, str] = {}
    for line in read_text(file, hint="check --exclude").splitlines():
        key, _, reason = (part.strip() for part in re.sub(r"(^|\s)#", "\n", line, count=1).partition("\n"))
        if key:
            excluded[key] = reason
    return excluded


def format_excluded(reasons: Mapping[str, str]) -> str:
    """The content of a file for `read_excluded`."""
    return "".join(f"{key}  # {' '.join(reason.split())}\n" for key, reason in reasons.items())


class Exclusion:
    """The ids of an --exclude file (None: no ids), and the number of entries that each split loses."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.ids = frozenset(read_excluded(file)) if file else frozenset()
        self.matched_ids: set[str] = set()
        self.num_excluded: Counter[str] = Counter()

    def keeps(self, ids: Iterable[object], *, split: str) -> bool:
        """Whether none of the ids of a split's entry is excluded; counts the entry otherwise."""
        matched = {key for key in ids if isinstance(key, str) and key in self.ids}
        self.matched_ids |= matched
        self.num_excluded[split] += bool(matched)
        return not matched

    def fingerprint(self) -> str | None:
        """The number of ids and their checksum; None without a file."""
        digest = hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()[:12]
        return f"{len(self.ids)} ids, sha256 {digest}" if self.file else None

    def results(self) -> dict[str, Any]:
        """The entry of results.json: the counts of each split and the ids not in the labels; {} without a file."""
        if self.file is None:
            return {}
        return {"excluded": {**self.num_excluded, "unknown_ids": sorted(self.ids - self.matched_ids)}}

    def log_counts(self, noun: str) -> None:
        """Logs the counts; `noun` (plural) names the entries of a split."""
        if self.file is None:
            return
        counts = ", ".join(f"{number} {split}" for split, number in self.num_excluded.items())
        logger.info("--exclude %s: %s; excluded %s: %s", self.file, counted(len(self.ids), "id"), noun, counts)
        unknown = sorted(self.ids - self.matched_ids)
        if unknown:
            listed = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
            logger.warning("--exclude %s: %s not in the labels: %s", self.file, counted(len(unknown), "id"), listed)

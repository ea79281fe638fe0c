"""Ids that a run leaves out: a file of them, and what leaving them out costs each split."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def read_excluded(file: Path) -> dict[str, str]:
    """The ids of a file that has one a line, `ID  # reason`; blank lines and lines of `#` alone say nothing. -> id to
    reason

    Raises:
        ValueError: the file cannot be read; the sentence names file and reason.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ValueError(f"--exclude {file}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--exclude {file}: cannot be read: {error}") from error
    excluded: dict[str, str] = {}
    for line in lines:
        key, _, reason = (part.strip() for part in re.sub(r"(^|\s)#", "\n", line, count=1).partition("\n"))
        if key:
            excluded[key] = reason
    return excluded


def format_excluded(reasons: Mapping[str, str]) -> str:
    """The content of a file that `read_excluded` reads."""
    return "".join(f"{key}  # {' '.join(reason.split())}\n" for key, reason in reasons.items())


class Exclusion:
    """The ids of an --exclude file, none without one; counts what each split loses with them."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.ids = frozenset(read_excluded(file)) if file else frozenset()
        self.found: set[str] = set()
        self.num_lost: Counter[str] = Counter()

    def keeps(self, ids: Iterable[object], *, split: str) -> bool:
        """Whether something of a split that concerns these videos stays; counted if it goes."""
        hit = {key for key in ids if isinstance(key, str) and key in self.ids}
        self.found |= hit
        self.num_lost[split] += bool(hit)
        return not hit

    def fingerprint(self) -> str | None:
        """What tells two lists of ids apart: their number and a hash. None: there is no file."""
        digest = hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()[:12]
        return f"{len(self.ids)} ids, sha256 {digest}" if self.file else None

    def results(self) -> dict[str, Any]:
        """For results.json: how many videos or comparisons each split has lost, and the ids that no label names. Empty
        without a file."""
        if self.file is None:
            return {}
        return {"excluded": {**self.num_lost, "unknown_ids": sorted(self.ids - self.found)}}

    def say(self, noun: str) -> None:
        """Logs the same; `noun` is what a split is made of."""
        if self.file is None:
            return
        lost = ", ".join(f"{number} {split}" for split, number in self.num_lost.items())
        logger.info("--exclude %s: %d ids, with which %s %s go", self.file, len(self.ids), lost, noun)
        unknown = sorted(self.ids - self.found)
        if unknown:
            shown = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
            logger.warning("--exclude %s: no label read here names %d of its ids: %s", self.file, len(unknown), shown)

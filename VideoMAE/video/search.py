"""Video files among what a user names: files as they are, folders searched through."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

VIDEO_SUFFIXES = frozenset([
    ".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".vob", ".webm", ".wmv",
])  # fmt: skip


class FoundVideos(NamedTuple):
    """Videos in the order of what was named, those of a folder sorted by path; `num_ignored` counts other files."""

    paths: list[Path]
    num_ignored: int


def find_videos(sources: Iterable[Path]) -> FoundVideos:
    """The videos in folders, by suffix and at any depth, and every file that is named itself, whatever it is called.

    A path that does not exist counts as a video, for its reader to say so. Links to folders are not followed.

    Raises:
        ValueError: a folder cannot be read.
    """
    found: list[Path] = []
    num_ignored = 0
    for source in sources:
        if not source.is_dir():
            found.append(source)
            continue
        files = sorted(_files_in(source))
        videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        found += videos
        num_ignored += len(files) - len(videos)
    return FoundVideos(found, num_ignored)


def _files_in(folder: Path) -> Iterable[Path]:
    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from error

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent) / name for name in names)

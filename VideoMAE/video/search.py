"""Search for video files in files and folders given by a user."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

VIDEO_SUFFIXES = (
    ".3gp",
    ".asf",
    ".avi",
    ".flv",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".ts",
    ".vob",
    ".webm",
    ".wmv",
)


class FoundVideos(NamedTuple):
    """Videos in the order of the sources, those of a folder sorted by path; `num_ignored` counts other files."""

    paths: list[Path]
    num_ignored: int


def find_videos(sources: Iterable[Path]) -> FoundVideos:
    """The videos in folders, by suffix and at any depth; a source that is not a folder counts as a video.

    Missing files are included; reading them reports the error. Links to folders are not followed. Raises ValueError if
    a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: cannot be read: {error.strerror}") from error

    found: list[Path] = []
    num_ignored = 0
    for source in sources:
        if not source.is_dir():
            found.append(source)
            continue
        files = [Path(parent, name) for parent, _, names in os.walk(source, onerror=refuse) for name in names]
        videos = sorted(file for file in files if file.suffix.lower() in VIDEO_SUFFIXES)
        found += videos
        num_ignored += len(files) - len(videos)
    return FoundVideos(found, num_ignored)

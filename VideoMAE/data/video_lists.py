"""Lists of videos with unique ids, from folders, text files, and datasets of VCE and V2V."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from VideoMAE.data.v2v import read_comparisons, videos_of
from VideoMAE.data.vce import read_annotations
from VideoMAE.files import read_json, read_text
from VideoMAE.video.search import find_videos

SPLITS = ("train", "test", "listwise")


class NamedVideo(NamedTuple):
    """A video and its id, which is a relative path without `..`."""

    id: str
    path: Path


def list_videos(sources: Iterable[Path], list_file: Path | None = None) -> tuple[list[NamedVideo], int]:
    """The distinct videos of files, folders, datasets and a text file; and the number of other files in the folders.

    A folder with label files is a dataset: its labeled videos are listed, under their ids. The id of another
    video is its path in the folder or the text file, or its file name; if two are equal, all ids are absolute paths
    (without the leading slash).

    Raises:
        ValueError: a label file or `list_file` cannot be read, or a dataset's id cannot be used as a file name.
    """
    videos: list[NamedVideo] = []
    num_ignored = 0
    for source in sources:
        splits = [split for split in SPLITS if (source / f"{split}_labels.json").is_file()]
        if splits:
            videos += _videos_of_dataset(source, splits)
            continue
        files = find_videos([source])
        num_ignored += files.num_ignored
        root = source if source.is_dir() else source.parent
        videos += [NamedVideo(path.relative_to(root).as_posix(), path) for path in files.paths]
    lines = [] if list_file is None else read_text(list_file, hint="check --list").splitlines()
    for path in [Path(line.strip()) for line in lines if line.strip()]:
        is_outside = path.is_absolute() or ".." in path.parts
        videos.append(NamedVideo(_absolute_id(path) if is_outside else str(path), path))
    distinct: dict[Path, NamedVideo] = {}
    for video in videos:
        distinct.setdefault(video.path.resolve(), video)
    if len({video.id for video in distinct.values()}) < len(distinct):
        return [NamedVideo(_absolute_id(path), path) for _, path in distinct.values()], num_ignored
    return list(distinct.values()), num_ignored


def _absolute_id(path: Path) -> str:
    return path.resolve().as_posix().lstrip("/")


def _videos_of_dataset(root: Path, splits: Sequence[str]) -> list[NamedVideo]:
    paths: dict[str, Path] = {}
    for split in splits:
        file = root / f"{split}_labels.json"
        if "comparisons" in read_json(file):
            videos = videos_of(root, read_comparisons(file, only_pairs=False, may_be_empty=True))
        else:
            videos = read_annotations(root, split)
        paths.update(zip(videos.ids, videos.paths, strict=True))
    for key in paths:
        if not key or {"/", "\\", "\0"} & set(key) or key in (".", ".."):
            raise ValueError(f"{root}: the id {key!r} is not usable as a file name")
    return [NamedVideo(key, path) for key, path in paths.items()]

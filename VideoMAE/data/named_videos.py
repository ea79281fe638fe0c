"""Videos with names of their own: in folders, in lists, in datasets of VCE and V2V."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from VideoMAE.data.v2v import read_comparisons, videos_of
from VideoMAE.data.vce import read_annotations
from VideoMAE.files import read_json
from VideoMAE.video.search import find_videos

SPLITS = ("train", "test", "listwise")


class NamedVideo(NamedTuple):
    """A video and its name: a relative path without `..`."""

    id: str
    path: Path


def named_videos(sources: Iterable[Path], listed: Path | None = None) -> tuple[list[NamedVideo], int]:
    """The videos of files, folders, datasets and of a list, each once, and how many other files the folders hold.

    A dataset is a folder with train_labels.json or test_labels.json; its videos, those that the labels name, are called
    by their ids. Others are called by their path in the folder or the list, or by their file name; where two would have
    the same name, all are called by their whole paths.

    Raises:
        ValueError: a list or a label file cannot be read, or an id of a dataset is no name for a file.
    """
    found: list[NamedVideo] = []
    num_ignored = 0
    for source in sources:
        if any((source / f"{split}_labels.json").is_file() for split in SPLITS):
            found += _of_dataset(source)
            continue
        videos = find_videos([source])
        num_ignored += videos.num_ignored
        root = source if source.is_dir() else source.parent
        found += [NamedVideo(path.relative_to(root).as_posix(), path) for path in videos.paths]
    found += [] if listed is None else _of_list(listed)
    distinct: dict[Path, NamedVideo] = {}
    for video in found:
        distinct.setdefault(video.path.resolve(), video)
    if len({video.id for video in distinct.values()}) < len(distinct):
        return [NamedVideo(_whole(path), path) for _, path in distinct.values()], num_ignored
    return list(distinct.values()), num_ignored


def _whole(path: Path) -> str:
    return path.resolve().as_posix().lstrip("/")


def _of_list(file: Path) -> list[NamedVideo]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--list {file}: cannot be read: {error}") from error
    paths = [Path(line) for line in lines if line]
    return [NamedVideo(_whole(path) if path.is_absolute() or ".." in path.parts else str(path), path) for path in paths]


def _of_dataset(root: Path) -> list[NamedVideo]:
    found: dict[str, Path] = {}
    for split in SPLITS:
        file = root / f"{split}_labels.json"
        if not file.is_file():
            continue
        if "comparisons" in read_json(file):
            videos = videos_of(root, read_comparisons(file, only_pairs=False, may_be_empty=True))
        else:
            videos = read_annotations(root, split)
        found.update(zip(videos.ids, videos.paths, strict=True))
    for name in found:
        if not name or {"/", "\\", "\0"} & set(name) or name in (".", ".."):
            raise ValueError(f"{root}: the id {name!r} is no name for a file")
    return [NamedVideo(name, path) for name, path in found.items()]

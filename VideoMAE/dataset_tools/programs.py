"""Functions shared by the programs in data_prep/: reading of dataset folders, placing of files, checks of settings."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from VideoMAE.data import vce
from VideoMAE.data.v2v import Comparison, read_comparisons, videos_of
from VideoMAE.files import read_json, write_text
from VideoMAE.video.reader import VideoInfo

Kind = Literal["vce", "v2v"]
Link = Literal["symbolic", "hard", "copy"]


def label_file(root: Path, split: str) -> Path:
    return root / f"{split}_labels.json"


def kind_of(root: Path) -> Kind:
    """Whether a dataset folder holds comparisons (v2v) or emotions (vce). Raises ValueError if it has no label file."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    if label_file(root, "listwise").exists():
        return "v2v"
    files = [file for file in (label_file(root, "train"), label_file(root, "test")) if file.is_file()]
    if not files:
        missing = "has no train_labels.json and no test_labels.json"
        raise ValueError(f"{root}: {missing}; expected a dataset in the layout of VCE or V2V")
    for file in files:
        with contextlib.suppress(ValueError):  # a damaged file
            return "v2v" if "comparisons" in read_json(file) else "vce"
    return "vce"


def read_emotions(root: Path) -> dict[str, vce.Annotations]:
    """The annotations of a VCE folder by split. Raises ValueError as `vce.read_annotations`."""
    return {split: vce.read_annotations(root, split) for split in ("train", "test")}


def read_preferences(root: Path) -> dict[str, list[Comparison]]:
    """The comparisons of a V2V folder by split, without "listwise" if it is empty. Raises as `read_comparisons`."""
    lists = label_file(root, "listwise")
    has_lists = lists.is_file() and read_json(lists).get("comparisons") != []
    splits = ("train", "test", "listwise") if has_lists else ("train", "test")
    return {split: read_comparisons(label_file(root, split), only_pairs=False) for split in splits}


def read_videos(root: Path, kind: Kind) -> dict[str, Path]:
    """The video of each id in the labels."""
    if kind == "vce":
        sources = list(read_emotions(root).values())
    else:
        sources = [videos_of(root, itertools.chain(*read_preferences(root).values()))]
    return {key: path for found in sources for key, path in zip(found.ids, found.paths, strict=True)}


def ids_in(comparisons: Iterable[Sequence[str]]) -> list[str]:
    """The distinct videos of comparisons, in order of appearance."""
    return list(dict.fromkeys(itertools.chain.from_iterable(comparisons)))


def metadata_entry(info: VideoInfo, file: str) -> dict[str, str | int]:
    """A video's entry of metadata.json."""
    rate = Fraction(info.fps).limit_denominator(1001)
    return {
        "codec_name": info.codec,
        "duration": f"{info.duration_seconds:.6f}",
        "file": file,
        "frame_rate": f"{rate.numerator}/{rate.denominator}",
        "height": info.height,
        "number_of_frames": str(info.num_frames),
        "width": info.width,
    }


def write_new_files(contents: Mapping[Path, str], *, overwrite: bool) -> None:
    """Writes text files; unless `overwrite`, raises ValueError and writes none if one exists with other content."""
    changed = {file: text for file, text in contents.items() if not file.exists() or file.read_bytes() != text.encode()}
    existing = [file for file in changed if file.exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} exists with other content; pass --overwrite to replace it")
    for file, text in changed.items():
        write_text(file, text)


def place_video(source: Path, target: Path, *ways: Link) -> None:
    """Puts a video into a dataset folder in the first of these ways that works. Raises ValueError if none does."""
    place: dict[str, Callable[[Path, Path], Any]] = {"hard": os.link, "symbolic": os.symlink, "copy": shutil.copy2}
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve()
    for way in ways:
        try:
            place[way](source, target)
            return
        except OSError as error:
            reason = f"{way}: {error.strerror}"
    raise ValueError(f"{source} cannot be placed in {target.parent} ({reason}); choose another kind of link or a copy")


def first_names(names: Sequence[str]) -> str:
    """The first ten names as text, and the number of the others."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def num_cores() -> int:
    """Number of processor cores available to this process."""
    return len(os.sched_getaffinity(0))


def check_ranges(settings: object, *, above_0: Iterable[str] = (), **at_least: float) -> None:
    """Raises ValueError, naming the flag and its value, for a setting that is too small; None is allowed."""
    for name, least in (*at_least.items(), *((name, None) for name in above_0)):
        value = getattr(settings, name)
        if value is not None and not (value > 0 if least is None else value >= least):
            raise ValueError(f"--{name} {value:g}: must be {'above 0' if least is None else f'at least {least}'}")


def refuse_non_empty(folder: Path) -> None:
    """Raises ValueError unless a folder to create is missing or empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; choose another name, or delete it first")

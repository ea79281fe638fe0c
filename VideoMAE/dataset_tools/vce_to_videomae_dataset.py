"""Turn VCE's labels into the lists of files and classes that the recipe `classes` trains on.

    python data_prep/vce_to_videomae_dataset.py -d vce_dataset -o vce_lists

writes `train.csv`, `val.csv` and `test.csv` with one line `ABSOLUTE_PATH CLASS` per video. The class is the index, in
alphabetical order, of the video's most intense emotion, the first of equals. A dataset of other emotions than VCE's
names them in its `emotions.json`, whose order then counts. The last `--val_samples` entries of `train_labels.json` are
held out for validation.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from VideoMAE.cli import show_messages
from VideoMAE.data.vce import EMOTIONS_FILE, read_emotions

logger = logging.getLogger("vce_to_videomae_dataset")

NUM_EMOTIONS = 27


@dataclass(frozen=True)
class Settings:
    """What to read, and where to write."""

    data_dir: Annotated[Path, tyro.conf.arg(aliases=["-d"])]
    """Folder of VCE, with train_labels.json, test_labels.json and videos/."""
    out_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for train.csv, val.csv and test.csv."""
    val_samples: int = 5000
    """How many of the training videos, the last ones, validate."""
    overwrite: bool = False
    """Replace lists of other content that are there already."""


def read_top_emotions(data_dir: Path, split: str) -> list[tuple[Path, int]]:
    """Read the most intense emotion of each video of a split, in the order of the file -> [(absolute path, class)].

    Raises ValueError when the label file is missing or malformed.
    """
    path = data_dir / f"{split}_labels.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--data_dir {data_dir} has no readable {path.name} ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{path} must map video ids to labels")
    names = list(read_emotions(data_dir)) if (data_dir / EMOTIONS_FILE).exists() else []
    num_emotions = len(names) or NUM_EMOTIONS
    videos = []
    for video_id, entry in entries.items():
        try:
            emotions = {str(name): float(intensity) for name, intensity in entry["emotions"].items()}
            file = data_dir / str(entry["file"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}: video {video_id} lacks 'emotions' or 'file', or has them in another form"
            ) from error
        names = names or sorted(emotions)
        if len(emotions) != num_emotions or set(emotions) != set(names):
            raise ValueError(f"{path}: video {video_id} must have the same {num_emotions} emotions as all others")
        # max keeps the first of equals.
        videos.append((file, max(range(num_emotions), key=lambda index: emotions[names[index]])))
    return videos


def format_list(videos: list[tuple[Path, int]]) -> str:
    """Form the content of a csv file, one `ABSOLUTE_PATH CLASS` per line."""
    for path, _ in videos:
        if any(character.isspace() for character in str(path)):
            raise ValueError(f"{path} contains white space, which a space-separated list cannot hold; move --data_dir")
    return "".join(f"{path} {top_emotion}\n" for path, top_emotion in videos)


def write_lists(settings: Settings) -> dict[str, int]:
    """Write the three lists, or none -> the number of videos in each."""
    data_dir, out_dir = settings.data_dir.expanduser().resolve(), settings.out_dir.expanduser().resolve()
    train, test = read_top_emotions(data_dir, "train"), read_top_emotions(data_dir, "test")
    num_train = len(train) - settings.val_samples
    if settings.val_samples < 0 or num_train <= 0:
        raise ValueError(
            f"--val_samples {settings.val_samples} must be at least 0 and less than the {len(train)} entries of "
            f"{data_dir / 'train_labels.json'}"
        )
    lists = {"train": train[:num_train], "val": train[num_train:], "test": test}
    contents = {out_dir / f"{name}.csv": format_list(videos) for name, videos in lists.items()}
    changed = {path: content for path, content in contents.items() if not holds(path, content)}
    existing = [path for path in changed if path.exists()]
    if existing and not settings.overwrite:
        raise ValueError(f"{existing[0]} exists with other content; pass --overwrite to replace it")
    out_dir.mkdir(parents=True, exist_ok=True)
    for path, content in changed.items():
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(content, encoding="utf-8")
        os.replace(partial, path)
    return {name: len(videos) for name, videos in lists.items()}


def holds(path: Path, content: str) -> bool:
    """Tell whether a file is there with just this content."""
    return path.is_file() and path.read_bytes() == content.encode()


def main() -> int:
    show_messages(sys.stdout)
    settings = tyro.cli(Settings, description=__doc__, use_underscores=True)
    try:
        counts = write_lists(settings)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    logger.info("%s: %s", settings.out_dir, ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0

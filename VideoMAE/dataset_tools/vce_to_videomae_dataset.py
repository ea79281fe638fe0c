"""Convert VCE's labels to the lists of files and classes for the recipe `classes`.

    python data_prep/vce_to_videomae_dataset.py -d vce_dataset -o vce_lists

writes `train.csv`, `val.csv` and `test.csv` with one line `ABSOLUTE_PATH CLASS` per video. The class is the index of
the video's most intense emotion, the first among equals, in alphabetical order or in the order of the dataset's
`emotions.json`. The last `--val_samples` entries of `train_labels.json` are held out for validation.
"""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from VideoMAE import cli
from VideoMAE.data.vce import read_annotations
from VideoMAE.dataset_tools.programs import write_new_files

logger = logging.getLogger("vce_to_videomae_dataset")


@dataclass(frozen=True)
class Settings:
    data_dir: Annotated[Path, tyro.conf.arg(aliases=["-d"])]
    """VCE folder, with train_labels.json, test_labels.json and videos/."""
    out_dir: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for train.csv, val.csv and test.csv."""
    val_samples: int = 5000
    """Number of videos, from the end of the training labels, for validation."""
    overwrite: bool = False
    """Replace lists with other content."""


def run(settings: Settings) -> bool:
    """Writes the three lists, or none."""
    data_dir, out_dir = settings.data_dir.expanduser().resolve(), settings.out_dir.expanduser().resolve()
    train, test = read_annotations(data_dir, "train"), read_annotations(data_dir, "test")
    num_videos = len(train.ids)
    num_train = num_videos - settings.val_samples
    if settings.val_samples < 0 or num_train <= 0:
        allowed = f"at least 0 and less than the {num_videos} entries of {data_dir / 'train_labels.json'}"
        raise ValueError(f"--val_samples {settings.val_samples}: must be {allowed}")
    lists = {"train": train.select(range(num_train)), "val": train.select(range(num_train, num_videos)), "test": test}
    contents = {}
    for name, videos in lists.items():
        for path in videos.paths:
            if any(character.isspace() for character in str(path)):
                raise ValueError(f"{path} contains white space, which separates path and class in the lists; move it")
        classes = videos.intensities.argmax(axis=1)  # the first among equals
        lines = [f"{path} {index}\n" for path, index in zip(videos.paths, classes, strict=True)]
        contents[out_dir / f"{name}.csv"] = "".join(lines)
    write_new_files(contents, overwrite=settings.overwrite)
    logger.info("%s: %s", out_dir, ", ".join(f"{len(videos.ids)} {name}" for name, videos in lists.items()))
    return True


main = partial(cli.run, run, Settings, description=__doc__, when_stopped="nothing was written")

"""Features of videos in a run's folder, in blocks that are written whole or not at all, so that a run goes on."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from VideoMAE.files import clear_leftovers, write_atomically, write_text


def fingerprint_of_weights(model: nn.Module) -> str:
    """A checksum of everything but the head."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not name.startswith("head."):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureCache:
    """The files SPLIT-NUMBER.npz of a folder, each with `ids` (V,) and `features` (V, D). For the main process alone.

    `rows` has what is known of each split: id -> (D,) float32.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, dict[str, np.ndarray]] = {}

    def claim(self, weights: str) -> None:
        """Makes the folder one for features of these weights (a fingerprint).

        Raises:
            ValueError: it holds features of others.
        """
        file = self.folder / "features.json"
        about = {"weights": weights}
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != about:
            raise ValueError(
                f"{self.folder}: holds features of a network with other weights (has the --finetune file changed?); "
                "delete that folder or choose another --output_dir"
            )
        if self.folder.is_dir():
            clear_leftovers(self.folder)
        write_text(file, json.dumps(about) + "\n")

    def read(self, split: str) -> set[str]:
        """Reads a split's blocks -> the ids of the videos that are in them.

        Raises:
            ValueError: one is damaged.
        """
        rows = self.rows[split] = {}
        for file in sorted(self.folder.glob(f"{split}-*.npz")):
            try:
                with np.load(file) as block:
                    rows.update(zip(block["ids"].tolist(), block["features"], strict=True))
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(f"{file}: damaged: {error}; delete it, and its videos are done anew") from error
        return set(rows)

    def add(self, split: str, ids: Sequence[str], features: np.ndarray) -> None:
        """Writes one more block. features (V, D)

        Raises:
            ValueError: it cannot be written.
        """
        numbers = [int(file.stem.rpartition("-")[2]) for file in self.folder.glob(f"{split}-*.npz")]
        write_atomically(
            self.folder / f"{split}-{max(numbers, default=-1) + 1:05d}.npz",
            lambda temporary: _write(temporary, ids, features),
        )
        self.rows[split].update(zip(ids, features, strict=True))


def _write(path: Path, ids: Sequence[str], features: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, ids=np.array(ids, dtype=str), features=features)

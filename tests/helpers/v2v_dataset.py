"""A V2V dataset that a tiny ViT learns in seconds, and the flags of such a run."""

import json
from pathlib import Path

import numpy as np
from video_files import truncated, write_grey_video

TINY = ["--model", "vit_micro_patch16_224", "--input_size", "32", "--num_frames", "4", "--device", "cpu"]
TINY += ["--num_workers", "0", "--disable_tqdm", "1", "--drop_path", "0"]
TRAIN = ["--mode", "train", "--opt", "adamw", "--lr", "1e-3", "--num_epochs", "5", "--batch_size", "4", *TINY]


def write_dataset(root: Path, *, bad: tuple[str, ...] = ()) -> Path:
    """48 training videos in groups of 4, 15 of pairs and 12 of lists; the level of grey rises with preference."""
    (root / "videos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [f"{number:05d}" for number in range(75)]
    levels = {key: int(level) for key, level in zip(ids, rng.permutation(np.linspace(10, 245, 75)), strict=True)}
    for key in ids:
        path = root / "videos" / f"{key}.mp4"
        if key in bad:
            truncated(path)
        else:
            write_grey_video(path, 6, width=48, height=32, levels=lambda _, key=key: levels[key])  # type: ignore[misc]

    def ranked(keys: list[str]) -> list[str]:
        return sorted(keys, key=lambda key: levels[key])

    groups = [ids[start : start + 4] for start in range(0, 48, 4)]
    labels = {
        "train": [ranked([a, b]) for group in groups for a, b in zip(group, group[1:], strict=False)],
        "test": [ranked([a, b]) for a, b in zip(ids[48:62], ids[49:63], strict=True)],
        "listwise": [ranked(ids[63:65]), ranked(ids[65:68]), ranked(ids[68:72]), ranked(ids[72:75])],
    }
    for name, comparisons in labels.items():
        (root / f"{name}_labels.json").write_text(json.dumps({"comparisons": comparisons}))
    (root / "metadata.json").write_text(json.dumps({key: {} for key in ids}))
    return root

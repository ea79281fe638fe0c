"""Make a small, learnable dataset in the exact layout of VCE and V2V, from drawn videos.

    python data_prep/make_sample.py --output_dir sample

writes `sample/vce_dataset` and `sample/v2v_dataset`: real H.264 videos to try every command on, in under a minute on
two cores. The same settings give the same bytes, whatever the number of processes.

What is seen and how it moves decides the labels. A video has one of four palettes (background and objects) and one of
three motions (still, smooth, or shaking in flickering light; what moves leaves pale ghosts behind), and each of the
twelve combinations its own most intense emotion:

              still        smooth                   shaking
    gold      Adoration    Joy                      Amusement
    sea       Calmness     Aesthetic Appreciation   Surprise
    grey      Boredom      Interest                 Confusion
    night     Sadness      Empathic Pain            Fear

The other two emotions of the same palette come second, two companions of the combination after them, the rest close
to zero. So colour alone earns the top-3 accuracy, and motion is needed for the top-1 accuracy. Noise on every
intensity changes the most intense emotion of about one video in fifteen. Combinations are about as uneven as the
commonest emotions of VCE.

Valence is the sum of the intensities, each times its emotion's weight in `sample_labels.py`, plus a little noise. V2V
compares videos within small groups, so that the training pairs fall into many connected components; one pair in fifty
is the wrong way round.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import tyro
from tqdm import tqdm

from VideoMAE.dataset_tools.sample_labels import (
    COMBINATIONS,
    V2V_FRACTIONS,
    Combination,
    compare_in_lists,
    compare_in_pairs,
    draw_intensities,
    label_video,
    split_for_v2v,
    valence,
)
from VideoMAE.dataset_tools.sample_scenes import Scene, write_video

logger = logging.getLogger("make_sample")

# (width, height) and how many percent of the videos have it
SIZES = {(256, 320): 45, (320, 240): 40, (180, 320): 5, (426, 240): 5, (322, 182): 5}
FRAME_RATES = {30: 60, 25: 25, 24: 15}

FORMAT_VERSION = 1  # counts up when the same settings start to give other bytes
MIN_NUM_TRAIN, MIN_NUM_TEST = 8, 4
SHORT_FRACTION = 0.02  # of the videos hold less than 16 frames at 4 fps
MIN_CLIP_SECONDS, MAX_SECONDS = 4.0, 12.0
SETTINGS_FILE = "make_sample.json"


@dataclass(frozen=True)
class Settings:
    """What to make, and where."""

    output_dir: Path
    """Folder to make; one that holds anything else is refused."""
    num_train: int = 200
    """Training videos of VCE."""
    num_test: int = 60
    """Test videos of VCE."""
    seed: int = 0
    """Another seed gives other videos and labels."""
    num_processes: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Videos drawn at the same time; never changes the result."""

    def identity(self) -> dict[str, int]:
        return {
            "format_version": FORMAT_VERSION,
            "num_train": self.num_train,
            "num_test": self.num_test,
            "seed": self.seed,
        }


def draw_by_share(shares: Mapping[Any, float], count: int, rng: np.random.Generator) -> list[Any]:
    """Draw values in just their shares, in random order: {"a": 75, "b": 25}, count=4 -> ["a", "b", "a", "a"]."""
    ends = np.rint(np.cumsum(list(shares.values())) / sum(shares.values()) * count).astype(int)
    values = [value for value, copies in zip(shares, np.diff(ends, prepend=0), strict=True) for _ in range(copies)]
    return [values[index] for index in rng.permutation(count)]


def plan_split(
    num_videos: int, *, first_id: int, seed: int, rng: np.random.Generator
) -> list[tuple[Scene, Combination]]:
    """Decide what each video of a split shows -> num_videos scenes with their combinations."""
    combinations = draw_by_share({combination: combination.percent for combination in COMBINATIONS}, num_videos, rng)
    sizes, rates = draw_by_share(SIZES, num_videos, rng), draw_by_share(FRAME_RATES, num_videos, rng)
    seconds = np.minimum(MIN_CLIP_SECONDS + 0.2 + rng.exponential(1.6, num_videos), MAX_SECONDS)
    order = rng.permutation(num_videos)
    num_short = round(SHORT_FRACTION * num_videos)
    seconds[order[:num_short]] = rng.uniform(1, 3, num_short)
    seconds[order[num_short : num_short + round(0.05 * num_videos)]] = MAX_SECONDS
    plan = []
    for index, combination in enumerate(combinations):
        (width, height), rate = sizes[index], rates[index]
        num_frames = round(seconds[index] * rate)
        video_id = f"{first_id + index:05d}"
        scene = Scene(video_id, combination.palette, combination.motion, width, height, rate, num_frames, seed)
        plan.append((scene, combination))
    return plan


def make_dataset(root: Path, settings: Settings) -> None:
    """Write both datasets and the settings under an empty `root`."""
    rng = np.random.default_rng(settings.seed)
    train = plan_split(settings.num_train, first_id=0, seed=settings.seed, rng=rng)
    test = plan_split(settings.num_test, first_id=settings.num_train, seed=settings.seed, rng=rng)
    emotions = {scene.video_id: draw_intensities(combination, rng) for scene, combination in train + test}
    valences = {video_id: valence(entry) + rng.normal(0, 0.02) for video_id, entry in emotions.items()}
    sets = split_for_v2v(list(emotions), rng)

    vce, v2v = root / "vce_dataset", root / "v2v_dataset"
    for folder in (vce, v2v):
        (folder / "videos").mkdir(parents=True)
    metadata = write_videos(vce / "videos", [scene for scene, _ in train + test], settings.num_processes)
    for name, plan in (("train", train), ("test", test)):
        ids = [scene.video_id for scene, _ in plan]
        write_json(
            vce / f"{name}_labels.json", {video_id: label_video(video_id, emotions[video_id]) for video_id in ids}
        )
    for folder in (vce, v2v):
        write_json(folder / "metadata.json", metadata)
    for name, compare in (("train", compare_in_pairs), ("test", compare_in_pairs), ("listwise", compare_in_lists)):
        write_json(v2v / f"{name}_labels.json", {"comparisons": compare(sets[name], valences, rng)})
    for video_id in itertools.chain(*sets.values()):
        link_or_copy(vce / "videos" / f"{video_id}.mp4", v2v / "videos" / f"{video_id}.mp4")
    write_json(root / SETTINGS_FILE, settings.identity())


def write_videos(folder: Path, scenes: Sequence[Scene], num_processes: int) -> dict[str, dict[str, str | int]]:
    """Draw and encode the videos in worker processes -> their metadata, in the order of the scenes."""
    metadata: dict[str, dict[str, str | int]] = {}
    # spawn: OpenCV's threads must not be forked. Workers leave Ctrl-C to this process.
    pool = ProcessPoolExecutor(
        min(num_processes, len(scenes)), get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        jobs = {pool.submit(write_video, folder / f"{scene.video_id}.mp4", scene): scene.video_id for scene in scenes}
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="video", desc="drawing", mininterval=1):
            metadata[jobs[job]] = job.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return {scene.video_id: metadata[scene.video_id] for scene in scenes}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def is_made_already(output_dir: Path, settings: Settings) -> bool:
    """Tell a finished dataset of the same settings from no dataset; refuse anything else."""
    if not output_dir.exists():
        return False
    if not output_dir.is_dir():
        raise ValueError(f"--output_dir {output_dir} is a file")
    if not any(output_dir.iterdir()):
        return False
    try:
        made_with = json.loads((output_dir / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--output_dir {output_dir} holds files that make_sample.py did not make") from error
    if made_with != settings.identity():
        raise ValueError(f"--output_dir {output_dir} was made with {made_with}, not with {settings.identity()}")
    missing = find_missing(output_dir)
    if missing:
        raise ValueError(
            f"--output_dir {output_dir} has lost {missing[0]} and {len(missing) - 1} more; delete it first"
        )
    return True


def find_missing(output_dir: Path) -> list[str]:
    """List the files that a dataset should hold and does not -> relative paths."""
    labels = [f"v2v_dataset/{name}_labels.json" for name in V2V_FRACTIONS]
    expected = ["vce_dataset/metadata.json", "vce_dataset/train_labels.json", "vce_dataset/test_labels.json"]
    expected += ["v2v_dataset/metadata.json", *labels]
    missing = [path for path in expected if not (output_dir / path).is_file()]
    if missing:
        return missing
    videos = json.loads((output_dir / "vce_dataset/metadata.json").read_text(encoding="utf-8"))
    compared = [json.loads((output_dir / path).read_text(encoding="utf-8"))["comparisons"] for path in labels]
    expected = [f"vce_dataset/videos/{video_id}.mp4" for video_id in videos]
    expected += [f"v2v_dataset/videos/{video_id}.mp4" for ids in itertools.chain(*compared) for video_id in ids]
    return [path for path in dict.fromkeys(expected) if not (output_dir / path).is_file()]


def make_sample(settings: Settings) -> None:
    """Make the dataset, whole or not at all."""
    output_dir = settings.output_dir.expanduser().resolve()
    for name, least in (("num_train", MIN_NUM_TRAIN), ("num_test", MIN_NUM_TEST), ("num_processes", 1), ("seed", 0)):
        if getattr(settings, name) < least:
            raise ValueError(f"--{name} must be at least {least}, not {getattr(settings, name)}")
    if settings.num_train + settings.num_test > 100_000:
        raise ValueError(
            f"--num_train {settings.num_train} and --num_test {settings.num_test} need more ids than five digits have"
        )
    if is_made_already(output_dir, settings):
        logger.info("%s is there already, with the same settings", output_dir)
        return
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}.partial-") as partial:
        root = Path(partial) / output_dir.name
        root.mkdir()
        make_dataset(root, settings)
        root.rename(output_dir)
    logger.info("made %s: %d training and %d test videos", output_dir, settings.num_train, settings.num_test)


def stop(signal_number: int, _: FrameType | None) -> None:
    """Let a terminated run clean up as an interrupted one does."""
    raise KeyboardInterrupt(signal_number)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    settings = tyro.cli(Settings, description=__doc__, config=(tyro.conf.OmitArgPrefixes,), use_underscores=True)
    signal.signal(signal.SIGTERM, stop)
    try:
        make_sample(settings)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"error: stopped, {settings.output_dir} was not made\n")
        return 1
    return 0

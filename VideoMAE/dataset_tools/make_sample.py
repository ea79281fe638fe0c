"""Make a small synthetic dataset in the layout of VCE and V2V, on which a model can learn.

    emodiversity sample --output_dir sample

writes `sample/vce_dataset` and `sample/v2v_dataset` with H.264 videos in under a minute on two cores. The same settings
give the same bytes, for any number of processes.

Appearance and motion determine the labels. A video has one of four palettes (background and objects) and one of three
motions (still, smooth, or shaking with flickering light; moving objects leave pale ghosts). Each of the twelve
combinations has its own most intense emotion:

              still        smooth                   shaking
    gold      Adoration    Joy                      Amusement
    sea       Calmness     Aesthetic Appreciation   Surprise
    grey      Boredom      Interest                 Confusion
    night     Sadness      Empathic Pain            Fear

The other two emotions of the same palette rank second, then two companions of the combination; the rest are close to
zero. Colour alone is therefore sufficient for top-3 accuracy, and top-1 accuracy requires motion. Noise on the
intensities changes the most intense emotion of about one video in fifteen. The class imbalance is similar to that of
VCE's most common emotions.

Valence is the weighted sum of the intensities (see VALENCE_WEIGHTS) plus a little noise. V2V compares videos within
small groups, so that the training pairs form many connected components; one pair in fifty is reversed.
"""

import itertools
import logging
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from VideoMAE import cli
from VideoMAE.dataset_tools.label_checks import label_entry
from VideoMAE.dataset_tools.programs import check_ranges, first_names, ids_in, num_cores, place_video
from VideoMAE.dataset_tools.sample_scenes import Scene, write_video
from VideoMAE.files import new_folder, read_json, write_json

logger = logging.getLogger("make_sample")

# (width, height) -> percentage of the videos
SIZES = {(256, 320): 45, (320, 240): 40, (180, 320): 5, (426, 240): 5, (322, 182): 5}
FRAME_RATES = {30: 60, 25: 25, 24: 15}

FORMAT_VERSION = 1  # increased when the same settings give other bytes
MAX_SECONDS = 12.0
SETTINGS_FILE = "make_sample.json"

# Contribution of each emotion at full intensity to the valence. The names are VCE's 27 emotions, sorted.
VALENCE_WEIGHTS = {
    "Admiration": 0.7,
    "Adoration": 1.0,
    "Aesthetic Appreciation": 0.8,
    "Amusement": 0.9,
    "Anger": -0.9,
    "Anxiety": -0.8,
    "Awe (or Wonder)": 0.7,
    "Awkwardness": -0.4,
    "Boredom": -0.6,
    "Calmness": 0.6,
    "Confusion": -0.4,
    "Craving": 0.2,
    "Disgust": -1.0,
    "Empathic Pain": -0.9,
    "Entrancement": 0.3,
    "Excitement": 0.8,
    "Fear": -0.9,
    "Horror": -1.0,
    "Interest": 0.4,
    "Joy": 1.0,
    "Nostalgia": 0.1,
    "Relief": 0.5,
    "Romance": 0.8,
    "Sadness": -0.8,
    "Satisfaction": 0.8,
    "Sexual Desire": 0.3,
    "Surprise": 0.2,
}
EMOTIONS = tuple(VALENCE_WEIGHTS)


class Combination(NamedTuple):
    """A palette and a motion, their percentage of the videos, and the emotions that they determine."""

    palette: str
    motion: str
    percent: int
    top: str
    companions: tuple[str, str]


COMBINATIONS = (
    Combination("gold", "still", 11, "Adoration", ("Romance", "Nostalgia")),
    Combination("gold", "smooth", 8, "Joy", ("Satisfaction", "Excitement")),
    Combination("gold", "shaking", 11, "Amusement", ("Excitement", "Craving")),
    Combination("sea", "still", 5, "Calmness", ("Relief", "Satisfaction")),
    Combination("sea", "smooth", 10, "Aesthetic Appreciation", ("Admiration", "Awe (or Wonder)")),
    Combination("sea", "shaking", 9, "Surprise", ("Awe (or Wonder)", "Sexual Desire")),
    Combination("grey", "still", 12, "Boredom", ("Awkwardness", "Relief")),
    Combination("grey", "smooth", 9, "Interest", ("Entrancement", "Admiration")),
    Combination("grey", "shaking", 6, "Confusion", ("Awkwardness", "Anxiety")),
    Combination("night", "still", 5, "Sadness", ("Nostalgia", "Anger")),
    Combination("night", "smooth", 8, "Empathic Pain", ("Disgust", "Horror")),
    Combination("night", "shaking", 6, "Fear", ("Horror", "Anxiety")),
)

V2V_FRACTIONS = {"train": 0.575, "test": 0.23, "listwise": 0.185}
MIN_PAIR_GAP, MIN_LIST_GAP = 0.4, 0.2  # of valence


@dataclass(frozen=True)
class Settings:
    output_dir: Path
    """Folder to create; must not exist, be empty, or contain this sample already."""
    num_train: int = 200
    """Number of VCE training videos."""
    num_test: int = 60
    """Number of VCE test videos."""
    seed: int = 0
    """Seed of the videos and labels."""
    num_processes: int = field(default_factory=num_cores)
    """Number of worker processes; does not change the result."""


def draw_by_share(shares: Mapping[Any, float], count: int, rng: np.random.Generator) -> list[Any]:
    """Values in exactly these proportions, in random order: {"a": 75, "b": 25}, count=4 -> ["a", "b", "a", "a"]."""
    ends = np.rint(np.cumsum(list(shares.values())) / sum(shares.values()) * count).astype(int)
    values = [value for value, copies in zip(shares, np.diff(ends, prepend=0), strict=True) for _ in range(copies)]
    return [values[index] for index in rng.permutation(count)]


def plan_split(num_videos: int, first_id: int, seed: int, rng: np.random.Generator) -> list[tuple[Scene, Combination]]:
    combinations = draw_by_share({combination: combination.percent for combination in COMBINATIONS}, num_videos, rng)
    sizes, rates = draw_by_share(SIZES, num_videos, rng), draw_by_share(FRAME_RATES, num_videos, rng)
    seconds = np.minimum(4.2 + rng.exponential(1.6, num_videos), MAX_SECONDS)
    order = rng.permutation(num_videos)
    num_short = round(0.02 * num_videos)  # have less than 16 frames at 4 fps
    seconds[order[:num_short]] = rng.uniform(1, 3, num_short)
    seconds[order[num_short : num_short + round(0.05 * num_videos)]] = MAX_SECONDS
    plan = []
    for index, (combination, (width, height), rate) in enumerate(zip(combinations, sizes, rates, strict=True)):
        video_id, num_frames = f"{first_id + index:05d}", round(seconds[index] * rate)
        scene = Scene(video_id, combination.palette, combination.motion, width, height, rate, num_frames, seed)
        plan.append((scene, combination))
    return plan


def draw_intensities(combination: Combination, rng: np.random.Generator) -> dict[str, float]:
    """Samples a video's intensities around those of its combination, in steps of 1/120 like averaged ratings."""
    means = dict.fromkeys(EMOTIONS, 0.0)
    means.update({other.top: 0.36 for other in COMBINATIONS if other.palette == combination.palette})
    means.update(zip(combination.companions, (0.24, 0.16), strict=True))
    means[combination.top] = 0.68
    centres = np.array(list(means.values()))
    noisy = np.clip(centres + rng.normal(0, 0.035 + 0.17 * centres), 0, 1)
    return {name: float(step / 120) for name, step in zip(EMOTIONS, np.rint(120 * noisy), strict=True)}


def split_for_v2v(video_ids: Sequence[str], rng: np.random.Generator) -> dict[str, list[str]]:
    """Assigns videos to V2V's three disjoint splits; a few are left over."""
    order = [video_ids[index] for index in rng.permutation(len(video_ids))]
    ends = np.rint(np.cumsum(list(V2V_FRACTIONS.values())) * len(order)).astype(int)
    return {name: order[start:end] for name, start, end in zip(V2V_FRACTIONS, (0, *ends), ends, strict=False)}


def group_by_valence(
    video_ids: Sequence[str], group_size: int, valences: Mapping[str, float], rng: np.random.Generator
) -> list[list[str]]:
    """Distributes videos over groups of about `group_size`, each sorted by valence."""
    ranked = sorted(video_ids, key=lambda video_id: valences[video_id])
    num_groups = max(1, round(len(ranked) / group_size))
    groups: list[list[str]] = [[] for _ in range(num_groups)]
    for start in range(0, len(ranked), num_groups):
        for video_id, group in zip(ranked[start : start + num_groups], rng.permutation(num_groups), strict=False):
            groups[group].append(video_id)
    return groups


def compare_in_pairs(
    video_ids: Sequence[str], valences: Mapping[str, float], rng: np.random.Generator
) -> list[list[str]]:
    """Samples pairs [worse, better] that cover every video where the valence gap allows, and reverses a few."""
    pairs = []
    for group in group_by_valence(video_ids, 6, valences, rng):
        wide = [[a, b] for a, b in itertools.combinations(group, 2) if valences[b] - valences[a] >= MIN_PAIR_GAP]
        candidates = [wide[index] for index in rng.permutation(len(wide))] or [[group[0], group[-1]]]
        chosen: list[list[str]] = []
        for pair in candidates:
            if not set(pair) <= set(itertools.chain(*chosen)):
                chosen.append(pair)
        rest = [pair for pair in candidates if pair not in chosen]
        pairs += chosen + rest[: max(0, round(1.25 * len(group)) - len(chosen))]
    pairs = [pairs[index] for index in rng.permutation(len(pairs))]
    for index in rng.choice(len(pairs), int(0.02 * len(pairs)), replace=False):
        pairs[index].reverse()
    return pairs


def compare_in_lists(
    video_ids: Sequence[str], valences: Mapping[str, float], rng: np.random.Generator
) -> list[list[str]]:
    """Samples sorted lists of 2 to 4 videos: from each group the longest that the gaps allow and a shorter one."""
    lists = []
    for group in group_by_valence(video_ids, 4, valences, rng):
        every = itertools.chain(*(itertools.combinations(group, size) for size in (2, 3, 4)))
        wide = [list(ids) for ids in every if np.diff([valences[video_id] for video_id in ids]).min() >= MIN_LIST_GAP]
        wide = wide or [[group[0], group[-1]]]
        lists.append(wide.pop())
        if wide:
            lists.append(wide[rng.integers(len(wide))])
    return [lists[index] for index in rng.permutation(len(lists))]


def make_dataset(root: Path, settings: Settings) -> None:
    """Writes both datasets into an empty folder."""
    rng = np.random.default_rng(settings.seed)
    train = plan_split(settings.num_train, 0, settings.seed, rng)
    test = plan_split(settings.num_test, settings.num_train, settings.seed, rng)
    emotions = {scene.video_id: draw_intensities(combination, rng) for scene, combination in train + test}
    valences = {
        video_id: sum(VALENCE_WEIGHTS[name] * level for name, level in entry.items()) + rng.normal(0, 0.02)
        for video_id, entry in emotions.items()
    }
    sets = split_for_v2v(list(emotions), rng)

    vce, v2v = root / "vce_dataset", root / "v2v_dataset"
    videos = vce / "videos"
    videos.mkdir(parents=True)
    scenes = [scene for scene, _ in train + test]
    # spawn: OpenCV's threads must not be forked. Workers ignore Ctrl-C, which this process handles.
    pool = ProcessPoolExecutor(
        min(settings.num_processes, len(scenes)), get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)
    )
    try:
        jobs = {pool.submit(write_video, videos / f"{scene.video_id}.mp4", scene): scene.video_id for scene in scenes}
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="video", desc="drawing", mininterval=1):
            job.result()  # raises its error
        metadata = {video_id: job.result() for job, video_id in jobs.items()}
    finally:
        pool.shutdown(cancel_futures=True)

    for name, plan in (("train", train), ("test", test)):
        labels = {scene.video_id: label_entry(emotions[scene.video_id], scene.video_id) for scene, _ in plan}
        write_json(vce / f"{name}_labels.json", labels, indent=4)
    for folder in (vce, v2v):
        write_json(folder / "metadata.json", metadata, indent=4)
    for name, compare in (("train", compare_in_pairs), ("test", compare_in_pairs), ("listwise", compare_in_lists)):
        write_json(v2v / f"{name}_labels.json", {"comparisons": compare(sets[name], valences, rng)}, indent=4)
    for video_id in itertools.chain(*sets.values()):
        place_video(videos / f"{video_id}.mp4", v2v / "videos" / f"{video_id}.mp4", "hard", "copy")


def is_complete(output_dir: Path, identity: Mapping[str, int]) -> bool:
    """Whether the folder contains this sample already; False for a missing or empty folder.

    Raises ValueError if the folder contains something else, or an incomplete sample.
    """
    if output_dir.is_file():
        raise ValueError(f"--output_dir {output_dir} is a file")
    if not output_dir.exists() or not any(output_dir.iterdir()):
        return False
    try:
        saved = read_json(output_dir / SETTINGS_FILE)
    except ValueError as error:
        raise ValueError(f"--output_dir {output_dir} contains files that make_sample.py did not make") from error
    if saved != identity:
        raise ValueError(f"--output_dir {output_dir} was made with {saved}, not with {identity}")
    vce, v2v = output_dir / "vce_dataset", output_dir / "v2v_dataset"
    lists = [v2v / f"{name}_labels.json" for name in V2V_FRACTIONS]
    expected = [*(vce / f"{name}.json" for name in ("metadata", "train_labels", "test_labels")), *lists]
    expected.append(v2v / "metadata.json")
    if all(map(Path.is_file, expected)):
        compared = itertools.chain(*(read_json(path)["comparisons"] for path in lists))
        expected += [vce / f"videos/{video_id}.mp4" for video_id in read_json(vce / "metadata.json")]
        expected += [v2v / f"videos/{video_id}.mp4" for video_id in ids_in(compared)]
    if missing := [str(path.relative_to(output_dir)) for path in expected if not path.is_file()]:
        raise ValueError(f"--output_dir {output_dir} lacks {first_names(missing)}; delete it first")
    return True


def run(settings: Settings) -> bool:
    """Makes the dataset, completely or not at all."""
    output_dir = settings.output_dir.expanduser().resolve()
    check_ranges(settings, num_train=8, num_test=4, num_processes=1, seed=0)
    if settings.num_train + settings.num_test > 100_000:
        raise ValueError("--num_train and --num_test together must be at most 100,000, since ids have five digits")
    counts = {"num_train": settings.num_train, "num_test": settings.num_test}
    identity = {"format_version": FORMAT_VERSION, **counts, "seed": settings.seed}
    if is_complete(output_dir, identity):
        logger.info("%s exists already, with the same settings", output_dir)
        return True
    with new_folder(output_dir) as folder:
        make_dataset(folder, settings)
        write_json(folder / SETTINGS_FILE, identity, indent=4)
    logger.info("made %s: %d training and %d test videos", output_dir, settings.num_train, settings.num_test)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, Settings, argv, description=__doc__, when_stopped="nothing was made")

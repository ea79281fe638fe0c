"""The numbers of a dataset, as written to `description.json`: emotions, comparisons, videos. N videos, K emotions."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from VideoMAE.data.v2v import Comparison, connected_groups, num_contradictions, pairs_in
from VideoMAE.data.vce import Annotations
from VideoMAE.dataset_tools.programs import ids_in
from VideoMAE.files import to_jsonable

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
NUM_BINS = 20  # of intensities
CLIP_SECONDS = 4.0  # of VCE's training clips: 16 frames at 4 fps


class VideoFacts(NamedTuple):
    """Properties of one video, from metadata.json or from the file."""

    seconds: float
    width: int
    height: int
    fps: float


def facts_from_metadata(entry: Any) -> VideoFacts | None:
    """The properties in an entry of metadata.json; None if a field is missing or malformed."""
    try:
        facts = VideoFacts(
            float(entry["duration"]), int(entry["width"]), int(entry["height"]), float(Fraction(entry["frame_rate"]))
        )
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return facts if all(math.isfinite(value) and value > 0 for value in facts) else None


def emotion_numbers(splits: Mapping[str, Annotations]) -> dict[str, Any]:
    """Intensities of all splits together, ranks by split, and the metrics of guesses on the test split."""
    names = splits["train"].emotions
    intensities = np.concatenate([found.intensities for found in splits.values()]).astype(np.float64)
    ranked = {split: np.argsort(-found.intensities, axis=1, kind="stable") for split, found in splits.items()}
    top1_counts, top3_counts = (
        {split: np.bincount(order[:, :k].ravel(), minlength=len(names)).tolist() for split, order in ranked.items()}
        for k in (1, 3)
    )
    return {
        "emotions": list(names),
        "num_videos": {split: len(found.ids) for split, found in splits.items()},
        "top1_counts": top1_counts,
        "top3_counts": top3_counts,
        "intensity": {name: intensity_numbers(intensities[:, place]) for place, name in enumerate(names)},
        "correlation": correlations(intensities),
        "together_in_top3": together(np.concatenate(list(ranked.values()))[:, :3], len(names)),
        "guesses": guesses(splits["train"], splits["test"], names),
    }


def intensity_numbers(values: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation, percentiles, share of zeros and histogram of one emotion's intensities (N,)."""
    return {
        "mean": float(values.mean()),
        "standard_deviation": float(values.std()),
        "percentiles": percentiles(values),
        "share_of_zeros": float(np.mean(values == 0)),
        "histogram": np.histogram(values, bins=NUM_BINS, range=(0, 1))[0].tolist(),
    }


def percentiles(values: np.ndarray) -> dict[str, float]:
    return {
        str(share): float(value) for share, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)
    }


def correlations(intensities: np.ndarray) -> list[list[float | None]]:
    """Pearson correlation of each two emotions over the videos, None if one is constant. (N, K) -> K lists of K"""
    varying = np.where(np.ptp(intensities, axis=0) > 0, intensities, np.nan)
    return to_jsonable(np.atleast_2d(np.corrcoef(varying, rowvar=False)))


def together(top3: np.ndarray, num_emotions: int) -> list[list[int]]:
    """The number of videos with both of two emotions in the top 3; the diagonal counts each alone. (N, 3) -> (K, K)"""
    member = np.zeros((len(top3), num_emotions))
    np.put_along_axis(member, top3, 1, axis=1)
    return (member.T @ member).astype(int).tolist()


def guesses(train: Annotations, test: Annotations, names: Sequence[str]) -> dict[str, Any]:
    """The metrics of always predicting the most common emotions of the training split, and of chance."""
    from VideoMAE.training.results import chance, majority_guess  # deferred: importing torch takes seconds
    from VideoMAE.training.tasks import EmotionTask

    task = EmotionTask(loss="bce")
    counts = np.bincount(train.intensities.argmax(axis=1), minlength=len(names))
    return {
        "majority_emotions": [names[index] for index in np.argsort(-counts, kind="stable")[:3]],
        "majority_guess": majority_guess(task, train.intensities, test.intensities),
        "chance": chance(task, test.intensities),
    }


def preference_numbers(splits: Mapping[str, Sequence[Comparison]]) -> dict[str, Any]:
    """The comparison graph of each split, and the number of videos in two splits."""
    videos = {split: set(ids_in(entries)) for split, entries in splits.items()}
    return {
        "splits": {split: graph_numbers(entries) for split, entries in splits.items()},
        "num_videos": len(set().union(*videos.values())),
        "num_shared_videos": {f"{a} and {b}": len(videos[a] & videos[b]) for a, b in itertools.combinations(videos, 2)},
    }


def graph_numbers(entries: Sequence[Comparison]) -> dict[str, Any]:
    """Length, connectivity and consistency of one split's comparisons; distributions are {value: count}."""
    degrees = Counter(itertools.chain.from_iterable(entries))
    sizes = [len(group) for group in connected_groups(entries)]
    cycles = [len(group) for group in connected_groups(entries, strong=True) if len(group) > 1]
    return {
        "num_comparisons": len(entries),
        "num_pairs": len(pairs_in(entries)),
        "num_videos": len(degrees),
        "num_components": len(sizes),
        "largest_component": max(sizes),
        "num_contradictions": num_contradictions(entries),
        "num_videos_in_cycles": sum(cycles),
        "lengths": counts_of(map(len, entries)),
        "degrees": counts_of(degrees.values()),
        "component_sizes": counts_of(sizes),
    }


def counts_of(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def preference_records(comparisons: Iterable[Comparison]) -> dict[str, tuple[int, int]]:
    """How often each video was preferred to another, and another to it, over all pairs that the comparisons imply.

    Sorted by the smoothed share of wins, (wins + 1) / (wins + losses + 2), the most preferred first.
    """
    pairs = pairs_in(comparisons)
    wins, losses = Counter(pair.better for pair in pairs), Counter(pair.worse for pair in pairs)
    return {
        key: (wins[key], losses[key])
        for key in sorted(wins | losses, key=lambda key: (-(wins[key] + 1) / (wins[key] + losses[key] + 2), key))
    }


def video_numbers(facts: Mapping[str, VideoFacts]) -> dict[str, Any] | None:
    """Durations, sizes and frame rates; None without videos."""
    if not facts:
        return None
    seconds = np.array([entry.seconds for entry in facts.values()])
    return {
        "num_videos": len(facts),
        "total_hours": float(seconds.sum() / 3600),
        "seconds": {"mean": float(seconds.mean()), "percentiles": percentiles(seconds)},
        "share_shorter_than_a_clip": float(np.mean(seconds < CLIP_SECONDS)),
        "sizes": dict(Counter(f"{entry.width}x{entry.height}" for entry in facts.values()).most_common()),
        "frame_rates": dict(Counter(f"{entry.fps:.6g}" for entry in facts.values()).most_common()),
    }

"""The labels of the sample that `make_sample.py` makes: emotion intensities of each video, comparisons between videos.

The tables here are the whole truth behind the labels; `make_sample.py` explains them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# How pleasant a full intensity is. The names, in alphabetical order, are VCE's 27 emotions.
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
    """A palette and a motion, how many percent of the videos have them, and the emotions they stand for."""

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
FLIPPED_FRACTION = 0.02


def draw_intensities(combination: Combination, rng: np.random.Generator) -> dict[str, float]:
    """Draw a video's intensities around those of its combination, in steps of 1/120 as averaged ratings have."""
    means = dict.fromkeys(EMOTIONS, 0.0)
    for other in COMBINATIONS:
        if other.palette == combination.palette:
            means[other.top] = 0.36
    means.update(zip(combination.companions, (0.24, 0.16), strict=True))
    means[combination.top] = 0.68
    centres = np.array(list(means.values()))
    noisy = np.clip(centres + rng.normal(0, 0.035 + 0.17 * centres), 0, 1)
    return {name: float(step / 120) for name, step in zip(EMOTIONS, np.rint(120 * noisy), strict=True)}


def label_video(video_id: str, emotions: Mapping[str, float]) -> dict[str, Any]:
    """Form a video's entry of a VCE label file."""
    top = sorted(emotions, key=lambda name: -emotions[name])[:3]  # stable: alphabetical among equals
    return {"emotions": dict(emotions), "file": f"videos/{video_id}.mp4", "topK": top}


def valence(emotions: Mapping[str, float]) -> float:
    """Pleasant minus unpleasant intensities, by `VALENCE_WEIGHTS`."""
    return sum(VALENCE_WEIGHTS[name] * intensity for name, intensity in emotions.items())


def split_for_v2v(video_ids: Sequence[str], rng: np.random.Generator) -> dict[str, list[str]]:
    """Choose the videos of V2V's three sets, disjoint; a few are left over."""
    order = [video_ids[index] for index in rng.permutation(len(video_ids))]
    ends = np.rint(np.cumsum(list(V2V_FRACTIONS.values())) * len(order)).astype(int)
    return {name: order[start:end] for name, start, end in zip(V2V_FRACTIONS, (0, *ends), ends, strict=False)}


def group_by_valence(
    video_ids: Sequence[str], group_size: int, valences: Mapping[str, float], rng: np.random.Generator
) -> list[list[str]]:
    """Deal videos into groups of about `group_size` from unpleasant to pleasant, least pleasant first."""
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
    """Draw pairs [worse, better], every video in one where the gap allows, and turn a few round."""
    pairs = []
    for group in group_by_valence(video_ids, 6, valences, rng):
        every = [list(pair) for pair in itertools.combinations(group, 2)]
        wide = [pair for pair in every if valences[pair[1]] - valences[pair[0]] >= MIN_PAIR_GAP]
        candidates = [wide[index] for index in rng.permutation(len(wide))] or [[group[0], group[-1]]]
        seen: set[str] = set()
        chosen = []
        for pair in candidates:
            if not seen.issuperset(pair):
                chosen.append(pair)
                seen.update(pair)
        rest = [pair for pair in candidates if pair not in chosen]
        pairs += chosen + rest[: max(0, round(1.25 * len(group)) - len(chosen))]
    pairs = [pairs[index] for index in rng.permutation(len(pairs))]
    for index in rng.choice(len(pairs), int(FLIPPED_FRACTION * len(pairs)), replace=False):
        pairs[index].reverse()
    return pairs


def compare_in_lists(
    video_ids: Sequence[str], valences: Mapping[str, float], rng: np.random.Generator
) -> list[list[str]]:
    """Draw lists of 2 to 4 videos, least pleasant first: of each group the longest the gaps allow and a shorter."""
    lists = []
    for group in group_by_valence(video_ids, 4, valences, rng):
        every = [list(chosen) for size in (2, 3, 4) for chosen in itertools.combinations(group, size)]
        wide = [
            ids for ids in every if min(np.diff([valences[video_id] for video_id in ids]), default=0.0) >= MIN_LIST_GAP
        ] or [[group[0], group[-1]]]
        longest = wide.pop()
        lists += [longest] + ([wide[rng.integers(len(wide))]] if wide else [])
    return [lists[index] for index in rng.permutation(len(lists))]

"""Datasets of clips: random training clips, evaluation clips, and the clips of comparisons.

B clips, P comparisons, K emotions, T frames, H W pixels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from VideoMAE.data.clips import concatenate
from VideoMAE.data.v2v import Comparison, video_file_of
from VideoMAE.data.vce import Annotations
from VideoMAE.video.reader import UnreadableVideoError


class Sample(NamedTuple):
    """The clips and targets of one video."""

    position: int
    clips: Tensor | None  # (views, 3, T, H, W) float32; None in evaluation if the video is unreadable
    targets: Tensor  # intensities (K,) float32
    skipped: dict[str, str]  # unreadable videos: id -> reason


class SampleKey(NamedTuple):
    """The key of a training sample. Random draws depend on it and the seed only."""

    position: int
    epoch: int


MakeClips = Callable[[Path, np.random.Generator], Tensor]


class _ClipDataset(Dataset[Sample]):
    """Clips of annotated videos."""

    def __init__(self, annotations: Annotations, *, make_clips: MakeClips, seed: int) -> None:
        self.annotations = annotations
        self.make_clips = make_clips
        self.seed = seed

    def __len__(self) -> int:
        return len(self.annotations.ids)


class TrainDataset(_ClipDataset):
    """Random clips; `dataset[SampleKey(index, epoch)]` depends on the key and the seed only.

    An unreadable video is replaced by the next readable one and reported in `skipped`.
    """

    def __getitem__(self, key: SampleKey) -> Sample:
        skipped: dict[str, str] = {}
        for offset in range(len(self)):
            index = (key.position + offset) % len(self)
            rng = np.random.default_rng((self.seed, key.epoch, index))
            try:
                clips = self.make_clips(self.annotations.paths[index], rng)
            except UnreadableVideoError as error:
                skipped[self.annotations.ids[index]] = error.reason
                continue
            return Sample(index, clips, torch.from_numpy(self.annotations.intensities[index]), skipped)
        raise ValueError(f"none of the {len(self)} training videos can be read: {next(iter(skipped.values()))}")


class EvaluationDataset(_ClipDataset):
    """The same clips of each video at every call. An unreadable video is not replaced."""

    def __getitem__(self, index: int) -> Sample:
        targets = torch.from_numpy(self.annotations.intensities[index])
        try:
            clips = self.make_clips(self.annotations.paths[index], np.random.default_rng((self.seed, index)))
        except UnreadableVideoError as error:
            return Sample(index, None, targets, {self.annotations.ids[index]: error.reason})
        return Sample(index, clips, targets, {})


class ComparisonSample(NamedTuple):
    """The clips of one comparison, from least to most preferred.

    A comparison with an unreadable video has weight 0 and a blank clip for that video.
    """

    position: int
    clips: Tensor  # (videos, 3, T, H, W) float32
    weight: float
    skipped: dict[str, str]  # unreadable videos: id -> reason


class ComparisonBatch(NamedTuple):
    """The clips of P comparisons, concatenated. B = all their videos."""

    clips: Tensor  # (B, 3, T, H, W), see loaders.Batch
    lengths: tuple[int, ...]  # (P,): videos in each comparison
    weights: Tensor  # (P,) float32: 0 for a comparison with an unreadable video, else 1
    indices: Tensor  # (P,) int64, positions in the dataset
    skipped: dict[str, str]


def collate_comparisons(samples: Sequence[ComparisonSample]) -> ComparisonBatch:
    """Batches comparisons."""
    return ComparisonBatch(
        clips=concatenate([sample.clips for sample in samples]),
        lengths=tuple(len(sample.clips) for sample in samples),
        weights=torch.tensor([sample.weight for sample in samples]),
        indices=torch.tensor([sample.position for sample in samples]),
        skipped={key: reason for sample in samples for key, reason in sample.skipped.items()},
    )


class ComparisonDataset(Dataset[ComparisonSample]):
    """The clips of each comparison's videos; `dataset[SampleKey(index, epoch)]` depends on the key and the seed only.

    Args:
        blank: the clip of an unreadable video, (1, 3, T, H, W).
    """

    def __init__(
        self,
        comparisons: Sequence[Comparison],
        root: Path,
        *,
        make_clips: MakeClips,
        blank: Tensor,
        seed: int,
    ) -> None:
        self.comparisons = comparisons
        self.root = root
        self.make_clips = make_clips
        self.blank = blank
        self.seed = seed

    def __len__(self) -> int:
        return len(self.comparisons)

    def __getitem__(self, key: SampleKey) -> ComparisonSample:
        clips: list[Tensor] = []
        skipped: dict[str, str] = {}
        for rank, video in enumerate(self.comparisons[key.position]):
            rng = np.random.default_rng((self.seed, key.epoch, key.position, rank))
            try:
                clips.append(self.make_clips(self.root / video_file_of(video), rng))
            except UnreadableVideoError as error:
                skipped[video] = error.reason
                clips.append(self.blank)
        return ComparisonSample(key.position, concatenate(clips), 0.0 if skipped else 1.0, skipped)

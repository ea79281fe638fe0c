"""The loaders of a dataset as a run builds them, for its benchmark: a few of its videos, and the run's own flags."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch

from VideoMAE.cli import parse_flags
from VideoMAE.config import V2VConfig, VCEConfig
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.splits import long_enough, readable, unreadable
from VideoMAE.data.v2v import videos_of, without_videos
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.dataset_tools.prepared_folder import SETTINGS_FILE
from VideoMAE.dataset_tools.programs import num_cores
from VideoMAE.dataset_tools.read_labels import kind_of
from VideoMAE.runtime.distributed import World
from VideoMAE.training import finetune_v2v, finetune_vce
from VideoMAE.training import setup as run_setup
from VideoMAE.video.check import VideoCheck, check_videos

logger = logging.getLogger("benchmark_loader")

MAX_NAMED = 10

Mode = Literal["train", "test"]
Config = TypeVar("Config", VCEConfig, V2VConfig)


class Subject(NamedTuple):
    """What is measured: a loader for any number of workers, of what kind of items, under which settings."""

    make_loader: Callable[[int], WatchedLoader]
    config: VCEConfig | V2VConfig
    what: str
    num_videos: int
    is_prepared: bool
    unreadable: dict[str, str]


def open_subject(root: Path, mode: Mode, run_flags: Sequence[str], *, max_videos: int) -> Subject:
    """The items of a split as a run with these flags makes them, of at most about `max_videos` videos drawn evenly.

    Videos that cannot be read are named and left out.

    Raises:
        ValueError: the dataset, a flag or its labels are no good, or no video is left.
    """
    common = ["--output_dir", "unused", "--disable_eval_during_finetuning", *run_flags]
    if kind_of(root) == "vce":
        config = parse_flags(VCEConfig, ["--data_path", str(root), *common])
        return _vce(run_setup.validate_config(config), mode, max_videos)
    v2v = parse_flags(V2VConfig, ["--data_dir", str(root), *common])
    return _v2v(run_setup.validate_config(v2v), mode, max_videos)


def is_prepared(root: Path) -> bool:
    """Whether data_prep/prepare_videos.py made the folder."""
    return (root / SETTINGS_FILE).is_file()


def _world(config: VCEConfig | V2VConfig) -> World:
    wanted = config.run.device
    use_gpu = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    return World(rank=0, size=1, device=torch.device("cuda" if use_gpu else "cpu"))


def _with_workers(config: Config, num_workers: int) -> Config:
    return replace(config, data=replace(config.data, num_workers=num_workers))


def _even(count: int, wanted: int) -> np.ndarray:
    """At most `wanted` of `count` positions, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def _check(ids: Sequence[str], paths: Iterable[Path]) -> tuple[VideoCheck, dict[str, str]]:
    """Open these videos once, in processes that can be killed -> what was found by path, the bad ones' reasons by
    id."""
    by_id = dict(zip(ids, paths, strict=True))
    check = check_videos({str(path): path for path in by_id.values()}, num_processes=num_cores())
    bad = {key: check.unreadable[str(path)] for key, path in by_id.items() if str(path) in check.unreadable}
    for key, reason in itertools.islice(bad.items(), MAX_NAMED):
        logger.warning("unreadable, left out: %s (%s): %s", key, by_id[key], reason)
    if len(bad) > MAX_NAMED:
        logger.warning("... and %d more", len(bad) - MAX_NAMED)
    if len(bad) == len(by_id):
        raise ValueError(f"none of {len(by_id)} videos can be read, for instance {next(iter(by_id.values()))}")
    return check, bad


def _vce(config: VCEConfig, mode: Mode, max_videos: int) -> Subject:
    data = config.data
    labels = finetune_vce.read_labels(data, Exclusion(data.exclude))
    chosen = labels[mode].select(_even(len(labels[mode].ids), max_videos))
    check, bad = _check(chosen.ids, chosen.paths)
    if mode == "train":
        chosen = long_enough(chosen, check, clip_len=data.num_frames, clip_fps=data.train_fps)
    else:
        chosen = readable(chosen, check)
    labels[mode] = chosen

    def make(num_workers: int) -> WatchedLoader:
        changed = _with_workers(config, num_workers)
        if mode == "test":
            return finetune_vce.test_loader(chosen, check, changed, _world(config))
        return finetune_vce.make_loaders(labels, check, changed, world=_world(config)).train

    if mode == "test":
        what = f"VCE test videos of {data.test_num_segment} x {data.test_num_crop} views, every {data.sampling_rate}th"
        what += f" frame, {data.num_frames} frames a view"
    else:
        rate = f"every {data.sampling_rate}th frame" if data.train_fps is None else f"{data.train_fps:g} fps"
        what = f"VCE training clips, {data.num_frames} frames, {rate}, batches of {config.optim.batch_size} videos"
        what += f" x {data.num_sample}" if data.num_sample > 1 else ""
    what = f"{what}, {data.input_size} pixels"
    return Subject(make, config, what, len(chosen.ids), is_prepared(data.data_path), bad)


def _v2v(config: V2VConfig, mode: Mode, max_videos: int) -> Subject:
    data = config.data
    labels = finetune_v2v.read_labels(config, Exclusion(data.exclude))
    comparisons = labels.train if mode == "train" else [*labels.test, *labels.lists]
    comparisons = [comparisons[i] for i in _even(len(comparisons), max(max_videos // 2, 1))]
    videos = videos_of(data.data_dir, comparisons)
    check, bad = _check(videos.ids, videos.paths)
    whole, _ = without_videos(comparisons, unreadable(videos, check))
    if mode == "train" and not whole:
        raise ValueError(f"each of {len(comparisons)} comparisons has a video that cannot be read")
    videos = videos_of(data.data_dir, whole) if mode == "train" else readable(videos, check)

    def make(num_workers: int) -> WatchedLoader:
        changed = _with_workers(config, num_workers)
        if mode == "test":
            return finetune_v2v.evaluation_loader(videos, check, changed, _world(config))
        chosen = finetune_v2v.Labels(whole, [], [], [])
        return finetune_v2v.make_loaders(chosen, videos, check, changed, world=_world(config)).train

    items = "training comparisons" if mode == "train" else "test videos"
    batch = config.optim.batch_size * (1 if mode == "train" else 2)
    what = f"V2V {items}, {data.num_frames} frames a video, batches of {batch}, {data.input_size} pixels"
    return Subject(make, config, what, len(videos.ids), is_prepared(data.data_dir), bad)

"""A fine-tuning or test run on V2V: labels, loaders, training, results."""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from VideoMAE.cli import counted
from VideoMAE.config import V2VConfig
from VideoMAE.data.clips import ComparisonDataset, EvaluationDataset, EvenClips, collate_comparisons, preference_clips
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.splits import readable, remaining_unreadable, unreadable
from VideoMAE.data.v2v import (
    Comparison,
    check_metadata,
    comparison_name,
    hold_out_connected,
    num_contradictions,
    pairs_in,
    read_comparisons,
    videos_of,
    without_videos,
)
from VideoMAE.data.vce import Annotations
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.runtime.distributed import World, raise_on_all_ranks
from VideoMAE.training import results, setup
from VideoMAE.training.backends import choose_precision
from VideoMAE.training.finetune import Measured, add_checkpoint_flags, finetune
from VideoMAE.training.linear_probe import ProbeData
from VideoMAE.training.tasks import Evaluation, PreferenceTask, scores_by_id
from VideoMAE.training.trainer import Loaders
from VideoMAE.video.check import VideoCheck
from VideoMAE.video.reader import VideoOpener

logger = logging.getLogger(__name__)


class Labels(NamedTuple):
    """The comparisons for training, for selecting the best epoch, and for testing."""

    train: list[Comparison]
    held_out: list[Comparison]
    test: list[Comparison]
    lists: list[Comparison]


def read_labels(config: V2VConfig, exclusion: Exclusion) -> Labels:
    """The comparisons of this run, without those of excluded videos. Logs contradictions and videos shared by splits.
    listwise_labels.json may have no lists."""
    data, run = config.data, config.run
    files = {} if run.eval else {"train": data.train_labels or data.data_dir / "train_labels.json"}
    files |= {"test": data.data_dir / "test_labels.json", "listwise": data.data_dir / "listwise_labels.json"}
    found: dict[str, list[Comparison]] = {}
    for split, file in files.items():
        only_pairs = split == "test" or (split == "train" and config.loss != "listwise")
        found[split] = read_comparisons(
            file, only_pairs=only_pairs, may_be_empty=split == "listwise", split=split, exclusion=exclusion
        )
        check_metadata(data.data_dir, found[split], file=file)
        if contradictory := num_contradictions(found[split]):
            logger.warning("%s: %s in both orders; both are kept", file, counted(contradictory, "pair"))
    for one, other in itertools.combinations(files, 2):
        shared = set(itertools.chain(*found[one])) & set(itertools.chain(*found[other]))
        if shared:
            logger.warning("%s in both %s and %s, e.g. %s", counted(len(shared), "video"), one, other, min(shared))
    train, test, lists = found.get("train", []), found["test"], found["listwise"]
    if run.eval or run.disable_eval_during_finetuning:
        return Labels(train, [], test, lists)
    if run.select_on == "test":
        logger.warning("--select_on test: the test pairs select the best epoch, so their accuracy is biased upwards")
        return Labels(train, test, test, lists)
    held = hold_out_connected(train, fraction=data.val_fraction, seed=run.seed)
    logger.info(
        "held out %d of %d training comparisons (%.1f %%) over %d videos to select the best epoch; the training videos "
        "form %d connected components, the largest with %d comparisons",
        len(held.held_out),
        len(train),
        100 * len(held.held_out) / len(train),
        len(videos_of(data.data_dir, held.held_out).ids),
        held.num_components,
        held.largest,
    )
    return Labels(held.train, held.held_out, test, lists)


def make_clips(config: V2VConfig, check: VideoCheck, *, training: bool) -> EvenClips:
    """The clips of training or evaluation, according to --crop and --augment."""
    data = config.data
    open_video = VideoOpener(data.decoder, check.infos)
    if training and config.augment.augment != "none":
        transform = setup.train_transform(config.augment, input_size=data.input_size)
        return EvenClips(data.num_frames, transform, open_video=open_video)
    return preference_clips(data.num_frames, data.input_size, crop=data.crop, open_video=open_video)


def evaluation_loader(videos: Annotations, check: VideoCheck, config: V2VConfig, world: World) -> WatchedLoader:
    """One clip of every video; a batch has as many videos as a training batch of pairs."""
    dataset = EvaluationDataset(videos, make_clips=make_clips(config, check, training=False), seed=config.run.seed)
    return setup.shared_loader(dataset, config, world, batch_size=2 * config.optim.batch_size)


def make_loaders(
    labels: Labels, held_out: Annotations, check: VideoCheck, config: V2VConfig, *, world: World
) -> Loaders:
    """The loaders of training comparisons and of the held-out videos, if there are any."""
    data = config.data
    train, max_bad = readable_comparisons(labels, check, config)
    clips = make_clips(config, check, training=True)
    blank = torch.zeros(1, 3, data.num_frames, data.input_size, data.input_size)
    dataset = ComparisonDataset(train, data.data_dir, make_clips=clips, blank=blank, seed=config.run.seed)
    loader, sampler = setup.training_loader(dataset, config, world, collate_fn=collate_comparisons)
    validation = evaluation_loader(held_out, check, config, world) if labels.held_out else None
    ids = [comparison_name(entry) for entry in train]
    return Loaders(loader, sampler, validation, ids, max_bad, setup.fingerprint(ids))


def readable_comparisons(labels: Labels, check: VideoCheck, config: V2VConfig) -> tuple[list[Comparison], int]:
    """The training comparisons of readable videos, and the number of further videos that may be unreadable."""
    videos = videos_of(config.data.data_dir, labels.train)
    max_bad = remaining_unreadable(videos, check, max_fraction=config.data.max_bad_videos)
    return drop_unreadable(labels.train, unreadable(videos, check)), max_bad


def drop_unreadable(comparisons: Sequence[Comparison], reasons: Mapping[str, str]) -> list[Comparison]:
    """The comparisons without the videos in `reasons`; logs the others."""
    kept, lost = without_videos(comparisons, reasons)
    if lost:
        names = ", ".join(map(comparison_name, lost))
        logger.warning("dropped %s with unreadable videos: %s", counted(len(lost), "training comparison"), names)
    return kept


def probe_data(
    labels: Labels, held_out: Annotations, check: VideoCheck, config: V2VConfig, task: PreferenceTask
) -> ProbeData:
    """The videos of --linear_probe: one clip of every readable video of the training and held-out comparisons."""
    train, max_bad = readable_comparisons(labels, check, config)
    videos = videos_of(config.data.data_dir, train)

    def make_loss(positions: np.ndarray, targets: Tensor) -> Callable[[Tensor], Tensor]:
        row = {videos.ids[position]: number for number, position in enumerate(positions)}
        if not any(row.keys() >= set(entry) for entry in train):
            raise ValueError("none of the training comparisons has readable videos")
        kept = drop_unreadable(train, {key: "" for key in videos.ids if key not in row})
        rows = torch.tensor([row[key] for entry in kept for key in entry], device=targets.device)
        lengths = tuple(map(len, kept))
        return lambda scores: task.losses(scores[rows, 0], lengths).mean()

    clips, seed = make_clips(config, check, training=False), config.run.seed
    validation = EvaluationDataset(held_out, make_clips=clips, seed=seed) if labels.held_out else None
    ids = {
        "training": videos_of(config.data.data_dir, labels.train).ids,
        "validation": videos_of(config.data.data_dir, labels.held_out).ids,
    }
    return ProbeData(EvaluationDataset(videos, make_clips=clips, seed=seed), validation, ids, make_loss, max_bad)


def run(config: V2VConfig, world: World, argv: Sequence[str]) -> None:
    """Trains and tests, or with --mode eval only tests; `argv` is the command line of `config`."""
    with raise_on_all_ranks():
        config = setup.validate_config(add_checkpoint_flags(config, argv))
        precision = choose_precision(config.run.precision, world.device)
        exclusion = Exclusion(config.data.exclude)
        labels = read_labels(config, exclusion)
        exclusion.log_counts("comparisons")
        everything = [comparison_name(entry) for part in labels for entry in part]
        setup.claim_output_dir(config, world=world, labels=setup.fingerprint(everything))
        model = setup.start_model(config, num_outputs=1, head_bias=False)
        root = config.data.data_dir
        check = setup.check_all(videos_of(root, itertools.chain(*labels)).paths, config, world=world)
        held_out = readable(videos_of(root, labels.held_out), check)
        task = PreferenceTask(loss=config.loss, margin=config.margin, held_out=labels.held_out, ids=held_out.ids)

    def measure(outcome: Evaluation, ids: Sequence[str], counts: dict[str, Any]) -> Measured:
        scores = scores_by_id(outcome, ids)
        measured = results.preference_results(scores, pairs_in(labels.test), labels.lists)
        measured |= {**counts, **exclusion.results()}
        text, lost = results.preference_table(measured), [*measured["lost_pairs"], *measured["lost_lists"]]
        if lost:
            names = ", ".join(map(comparison_name, lost))
            text = f"dropped {len(lost)} test pairs and lists with unreadable videos: {names}\n{text}"
        return measured, [{"id": key, "score": score} for key, score in scores.items()], text

    tested = videos_of(root, [*labels.test, *labels.lists])
    loaders = partial(make_loaders, labels, held_out, check, config, world=world)
    data = partial(probe_data, labels, held_out, check, config, task)
    test_loader = partial(evaluation_loader, check=check, config=config, world=world)
    settings: Any = {"config": config, "world": world, "precision": precision, "check": check}
    finetune(model, task, tested, loaders, data, test_loader, measure, **settings)

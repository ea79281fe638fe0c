"""A fine-tuning or test run on V2V: labels, loaders, training, results."""

import itertools
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from VideoMAE.cli import counted
from VideoMAE.config import V2VConfig
from VideoMAE.data.clips import ComparisonDataset, EvaluationDataset, EvenClips, collate_comparisons, preference_clips
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.loaders import TrainSampler, make_loader
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
from VideoMAE.engine_for_finetuning import final_test, write_results
from VideoMAE.optim_factory import keep_base
from VideoMAE.runtime.distributed import World, raise_on_all_ranks
from VideoMAE.training import results
from VideoMAE.training import setup as run_setup
from VideoMAE.training.backends import autocast, choose_precision
from VideoMAE.training.checkpoint_flags import add_checkpoint_flags
from VideoMAE.training.linear_probe import LinearProbe, ProbeData
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.tasks import PreferenceTask, scores_by_id
from VideoMAE.training.trainer import Loaders, Trainer, train_and_test
from VideoMAE.video.check import VideoCheck
from VideoMAE.video.reader import VideoOpener

logger = logging.getLogger(__name__)

RECIPE_TOTAL_BATCH, RECIPE_LR = 4, 0.01  # the original's


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
    train_file = data.train_labels or data.data_dir / "train_labels.json"
    files = {"train": train_file, "test": data.data_dir / "test_labels.json"}
    files["listwise"] = data.data_dir / "listwise_labels.json"
    if run.eval:
        del files["train"]
    found: dict[str, list[Comparison]] = {"train": []}
    for split, file in files.items():
        only_pairs = split == "test" or (split == "train" and config.loss != "listwise")
        found[split] = read_comparisons(
            file, only_pairs=only_pairs, may_be_empty=split == "listwise", split=split, exclusion=exclusion
        )
        check_metadata(data.data_dir, found[split], file=file)
        contradictory = num_contradictions(found[split])
        if contradictory:
            logger.warning("%s: %s in both orders; both are kept", file, counted(contradictory, "pair"))
    warn_of_shared_videos({split: found[split] for split in files})
    train = found["train"]
    held_out: list[Comparison] = []
    if not run.eval and not run.disable_eval_during_finetuning:
        train, held_out = choose_held_out(found["train"], found["test"], config)
    return Labels(train, held_out, found["test"], found["listwise"])


def warn_of_shared_videos(splits: dict[str, list[Comparison]]) -> None:
    """Logs the number of videos that two splits share."""
    videos = {split: {key for entry in entries for key in entry} for split, entries in splits.items()}
    for one, other in itertools.combinations(videos, 2):
        shared = videos[one] & videos[other]
        if shared:
            logger.warning("%s in both %s and %s, e.g. %s", counted(len(shared), "video"), one, other, min(shared))


def choose_held_out(
    train: list[Comparison], test: list[Comparison], config: V2VConfig
) -> tuple[list[Comparison], list[Comparison]]:
    """The comparisons for training and those that select the best epoch, according to --select_on."""
    if config.run.select_on == "test":
        logger.warning("--select_on test: the test pairs select the best epoch, so their accuracy is biased upwards")
        return train, test
    split = hold_out_connected(train, fraction=config.data.val_fraction, seed=config.run.seed)
    logger.info(
        "held out %d of %d training comparisons (%.1f %%) over %d videos to select the best epoch; the training videos "
        "form %d connected components, the largest with %d comparisons",
        len(split.held_out), len(train), 100 * len(split.held_out) / len(train),
        len(videos_of(config.data.data_dir, split.held_out).ids), split.num_components, split.largest,
    )  # fmt: skip
    return split.train, split.held_out


def make_clips(config: V2VConfig, check: VideoCheck, *, training: bool) -> EvenClips:
    """The clips of training or evaluation, according to --crop and --augment."""
    data = config.data
    open_video = VideoOpener(data.decoder, check.infos)
    if training and config.augment.augment != "none":
        transform = run_setup.train_transform(config.augment, input_size=data.input_size)
        return EvenClips(data.num_frames, transform, open_video=open_video)
    return preference_clips(data.num_frames, data.input_size, crop=data.crop, open_video=open_video)


def evaluation_loader(videos: Annotations, check: VideoCheck, config: V2VConfig, world: World) -> Any:
    """One clip of every video; a batch has as many videos as a training batch of pairs."""
    return make_loader(
        EvaluationDataset(videos, make_clips=make_clips(config, check, training=False), seed=config.run.seed),
        run_setup.share_sampler(len(videos.ids), config, world),
        batch_size=2 * config.optim.batch_size,
        **run_setup.loader_settings(config, world),
    )


def make_loaders(
    labels: Labels, held_out: Annotations, check: VideoCheck, config: V2VConfig, *, world: World
) -> Loaders:
    """The loaders of training comparisons and of the held-out videos, if there are any."""
    data, optim = config.data, config.optim
    train, max_bad = readable_comparisons(labels, check, config)
    sampler = TrainSampler(
        len(train),
        batch_size=optim.batch_size,
        update_freq=optim.update_freq,
        rank=world.rank,
        world_size=world.size,
        seed=config.run.seed,
        noun="comparisons",
    )
    clips = make_clips(config, check, training=True)
    blank = torch.zeros(1, 3, data.num_frames, data.input_size, data.input_size)
    dataset = ComparisonDataset(
        train,
        data.data_dir,
        make_clips=clips,
        blank=blank,
        seed=config.run.seed,
    )
    loader = make_loader(dataset, sampler, collate_fn=collate_comparisons, **run_setup.loader_settings(config, world))
    validation = evaluation_loader(held_out, check, config, world) if labels.held_out else None
    ids = [comparison_name(entry) for entry in train]
    return Loaders(loader, sampler, validation, ids, max_bad, run_setup.fingerprint(ids))


def readable_comparisons(labels: Labels, check: VideoCheck, config: V2VConfig) -> tuple[list[Comparison], int]:
    """The training comparisons of readable videos, and the number of further videos that may be unreadable."""
    videos = videos_of(config.data.data_dir, labels.train)
    max_bad = remaining_unreadable(videos, check, max_fraction=config.data.max_bad_videos)
    train, lost = without_videos(labels.train, unreadable(videos, check))
    if lost:
        logger.warning("dropped %s with unreadable videos: %s", counted(len(lost), "training comparison"), _names(lost))
    return train, max_bad


def probe_data(
    labels: Labels, held_out: Annotations, check: VideoCheck, config: V2VConfig, task: PreferenceTask
) -> ProbeData:
    """The videos of --linear_probe: one clip of every readable video of the training and held-out comparisons."""
    train, max_bad = readable_comparisons(labels, check, config)
    videos = videos_of(config.data.data_dir, train)

    def make_loss(positions: np.ndarray, targets: Tensor) -> Callable[[Tensor], Tensor]:
        row = {videos.ids[position]: number for number, position in enumerate(positions)}
        kept, lost = without_videos(train, {key: "" for key in videos.ids if key not in row})
        if not kept:
            raise ValueError("none of the training comparisons has readable videos")
        if lost:
            logger.warning(
                "dropped %s with unreadable videos: %s", counted(len(lost), "training comparison"), _names(lost)
            )
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


def _names(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(comparison_name(entry) for entry in comparisons)


def log_plan(config: V2VConfig, loaders: Loaders, *, world: World, precision: str, num_parameters: int) -> None:
    """Logs the settings of the run, and a warning if they differ from the recipe."""
    run_setup.log_machine(config, world=world, precision=precision, num_parameters=num_parameters)
    optim, total = config.optim, loaders.sampler.total_batch_size
    logger.info(
        "--loss %s, total batch size %d (batch_size %d x update_freq %d x %s), lr %g",
        config.loss, total, optim.batch_size, optim.update_freq, counted(world.size, "process"), optim.lr,
    )  # fmt: skip
    logger.info(
        "%s, %s per epoch, %s", counted(len(loaders.ids), "training comparison"),
        counted(loaders.sampler.steps_per_epoch, "step"), counted(optim.epochs, "epoch"),
    )  # fmt: skip
    if config.loss == "logistic":
        recipe = {"total batch size": RECIPE_TOTAL_BATCH, "lr": RECIPE_LR}
        run_setup.warn_of_differences(recipe, {"total batch size": total, "lr": optim.lr}, "the recipe")


def test(
    model: nn.Module,
    labels: Labels,
    check: VideoCheck,
    config: V2VConfig,
    *,
    exclusion: Exclusion,
    world: World,
    precision: str,
    log: MetricLogger,
) -> None:
    """Scores each video of the test pairs and lists once; the main process writes results.json and scores.jsonl."""
    all_videos = videos_of(config.data.data_dir, [*labels.test, *labels.lists])
    videos = readable(all_videos, check)
    outcome = final_test(
        model,
        evaluation_loader(videos, check, config, world),
        device=world.device,
        autocast=partial(autocast, world.device, precision),
        logger=log,
    )
    if not world.is_main:
        return
    scores = scores_by_id(outcome, videos.ids)
    reasons = {**unreadable(all_videos, check), **outcome.skipped}
    measured = results.preference_results(scores, pairs_in(labels.test), labels.lists)
    measured |= {"num_videos": len(all_videos.ids), "num_unreadable": len(reasons), "unreadable": reasons}
    measured |= exclusion.results()
    lines: list[dict[str, Any]] = [{"id": key, "score": score} for key, score in scores.items()]
    lines.extend({"id": key, "unreadable": reason} for key, reason in reasons.items())
    prefix = f"{config.run.results_prefix}_" if config.run.results_prefix else ""
    write_results(config.run.output_dir, measured, lines, lines_name="scores.jsonl", prefix=prefix)
    lost = [*measured["lost_pairs"], *measured["lost_lists"]]
    if lost:
        log.say(f"dropped {len(lost)} test pairs and lists with unreadable videos: {_names(lost)}")
    log.say(results.preference_table(measured))


def run(config: V2VConfig, world: World, argv: Sequence[str]) -> None:
    """Trains and tests, or with --mode eval only tests; `argv` is the command line of `config`."""
    with raise_on_all_ranks():
        config = run_setup.validate_config(add_checkpoint_flags(config, argv))
        precision = choose_precision(config.run.precision, world.device)
        exclusion = Exclusion(config.data.exclude)
        labels = read_labels(config, exclusion)
        exclusion.log_counts("comparisons")
        everything = [comparison_name(entry) for part in labels for entry in part]
        run_setup.claim_output_dir(config, world=world, labels=run_setup.fingerprint(everything))
        data = config.data
        model = run_setup.start_model(
            config, num_outputs=1, num_frames=data.num_frames, input_size=data.input_size, head_bias=False
        )
        check = run_setup.check_all(videos_of(data.data_dir, itertools.chain(*labels)).paths, config, world=world)
        trainer: Trainer | LinearProbe | None = None
        if not config.run.eval:
            held_out = readable(videos_of(data.data_dir, labels.held_out), check)
            task = PreferenceTask(loss=config.loss, margin=config.margin, held_out=labels.held_out, ids=held_out.ids)
            settings: Any = {"config": config, "world": world, "precision": precision}
            if config.optim.linear_probe:
                trainer = LinearProbe(model, task, probe_data(labels, held_out, check, config, task), **settings)
            else:
                loaders = make_loaders(labels, held_out, check, config, world=world)
                log_plan(
                    config, loaders, world=world, precision=precision, num_parameters=run_setup.count_parameters(model)
                )
                trainer = Trainer(model, task, loaders, scale=keep_base, **settings)
                trainer.resume()

    def test_model(model: nn.Module, log: MetricLogger) -> None:
        test(model, labels, check, config, exclusion=exclusion, world=world, precision=precision, log=log)

    train_and_test(model, trainer, test_model, run=config.run, world=world, show_progress=not config.run.disable_tqdm)

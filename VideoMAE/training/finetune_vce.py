"""A fine-tuning or test run on VCE: labels, loaders, training, results."""

import logging
from collections.abc import Sequence
from functools import partial

from torch import nn

from VideoMAE.augment.video_transforms import ValidationTransform
from VideoMAE.cli import counted
from VideoMAE.config import AugmentConfig, DataConfig, VCEConfig
from VideoMAE.data.clips import EvaluationDataset, TestClips, TrainClips, TrainDataset, ValidationClips
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.loaders import TrainSampler, make_loader
from VideoMAE.data.splits import hold_out, long_enough, readable, remaining_unreadable, unreadable
from VideoMAE.data.vce import Annotations, read_annotations, read_class_list, read_emotions
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.engine_for_finetuning import final_test, write_results
from VideoMAE.optim_factory import scale_to_batch
from VideoMAE.runtime.distributed import World, raise_on_all_ranks
from VideoMAE.training import results
from VideoMAE.training.backends import autocast, choose_precision
from VideoMAE.training.checkpoint_flags import add_checkpoint_flags
from VideoMAE.training.linear_probe import LinearProbe, ProbeData
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.setup import (
    check_all,
    claim_output_dir,
    count_parameters,
    fingerprint,
    loader_settings,
    log_machine,
    share_sampler,
    start_model,
    train_transform,
    validate_config,
    warn_of_differences,
)
from VideoMAE.training.tasks import EmotionTask, Mix
from VideoMAE.training.trainer import Loaders, Trainer, train_and_test
from VideoMAE.video.check import VideoCheck
from VideoMAE.video.reader import VideoOpener

logger = logging.getLogger(__name__)

RECIPE_TOTAL_BATCH = {"bce": 8, "ce": 32}  # by loss: total batch size of the original
RECIPE_LR = 5e-4

Labels = dict[str, Annotations]


def read_labels(data: DataConfig, exclusion: Exclusion) -> Labels:
    """The training, validation and test videos with labels, without excluded videos, from the JSON files or from the
    CSV files of --label_path."""
    emotions = read_emotions(data.data_path)
    if data.nb_classes not in (None, len(emotions)):
        raise ValueError(f"--nb_classes {data.nb_classes}: the dataset {data.data_path} has {len(emotions)} emotions")
    if data.label_path is not None:
        files = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
        return {
            split: read_class_list(data.label_path / name, emotions=emotions, exclusion=exclusion)
            for split, name in files.items()
        }
    all_train = read_annotations(data.data_path, "train", exclusion=exclusion)
    train, validation = hold_out(all_train, fraction=data.val_fraction)
    return {
        "train": all_train if data.train_on_all else train,
        "validation": validation,
        "test": read_annotations(data.data_path, "test", exclusion=exclusion),
    }


def fingerprint_of(labels: Labels) -> str:
    """A checksum of the video ids and labels."""
    return fingerprint(*(part for split in labels.values() for part in (split.ids, split.intensities)))


def make_mixup(augment: AugmentConfig, *, nb_classes: int) -> Mix | None:
    """Mixup and cutmix; None if both are disabled."""
    if augment.mixup <= 0 and augment.cutmix <= 0:
        return None
    from VideoMAE.augment.mixup import ClipMixup  # deferred: importing timm takes seconds

    return ClipMixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mixup_prob,
        switch_prob=augment.mixup_switch_prob,
        mode=augment.mixup_mode,
        label_smoothing=0.0,  # applied by the task
        num_classes=nb_classes,
    )


def make_loaders(labels: Labels, check: VideoCheck, config: VCEConfig, *, world: World) -> Loaders:
    """The loaders of training clips and, unless disabled, validation clips."""
    data, augment, optim = config.data, config.augment, config.optim
    max_bad = remaining_unreadable(labels["train"], check, max_fraction=data.max_bad_videos)
    train = long_enough(labels["train"], check, clip_len=data.num_frames, clip_fps=data.train_fps)
    transform = train_transform(augment, input_size=data.input_size)
    opener = VideoOpener(data.decoder, check.infos)
    clips = TrainClips(data.num_frames, data.sampling_rate, data.train_fps, data.num_sample, transform, opener)
    sampler = TrainSampler(
        len(train.ids),
        batch_size=optim.batch_size,
        update_freq=optim.update_freq,
        rank=world.rank,
        world_size=world.size,
        seed=config.run.seed,
    )
    loader = make_loader(
        TrainDataset(train, make_clips=clips, seed=config.run.seed), sampler, **loader_settings(config, world)
    )
    validation = None if config.run.disable_eval_during_finetuning else validation_loader(labels, check, config, world)
    return Loaders(loader, sampler, validation, train.ids, max_bad, fingerprint(train.ids, train.intensities))


def validation_loader(labels: Labels, check: VideoCheck, config: VCEConfig, world: World) -> WatchedLoader:
    """One clip of every readable validation video; batches are 1.5 times as large as in training."""
    dataset = one_clip_each(labels["validation"], check, config)
    return make_loader(
        dataset,
        share_sampler(len(dataset), config, world),
        batch_size=max(int(1.5 * config.optim.batch_size), 1),
        **loader_settings(config, world),
    )


def test_loader(videos: Annotations, check: VideoCheck, config: VCEConfig, world: World) -> WatchedLoader:
    """All views of each video, one video per batch."""
    data = config.data
    clips = TestClips(
        data.num_frames,
        data.sampling_rate,
        data.test_num_segment,
        data.test_num_crop,
        data.short_side_size,
        data.input_size,
        VideoOpener(data.decoder, check.infos),
    )
    return make_loader(
        EvaluationDataset(videos, make_clips=clips, seed=config.run.seed),
        share_sampler(len(videos.ids), config, world),
        **loader_settings(config, world),
    )


def one_clip_each(videos: Annotations, check: VideoCheck, config: VCEConfig) -> EvaluationDataset:
    """One clip of every readable video."""
    data = config.data
    transform = ValidationTransform(data.short_side_size, data.input_size)
    clips = ValidationClips(data.num_frames, data.sampling_rate, transform, VideoOpener(data.decoder, check.infos))
    return EvaluationDataset(readable(videos, check), make_clips=clips, seed=config.run.seed)


def probe_data(labels: Labels, check: VideoCheck, config: VCEConfig, task: EmotionTask) -> ProbeData:
    """The videos of --linear_probe: one clip of every readable training and validation video."""
    return ProbeData(
        one_clip_each(labels["train"], check, config),
        None if config.run.disable_eval_during_finetuning else one_clip_each(labels["validation"], check, config),
        {"training": labels["train"].ids, "validation": labels["validation"].ids},
        lambda _, targets: lambda logits: task.loss_of(logits, targets),
        remaining_unreadable(labels["train"], check, max_fraction=config.data.max_bad_videos),
    )


def log_plan(config: VCEConfig, loaders: Loaders, *, world: World, precision: str, num_parameters: int) -> None:
    """Logs the settings of the run, and a warning if they differ from the recipe."""
    log_machine(config, world=world, precision=precision, num_parameters=num_parameters)
    optim, total = config.optim, loaders.sampler.total_batch_size
    logger.info(
        "total batch size %d (batch_size %d x update_freq %d x %s), base lr %g, "
        "scaled lr %.3g (base x total batch size / 256)",
        total, optim.batch_size, optim.update_freq, counted(world.size, "process"), optim.lr,
        scale_to_batch(optim.lr, total),
    )  # fmt: skip
    logger.info(
        "%s, %s per epoch, %s", counted(len(loaders.ids), "training video"),
        counted(loaders.sampler.steps_per_epoch, "step"), counted(optim.epochs, "epoch"),
    )  # fmt: skip
    if config.loss in RECIPE_TOTAL_BATCH:
        recipe = {"total batch size": RECIPE_TOTAL_BATCH[config.loss], "base lr": RECIPE_LR}
        warn_of_differences(
            recipe, {"total batch size": total, "base lr": optim.lr}, f"the recipe of --loss {config.loss}"
        )


def test(
    model: nn.Module,
    labels: Labels,
    check: VideoCheck,
    config: VCEConfig,
    *,
    exclusion: Exclusion,
    task: EmotionTask,
    world: World,
    precision: str,
    log: MetricLogger,
) -> None:
    """Tests a model on all views of the test videos; the main process writes results.json and predictions.jsonl."""
    data, run = config.data, config.run
    videos = readable(labels["test"], check)
    loader = test_loader(videos, check, config, world)
    outcome = final_test(
        model, loader, device=world.device, autocast=partial(autocast, world.device, precision), logger=log
    )
    if not world.is_main:
        return
    measured = results.emotion_results(
        task, outcome.logits, outcome.targets, training=labels["train"].intensities, average=data.test_average
    )
    reasons = {**unreadable(labels["test"], check), **outcome.skipped}
    measured |= {"num_videos": len(labels["test"].ids), "num_unreadable": len(reasons), "unreadable": reasons}
    measured |= {"emotions": labels["test"].emotions, **exclusion.results()}
    ids = [videos.ids[position] for position in outcome.indices]
    lines = results.prediction_lines(
        task, outcome.logits, outcome.targets, ids=ids, emotions=labels["test"].emotions, average=data.test_average
    )
    lines.extend({"id": key, "unreadable": reason} for key, reason in reasons.items())
    write_results(run.output_dir, measured, lines)
    log.say(results.table(measured))


def run(config: VCEConfig, world: World, argv: Sequence[str]) -> None:
    """Trains and tests, or with --eval only tests; `argv` is the command line of `config`."""
    with raise_on_all_ranks():
        config = validate_config(add_checkpoint_flags(config, argv))
        precision = choose_precision(config.run.precision, world.device)
        exclusion = Exclusion(config.data.exclude)
        labels = read_labels(config.data, exclusion)
        exclusion.log_counts("videos")
        nb_classes = len(labels["train"].emotions)
        claim_output_dir(config, world=world, labels=fingerprint_of(labels))
        model = start_model(
            config,
            num_outputs=nb_classes,
            num_frames=config.data.num_frames,
            input_size=config.data.input_size,
        )
        task = EmotionTask(
            loss=config.loss,
            smoothing=config.smoothing,
            mixup=make_mixup(config.augment, nb_classes=nb_classes),
            classes_only=labels["train"].classes_only,
        )
        splits = ["test"] if config.run.eval else ["train", "validation", "test"]
        check = check_all((path for split in splits for path in labels[split].paths), config, world=world)
        trainer: Trainer | LinearProbe | None = None
        if config.optim.linear_probe:
            data = probe_data(labels, check, config, task)
            trainer = LinearProbe(model, task, data, config=config, world=world, precision=precision)
        elif not config.run.eval:
            loaders = make_loaders(labels, check, config, world=world)
            log_plan(config, loaders, world=world, precision=precision, num_parameters=count_parameters(model))
            trainer = Trainer(model, task, loaders, config=config, world=world, precision=precision)
            trainer.resume()

    def test_model(model: nn.Module, log: MetricLogger) -> None:
        test(model, labels, check, config, exclusion=exclusion, task=task, world=world, precision=precision, log=log)

    train_and_test(model, trainer, test_model, run=config.run, world=world)

"""A fine-tuning or test run on VCE: labels, loaders, training, results."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from VideoMAE.augment.video_transforms import ValidationTransform
from VideoMAE.config import AugmentConfig, DataConfig, VCEConfig
from VideoMAE.data.clips import EvaluationDataset, TestClips, TrainClips, TrainDataset, ValidationClips
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.splits import hold_out, long_enough, readable, remaining_unreadable
from VideoMAE.data.vce import Annotations, read_annotations, read_class_list, read_emotions
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.runtime.distributed import World, raise_on_all_ranks
from VideoMAE.training import results, setup
from VideoMAE.training.backends import choose_precision
from VideoMAE.training.finetune import Measured, add_checkpoint_flags, finetune
from VideoMAE.training.linear_probe import ProbeData
from VideoMAE.training.tasks import EmotionTask, Evaluation, Mix
from VideoMAE.training.trainer import Loaders
from VideoMAE.video.check import VideoCheck
from VideoMAE.video.reader import VideoOpener

Labels = dict[str, Annotations]


def read_labels(data: DataConfig, exclusion: Exclusion) -> Labels:
    """The training, validation and test videos with labels, without excluded videos, from the JSON files or from the
    CSV files of --label_path."""
    emotions = read_emotions(data.data_path)
    if data.nb_classes not in (None, len(emotions)):
        raise ValueError(f"--nb_classes {data.nb_classes}: the dataset {data.data_path} has {len(emotions)} emotions")
    if data.label_path is not None:
        read = partial(read_class_list, emotions=emotions, exclusion=exclusion)
        files = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
        return {split: read(data.label_path / name) for split, name in files.items()}
    all_train = read_annotations(data.data_path, "train", exclusion=exclusion)
    train, validation = hold_out(all_train, fraction=data.val_fraction)
    return {
        "train": all_train if data.train_on_all else train,
        "validation": validation,
        "test": read_annotations(data.data_path, "test", exclusion=exclusion),
    }


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
    data = config.data
    max_bad = remaining_unreadable(labels["train"], check, max_fraction=data.max_bad_videos)
    train = long_enough(labels["train"], check, clip_len=data.num_frames, clip_fps=data.train_fps)
    transform = setup.train_transform(config.augment, input_size=data.input_size)
    opener = VideoOpener(data.decoder, check.infos)
    clips = TrainClips(data.num_frames, data.sampling_rate, data.train_fps, data.num_sample, transform, opener)
    dataset = TrainDataset(train, make_clips=clips, seed=config.run.seed)
    loader, sampler = setup.training_loader(dataset, config, world)
    validation = None
    if not config.run.disable_eval_during_finetuning:
        videos = one_clip_each(labels["validation"], check, config)
        validation = setup.shared_loader(videos, config, world, batch_size=int(1.5 * config.optim.batch_size))
    return Loaders(loader, sampler, validation, train.ids, max_bad, setup.fingerprint(train.ids, train.intensities))


def one_clip_each(videos: Annotations, check: VideoCheck, config: VCEConfig) -> EvaluationDataset:
    """One clip of every readable video."""
    data = config.data
    transform = ValidationTransform(data.short_side_size, data.input_size)
    clips = ValidationClips(data.num_frames, data.sampling_rate, transform, VideoOpener(data.decoder, check.infos))
    return EvaluationDataset(readable(videos, check), make_clips=clips, seed=config.run.seed)


def test_loader(videos: Annotations, check: VideoCheck, config: VCEConfig, world: World) -> WatchedLoader:
    """All views of each video, one video per batch."""
    data = config.data
    views = (data.test_num_segment, data.test_num_crop, data.short_side_size, data.input_size)
    clips = TestClips(data.num_frames, data.sampling_rate, *views, VideoOpener(data.decoder, check.infos))
    return setup.shared_loader(EvaluationDataset(videos, make_clips=clips, seed=config.run.seed), config, world)


def run(config: VCEConfig, world: World, argv: Sequence[str]) -> None:
    """Trains and tests, or with --eval only tests; `argv` is the command line of `config`."""
    with raise_on_all_ranks():
        config = setup.validate_config(add_checkpoint_flags(config, argv))
        precision = choose_precision(config.run.precision, world.device)
        exclusion = Exclusion(config.data.exclude)
        labels = read_labels(config.data, exclusion)
        exclusion.log_counts("videos")
        train, validation, test = labels["train"], labels["validation"], labels["test"]
        content = setup.fingerprint(*(part for split in labels.values() for part in (split.ids, split.intensities)))
        setup.claim_output_dir(config, world=world, labels=content)
        model = setup.start_model(config, num_outputs=len(train.emotions))
        mixup = make_mixup(config.augment, nb_classes=len(train.emotions))
        task = EmotionTask(loss=config.loss, smoothing=config.smoothing, mixup=mixup, classes_only=train.classes_only)
        paths = test.paths if config.run.eval else [*train.paths, *validation.paths, *test.paths]
        check = setup.check_all(paths, config, world=world)

        def probe_data() -> ProbeData:
            return ProbeData(
                one_clip_each(train, check, config),
                None if config.run.disable_eval_during_finetuning else one_clip_each(validation, check, config),
                {"training": train.ids, "validation": validation.ids},
                lambda _, targets: lambda logits: task.loss_of(logits, targets),
                remaining_unreadable(train, check, max_fraction=config.data.max_bad_videos),
            )

    def measure(outcome: Evaluation, ids: Sequence[str], counts: dict[str, Any]) -> Measured:
        logits, targets, average = outcome.logits, outcome.targets, config.data.test_average
        measured = results.emotion_results(task, logits, targets, training=train.intensities, average=average)
        measured |= {**counts, "emotions": test.emotions, **exclusion.results()}
        tested = [ids[position] for position in outcome.indices]
        lines = results.prediction_lines(task, logits, targets, ids=tested, emotions=test.emotions, average=average)
        return measured, lines, results.table(measured)

    loaders = partial(make_loaders, labels, check, config, world=world)
    make_test_loader = partial(test_loader, check=check, config=config, world=world)
    settings: Any = {"config": config, "world": world, "precision": precision, "check": check}
    finetune(model, task, test, loaders, probe_data, make_test_loader, measure, **settings)

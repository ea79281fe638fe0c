"""Every flag of the training programs: name, type, default, meaning, range, and whether it is part of a run's identity.

A configuration is a tree of frozen dataclasses; cli.py turns it into a command line. A field without a text has that of
the base class. The properties of a flag are attached to its field: `Range` (the allowed values), `MAY_CHANGE` (a run
may resume with another value, which does not change its results) and `ProbeRequires` (the only value that
--linear_probe allows).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_type_hints

import tyro

from VideoMAE.files import to_jsonable

DecoderName = Literal["decord", "pyav"]
ModelName = Literal[
    "vit_micro_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "vit_huge_patch16_224",
]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Range(NamedTuple):
    """The values that a flag allows; None is always allowed."""

    low: float = 0
    high: float = float("inf")
    includes_low: bool = True

    def allows(self, value: float | None) -> bool:
        return value is None or (self.low <= value <= self.high and (self.includes_low or value > self.low))

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{'at least' if self.includes_low else 'above'} {self.low:g}"
        return f"in {'[' if self.includes_low else '('}{self.low:g}, {self.high:g}]"


class ProbeRequires(NamedTuple):
    """The only value of a flag that can be combined with --linear_probe, and why."""

    value: Any
    reason: str


MAY_CHANGE = object()
WHOLE_CLIPS_ONLY = ProbeRequires(0, "the head is trained on features of whole clips")
NOT_FOR_FROZEN = ProbeRequires(0, "the network is frozen")

Count = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
NonNegative = Annotated[float, Range(0)]
UnitInterval = Annotated[float, Range(0, 1)]
PositiveUnitInterval = Annotated[float, Range(0, 1, includes_low=False)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipDataConfig:
    """Videos and the frames sampled from them."""

    num_frames: Count = 16
    """Frames in a clip."""
    input_size: Count = 224
    """Side of the square input of the network, pixels."""
    val_fraction: float = 0.1
    """Fraction of the training labels held out for validation."""
    decoder: Annotated[DecoderName, MAY_CHANGE] = "decord"
    """Decoder of ordinary videos; PyAV reads the others. Both return the same frames."""
    decode_seconds: Annotated[float, Range(0, includes_low=False), MAY_CHANGE] = 120.0
    """Time limit for decoding one video; a video that takes longer counts as unreadable."""
    max_bad_videos: Annotated[UnitInterval, MAY_CHANGE] = 0.01
    """Largest fraction of the training videos that may be unreadable."""
    exclude: Annotated[Path | None, MAY_CHANGE] = None
    """File of video ids, one per line, to leave out of training and testing, with every comparison that contains one
    (data_prep/check_dataset.py --write_exclude)."""
    exclude_content: tyro.conf.Suppress[tyro.conf.Fixed[str | None]] = None
    """Not a flag: checksum of the ids in --exclude; part of the run's identity."""
    num_workers: Annotated[NonNegativeInt, MAY_CHANGE] = 10
    """Loader processes of each training process."""
    pin_mem: Annotated[bool, MAY_CHANGE] = True
    """Use pinned host memory for faster copies to a GPU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(ClipDataConfig):
    """Videos and the frames sampled from them."""

    data_path: Path
    """Folder of the dataset: train_labels.json, test_labels.json, videos/."""
    data_set: Literal["VCE"] = "VCE"
    """Type of dataset."""
    label_path: Path | None = None
    """Folder of train.csv, val.csv and test.csv (lines 'PATH CLASS') that replace the JSON labels."""
    nb_classes: Annotated[Annotated[int | None, Range(1)], MAY_CHANGE] = None
    """Outputs of the network. None: the number of emotions of the dataset, the only other value accepted."""
    sampling_rate: Count = 4
    """Distance between a clip's frames, in frames: in evaluation, and in training if --train_fps is None."""
    train_fps: Annotated[float | None, Range(0, includes_low=False)] = 4.0
    """Training clips are consecutive frames of the video resampled to this rate; shorter videos are left out. None:
    use --sampling_rate."""
    num_sample: Annotated[Count, ProbeRequires(1, "features are computed from the validation view of each video")] = 1
    """Augmented copies of each training clip in a batch (repeated augmentation); the video is decoded once."""
    short_side_size: Count = 224
    """Short side of evaluation frames before cropping, pixels."""
    test_num_segment: Count = 2
    """Test views along time."""
    test_num_crop: Count = 3
    """Test views along the long side."""
    test_average: Literal["logits", "softmax"] = "logits"
    """What is averaged over the views of a test video."""
    val_fraction: float = 0.1
    """Fraction of the training labels held out for validation: the last ones in the file (JSON labels)."""
    train_on_all: bool = False
    """Train on the validation videos too, as the original did; the best epoch is then selected on seen videos."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipAugmentConfig:
    """Augmentation of training clips."""

    aa: str = "rand-m7-n4-mstd0.5-inc1"
    """RandAugment policy in timm's notation, with the same parameters for all frames of a clip; 'none' disables it."""
    train_interpolation: Literal["random", "bilinear", "bicubic"] = "bicubic"
    """Interpolation of RandAugment's geometric operations."""
    min_crop_area: PositiveUnitInterval = 0.08
    """Smallest area of the random resized crop, as a fraction of the frame."""
    reprob: UnitInterval = 0.25
    """Probability of random erasing."""
    remode: Literal["pixel", "rand", "const"] = "pixel"
    """Fill of erased boxes: noise per pixel, one random color, or zeros."""
    recount: Count = 1
    """Number of erased boxes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig(ClipAugmentConfig):
    """Augmentation of training clips and of batches."""

    augment: Literal["exact", "fused"] = "fused"
    """fused: each frame is resampled once for all operations; exact: one operation after the other, as in the
    original, which is several times slower. Parameters are the same, pixels nearly (VideoMAE/augment/fused.py)."""
    mixup: Annotated[NonNegative, WHOLE_CLIPS_ONLY] = 0.0
    """Alpha of mixup; 0 disables it. The original constructed mixup and cutmix but applied them only in its 'classes'
    recipe."""
    cutmix: Annotated[NonNegative, WHOLE_CLIPS_ONLY] = 0.0
    """Alpha of cutmix; 0 disables it."""
    mixup_prob: UnitInterval = 1.0
    """Probability of mixing a batch, if mixup or cutmix is enabled."""
    mixup_switch_prob: UnitInterval = 0.5
    """Probability of cutmix, if both are enabled."""
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    """One mixing ratio per batch, per pair or per clip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network and its initial weights."""

    model: ModelName = "vit_base_patch16_224"
    """Size of the ViT."""
    finetune: Path | None = None
    """Checkpoint to start from: pre-trained or fine-tuned. With --eval: the checkpoint to test."""
    model_key: str = "model|module"
    """Keys of the checkpoint that may hold the weights; the first one present is used."""
    model_prefix: str = ""
    """Load only parameters whose names start with this prefix, and remove it from the names."""
    tubelet_size: Count = 2
    """Frames in a token."""
    fc_drop_rate: Annotated[UnitInterval, ProbeRequires(0, "--weight_decay regularizes the head")] = 0.0
    """Dropout before the head."""
    drop: Annotated[UnitInterval, NOT_FOR_FROZEN] = 0.0
    """Dropout in the blocks."""
    attn_drop_rate: Annotated[UnitInterval, NOT_FOR_FROZEN] = 0.0
    """Dropout of attention weights."""
    drop_path: UnitInterval = 0.1
    """Stochastic depth rate of the last block; increases linearly from 0 at the first block."""
    init_scale: float = 0.001
    """Factor on the head's initial weights."""
    use_mean_pooling: bool = True
    """Mean over all tokens; otherwise (also spelled --use_cls) the first token."""
    use_checkpoint: Annotated[bool, NOT_FOR_FROZEN] = False
    """Activation checkpointing: less memory, about a third more compute."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimization."""

    batch_size: Annotated[Count, MAY_CHANGE] = 8  # resuming compares the total batch size
    """Videos per process and step; total batch size = batch_size x update_freq x processes."""
    update_freq: Annotated[Count, MAY_CHANGE] = 1
    """Batches per optimizer step (gradient accumulation)."""
    linear_probe: bool = False
    """Train only the head, on features that the frozen network computes once for every video."""
    epochs: Count = 50
    """Passes over the training videos. With --linear_probe: largest number of epochs of 5 L-BFGS iterations."""
    opt: str = "adamw"
    """Optimizer, by its name in timm."""
    lr: NonNegative = 5e-4
    """Base learning rate; the learning rate is lr x total batch size / 256."""
    min_lr: NonNegative = 1e-6
    """Final base learning rate, scaled like --lr."""
    warmup_epochs: NonNegative = 5
    """Epochs of linear warm-up from 0."""
    warmup_steps: int = -1
    """Steps of linear warm-up; a value above 0 overrides --warmup_epochs."""
    opt_betas: tuple[float, float] = (0.9, 0.999)
    """Adam's betas."""
    opt_eps: NonNegative = 1e-8
    """Adam's epsilon."""
    momentum: UnitInterval = 0.9
    """SGD's momentum."""
    weight_decay: NonNegative = 0.05
    """Weight decay; none on biases and norms. With --linear_probe: L2 penalty, weight_decay / 2 x the squared weights,
    on features of unit variance."""
    weight_decay_end: Annotated[float | None, Range(0), ProbeRequires(None, "the head has a single objective")] = None
    """Final weight decay of a cosine schedule. None: constant."""
    layer_decay: PositiveUnitInterval = 0.75
    """Ratio of the learning rates of consecutive blocks."""
    clip_grad: Annotated[
        float | None, Range(0, includes_low=False), ProbeRequires(None, "L-BFGS chooses its own step sizes")
    ] = None
    """Largest gradient norm. None: no clipping."""
    model_ema: Annotated[bool, ProbeRequires(False, "the head is solved to its optimum")] = False
    """Keep an exponential moving average of the weights, which is validated and tested."""
    model_ema_decay: UnitInterval = 0.9999
    """Decay of the moving average per step."""
    model_ema_force_cpu: bool = False
    """Keep the moving average in host memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Output, hardware and checkpoints."""

    output_dir: Annotated[Path, MAY_CHANGE]
    """Folder for checkpoints, results and logs."""
    log_dir: Annotated[Path | None, MAY_CHANGE] = None
    """Folder for tensorboard events. None: tensorboard/ in the output folder."""
    eval: Annotated[bool, ProbeRequires(False, "--eval does not train")] = False
    """Only test the checkpoint of --finetune."""
    disable_eval_during_finetuning: bool = False
    """Skip validation; the weights of the last epoch are tested."""
    dist_eval: Annotated[bool, MAY_CHANGE] = True
    """Distribute validation and testing over the processes; otherwise the first process does all of it."""
    enable_deepspeed: bool = False
    """Train with DeepSpeed; otherwise with DistributedDataParallel."""
    zero_stage: Literal[0, 1, 2] = 0
    """DeepSpeed's ZeRO stage."""
    precision: Precision = "auto"
    """Precision of the network. auto: bf16 on a GPU that supports it, else fp16 on a GPU, fp32 on a CPU."""
    device: Annotated[Literal["auto", "cuda", "cpu"], MAY_CHANGE] = "auto"
    """auto: a GPU if there is one."""
    seed: NonNegativeInt = 0
    """Seed of the weights, the splits, the sampling and the augmentation."""
    resume: Annotated[
        Path | None, MAY_CHANGE, ProbeRequires(None, "features in the output folder are reused automatically")
    ] = None
    """Checkpoint of this run to resume from."""
    auto_resume: Annotated[bool, MAY_CHANGE] = True
    """Resume from the newest intact checkpoint in the output folder, if there is one."""
    save_ckpt: Annotated[bool, MAY_CHANGE] = True
    """Write checkpoints."""
    save_ckpt_freq: Annotated[Count, MAY_CHANGE] = 10
    """Keep the checkpoint of every n-th epoch, in addition to the best and the last."""
    save_ckpt_steps: Annotated[NonNegativeInt, MAY_CHANGE, ProbeRequires(0, "the head is trained in one piece")] = 0
    """Also save after every n-th optimizer step; 0: do not."""
    save_ckpt_minutes: Annotated[NonNegative, MAY_CHANGE] = 30.0
    """Also save when this many minutes have passed since the last checkpoint; 0: save only between epochs."""
    start_epoch: Annotated[NonNegativeInt, ProbeRequires(0, "the head is trained from the start")] = 0
    """First epoch of a new run, counted from 0, to continue training with weights from another program."""


REFUSED_FLAGS = {
    "--warmup_lr": "warm-up starts at 0; the original ignored this flag",
    "--num_segments": "a training clip is one window; the original ignored this flag",
    "--world_size": "the launcher sets the number of processes",
    "--dist_url": "the launcher sets the rendezvous address",
    "--dist_on_itp": "only the variables of torchrun and Slurm are read",
    "--color_jitter": "RandAugment (--aa) replaces it; the original never applied it together with --aa",
    "--crop_pct": "evaluation resizes to --short_side_size and crops --input_size",
    "--deepspeed_config": "the DeepSpeed configuration is derived from the other flags",
    "--num_gpus": "the launcher sets the number of processes, one per GPU",
    "--wandb": "metrics are written to log.txt, steps.jsonl and tensorboard",
}
"""Flags of the original that have no effect here, and why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings shared by both fine-tuning programs."""

    refused_flags: ClassVar[Mapping[str, str]] = REFUSED_FLAGS
    data: ClipDataConfig
    augment: ClipAugmentConfig
    model: ModelConfig
    optim: OptimConfig
    run: RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class VCEConfig(FinetuneConfig):
    """Fine-tune a VideoMAE ViT on VCE: the intensities of the emotions that a video evokes."""

    data: DataConfig
    augment: AugmentConfig
    loss: Annotated[Literal["bce", "ce", "soft_ce", "mse"], tyro.conf.arg(prefix_name=False)] = "bce"
    """bce: intensities; ce: the most intense emotion; soft_ce: intensities as a distribution; mse: squared error."""
    smoothing: Annotated[UnitInterval, tyro.conf.arg(prefix_name=False)] = 0.1
    """Label smoothing of --loss ce."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class V2VDataConfig(ClipDataConfig):
    """Videos and the frames sampled from them."""

    data_dir: Annotated[Path, tyro.conf.arg(aliases=["--data_path"])]
    """Folder of the dataset: train_labels.json, test_labels.json, listwise_labels.json, videos/."""
    train_labels: Path | None = None
    """File of training comparisons that replaces train_labels.json; with --loss listwise it may contain lists."""
    crop: Literal["squash", "center"] = "squash"
    """squash: the whole frame, resized to a square; center: the central square of the frame."""
    val_fraction: float = 0.1
    """Largest fraction of the training comparisons held out to select the best epoch; whole connected components, so
    that no video is in both parts."""
    num_workers: Annotated[NonNegativeInt, MAY_CHANGE] = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class V2VAugmentConfig(ClipAugmentConfig):
    """Augmentation of training clips."""

    augment: Literal["none", "exact", "fused"] = "none"
    """none: no augmentation, as in the recipe; exact or fused: VCE's training augmentation (RandAugment, random resized
    crop, flip, erasing), one operation after the other or several times faster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class V2VModelConfig(ModelConfig):
    """The network and its initial weights."""

    finetune: Annotated[Path | None, tyro.conf.arg(aliases=["--checkpoint"])] = None
    """Checkpoint to start from: pre-trained, or of a VCE or V2V run; an emotion head is dropped. With --mode eval: the
    checkpoint to test."""
    init_scale: tyro.conf.Suppress[tyro.conf.Fixed[float]] = 1.0
    """Not a flag of V2V; see V2VConfig.refused_flags."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class V2VOptimConfig(OptimConfig):
    """Optimization."""

    batch_size: Annotated[Count, MAY_CHANGE] = 4
    """Comparisons per process and step; total batch size = batch_size x update_freq x processes."""
    epochs: Annotated[Count, tyro.conf.arg(aliases=["--num_epochs"])] = 10
    """Passes over the training comparisons. With --linear_probe: largest number of epochs of 5 L-BFGS iterations."""
    opt: str = "sgd"
    """Optimizer, by its name in timm; sgd uses Nesterov momentum."""
    lr: NonNegative = 0.01
    """Learning rate, independent of the total batch size."""
    min_lr: NonNegative = 0.0
    """Final learning rate."""
    warmup_epochs: NonNegative = 0
    weight_decay: NonNegative = 0.0
    """Weight decay; none on biases and norms."""
    layer_decay: PositiveUnitInterval = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class V2VRunConfig(RunConfig):
    """Output, hardware and checkpoints."""

    output_dir: Annotated[Path, tyro.conf.arg(aliases=["--results_path"]), MAY_CHANGE]
    precision: Precision = "fp32"
    eval: Annotated[bool, ProbeRequires(False, "--eval does not train")] = False
    """Only test the checkpoint of --finetune; also spelled --mode eval."""
    results_prefix: Annotated[str, MAY_CHANGE] = ""
    """Prefix of the file names results.json and scores.jsonl, followed by an underscore."""
    disable_tqdm: Annotated[Literal[0, 1], MAY_CHANGE] = 0
    """1: no progress bars."""
    select_on: Literal["held_out", "test"] = "held_out"
    """Pairs that select the best epoch. held_out: held-out training pairs; test: the test pairs, as in the original;
    all training pairs are then used for training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class V2VConfig(FinetuneConfig):
    """Fine-tune a VideoMAE ViT on V2V: which of two videos is more pleasant, or the order of several."""

    refused_flags: ClassVar[Mapping[str, str]] = {
        **REFUSED_FLAGS,
        "--init_scale": "the V2V head keeps the initial weights of torch.nn.Linear; the original ignored this flag",
    }
    data: V2VDataConfig
    augment: V2VAugmentConfig
    model: V2VModelConfig
    optim: V2VOptimConfig
    run: V2VRunConfig
    loss: Annotated[Literal["logistic", "hinge", "listwise"], tyro.conf.arg(prefix_name=False)] = "logistic"
    """logistic: Bradley-Terry on pairs; hinge: margin loss on pairs; listwise: Plackett-Luce on whole lists."""
    margin: Annotated[NonNegative, tyro.conf.arg(prefix_name=False)] = 1.0
    """Score difference above which --loss hinge is zero."""


def metadata_of(config_type: type) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The name of every flag of a configuration class, and the metadata of its field."""
    for name, hint in get_type_hints(config_type, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            yield from metadata_of(hint)  # type: ignore[arg-type]
        else:
            yield name, getattr(hint, "__metadata__", ())


def to_json(config: Any) -> dict[str, Any]:
    """The settings as nested JSON values, paths as strings."""
    return to_jsonable(dataclasses.asdict(config))


def flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested settings: flag name -> value."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        values.update(flat(value) if isinstance(value, Mapping) else {key: value})
    return values


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The flags that make two configurations different runs, each as '--flag: OLD there, NEW here'."""
    old, new = flat(saved), flat(current)
    flags = [*metadata_of(VCEConfig), *metadata_of(V2VConfig)]
    may_change = {name for name, metadata in flags if MAY_CHANGE in metadata}
    return [
        f"{'the checksum of the labels' if key == 'labels' else f'--{key}'}: {old.get(key)} there, {new.get(key)} here"
        for key in sorted(old.keys() | new.keys())
        if key not in may_change and old.get(key) != new.get(key)
    ]


def with_absolute_paths(config: Any) -> Any:
    """The same settings with absolute paths, so that a path has the same meaning in every working directory."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = with_absolute_paths(value)
        elif isinstance(value, Path):
            changes[field.name] = value.resolve()
    return dataclasses.replace(config, **changes)


def check_config(config: FinetuneConfig) -> None:
    """Checks the values of all flags. Raises ValueError, which names the flag, its value and what is allowed."""
    values = flat(dataclasses.asdict(config))
    for name, metadata in metadata_of(type(config)):
        value = values.get(name)
        for rule in metadata:
            if isinstance(rule, Range) and not rule.allows(value):
                raise ValueError(f"--{name} {value}: must be {rule}")
            if isinstance(rule, ProbeRequires) and config.optim.linear_probe and value != rule.value:
                raise ValueError(f"--linear_probe cannot be combined with --{name} {value}: {rule.reason}")
    if values.get("short_side_size", config.data.input_size) < config.data.input_size:
        raise ValueError(
            f"--short_side_size {values['short_side_size']} is smaller than --input_size {config.data.input_size}: "
            "a crop of that size does not fit"
        )
    if config.run.start_epoch >= config.optim.epochs:
        raise ValueError(f"--start_epoch {config.run.start_epoch} is not below --epochs {config.optim.epochs}")
    clips = config.optim.batch_size * values.get("num_sample", 1)
    if (values.get("mixup") or values.get("cutmix")) and values["mixup_mode"] != "batch" and clips % 2:
        raise ValueError(
            f"--mixup_mode {values['mixup_mode']} needs an even number of clips per batch, "
            f"but --batch_size x --num_sample is {clips}"
        )
    if values.get("label_path") and values.get("train_on_all"):
        raise ValueError("--train_on_all cannot be combined with --label_path: val.csv defines the validation videos")

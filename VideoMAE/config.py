"""Every flag, once: its name, type, default and meaning. Frozen dataclasses, turned into a command line by tyro."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

ModelName = Literal[
    "vit_micro_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "vit_huge_patch16_224",
]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which videos, which frames of them."""

    data_path: Path
    """Folder of the dataset: train_labels.json, test_labels.json, videos/."""
    data_set: Literal["VCE"] = "VCE"
    """Kind of dataset."""
    label_path: Path | None = None
    """Folder of train.csv, val.csv, test.csv (lines 'PATH CLASS') that replace the JSON labels."""
    nb_classes: int | None = None
    """Outputs of the model; None: as many as the dataset has emotions. Another number is refused."""
    num_frames: int = 16
    """Frames in a clip."""
    sampling_rate: int = 4
    """Frames from one frame of a clip to the next: in evaluation, and in training when --train_fps is None."""
    train_fps: float | None = 4.0
    """Training clips are consecutive frames of the video resampled to this rate; shorter videos are left out. None:
    --sampling_rate."""
    num_sample: int = 1
    """Augmented copies of each training clip in a batch (repeated augmentation); the video is decoded once."""
    input_size: int = 224
    """Side of the square the model sees, pixels."""
    short_side_size: int = 224
    """Short side that evaluation frames are resized to before cropping, pixels."""
    test_num_segment: int = 2
    """Test views along time."""
    test_num_crop: int = 3
    """Test views along the long side."""
    test_average: Literal["logits", "softmax"] = "logits"
    """What is averaged over a test video's views."""
    val_fraction: float = 0.1
    """Last part of the training labels that is held out for validation (JSON labels)."""
    train_on_all: bool = False
    """Train on the validation part too, as the original did; the best epoch is then chosen on seen videos."""
    decoder: Literal["decord", "pyav"] = "decord"
    """Decoder of ordinary videos; PyAV decodes the others. The frames are the same."""
    decode_seconds: float = 120.0
    """A worker that is at one video for longer is ended, and the video counts as unreadable."""
    max_bad_videos: float = 0.01
    """Largest share of unreadable training videos that may be skipped."""
    exclude: Path | None = None
    """File of video ids, one a line, that neither train nor test (data_prep/check_dataset.py --write_exclude)."""
    exclude_content: tyro.conf.Suppress[tyro.conf.Fixed[str | None]] = None
    """Not a flag: what the run found in that file, so that config.json tells two lists apart."""
    num_workers: int = 10
    """Loader processes of each training process."""
    pin_mem: bool = True
    """Pinned host memory for faster copies to a GPU."""


@dataclasses.dataclass(frozen=True)
class ClipAugmentConfig:
    """What training does to the pixels of a clip."""

    aa: str = "rand-m7-n4-mstd0.5-inc1"
    """RandAugment over the whole clip, in timm's notation; 'none' switches it off."""
    train_interpolation: Literal["random", "bilinear", "bicubic"] = "bicubic"
    """Resampling of RandAugment's geometric operations."""
    min_crop_area: float = 0.08
    """Smallest area of the random resized crop, as a share of the frame."""
    reprob: float = 0.25
    """Probability of random erasing."""
    remode: Literal["pixel", "rand", "const"] = "pixel"
    """What erasing fills with: noise per pixel, one random colour, or zeros."""
    recount: int = 1
    """Boxes that erasing fills."""
    device_augment: bool = False
    """Fused augmentation on the training device: workers ship the frames' bytes and what was drawn. For a GPU whose
    processors cannot keep up."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig(ClipAugmentConfig):
    """What training does to the pixels, of one clip and across a batch."""

    augment: Literal["exact", "fused"] = "fused"
    """fused: each frame is resampled once for all operations of a draw; exact: operation by operation, as the original,
    several times slower. Same draws, nearly the same pixels: VideoMAE/augment/fused_augment.py says what differs."""
    mixup: float = 0.0
    """Alpha of mixup; 0 switches it off. The original built mixup and cutmix and applied them only in its 'classes'
    recipe."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0 switches it off."""
    mixup_prob: float = 1.0
    """Probability that a batch is mixed, where mixup or cutmix is on."""
    mixup_switch_prob: float = 0.5
    """Probability of cutmix where both are on."""
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    """One mixing ratio per batch, per pair or per clip."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network and where its weights come from."""

    model: ModelName = "vit_base_patch16_224"
    """Size of the ViT."""
    finetune: Path | None = None
    """Checkpoint to start from: pre-trained or fine-tuned. With --eval: the checkpoint to test."""
    model_key: str = "model|module"
    """Keys of the checkpoint that may hold the weights; the first that is there wins."""
    model_prefix: str = ""
    """Keep only the checkpoint's names that begin so, without it."""
    tubelet_size: int = 2
    """Frames in a token."""
    fc_drop_rate: float = 0.0
    """Dropout before the head."""
    drop: float = 0.0
    """Dropout in the blocks."""
    attn_drop_rate: float = 0.0
    """Dropout of attention weights."""
    drop_path: float = 0.1
    """Stochastic depth of the last block; rises linearly from 0 at the first."""
    init_scale: float = 0.001
    """Factor on the head's random start weights."""
    use_mean_pooling: bool = True
    """Mean of all tokens; otherwise (also spelled --use_cls) the first token."""
    use_checkpoint: bool = False
    """Activation checkpointing: less memory, about a third more computing."""


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """How the weights learn."""

    batch_size: int = 8
    """Videos per process and step; total batch = batch_size x update_freq x processes."""
    update_freq: int = 1
    """Batches added up before an optimizer step."""
    linear_probe: bool = False
    """Train the head alone, on features that the frozen network gives of every video once; see linear_probe.py."""
    epochs: int = 50
    """Passes over the training videos. With --linear_probe at most 5 times as many steps of L-BFGS."""
    opt: str = "adamw"
    """Optimizer, a name that timm knows."""
    lr: float = 5e-4
    """Base learning rate; the actual one is lr x total batch / 256."""
    min_lr: float = 1e-6
    """Base learning rate at the end, scaled likewise."""
    warmup_epochs: float = 5
    """Epochs of linear warm-up from 0."""
    warmup_steps: int = -1
    """Steps of linear warm-up; above 0 wins over --warmup_epochs."""
    opt_betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    opt_eps: float = 1e-8
    """Adam's epsilon."""
    momentum: float = 0.9
    """SGD's momentum."""
    weight_decay: float = 0.05
    """Weight decay; none on biases and norms. With --linear_probe the loss has half of it times the weights'
    squares, on features of unit spread."""
    weight_decay_end: float | None = None
    """Weight decay at the end, reached by a cosine. None: constant."""
    layer_decay: float = 0.75
    """Learning rate of a block relative to that of the next."""
    clip_grad: float | None = None
    """Largest norm of the gradient. None: no clipping."""
    model_ema: bool = False
    """Keep an exponential moving average of the weights; validation and testing use it."""
    model_ema_decay: float = 0.9999
    """Decay of that average per step."""
    model_ema_force_cpu: bool = False
    """Keep the average in host memory."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where, on what and how to run."""

    output_dir: Path
    """Folder for checkpoints, results and logs."""
    log_dir: Path | None = None
    """Folder for tensorboard events. None: in the output folder."""
    eval: bool = False
    """Only test the checkpoint named by --finetune."""
    disable_eval_during_finetuning: bool = False
    """No validation between epochs; the last epoch's weights are tested."""
    dist_eval: bool = True
    """Share validation and testing among the processes; otherwise the first does all."""
    enable_deepspeed: bool = False
    """Train through DeepSpeed; otherwise through DistributedDataParallel."""
    zero_stage: Literal[0, 1, 2] = 0
    """DeepSpeed's ZeRO stage."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; auto: bf16 on a GPU that has it, else fp16 on a GPU, fp32 on a CPU."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto: a GPU where there is one."""
    seed: int = 0
    """Of weights, splits, sampling and augmentation."""
    resume: Path | None = None
    """Checkpoint of this very run to go on from."""
    auto_resume: bool = True
    """Go on from the newest whole checkpoint in the output folder, if there is one."""
    save_ckpt: bool = True
    """Write checkpoints."""
    save_ckpt_freq: int = 10
    """Keep the checkpoint of every n-th epoch besides the best and the last."""
    save_ckpt_steps: int = 0
    """Save the run's state after every n-th optimizer step too; 0: not."""
    save_ckpt_minutes: float = 30.0
    """Save the run's state when so many minutes have passed since it was last saved; 0: only between epochs."""
    start_epoch: int = 0
    """First epoch when not resuming, for going on with weights from elsewhere."""


@dataclasses.dataclass(frozen=True)
class VCEConfig:
    """Fine-tune a VideoMAE ViT on VCE: the intensities of 27 emotions that a video evokes."""

    data: DataConfig
    augment: AugmentConfig
    model: ModelConfig
    optim: OptimConfig
    run: RunConfig
    loss: Annotated[Literal["bce", "ce", "soft_ce", "mse"], tyro.conf.arg(prefix_name=False)] = "bce"
    """bce: intensities; ce: the most intense emotion; soft_ce: intensities as a distribution; mse: squared error."""
    smoothing: Annotated[float, tyro.conf.arg(prefix_name=False)] = 0.1
    """Label smoothing of --loss ce."""


def also(*names: str) -> Any:
    """Further spellings of a flag."""
    return tyro.conf.arg(aliases=names)


@dataclasses.dataclass(frozen=True)
class V2VDataConfig:
    """Which videos, which frames of them."""

    data_dir: Annotated[Path, also("--data_path")]
    """Folder of the dataset: train_labels.json, test_labels.json, listwise_labels.json, videos/."""
    train_labels: Path | None = None
    """File of comparisons to train on in place of train_labels.json; with --loss listwise it may hold lists."""
    num_frames: int = 16
    """Frames in a clip, evenly over the whole video."""
    input_size: int = 224
    """Side of the square the model sees, pixels."""
    crop: Literal["squash", "center"] = "squash"
    """squash: the whole frame, whatever its shape; center: the central square of the frame, undistorted."""
    val_fraction: float = 0.1
    """Share of the training comparisons that is held out for choosing the best epoch, at most; whole connected
    components, so that no video is on both sides."""
    decoder: Literal["decord", "pyav"] = "decord"
    """Decoder of ordinary videos; PyAV decodes the others. The frames are the same."""
    decode_seconds: float = 120.0
    """A worker that is at one video for longer is ended, and the video counts as unreadable."""
    max_bad_videos: float = 0.01
    """Largest share of unreadable training videos whose comparisons may be left out."""
    exclude: Path | None = None
    """File of video ids, one a line; every comparison with one of them goes, in training and testing
    (data_prep/check_dataset.py --write_exclude)."""
    exclude_content: tyro.conf.Suppress[tyro.conf.Fixed[str | None]] = None
    """Not a flag: what the run found in that file, so that config.json tells two lists apart."""
    num_workers: int = 2
    """Loader processes of each training process."""
    pin_mem: bool = True
    """Pinned host memory for faster copies to a GPU."""


@dataclasses.dataclass(frozen=True)
class V2VAugmentConfig(ClipAugmentConfig):
    """What training does to the pixels of a clip."""

    augment: Literal["none", "exact", "fused"] = "none"
    """none, as the recipe; the others augment training clips as VCE's training does, by RandAugment, random resized
    crop, flip and erasing (see --aa and its neighbours): exact operation by operation, fused several times faster."""


@dataclasses.dataclass(frozen=True)
class V2VModelConfig(ModelConfig):
    """The network and where its weights come from."""

    finetune: Annotated[Path | None, also("--checkpoint")] = None
    """Checkpoint to start from, pre-trained or of a VCE or V2V run; a head of emotions is dropped. With --mode eval
    the checkpoint to test."""
    init_scale: tyro.conf.Suppress[tyro.conf.Fixed[float]] = 1.0
    """Not a flag of V2V; see V2VConfig.refused_flags."""


@dataclasses.dataclass(frozen=True)
class V2VOptimConfig(OptimConfig):
    """How the weights learn."""

    batch_size: int = 4
    """Comparisons per process and step; total batch = batch_size x update_freq x processes."""
    epochs: Annotated[int, also("--num_epochs")] = 10
    """Passes over the training comparisons."""
    opt: str = "sgd"
    """Optimizer, a name that timm knows; sgd is with Nesterov momentum."""
    lr: float = 0.01
    """Learning rate, whatever the total batch."""
    min_lr: float = 0.0
    """Learning rate at the end."""
    warmup_epochs: float = 0
    """Epochs of linear warm-up from 0."""
    weight_decay: float = 0.0
    """Weight decay; none on biases and norms."""
    layer_decay: float = 1.0
    """Learning rate of a block relative to that of the next."""


@dataclasses.dataclass(frozen=True)
class V2VRunConfig(RunConfig):
    """Where, on what and how to run."""

    output_dir: Annotated[Path, also("--results_path")]
    """Folder for checkpoints, results and logs."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network; auto: bf16 on a GPU that has it, else fp16 on a GPU, fp32 on a CPU."""
    eval: bool = False
    """Only test the checkpoint named by --finetune; also spelled --mode eval."""
    results_prefix: str = ""
    """Begins the names of results.json and scores.jsonl, before an underscore."""
    disable_tqdm: Literal[0, 1] = 0
    """1: no progress bars."""
    select_on: Literal["held_out", "test"] = "held_out"
    """Which pairs choose the best epoch: held-out training pairs, or, as the original did, the test pairs, with all
    training pairs trained on."""


@dataclasses.dataclass(frozen=True)
class V2VConfig:
    """Fine-tune a VideoMAE ViT on V2V: which of two videos, or in which order several, feel better."""

    refused_flags: ClassVar[Mapping[str, str]] = {
        "--init_scale": "V2V's head keeps torch.nn.Linear's start weights; the original ignored this flag for V2V"
    }
    data: V2VDataConfig
    augment: V2VAugmentConfig
    model: V2VModelConfig
    optim: V2VOptimConfig
    run: V2VRunConfig
    loss: Annotated[Literal["logistic", "hinge", "listwise"], tyro.conf.arg(prefix_name=False)] = "logistic"
    """logistic: Bradley-Terry on pairs; hinge: pairs apart by --margin; listwise: Plackett-Luce on whole lists."""
    margin: Annotated[float, tyro.conf.arg(prefix_name=False)] = 1.0
    """Difference of scores from which --loss hinge is zero."""

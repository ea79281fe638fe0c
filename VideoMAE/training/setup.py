"""Start and end of a training run: processes, output folder, initial weights, video check, loader settings."""

import dataclasses
import hashlib
import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from VideoMAE.augment.fused import FusedTransform
from VideoMAE.augment.video_transforms import TrainTransform
from VideoMAE.cli import show_messages
from VideoMAE.config import (
    AugmentConfig,
    FinetuneConfig,
    V2VAugmentConfig,
    check_config,
    differences,
    to_json,
    with_absolute_paths,
)
from VideoMAE.data.clips import ComparisonDataset, EvaluationDataset, TrainDataset
from VideoMAE.data.exclusion import Exclusion
from VideoMAE.data.loaders import ShareSampler, TrainSampler, make_loader
from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.files import clear_leftovers, is_temporary, read_json, remedy, write_json
from VideoMAE.modeling_finetune import MODELS, VisionTransformer
from VideoMAE.runtime import distributed
from VideoMAE.runtime.distributed import ErrorOnAllRanks, World
from VideoMAE.runtime.folder_lock import (
    LOCK_NAME,
    WAIT_AFTER_REQUEUE_SECONDS,
    WAIT_SECONDS,
    hold_folder,
    release_folders,
)
from VideoMAE.runtime.launch_environment import num_restarts
from VideoMAE.runtime.stop_request import REQUEUE_STATUS, InterruptedRunError, end_with_launcher, stop_request
from VideoMAE.training.pretrained import load_pretrained
from VideoMAE.video.check import VideoCheck, check_videos
from VideoMAE.video.reader import require_decoder

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", bound=FinetuneConfig)


def start_and_run(run: Callable[[Settings, World], None], config: Settings) -> None:
    """Joins the other processes and calls `run`; errors become one line and an exit status.

    The status is 0 for a completed run, REQUEUE_STATUS for a run that was asked to stop and can be resumed, and 1 for
    an error.
    """
    show_messages(sys.stderr)
    warnings.filterwarnings("ignore", "This DataLoader will create")  # --num_workers is the user's choice
    with stop_request.listening():
        end_with_launcher()
        try:
            world = distributed.start(config.run.device)
        except ValueError as error:
            sys.exit(f"error: {error}")
        except InterruptedRunError as error:
            logger.info("%s", error)
            sys.exit(REQUEUE_STATUS)
        outcome = _run_in(world, run, config)
    if world.size > 1:
        distributed.exit_process(outcome)
    if outcome is not None:
        sys.exit(outcome)


def _run_in(world: World, run: Callable[[Settings, World], None], config: Settings) -> int | str | None:
    """Calls `run` -> the argument of sys.exit: None, an exit status or an error message"""
    if not world.is_main:
        logging.getLogger().setLevel(logging.ERROR)
    try:
        if world.device.type == "cpu" and world.size > 1:
            share_processors()
        run(config, world)
        distributed.wait_for_all()  # a process that exits during a collective breaks the others
    except (InterruptedRunError, ErrorOnAllRanks) as error:  # on all processes
        is_stopped = isinstance(error, InterruptedRunError)
        if world.size == 1 and not is_stopped:
            return f"error: {error}"
        with stop_request.deferred():
            if world.is_main:
                sys.stderr.write(f"{'' if is_stopped else 'error: '}{error}\n")
            distributed.wait_for_report()
        return REQUEUE_STATUS if is_stopped else 1
    except (ValueError, OSError) as error:
        return f"error (process {world.rank}): {error}"
    except RuntimeError as error:
        if not distributed.is_lost_peer(error):
            raise
        return REQUEUE_STATUS if stop_request else f"error (process {world.rank}): another process of this run ended"
    finally:
        with stop_request.deferred():
            release_folders()
            distributed.stop()
    return None


def share_processors() -> None:
    """Sets torch's number of threads to this process's share of the processors, unless OMP_NUM_THREADS is set."""
    machine, processors = socket.gethostname(), os.sched_getaffinity(0)
    everyone = distributed.gather((machine, processors))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_threads(machine, processors, everyone))


def num_threads(machine: str, processors: set[int], everyone: Sequence[tuple[str, set[int]]]) -> int:
    """A process's share of the processors it may use: Slurm's tasks have separate processors, torchrun's processes
    share those of the machine. `everyone` lists the machine and processors of each process, including this one."""
    sharing = [theirs for host, theirs in everyone if host == machine and theirs & processors]
    return max(len(processors) // len(sharing), 1)


def validate_config(config: Settings) -> Settings:
    """Checks the settings -> the same with absolute paths and the checksum of the --exclude file."""
    check_config(config)
    require_decoder(config.data.decoder)
    config = with_absolute_paths(config)
    found = Exclusion(config.data.exclude).fingerprint()
    return dataclasses.replace(config, data=dataclasses.replace(config.data, exclude_content=found))


def fingerprint(*parts: Sequence[str] | np.ndarray) -> str:
    """A checksum of names and numbers."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else json.dumps(list(part)).encode())
    return digest.hexdigest()


def claim_output_dir(config: FinetuneConfig, *, world: World, labels: str) -> None:
    """Locks the output folder and writes config.json to it, or checks that it contains this run, which has `labels`.

    Raises:
        ValueError: the folder contains something else, a run with another configuration or other labels, or a run that
        must not be resumed, or it is locked by another process.
    """
    run, output_dir = config.run, config.run.output_dir
    if run.eval and config.model.finetune is None:
        raise ValueError("--eval needs --finetune FILE, the checkpoint to test")
    settings = {**to_json(config), "labels": labels}
    file, before_the_first_step = output_dir / "config.json", {"config.json", "video_check.json", LOCK_NAME}

    def claim() -> None:
        found = {path.name for path in output_dir.iterdir() if not is_temporary(path)} if output_dir.is_dir() else set()
        if not found <= before_the_first_step:
            if not file.is_file():
                raise ValueError(
                    f"{output_dir}: not empty and not the output folder of a run; choose another --output_dir"
                )
            with remedy("restore it or choose another --output_dir"):
                saved = read_json(file)
            if differs := differences(saved, settings):
                raise ValueError(
                    f"{output_dir}: contains a run with another configuration ({'; '.join(differs)}); "
                    "choose another --output_dir"
                )
            if not (run.eval or run.auto_resume or run.resume is not None):
                raise ValueError(
                    f"{output_dir}: already contains this run; pass --auto_resume or choose another --output_dir"
                )
        restarted = num_restarts(os.environ) > 0
        hold_folder(output_dir, wait_seconds=WAIT_AFTER_REQUEUE_SECONDS if restarted else WAIT_SECONDS)
        clear_leftovers(output_dir)
        write_json(file, settings)

    distributed.on_main(world, claim)


def start_model(config: FinetuneConfig, *, num_outputs: int, head_bias: bool = True) -> VisionTransformer:
    """The network with the weights of --finetune; missing weights are initialized from --seed. Raises ValueError if the
    checkpoint does not fit; with --eval it must be complete, including the head."""
    settings = config.model
    torch.manual_seed(config.run.seed)
    model = MODELS[settings.model](
        num_classes=num_outputs,
        all_frames=config.data.num_frames,
        img_size=config.data.input_size,
        tubelet_size=settings.tubelet_size,
        fc_drop_rate=settings.fc_drop_rate,
        drop_rate=settings.drop,
        attn_drop_rate=settings.attn_drop_rate,
        drop_path_rate=settings.drop_path,
        init_scale=settings.init_scale,
        use_mean_pooling=settings.use_mean_pooling,
        head_bias=head_bias,
        use_checkpoint=settings.use_checkpoint,
    )
    if settings.finetune is None:
        logger.warning("no --finetune checkpoint: the initial weights are random")
    else:
        key, prefix = settings.model_key, settings.model_prefix
        load_pretrained(model, settings.finetune, model_key=key, model_prefix=prefix, must_be_whole=config.run.eval)
    return model


def check_all(paths: Iterable[Path], config: FinetuneConfig, *, world: World) -> VideoCheck:
    """Opens every video once, in child processes of the main process, and logs the unreadable ones. Keys are paths."""
    videos = {str(path): path for path in paths}
    cache = config.run.output_dir / "video_check.json"
    frozen = not config.run.eval and any(config.run.output_dir.glob("checkpoint-*.pth"))
    check = distributed.on_main(
        world, lambda: check_videos(videos, num_processes=max(config.data.num_workers, 1), cache=cache, frozen=frozen)
    )
    for path, reason in check.unreadable.items():
        logger.warning("unreadable: %s: %s", path, reason)
    return check


def train_transform(augment: AugmentConfig | V2VAugmentConfig, *, input_size: int) -> TrainTransform:
    """The augmentation of training clips; --augment must be exact or fused."""
    kind = {"exact": TrainTransform, "fused": FusedTransform}[augment.augment]
    return kind(
        input_size,
        auto_augment=augment.aa,
        interpolation=augment.train_interpolation,
        scale=(augment.min_crop_area, 1.0),
        erase_probability=augment.reprob,
        erase_mode=augment.remode,
        erase_count=augment.recount,
    )


def loader_settings(config: FinetuneConfig, world: World) -> dict[str, Any]:
    """The arguments of make_loader that are the same for all loaders."""
    pin_memory = config.data.pin_mem and world.device.type == "cuda"
    seconds = config.data.decode_seconds
    return {"num_workers": config.data.num_workers, "decode_seconds": seconds, "pin_memory": pin_memory}


def training_loader(
    dataset: TrainDataset | ComparisonDataset, config: FinetuneConfig, world: World, **more: Any
) -> tuple[WatchedLoader, TrainSampler]:
    """This process's part of the training; `more` are arguments of make_loader."""
    sampler = TrainSampler(
        len(dataset),
        batch_size=config.optim.batch_size,
        update_freq=config.optim.update_freq,
        rank=world.rank,
        world_size=world.size,
        seed=config.run.seed,
        noun="comparisons" if isinstance(dataset, ComparisonDataset) else "videos",
    )
    return make_loader(dataset, sampler, **loader_settings(config, world), **more), sampler


def shared_loader(
    dataset: EvaluationDataset, config: FinetuneConfig, world: World, *, batch_size: int = 1, done: Container[int] = ()
) -> WatchedLoader:
    """This process's part of an evaluation, without the positions `done`; without --dist_eval the main process does
    everything."""
    num_shares = world.size if config.run.dist_eval else 1
    num_items = len(dataset) if world.rank < num_shares else 0
    sampler = ShareSampler(num_items, rank=world.rank, world_size=num_shares, done=done)
    return make_loader(dataset, sampler, batch_size=batch_size, **loader_settings(config, world))

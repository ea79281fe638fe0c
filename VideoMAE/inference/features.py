"""Extracts features from any layer of a network into a folder.

N tokens, D width.
"""

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from VideoMAE.cli import counted
from VideoMAE.data.video_lists import NamedVideo, list_videos
from VideoMAE.inference.config import FeaturesConfig, NetworkFlags
from VideoMAE.inference.load import load_for_inference
from VideoMAE.inference.predictor import Network, stream_outputs
from VideoMAE.runtime.folder_lock import release_folders
from VideoMAE.training import feature_store
from VideoMAE.training.feature_store import Store, fingerprint_of_weights
from VideoMAE.training.setup import fingerprint

logger = logging.getLogger(__name__)


def extract_to_folder(config: FeaturesConfig) -> bool:
    """Writes the missing features -> whether every video could be read

    Raises ValueError if there are no videos, the checkpoint or a flag cannot be used, or the folder has other features.
    """
    videos, num_ignored = list_videos(config.videos, config.list)
    others = counted(num_ignored, "other file")
    if not videos:
        raise ValueError(f"no video files in {', '.join(map(str, config.videos))} ({others})")
    if num_ignored:
        logger.info("%s; %s ignored", counted(len(videos), "video"), others)
    network, num_blocks = load_up_to_layer(config)
    loaded, model, recipe = network.loaded, network.model, network.loaded.recipe
    if loaded.task == "v2v":
        advice = "V2V samples one clip of frames evenly over the video; pass --sampling vce"
        for name in ("num_segments", "num_crops"):
            value = getattr(config.inference, name)
            if value not in (None, 1):
                raise ValueError(f"--{name} {value}: {advice}")
    axes = {}
    if config.views == "keep":
        axes["views"] = recipe.test_num_segment * recipe.test_num_crop if loaded.task == "vce" else 1
    if config.pool == "none":
        axes["tokens"] = model.patch_embed.num_patches
    axes["channels"] = model.embed_dim
    shape = tuple(axes.values())
    settings = _feature_settings(config, network, num_blocks, videos)
    feature_store.claim(config.output_dir, settings)
    try:
        grid, source = list(model.patch_embed.grid), str(loaded.source)
        feature_store.describe(config.output_dir, settings, axes=axes, token_grid=grid, checkpoint=source)
        store = feature_store.open_store(config.output_dir, videos, config.format, shape=shape, dtype=config.dtype)
        unreadable = _fill(store, videos, network, config)
        feature_store.write_unreadable(config.output_dir, unreadable)
        num_stored = counted(len(videos) - len(unreadable), "video")
        logger.info("%s: features of %s, shape %s", config.output_dir, num_stored, shape)
    finally:
        release_folders()
    if unreadable:
        logger.error("unreadable: %d of %s", len(unreadable), counted(len(videos), "video"))
    return not unreadable


def load_up_to_layer(config: FeaturesConfig) -> tuple[Network, int | None]:
    """A network that computes the features of --layer and --pool, and its number of blocks; None for --layer final."""
    loaded = load_for_inference(
        config.checkpoint,
        NetworkFlags(**dataclasses.asdict(config.network)),
        num_segments=config.inference.num_segments,
        num_crops=config.inference.num_crops,
        allow_pretrained=True,
    )
    model, depth = loaded.model, loaded.model.get_num_layers()
    num_blocks: int | None = None
    if config.layer != "final":
        try:
            num_blocks = int(config.layer)
        except ValueError:
            num_blocks = depth + 1
        if not -depth <= num_blocks <= depth:
            layers = f"final, or a number from 0 to {depth}, or from -{depth} to -1"
            raise ValueError(f"--layer {config.layer}: must be {layers}")
        num_blocks += depth + 1 if num_blocks < 0 else 0
    loaded = loaded._replace(task=config.sampling or loaded.task)
    network = Network(loaded, device=config.inference.device, precision=config.inference.precision)

    def features_of(clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D), or (B, N, D) with --pool none."""
        if num_blocks is None and config.pool == "mean":
            return model.forward_features(clips)
        tokens = model.tokens(clips, num_blocks=num_blocks)
        if num_blocks is None:
            tokens = model.norm(tokens)
        return tokens.mean(1) if config.pool == "mean" else tokens

    network.forward = features_of
    return network, num_blocks


def _feature_settings(
    config: FeaturesConfig, network: Network, num_blocks: int | None, videos: Sequence[NamedVideo]
) -> dict[str, Any]:
    """The settings that all features of a folder share, keyed by flag where there is one."""
    loaded, recipe = network.loaded, network.loaded.recipe
    settings: dict[str, Any] = {"checksum of the weights": fingerprint_of_weights(loaded.model)[:16]}
    settings["--layer"] = "final" if num_blocks is None else num_blocks
    settings |= {f"--{name}": getattr(config, name) for name in ("pool", "views", "format", "dtype")}
    settings |= {"--sampling": loaded.task, "--num_frames": recipe.num_frames, "--input_size": recipe.input_size}
    if loaded.task == "vce":
        settings |= {"--short_side_size": recipe.short_side_size, "--sampling_rate": recipe.sampling_rate}
        settings |= {"--num_segments": recipe.test_num_segment, "--num_crops": recipe.test_num_crop}
    else:
        settings["--crop"] = recipe.crop
    settings["--precision"] = network.precision
    if config.format == "matrix":
        names = fingerprint([video.id for video in videos])[:16]
        settings |= {"number of videos": len(videos), "checksum of their names": names}
    return settings


def _fill(
    store: Store, videos: Sequence[NamedVideo], network: Network, config: FeaturesConfig
) -> Mapping[NamedVideo, str]:
    """Computes the features that the store lacks -> the unreadable videos and the reasons"""
    stored = store.done()
    missing = [video for video in videos if video.id not in stored]
    num_stored = len(videos) - len(missing)
    if stored:
        logger.info("%s: %s already extracted", config.output_dir, counted(num_stored, "video"))
    unreadable: dict[NamedVideo, str] = {}
    stream = stream_outputs([video.path for video in missing], {network.loaded.task: network}, config.inference)
    timing = {"mininterval": 0.5} if sys.stderr.isatty() else {"mininterval": 30.0, "delay": 30.0}
    progress = tqdm(total=len(videos), initial=num_stored, unit="video", file=sys.stderr, leave=False, **timing)
    try:
        with progress:
            for video, extracted in zip(missing, stream, strict=True):
                progress.update()
                if extracted.error is not None:
                    unreadable[video] = extracted.error
                    progress.write(f"unreadable: {video.path}: {extracted.error}", file=sys.stderr)
                    continue
                features = extracted.outputs[network.loaded.task]
                features = features.mean(axis=0) if config.views == "mean" else features
                with np.errstate(over="ignore"):
                    cast = features.astype(config.dtype)
                if not np.isfinite(cast).all():
                    feature = f"{abs(features).max():g}"
                    raise ValueError(
                        f"{video.path}: the feature {feature} overflows --dtype {config.dtype}; use float32"
                    )
                store.add(video, cast)
    finally:
        store.close(unreadable)
    return unreadable

"""Extracts features from any layer of a network into a folder.

N tokens, D width.
"""

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor
from tqdm import tqdm

from VideoMAE.cli import counted
from VideoMAE.data.video_lists import NamedVideo, list_videos
from VideoMAE.inference.clips import ClipReader
from VideoMAE.inference.config import FeaturesConfig, NetworkFlags
from VideoMAE.inference.load import LoadedNetwork, load_for_inference
from VideoMAE.inference.predictor import Network, stream_outputs
from VideoMAE.runtime.folder_lock import release_folders
from VideoMAE.training import feature_store
from VideoMAE.training.feature_store import Store, fingerprint_of_weights
from VideoMAE.training.setup import fingerprint

logger = logging.getLogger(__name__)


class FeatureNetwork(Network):
    """A network up to a layer.

    Args:
        num_blocks: the number of blocks to apply; None: all of them and the final norm, which gives the head's input.
        pool: mean: one vector per clip; none: one per token.
    """

    def __init__(
        self,
        loaded: LoadedNetwork,
        *,
        num_blocks: int | None,
        pool: Literal["mean", "none"],
        device: str,
        precision: str,
    ) -> None:
        super().__init__(loaded, device=device, precision=precision)
        self.num_blocks, self.pool = num_blocks, pool

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D), or (B, N, D) with pool none."""
        if self.num_blocks is None and self.pool == "mean":
            return self.model.forward_features(clips)
        tokens = self.model.tokens(clips, num_blocks=self.num_blocks)
        if self.num_blocks is None:
            tokens = self.model.norm(tokens)
        return tokens.mean(1) if self.pool == "mean" else tokens


def num_blocks_of(layer: str, depth: int) -> int | None:
    """The number of blocks up to --layer in a network with `depth` blocks; None for "final".

    Raises:
        ValueError: there is no such layer.
    """
    if layer == "final":
        return None
    try:
        number = int(layer)
    except ValueError:
        number = depth + 1
    if not -depth <= number <= depth:
        raise ValueError(f"--layer {layer}: must be final, or a number from 0 to {depth}, or from -{depth} to -1")
    return number if number >= 0 else depth + 1 + number


def extract_to_folder(config: FeaturesConfig) -> bool:
    """Writes the missing features -> whether every video could be read

    Raises:
        ValueError: there are no videos, the checkpoint or a flag cannot be used, or the folder has other features.
    """
    videos, num_ignored = list_videos(config.videos, config.list)
    if not videos:
        raise ValueError(
            f"no video files in {', '.join(map(str, config.videos))} ({counted(num_ignored, 'other file')})"
        )
    if num_ignored:
        logger.info("%s; %s ignored", counted(len(videos), "video"), counted(num_ignored, "other file"))
    loaded = load_for_inference(
        config.checkpoint,
        NetworkFlags(**dataclasses.asdict(config.network)),
        num_segments=config.inference.num_segments,
        num_crops=config.inference.num_crops,
        allow_pretrained=True,
    )
    loaded = loaded._replace(task=config.sampling or loaded.task)
    network = FeatureNetwork(
        loaded,
        num_blocks=num_blocks_of(config.layer, loaded.model.get_num_layers()),
        pool=config.pool,
        device=config.inference.device,
        precision=config.inference.precision,
    )
    reader, num_views = _clip_reader(loaded, config)
    axes = {"views": num_views} if config.views == "keep" else {}
    if config.pool == "none":
        axes["tokens"] = loaded.model.patch_embed.num_patches
    axes["channels"] = loaded.model.embed_dim
    settings = _feature_settings(config, network, videos)
    feature_store.claim(config.output_dir, settings)
    try:
        feature_store.describe(
            config.output_dir,
            settings,
            axes=axes,
            token_grid=list(loaded.model.patch_embed.grid),
            checkpoint=str(loaded.source),
        )
        shape = tuple(axes.values())
        store = feature_store.open_store(config.output_dir, videos, config.format, shape=shape, dtype=config.dtype)
        unreadable = _fill(store, videos, network, reader, config)
        feature_store.write_unreadable(config.output_dir, unreadable)
        num_stored = counted(len(videos) - len(unreadable), "video")
        logger.info("%s: features of %s, shape %s", config.output_dir, num_stored, shape)
    finally:
        release_folders()
    if unreadable:
        logger.error("unreadable: %d of %s", len(unreadable), counted(len(videos), "video"))
    return not unreadable


def _clip_reader(loaded: LoadedNetwork, config: FeaturesConfig) -> tuple[ClipReader, int]:
    """The reader of a video's clips, and their number.

    Raises:
        ValueError: several clips per video are requested with V2V's sampling.
    """
    if loaded.task == "vce":
        num_views = loaded.recipe.test_num_segment * loaded.recipe.test_num_crop
        return ClipReader(loaded.emotion_clips(), None), num_views
    for name in ("num_segments", "num_crops"):
        value = getattr(config.inference, name)
        if value not in (None, 1):
            raise ValueError(
                f"--{name} {value}: V2V samples one clip of frames evenly over the video; pass --sampling vce"
            )
    return ClipReader(None, loaded.preference_clips()), 1


def _feature_settings(config: FeaturesConfig, network: FeatureNetwork, videos: Sequence[NamedVideo]) -> dict[str, Any]:
    """The settings that all features of a folder share, keyed by flag where there is one."""
    loaded, recipe = network.loaded, network.loaded.recipe
    settings: dict[str, Any] = {"checksum of the weights": fingerprint_of_weights(loaded.model)[:16]}
    settings["--layer"] = "final" if network.num_blocks is None else network.num_blocks
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
    store: Store,
    videos: Sequence[NamedVideo],
    network: FeatureNetwork,
    reader: ClipReader,
    config: FeaturesConfig,
) -> Mapping[NamedVideo, str]:
    """Computes the features that the store lacks -> the unreadable videos and the reasons"""
    stored = store.done()
    missing = [video for video in videos if video.id not in stored]
    num_stored = len(videos) - len(missing)
    if stored:
        logger.info("%s: %s already extracted", config.output_dir, counted(num_stored, "video"))
    unreadable: dict[NamedVideo, str] = {}
    stream = stream_outputs(
        [video.path for video in missing],
        reader,
        {network.loaded.task: network},
        batch_size=config.inference.batch_size,
        num_workers=config.inference.num_workers,
        decode_seconds=config.inference.decode_seconds,
    )
    try:
        with _progress(len(videos), num_stored) as progress:
            for video, extracted in zip(missing, stream, strict=True):
                progress.update()
                if extracted.error is not None:
                    unreadable[video] = extracted.error
                    progress.write(f"unreadable: {video.path}: {extracted.error}", file=sys.stderr)
                    continue
                features = extracted.outputs[network.loaded.task]
                features = features.mean(axis=0) if config.views == "mean" else features
                store.add(video, _cast(features, np.dtype(config.dtype), video.path))
    finally:
        store.close(unreadable)
    return unreadable


def _progress(num_videos: int, num_stored: int) -> Any:
    """A progress bar on standard error; updated every 30 s if that is not a terminal."""
    interval, delay = (0.5, 0.0) if sys.stderr.isatty() else (30.0, 30.0)
    return tqdm(
        total=num_videos,
        initial=num_stored,
        unit="video",
        file=sys.stderr,
        mininterval=interval,
        delay=delay,
        leave=False,
    )


def _cast(features: np.ndarray, dtype: np.dtype[Any], path: Path) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = features.astype(dtype)
    if not np.isfinite(cast).all():
        raise ValueError(f"{path}: the feature {abs(features).max():g} overflows --dtype {dtype}; use float32")
    return cast

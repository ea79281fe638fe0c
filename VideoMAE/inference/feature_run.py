"""From videos to a folder of their features, as the flags of extract_features.py say."""

import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from VideoMAE.data.named_videos import NamedVideo, named_videos
from VideoMAE.inference.clips import ReadClips
from VideoMAE.inference.config import FeaturesConfig, NetworkFlags
from VideoMAE.inference.features import FeatureNetwork, extract, num_blocks_of
from VideoMAE.inference.load import Trained, load_trained
from VideoMAE.inference.predictor import find_device, run_precision
from VideoMAE.runtime.folder_lock import release_folders
from VideoMAE.training import feature_store
from VideoMAE.training.feature_store import Store, fingerprint_of_weights
from VideoMAE.training.setup import fingerprint

logger = logging.getLogger(__name__)


def extract_to_folder(config: FeaturesConfig) -> bool:
    """Writes the features that are not there yet. -> whether every video could be read"""
    videos, num_ignored = named_videos(config.videos, config.list)
    if not videos:
        raise ValueError(f"no video files in {', '.join(map(str, config.videos))} ({num_ignored} other files)")
    if num_ignored:
        logger.info("%d videos; %d other files are ignored", len(videos), num_ignored)
    trained = load(config)
    device = find_device(config.device)
    network = FeatureNetwork(
        trained.model,
        num_blocks=num_blocks_of(config.layer, trained.model.get_num_layers()),
        pool=config.pool,
        device=device,
        precision=run_precision(trained, config.precision, device),
    )
    clips, num_views = clips_of(trained, config)
    settings = settings_of(config, trained, network, videos)
    feature_store.claim(config.output_dir, settings)
    try:
        reasons = _into_folder(config, trained, network, videos, clips, settings, num_views=num_views)
    finally:
        release_folders()
    if reasons:
        logger.error("%d of %d videos cannot be read", len(reasons), len(videos))
    return not reasons


def _into_folder(
    config: FeaturesConfig,
    trained: Trained,
    network: FeatureNetwork,
    videos: Sequence[NamedVideo],
    clips: ReadClips,
    settings: Mapping[str, Any],
    *,
    num_views: int,
) -> dict[NamedVideo, str]:
    """Fills the folder. -> why videos have no features"""
    axes = axes_of(network, num_views=num_views, views=config.views)
    grid = list(trained.model.patch_embed.grid)
    feature_store.describe(config.output_dir, settings, axes=axes, token_grid=grid, checkpoint=str(trained.source))
    shape = tuple(axes.values())
    store = feature_store.open_store(config.output_dir, videos, config.format, shape=shape, dtype=config.dtype)
    reasons = fill(store, videos, network, clips, config)
    feature_store.write_unreadable(config.output_dir, reasons)
    logger.info("%s: features of %d videos, %s each", config.output_dir, len(videos) - len(reasons), shape)
    return reasons


def load(config: FeaturesConfig) -> Trained:
    """The network, and how it is to see videos."""
    trained = load_trained(
        config.checkpoint,
        NetworkFlags(**dataclasses.asdict(config.network)),
        num_segments=config.num_segments,
        num_crops=config.num_crops,
        may_lack_head=True,
    )
    return trained._replace(task=config.sampling or trained.task)


def clips_of(trained: Trained, config: FeaturesConfig) -> tuple[ReadClips, int]:
    """How clips are taken, and how many of each video.

    Raises:
        ValueError: V2V's one clip is asked for in several.
    """
    if trained.task == "vce":
        recipe = trained.recipe
        return ReadClips(trained.emotion_clips(), None), recipe.test_num_segment * recipe.test_num_crop
    for name in ("num_segments", "num_crops"):
        value = getattr(config, name)
        if value not in (None, 1):
            raise ValueError(
                f"--{name} {value}: V2V's frames lie evenly over the video, in one clip; see --sampling vce"
            )
    return ReadClips(None, trained.preference_clips()), 1


def axes_of(network: FeatureNetwork, *, num_views: int, views: str) -> dict[str, int]:
    """The axes of one video's features, in order, and how long each is."""
    axes = {"views": num_views} if views == "keep" else {}
    if network.pool == "none":
        axes["tokens"] = network.model.patch_embed.num_patches
    return {**axes, "channels": network.model.embed_dim}


def settings_of(
    config: FeaturesConfig,
    trained: Trained,
    network: FeatureNetwork,
    videos: Sequence[NamedVideo],
) -> dict[str, Any]:
    """What features of one folder must have in common, by the names of flags where there are such."""
    recipe = trained.recipe
    blocks = "final" if network.num_blocks is None else network.num_blocks
    settings: dict[str, Any] = {"checksum of the weights": fingerprint_of_weights(trained.model)[:16]}
    settings["--layer"] = blocks
    settings |= {f"--{name}": getattr(config, name) for name in ("pool", "views", "format", "dtype")}
    settings |= {"--sampling": trained.task, "--num_frames": recipe.num_frames, "--input_size": recipe.input_size}
    if trained.task == "vce":
        settings |= {"--short_side_size": recipe.short_side_size, "--sampling_rate": recipe.sampling_rate}
        settings |= {"--num_segments": recipe.test_num_segment, "--num_crops": recipe.test_num_crop}
    else:
        settings["--crop"] = recipe.crop
    settings["--precision"] = network.precision
    if config.format == "matrix":
        names = fingerprint([video.id for video in videos])[:16]
        settings |= {"number of videos": len(videos), "checksum of their names": names}
    return settings


def fill(
    store: Store,
    videos: Sequence[NamedVideo],
    network: FeatureNetwork,
    clips: ReadClips,
    config: FeaturesConfig,
) -> dict[NamedVideo, str]:
    """Computes what is not in the store. -> why videos have no features"""
    done = store.done()
    rest = [video for video in videos if video.id not in done]
    if done:
        logger.info("%s: features of %d videos are there already", config.output_dir, len(videos) - len(rest))
    reasons: dict[NamedVideo, str] = {}
    stream = extract(
        [video.path for video in rest],
        network,
        clips,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        decode_seconds=config.decode_seconds,
    )
    try:
        with _progress(len(videos), len(videos) - len(rest)) as progress:
            for video, found in zip(rest, stream, strict=True):
                progress.update()
                if found.features is None:
                    reasons[video] = str(found.error)
                    progress.write(f"unreadable: {video.path}: {found.error}", file=sys.stderr)
                    continue
                features = found.features.mean(axis=0) if config.views == "mean" else found.features
                store.add(video, _cast(features, np.dtype(config.dtype), video.path))
    finally:
        store.close(reasons)
    return reasons


def _progress(num_videos: int, num_done: int) -> Any:
    """A bar on standard error; where that is no terminal a line every half minute."""
    every, delay = (0.5, 0.0) if sys.stderr.isatty() else (30.0, 30.0)
    return tqdm(
        total=num_videos, initial=num_done, unit="video", file=sys.stderr, mininterval=every, delay=delay, leave=False
    )


def _cast(features: Any, dtype: Any, path: Path) -> Any:
    with np.errstate(over="ignore"):
        cast = features.astype(dtype)
    if not np.isfinite(cast).all():
        raise ValueError(f"{path}: a feature of {abs(features).max():g} is too large for --dtype {dtype}; take float32")
    return cast

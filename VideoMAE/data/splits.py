"""Which videos train, which validate: held out, readable, long enough."""

import logging
import math

from VideoMAE.data.clip_sampling import num_fps_windows
from VideoMAE.data.vce import Annotations
from VideoMAE.video.check import VideoCheck

logger = logging.getLogger(__name__)


def hold_out(annotations: Annotations, *, fraction: float) -> tuple[Annotations, Annotations]:
    """The first part for training, the last `fraction`, rounded up, for validation.

    Raises:
        ValueError: one of them would be empty.
    """
    num_videos = len(annotations.ids)
    num_held_out = math.ceil(round(num_videos * fraction, 6))
    if not 0 < num_held_out < num_videos:
        raise ValueError(f"--val_fraction {fraction} of {num_videos} videos leaves training or validation empty")
    first = num_videos - num_held_out
    return annotations.select(range(first)), annotations.select(range(first, num_videos))


def unreadable(annotations: Annotations, check: VideoCheck) -> dict[str, str]:
    """The videos that failed the check, by id, with reasons. `check` is keyed by path."""
    return {
        key: check.unreadable[str(path)]
        for key, path in zip(annotations.ids, annotations.paths, strict=True)
        if str(path) in check.unreadable
    }


def readable(annotations: Annotations, check: VideoCheck) -> Annotations:
    """The videos that passed the check."""
    return annotations.select([i for i, path in enumerate(annotations.paths) if str(path) not in check.unreadable])


def check_bad_share(annotations: Annotations, check: VideoCheck, *, max_share: float) -> int:
    """How many more training videos may turn out unreadable.

    Raises:
        ValueError: more are unreadable already than `max_share` allows; all are named.
    """
    bad = unreadable(annotations, check)
    allowed = math.floor(round(max_share * len(annotations.ids), 6))
    if len(bad) > allowed:
        named = "; ".join(f"{key}: {reason}" for key, reason in bad.items())
        raise ValueError(
            f"{len(bad)} of {len(annotations.ids)} training videos are unreadable and --max_bad_videos {max_share:g} "
            f"allows {allowed}: {named}"
        )
    return allowed - len(bad)


def long_enough(annotations: Annotations, check: VideoCheck, *, clip_len: int, clip_fps: float | None) -> Annotations:
    """The readable videos that have a window of `clip_len` frames at `clip_fps`; with None, all readable ones.

    Raises:
        ValueError: there is none.
    """
    candidates = readable(annotations, check)
    keep = []
    for position, path in enumerate(candidates.paths):
        info = check.infos[str(path)]
        if clip_fps is None or num_fps_windows(
            info.num_frames, video_fps=info.fps, clip_len=clip_len, clip_fps=clip_fps
        ):
            keep.append(position)
    if len(keep) < len(candidates.ids):
        logger.info(
            "%d of %d training videos are shorter than a clip (%d frames at %g fps) and left out",
            len(candidates.ids) - len(keep), len(candidates.ids), clip_len, clip_fps,
        )  # fmt: skip
    if not keep:
        raise ValueError(f"none of the {len(annotations.ids)} training videos is readable and long enough for a clip")
    return candidates.select(keep)

"""Selection of the training and validation videos: held out, readable, long enough."""

import logging
import math

from VideoMAE.data.clip_sampling import num_fps_windows
from VideoMAE.data.vce import Annotations
from VideoMAE.video.check import VideoCheck

logger = logging.getLogger(__name__)


def hold_out(annotations: Annotations, *, fraction: float) -> tuple[Annotations, Annotations]:
    """Splits off the last `fraction`, rounded up, -> (training, validation). Raises ValueError if one is empty."""
    num_videos = len(annotations.ids)
    num_held_out = math.ceil(round(num_videos * fraction, 6))
    if not 0 < num_held_out < num_videos:
        raise ValueError(f"--val_fraction {fraction} of {num_videos} videos leaves training or validation empty")
    first = num_videos - num_held_out
    return annotations.select(range(first)), annotations.select(range(first, num_videos))


def unreadable(annotations: Annotations, check: VideoCheck) -> dict[str, str]:
    """The ids of the videos that failed the check, and the reasons."""
    videos = zip(annotations.ids, map(str, annotations.paths), strict=True)
    return {key: check.unreadable[path] for key, path in videos if path in check.unreadable}


def readable(annotations: Annotations, check: VideoCheck) -> Annotations:
    """The videos that passed the check."""
    return annotations.select([i for i, path in enumerate(annotations.paths) if str(path) not in check.unreadable])


def remaining_unreadable(annotations: Annotations, check: VideoCheck, *, max_fraction: float) -> int:
    """How many more training videos may be unreadable, given --max_bad_videos. Raises ValueError if too many are."""
    reasons = unreadable(annotations, check)
    allowed = math.floor(round(max_fraction * len(annotations.ids), 6))
    if len(reasons) > allowed:
        listed = "; ".join(f"{key}: {reason}" for key, reason in reasons.items())
        raise ValueError(
            f"unreadable training videos: {len(reasons)} of {len(annotations.ids)}, but --max_bad_videos "
            f"{max_fraction:g} allows {allowed}: {listed}"
        )
    return allowed - len(reasons)


def long_enough(annotations: Annotations, check: VideoCheck, *, clip_len: int, clip_fps: float | None) -> Annotations:
    """The readable videos with `clip_len` frames at `clip_fps` (None: any). Raises ValueError if there are none."""
    candidates = readable(annotations, check)
    infos = [check.infos[str(path)] for path in candidates.paths]
    keep = [
        position
        for position, info in enumerate(infos)
        if not clip_fps or num_fps_windows(info.num_frames, video_fps=info.fps, clip_len=clip_len, clip_fps=clip_fps)
    ]
    if len(keep) < len(candidates.ids):
        logger.info(
            "training videos shorter than a clip (%d frames at %g fps): %d of %d, left out",
            clip_len,
            clip_fps,
            len(candidates.ids) - len(keep),
            len(candidates.ids),
        )
    if not keep:
        raise ValueError(
            f"none of the {len(annotations.ids)} training videos is readable and long enough for a clip of {clip_len} "
            f"frames at {clip_fps:g} fps; --train_fps None accepts shorter videos"
            if clip_fps is not None
            else f"none of the {len(annotations.ids)} training videos can be read"
        )
    return candidates.select(keep)

"""Copies made by data_prep/prepare_videos.py, which have the frame numbers and the rate of their sources.

A copy may contain fewer frames than its source; the container's comment lists them as JSON, so that it can be moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from VideoMAE.data.clip_sampling import evenly_spaced

FORMAT_VERSION = 1


class CopiedVideo(NamedTuple):
    """The source of a copy, and which of its frames the copy holds.

    `every` n: frames 0, n, 2 n, ... and the last. `evenly` replaces `every`: this many frames, evenly spaced from the
    first to the last.
    """

    num_frames: int
    fps: float
    every: int = 1
    evenly: int | None = None

    def held(self) -> np.ndarray:
        """The sorted source indices of the copy's frames. -> (M,) int64

        `num_frames=10, every=4` -> [0, 4, 8, 9]; `num_frames=10, evenly=3` -> [0, 4, 9].
        """
        if self.evenly is not None:
            return np.unique(evenly_spaced(self.num_frames, clip_len=self.evenly))
        return np.unique(np.append(np.arange(0, self.num_frames, self.every), self.num_frames - 1))

    def positions(self, indices: np.ndarray) -> np.ndarray:
        """The copy's positions of source frames (T,). -> (T,) int64

        With `every` n, the nearest frame held replaces each frame, at most n / 2 frames away; the earlier of two
        equally near ones. `num_frames=10, every=4`, frames [0, 1, 2, 3, 9] -> positions [0, 0, 0, 1, 3].
        Raises ValueError if a copy of evenly spaced frames does not hold one of them.
        """
        if self.every == 1 and self.evenly is None:
            return indices
        held = self.held()
        positions = np.searchsorted((held[:-1] + held[1:]) / 2, indices)
        missing = indices[held[positions] != indices]
        if self.evenly is not None and len(missing):
            raise ValueError(
                f"this copy holds {len(held)} evenly spaced frames of {self.num_frames} (--evenly {self.evenly}) and "
                f"not frame {missing[0]}; use it only for runs with --num_frames {self.evenly}"
            )
        return positions

    def to_comment(self) -> str:
        """The JSON for the container's comment."""
        return json.dumps({"prepared_copy": FORMAT_VERSION, **self._asdict()})


def copied_video(metadata: Mapping[str, str]) -> CopiedVideo | None:
    """The source of a copy, from its container's metadata; None for other videos.

    Raises ValueError if the comment is that of a copy, but damaged or of another version.
    """
    comment = metadata.get("comment", "")
    if not comment.startswith('{"prepared_copy": '):
        return None
    try:
        content = json.loads(comment)
        version = content.pop("prepared_copy")
        source = CopiedVideo(**content)
        numbers = [source.num_frames, source.every, 1 if source.evenly is None else source.evenly]
        is_valid = all(type(number) is int and number > 0 for number in numbers) and source.fps > 0
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"its prepared-copy comment is damaged ({comment[:80]})") from error
    if version != FORMAT_VERSION or not is_valid:
        raise ValueError(f"it is a prepared copy of an unknown format ({comment[:80]})")
    return source

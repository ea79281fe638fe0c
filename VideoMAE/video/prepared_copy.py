"""Copies of videos that data_prep/prepare_videos.py made, read as if they were their sources.

A copy may hold fewer frames than its source. Its file says which, in a line of JSON in the container's comment, so
that it can be moved, linked and put into a subset. What reads it is told the source's number of frames and rate, and
asks for the source's frame numbers: nothing that chooses frames needs to know of copies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from VideoMAE.data.clip_sampling import evenly_spaced

FORMAT_VERSION = 1
COMMENT = "comment"
_MARK = '{"prepared_copy": '


class CopiedVideo(NamedTuple):
    """The video that a copy was made from, and which of its frames the copy holds.

    `every` n: frames 0, n, 2 n, ... and the last. Where `evenly` is given it counts instead: so many frames, evenly
    from the first to the last.
    """

    num_frames: int
    fps: float
    every: int = 1
    evenly: int | None = None

    def held(self) -> np.ndarray:
        """The source's numbers of the copy's frames, rising. -> (M,) int64

        `num_frames=10, every=4` -> [0, 4, 8, 9]; `num_frames=10, evenly=3` -> [0, 4, 9].
        """
        if self.evenly is not None:
            return np.unique(evenly_spaced(self.num_frames, clip_len=self.evenly))
        return np.unique(np.append(np.arange(0, self.num_frames, self.every), self.num_frames - 1))

    def places(self, indices: np.ndarray) -> np.ndarray:
        """Where in the copy the source's frames (T,) are. -> (T,) int64

        Of `every` n frames one is held; the nearest, at most n / 2 frames away, stands for the others, of two equally
        near ones the earlier. `num_frames=10, every=4`, frames [0, 1, 2, 3, 9] -> places [0, 0, 0, 1, 3].

        Raises:
            ValueError: a copy of evenly spaced frames does not hold one of them.
        """
        if self.every == 1 and self.evenly is None:
            return indices
        held = self.held()
        after = np.minimum(np.searchsorted(held, indices), len(held) - 1)
        before = np.maximum(after - 1, 0)
        places = np.where(indices - held[before] <= held[after] - indices, before, after)
        if self.evenly is not None and (held[places] != indices).any():
            missing = indices[held[places] != indices][0]
            raise ValueError(
                f"this copy holds {len(held)} evenly spaced frames of {self.num_frames} (--evenly {self.evenly}) and "
                f"not frame {missing}; it serves runs that take just those"
            )
        return places

    def to_comment(self) -> str:
        """What the copy's file says of it."""
        return json.dumps({"prepared_copy": FORMAT_VERSION, **self._asdict()})


def copied_video(metadata: Mapping[str, str]) -> CopiedVideo | None:
    """The source of a copy, from its container's metadata; None for any other video.

    Raises:
        ValueError: the comment begins as that of a copy and does not go on as such.
    """
    comment = metadata.get(COMMENT, "")
    if not comment.startswith(_MARK):
        return None
    try:
        content = json.loads(comment)
        version = content.pop("prepared_copy")
        source = CopiedVideo(**content)
        numbers = [source.num_frames, source.every, 1 if source.evenly is None else source.evenly]
        is_sound = all(type(number) is int and number > 0 for number in numbers) and source.fps > 0
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"what it says of the video that it is a copy of is damaged ({comment[:80]})") from error
    if version != FORMAT_VERSION or not is_sound:
        raise ValueError(f"it is a prepared copy of a form unknown here ({comment[:80]})")
    return source

"""Clips where the main process reads them: in a loader's worker they are made in shared memory, not copied into it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


def empty_clips(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of this shape with nothing in it yet; in a worker, in shared memory.

    Raises:
        RuntimeError: no room in shared memory.
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).resize_(shape)


def joined(clips: Sequence[Tensor]) -> Tensor:
    """Clips of several samples one after the other, P x (b, ...) -> (B, ...); a single sample's are not copied."""
    if len(clips) == 1:
        return clips[0]
    batch = empty_clips(sum(map(len, clips)), *clips[0].shape[1:], dtype=clips[0].dtype)
    return torch.cat(list(clips), out=batch)

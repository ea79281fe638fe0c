"""Room for clips: in a loader's worker in shared memory, where the main process reads, so that nothing is copied."""

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


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Several tensors (b, ...) one after the other -> (B, ...), in a worker in shared memory; a single one itself."""
    if len(tensors) == 1:
        return tensors[0]
    room = empty_clips(sum(map(len, tensors)), *tensors[0].shape[1:], dtype=tensors[0].dtype)
    return torch.cat(list(tensors), out=room)

"""A loader with its worker processes: clips a second by the clock, and what a worker holds over thousands of items."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from VideoMAE.data.watched_loader import WatchedLoader
from VideoMAE.dataset_tools.loader_parts import endless_batches, use_one_thread

NUM_LOOKS = 10
NUM_BATCHES_AT_ONCE = 2000


class Rate(NamedTuple):
    """Clips a second by the clock, once every worker has given its first batch; seconds until the first batch."""

    num_workers: int
    clips_per_second: float
    first_batch_seconds: float
    num_clips: int


class Held(NamedTuple):
    """What a worker holds after so many items, apart from the batches that it shares: memory, files, threads."""

    num_items: int
    memory_mb: float
    num_files: int
    num_threads: int


def endless(loader: WatchedLoader) -> Iterator[Any]:
    """Batches of one epoch after the other without the pause between epochs, of which few videos have many."""
    keys = endless_batches(loader.sampler)
    while True:
        loader.sampler = list(itertools.islice(keys, NUM_BATCHES_AT_ONCE))  # type: ignore[assignment]
        yield from loader


def measure_rate(loader: WatchedLoader, *, seconds: float) -> Rate:
    """Take batches for so long after the first one of each worker, and one at least."""
    use_one_thread()
    begun = time.monotonic()
    batches = endless(loader)
    next(batches)
    first_batch_seconds = time.monotonic() - begun
    for _ in range(loader.num_workers - 1):
        next(batches)
    start = end = time.monotonic()
    num_clips = 0
    while not num_clips or end < start + seconds:
        num_clips += len(next(batches).clips)
        end = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    return Rate(loader.num_workers, num_clips / (end - start), first_batch_seconds, num_clips)


def measure_soak(loader: WatchedLoader, *, num_items: int, say: Callable[[Held], None]) -> list[Held]:
    """What the loader's one worker holds after a tenth of so many items, two tenths, ... -> ten looks."""
    before = set(multiprocessing.active_children())
    batches = endless(loader)
    looks, done = list[Held](), 0
    for look in range(1, NUM_LOOKS + 1):
        while done < num_items * look / NUM_LOOKS:
            batch = next(batches)
            done += len(batch.indices) + len(batch.skipped)
            del batch
        (worker,) = set(multiprocessing.active_children()) - before
        looks.append(held_by(int(worker.pid or 0), done))
        say(looks[-1])
    batches.close()  # type: ignore[attr-defined]
    gc.collect()
    return looks


def held_by(pid: int, num_items: int) -> Held:
    folder = Path("/proc") / str(pid)
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    kib = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return Held(num_items, kib * 1024 / 1e6, sum(map(_is_no_batch, (folder / "fd").iterdir())), int(fields["Threads"]))


def _is_no_batch(link: Path) -> bool:
    """Whether an open file is another one than shared memory; files that are closed in the meantime do not count."""
    try:
        return not os.readlink(link).startswith("/dev/shm/")
    except FileNotFoundError:
        return False

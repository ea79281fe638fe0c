"""Judging V2V's pairs and lists against scoring each distinct video once; by hand, memory over many decoded videos.

python tests/benchmarks/benchmark_v2v_evaluation.py
python tests/benchmarks/benchmark_v2v_evaluation.py --soak 2000
"""

from __future__ import annotations

import contextlib
import gc
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from benchmarking import memory_mb, say, say_ratio, say_times, time_interleaved, use_threads, write_film

from VideoMAE.augment.video_transforms import SquashTransform
from VideoMAE.data.clips import EvaluationDataset, EvenClips
from VideoMAE.data.loaders import ShareSampler, make_loader
from VideoMAE.data.v2v import Comparison, Pair, pairs_in, videos_of
from VideoMAE.engine_for_finetuning import final_test
from VideoMAE.modeling_finetune import VisionTransformer, vit_micro_patch16_224
from VideoMAE.training.metric_logger import MetricLogger
from VideoMAE.training.results import preference_results
from VideoMAE.training.tasks import scores_by_id

BATCH_SIZE, SIZE = 8, 112
CLIPS = EvenClips(16, SquashTransform(SIZE), decode_size=(SIZE, SIZE))


def evaluate(root: Path, pairs: list[Comparison], lists: list[Comparison], model: VisionTransformer) -> dict[str, Any]:
    """What the run does: engine, scores, results."""
    videos = videos_of(root, [*pairs, *lists])
    loader = make_loader(
        EvaluationDataset(videos, make_clips=CLIPS, seed=0),
        ShareSampler(len(videos.ids), rank=0, world_size=1),
        num_workers=0,
        pin_memory=False,
        batch_size=BATCH_SIZE,
    )
    outcome = final_test(
        model,
        loader,
        device=torch.device("cpu"),
        autocast=contextlib.nullcontext,
        logger=MetricLogger(root, enabled=False),
    )
    return preference_results(scores_by_id(outcome, videos.ids), pairs_in(pairs), lists)


@torch.inference_mode()
def score_once(paths: list[Path], model: VisionTransformer) -> None:
    """Each video decoded and scored, and nothing else."""
    rng = np.random.default_rng(0)
    for start in range(0, len(paths), BATCH_SIZE):
        model(torch.cat([CLIPS(path, rng) for path in paths[start : start + BATCH_SIZE]]))


def drawn_comparisons(ids: list[str], count: int, longest: int, rng: np.random.Generator) -> list[Comparison]:
    drawn = [rng.permutation(ids)[: rng.integers(2, longest + 1)].tolist() for _ in range(count)]
    return [Pair(*entry) if len(entry) == 2 else tuple(entry) for entry in drawn]


def watch_memory(path: Path, num_videos: int) -> None:
    """Memory of this process while it decodes the film again and again."""
    rng, every = np.random.default_rng(0), max(num_videos // 10, 1)
    for number in range(1, num_videos + 1):
        CLIPS(path, rng)
        if number % every == 0:
            gc.collect()
            say(f"{number:6d} videos decoded: {memory_mb('VmRSS'):8.1f} MB held")


def main(*, num_videos: int = 24, repeats: int = 5, soak: int = 0) -> None:
    """Time both in turn, on one thread.

    Args:
        num_videos: distinct videos under the comparisons; there are 3 pairs and 1 list for each.
        repeats: timed calls of each.
        soak: above 0, decode so many videos instead and show the memory held.
    """
    use_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        film = write_film(root / "film.mp4")
        if soak:
            watch_memory(film, soak)
            return
        (root / "videos").mkdir()
        ids = [f"{number:05d}" for number in range(num_videos)]
        for key in ids:
            (root / "videos" / f"{key}.mp4").hardlink_to(film)
        rng = np.random.default_rng(0)
        pairs, lists = (drawn_comparisons(ids, n * num_videos, longest, rng) for n, longest in ((3, 2), (1, 4)))
        model = vit_micro_patch16_224(img_size=SIZE, num_classes=1, head_bias=False).eval()
        paths = videos_of(root, [*pairs, *lists]).paths
        seconds = time_interleaved(
            {
                "all pairs and lists": partial(evaluate, root, pairs, lists, model),
                "each video scored once": partial(score_once, paths, model),
            },
            repeats=repeats,
        )
    say(f"{len(pairs)} pairs and {len(lists)} lists over {len(paths)} videos")
    say_times(seconds)
    say_ratio("pairs and lists / each video once", *seconds.values(), "at most 1.1")


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)

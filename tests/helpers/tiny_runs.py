"""Tiny real runs, of VCE and of V2V, made in this process in a few seconds: for what uses trained networks."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from vce_files import make_vce_folder
from video_files import moving_frames, write_video

from VideoMAE import run_class_finetuning, run_v2v_finetuning
from VideoMAE.runtime import distributed
from VideoMAE.training import metric_logger

TINY = shlex.split("""
    --model vit_micro_patch16_224 --input_size 32 --num_frames 4 --epochs 1 --warmup_epochs 0 --layer_decay 1
    --num_workers 0 --device cpu
""")


class TinyRuns(NamedTuple):
    """Output folders of two runs, whose datasets lie beside them as vce_dataset and v2v_dataset."""

    vce: Path
    v2v: Path

    @property
    def vce_videos(self) -> Path:
        return self.vce.parent / "vce_dataset/videos"

    @property
    def v2v_videos(self) -> Path:
        return self.v2v.parent / "v2v_dataset/videos"


@contextmanager
def quick_runs() -> Iterator[None]:
    """Runs in this process leave no variables of a launcher behind, and draw no curves, which takes longest."""
    before, draw = dict(os.environ), metric_logger.draw_curves
    metric_logger.draw_curves = lambda folder: None
    try:
        yield
    finally:
        metric_logger.draw_curves = draw
        distributed.stop()
        os.environ.clear()
        os.environ.update(before)


def make_vce_run(folder: Path, *flags: str) -> Path:
    """Trains on VCE videos in `folder`/vce_dataset: 9 to learn from, one to validate, 5 to test on (50000 to 50004, the
    last of which is empty); -> the run's output folder, `folder`/vce_run."""
    data = make_vce_folder(folder / "vce_dataset", 10, 5, num_frames=40, fps=10, unreadable=("50004",))
    run = folder / "vce_run"
    arguments = ["--data_path", str(data), "--output_dir", str(run), "--short_side_size", "40", "--batch_size", "4"]
    with quick_runs():
        run_class_finetuning.main([*TINY, *arguments, "--lr", "0.03", "--init_scale", "1", "--aa", "none", *flags])
    return run


def make_v2v_run(folder: Path, *flags: str) -> Path:
    """Trains on V2V videos in `folder`/v2v_dataset: pairs of 12, tests on those of 5 more (00012 to 00016); -> the
    run's output folder, `folder`/v2v_run."""
    data, run = folder / "v2v_dataset", folder / "v2v_run"
    (data / "videos").mkdir(parents=True)
    ids = [f"{number:05d}" for number in range(17)]
    for number, key in enumerate(ids):
        write_video(data / "videos" / f"{key}.mp4", moving_frames(20, width=48, height=32, seed=number))
    write_comparisons(data, "train", [ids[start : start + 2] for start in range(0, 12, 2)])
    write_comparisons(data, "test", [ids[12:14], ids[14:16]])
    write_comparisons(data, "listwise", [ids[12:15], ids[14:17]])
    arguments = ["--data_dir", str(data), "--results_path", str(run), "--batch_size", "2", "--val_fraction", "0.2"]
    with quick_runs():
        run_v2v_finetuning.main([*TINY, *arguments, "--disable_tqdm", "1", *flags])
    return run


def write_comparisons(data: Path, split: str, entries: Sequence[Sequence[str]]) -> None:
    content = {"comparisons": [list(entry) for entry in entries]}
    (data / f"{split}_labels.json").write_text(json.dumps(content), encoding="utf-8")

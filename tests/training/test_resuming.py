"""Checkpoints within epochs: when they are written, what goes on from them, in V2V as in VCE."""

import itertools
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from resume_helpers import flags
from v2v_dataset import TRAIN, write_dataset
from vce_files import make_vce_folder

from VideoMAE import engine_for_finetuning, run_class_finetuning, run_v2v_finetuning
from VideoMAE.data.loaders import TrainSampler
from VideoMAE.runtime.stop_request import REQUEUE_STATUS
from VideoMAE.training import checkpoint
from VideoMAE.training.checkpoint import steps_done


def saved_at(path: Path) -> tuple[int, int]:
    """Epoch and steps within it that a checkpoint goes on from."""
    state = torch.load(path, weights_only=True)["state"]
    return state["epoch"], state["steps"]


def signal_in_step(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, step: int) -> None:
    """Sends a signal to this process in the midst of a step, counted from 0 from now on."""
    steps, original = itertools.count(), engine_for_finetuning.set_step_values

    def set_and_signal(*arguments: Any, **values: Any) -> None:
        original(*arguments, **values)
        if next(steps) == step:
            signal.raise_signal(number)

    monkeypatch.setattr(engine_for_finetuning, "set_step_values", set_and_signal)


@pytest.mark.parametrize(
    ("when", "previous"),
    [(["--save_ckpt_steps", "4"], (1, 7)), (["--save_ckpt_minutes", "1e-9"], (1, 9)), ([], (1, 0))],
    ids=["steps", "minutes", "epochs"],
)
def test_the_state_is_saved_within_an_epoch_as_the_flags_say(
    tmp_path: Path, when: list[str], previous: tuple[int, int]
) -> None:
    dataset = make_vce_folder(tmp_path / "vce_dataset", 20, 3)
    arguments = flags(dataset, tmp_path / "run", "--num_workers", "0", "--save_ckpt_steps", "0", *when)
    run_class_finetuning.main(arguments)
    assert saved_at(tmp_path / "run" / checkpoint.LAST) == (2, 0)
    assert saved_at(tmp_path / "run" / checkpoint.PREVIOUS) == previous


def test_a_v2v_run_stopped_within_an_epoch_goes_on_to_the_numbers_of_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "v2v")

    def fit(name: str) -> dict[str, Any]:
        run_v2v_finetuning.main(["--data_dir", str(dataset), "--results_path", str(tmp_path / name), *TRAIN])
        files = ("steps.jsonl", "log.txt", "scores.jsonl")
        read = {file: (tmp_path / name / file).read_text() for file in files}
        return {**read, "results": json.loads((tmp_path / name / "results.json").read_text())}

    expected = fit("whole")
    signal_in_step(monkeypatch, signal.SIGUSR1, step=11)
    with pytest.raises(SystemExit) as stopped:
        fit("broken")
    assert stopped.value.code == REQUEUE_STATUS
    epoch, steps = saved_at(tmp_path / "broken" / checkpoint.LAST)
    assert epoch >= 1 and steps > 0
    assert fit("broken") == expected


@pytest.mark.parametrize(("world_size", "steps"), [(1, 12), (2, 6), (4, 3)])
def test_an_epoch_resumed_with_another_total_batch_starts_at_the_same_share_of_its_videos(
    world_size: int, steps: int
) -> None:
    content = {"state": {"steps": 6}, "world_size": 2, "total_batch_size": 8}
    sampler = TrainSampler(160, batch_size=2, update_freq=2, rank=0, world_size=world_size, seed=0)
    assert steps_done(content, sampler=sampler, world_size=world_size) == steps

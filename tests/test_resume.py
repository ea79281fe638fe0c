"""A run that is broken off at any step, in any way, ends with the numbers of an unbroken one."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from resume_helpers import children_of, flags, lines, outcome, run, started, wait_until
from vce_files import make_vce_folder

from VideoMAE.run_class_finetuning import main
from VideoMAE.training import checkpoint
from VideoMAE.training.stop_request import REQUEUE_STATUS

BACKENDS = {"ddp": [], "zero1": ["--enable_deepspeed", "--zero_stage", "1"]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_folder(tmp_path_factory.mktemp("vce") / "vce_dataset", 20, 5)


@pytest.fixture(scope="module")
def unbroken(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on one process; tests only read it."""
    output_dir = tmp_path_factory.mktemp("unbroken") / "run"
    main(flags(dataset, output_dir))
    return output_dir


def num_steps(output_dir: Path) -> int:
    return len(lines(output_dir / "steps.jsonl"))


def test_the_checkpoint_of_every_step_leads_to_the_same_end(dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    expected = outcome(unbroken)
    output_dir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        kept: list[Path] = []

        def save_and_keep(folder: Path, content: dict) -> None:
            checkpoint.save(folder / checkpoint.LAST, content)
            kept.append(tmp_path / f"{len(kept)}.pth")
            shutil.copy(folder / checkpoint.LAST, kept[-1])

        patch.setattr(checkpoint, "save_last", save_and_keep)
        main(flags(dataset, output_dir, "--num_workers", "0"))
    assert len(kept) == len(expected["steps"]) + 2
    for saved in kept[1::5]:
        for file in output_dir.glob("checkpoint-*"):
            if file.name != checkpoint.BEST:
                file.unlink()
        shutil.copy(saved, output_dir / checkpoint.LAST)
        main(flags(dataset, output_dir))
        assert outcome(output_dir) == expected, saved


@pytest.mark.parametrize("backend", BACKENDS)
def test_kill_9_at_a_step_and_the_same_command_give_the_unbroken_runs_numbers(
    dataset: Path, tmp_path: Path, backend: str
) -> None:
    two = [*BACKENDS[backend], "--batch_size", "1"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*flags(dataset, whole, *two), processes=2).returncode == 0
    with started(*flags(dataset, broken, *two), processes=2) as process:
        wait_until(lambda: num_steps(broken) >= 3, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert 3 <= num_steps(broken) < num_steps(whole)
    done = run(*flags(dataset, broken, *two), processes=2)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stderr
    assert outcome(broken) == outcome(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_asks_to_be_started_again(
    dataset: Path, unbroken: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output_dir = tmp_path / "run"
    slowly = flags(dataset, output_dir, "--save_ckpt_steps", "0")
    with started(*slowly) as process:
        wait_until(lambda: num_steps(output_dir) >= 2, process)
        os.killpg(process.pid, number)  # as Slurm does: workers get it too
        said = process.communicate(timeout=60)[1]
    assert process.returncode == REQUEUE_STATUS, said
    assert f"{number.name}: saved {output_dir / checkpoint.LAST} after step" in said
    assert "s after the signal; the same command goes on from there" in said
    assert "Traceback" not in said
    steps = num_steps(output_dir)
    main(slowly)
    assert steps < num_steps(output_dir)
    assert outcome(output_dir) == outcome(unbroken)


@pytest.mark.parametrize("whom", ["launcher", "one rank"])
def test_a_signal_to_the_launcher_or_one_rank_reaches_all(dataset: Path, tmp_path: Path, whom: str) -> None:
    output_dir = tmp_path / "run"
    two = flags(dataset, output_dir, "--save_ckpt_steps", "0", "--epochs", "20", "--batch_size", "1")
    with started(*two, processes=2) as process:
        wait_until(lambda: num_steps(output_dir) >= 2, process)
        ranks = children_of(process.pid)
        os.kill(process.pid if whom == "launcher" else ranks[-1], signal.SIGUSR1)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == REQUEUE_STATUS, said
    assert "SIGUSR1: saved" in said and "Traceback" not in said
    content = torch.load(output_dir / checkpoint.LAST, weights_only=True)
    assert content["state"]["steps"] + 9 * content["state"]["epoch"] == num_steps(output_dir)


def test_a_rank_that_dies_takes_the_others_down_with_the_reason(dataset: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "run"
    two = flags(dataset, output_dir, "--epochs", "50", "--batch_size", "1")
    with started(*two, processes=2) as process:
        wait_until(lambda: num_steps(output_dir) >= 2, process)
        ranks = children_of(process.pid)
        os.kill(ranks[1], signal.SIGKILL)
        killed_at = time.monotonic()
        said = process.communicate(timeout=60)[1]
        assert time.monotonic() - killed_at < 60
    assert process.returncode == 1
    assert "was ended by signal 9" in said and "Traceback" not in said


def test_processes_whose_launcher_was_killed_save_and_leave(dataset: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "run"
    two = flags(dataset, output_dir, "--epochs", "50", "--batch_size", "1")
    with started(*two, processes=2) as process:
        wait_until(lambda: num_steps(output_dir) >= 2, process)
        ranks = children_of(process.pid)
        process.kill()
        deadline = time.monotonic() + 60
        while any(Path(f"/proc/{rank}").exists() for rank in ranks):
            assert time.monotonic() < deadline, "they go on alone"
            time.sleep(0.1)
    checkpoint.check_whole(output_dir / checkpoint.LAST)


def test_another_number_of_processes_goes_on_and_says_what_changes(dataset: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "run"
    zero = ["--enable_deepspeed", "--zero_stage", "2"]
    with started(*flags(dataset, output_dir, *zero, "--batch_size", "1"), processes=2) as process:
        wait_until(lambda: num_steps(output_dir) >= 3, process)
        os.killpg(process.pid, signal.SIGUSR1)
        process.communicate(timeout=60)
    before = lines(output_dir / "steps.jsonl")
    done = run(*flags(dataset, output_dir, *zero, "--batch_size", "2"))
    assert done.returncode == 0, done.stderr
    assert "this run had 2 processes and now has 1" in done.stderr
    after = lines(output_dir / "steps.jsonl")
    assert after[: len(before)] == before and [line["step"] for line in after] == list(range(len(after)))


def test_a_second_run_on_the_same_folder_is_refused(dataset: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "run"
    with started(*flags(dataset, output_dir, "--epochs", "200")) as process:
        wait_until(lambda: num_steps(output_dir) >= 1, process)
        done = run(*flags(dataset, output_dir, "--epochs", "200"))
        assert process.poll() is None
    assert done.returncode == 1
    assert f"process {process.pid} on" in done.stderr and "works in it" in done.stderr


def test_labels_that_changed_since_are_refused(dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "vce_dataset")
    output_dir = tmp_path / "run"
    arguments = flags(tmp_path / "vce_dataset", output_dir, "--num_workers", "0")
    main(arguments)
    labels = tmp_path / "vce_dataset" / "train_labels.json"
    text = labels.read_text()
    labels.write_text(text.replace("0.", "0.0", 1))
    with pytest.raises(SystemExit, match="the labels' checksum"):
        main(arguments)

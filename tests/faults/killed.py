"""Processes that are killed, stopped or asked to stop."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cases import case
from gates import STEP
from lab import STEPS_PER_EPOCH, TWO, ZERO, Lab, all_whole, finished, flags, leftovers, num_epochs, num_steps
from resume_helpers import children_of, started

from VideoMAE.runtime.stop_request import REQUEUE_STATUS
from VideoMAE.training import checkpoint

KILLS_A_RUN = 2
WATCHED_SECONDS = 4  # --decode_seconds where a process stands still: a thousand times what a video here takes
NAMING = {"function": "os:replace", "argument": f".{checkpoint.LAST}."}  # a gate where a checkpoint is written
BLOCKED = "ffconcat version 1.0\nfile pipe.txt\n"  # a playlist that leads to a pipe in which nothing ever comes


def kill_at_random_moments(lab: Lab, seed: int) -> str:
    """Kills a run and its workers at moments drawn from the seed, until at last it may finish."""
    draw = random.Random(seed)
    output_dir = lab.new()
    lab.unbroken()
    begun = 0
    for _ in range(KILLS_A_RUN):
        with lab.running(output_dir) as run:
            time.sleep(draw.uniform(0.2, 1.8))
            begun += run.is_alive
            run.kill()
    lab.finishes(output_dir)
    return finished(begun)


def add_random_kills(seeds: range) -> None:
    """Adds a case for each seed."""
    for seed in seeds:

        def killed(lab: Lab, seed: int = seed) -> str:
            return kill_at_random_moments(lab, seed)

        killed.__doc__ = f"kill -9 of the process and its workers at {KILLS_A_RUN} moments drawn from seed {seed}"
        case(f"random kills, seed {seed}")(killed)


def block(video: Path) -> Path:
    """Puts in a video's place, at once, a file at which its reader waits for ever -> the pipe at which it does."""
    pipe = video.parent / "pipe.txt"
    if not pipe.exists():
        os.mkfifo(pipe)
    other = video.with_suffix(".new")
    other.write_text(BLOCKED)
    other.replace(video)
    return pipe


def killed_at_a_blocked_video(lab: Lab, video_id: str, epochs: int, *, is_there: str) -> str:
    dataset, output_dir = lab.own_dataset(), lab.new()
    video = dataset / f"videos/{video_id}.mp4"
    whole = video.read_bytes()
    with lab.held(output_dir, steps=1, dataset=dataset) as (run, gate):
        pipe = block(video)
        gate.open()
        run.wait_until(lambda: num_steps(output_dir) == STEPS_PER_EPOCH * max(epochs, 1) and has_reader(pipe))
        run.kill()
        assert num_epochs(output_dir) == epochs, is_there
    video.write_bytes(whole)
    lab.finishes(output_dir, dataset=dataset)
    return finished(1)


def has_reader(pipe: Path) -> bool:
    """Whether somebody waits at the pipe; leaves its other end open, so that the waiting goes on."""
    try:
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    return True


@case("kill -9 during validation")
def killed_in_validation(lab: Lab) -> str:
    """kill -9 while a validation video is being read"""
    return killed_at_a_blocked_video(lab, "00013", 0, is_there="the first epoch's validation")


@case("kill -9 during the final test")
def killed_in_test(lab: Lab) -> str:
    """kill -9 while a test video is being read, after the last epoch"""
    return killed_at_a_blocked_video(lab, "50001", 2, is_there="the test")


@case("kill -9 between the last checkpoint and the test")
def killed_before_test(lab: Lab) -> str:
    """kill -9 when the checkpoint of the last epoch is saved and nothing of the test has begun"""
    output_dir, before_test = lab.new(), lab.gate("VideoMAE.training.trainer:Trainer.best_model")
    with lab.running(output_dir, gates=[before_test]) as run:
        run.wait_at(before_test)
        run.kill()
    assert num_epochs(output_dir) == 2
    assert not (output_dir / "results.json").exists()
    assert "all epochs are done" in lab.finishes(output_dir)
    return finished(1)


@case("kill -9 while a checkpoint is written")
def killed_in_saving(lab: Lab) -> str:
    """kill -9 when the fourth checkpoint has been written to its temporary file and has no name yet"""
    output_dir, naming = lab.new(), lab.gate(**NAMING, calls=4)
    with lab.running(output_dir, gates=[naming]) as run:
        run.wait_at(naming)
        run.kill()
    assert num_steps(output_dir) == 4 and leftovers(output_dir)
    all_whole(output_dir)
    lab.finishes(output_dir)
    return finished(1)


def two_processes_killed(lab: Lab, backend: tuple[str, ...]) -> str:
    output_dir = lab.new()
    two = (*TWO, *backend)
    with lab.held(output_dir, *two, steps=4, processes=2) as (run, _):
        run.kill()
    said = lab.finishes(output_dir, *two, processes=2, expected=lab.unbroken(2, two))
    assert "resumed from" in said
    return finished(1)


@case("kill -9 of two processes, DDP")
def two_of_ddp(lab: Lab) -> str:
    """kill -9 of both processes of a run with DistributedDataParallel"""
    return two_processes_killed(lab, ())


@case("kill -9 of two processes, ZeRO 1")
def two_of_zero(lab: Lab) -> str:
    """kill -9 of both processes of a run with DeepSpeed's ZeRO 1"""
    return two_processes_killed(lab, tuple(ZERO))


@case("kill -9 of one rank")
def rank_killed(lab: Lab) -> str:
    """kill -9 of one of torchrun's two processes: the other ends too, and the reason is said"""
    output_dir, gate = lab.new(), lab.gate(STEP, calls=3)
    with started(*flags(lab.dataset, output_dir, *TWO), processes=2, gate=gate) as process:
        os.kill(gate.wait(process, processes=2)[1], signal.SIGKILL)
        gate.open()
        said = process.communicate()[1]
    assert process.returncode == 1 and "was killed by signal 9" in said and "Traceback" not in said, said
    all_whole(output_dir)
    lab.finishes(output_dir, *TWO, processes=2, expected=lab.unbroken(2, tuple(TWO)))
    return finished(1)


@case("kill -9 of the launcher")
def launcher_killed(lab: Lab) -> str:
    """kill -9 of torchrun: its processes save and leave"""
    output_dir, gate = lab.new(), lab.gate(STEP, calls=3, until_asked=True)
    with started(*flags(lab.dataset, output_dir, *TWO), processes=2, gate=gate) as process:
        ranks = gate.wait(process, processes=2)
        process.kill()
        while any(Path(f"/proc/{rank}").exists() for rank in ranks):
            time.sleep(0.1)
    assert num_steps(output_dir) == 3, "they go on alone"
    all_whole(output_dir)
    lab.finishes(output_dir, *TWO, processes=2, expected=lab.unbroken(2, tuple(TWO)))
    return finished(1)


def launcher_asked(lab: Lab, number: signal.Signals, send: Callable[[int, int], None]) -> str:
    output_dir, gate = lab.new(), lab.gate(STEP, calls=3, until_asked=True)
    slowly = [*TWO, "--save_ckpt_steps", "0"]
    with started(*flags(lab.dataset, output_dir, *slowly), processes=2, gate=gate) as process:
        gate.wait(process, processes=2)
        send(process.pid, number)
        said = process.communicate()[1]
    assert process.returncode == REQUEUE_STATUS and f"{number.name}: saved" in said and "Traceback" not in said, said
    lab.finishes(output_dir, *slowly, processes=2, expected=lab.unbroken(2, tuple(TWO)))
    return finished(1)


@case("SIGUSR1 to the launcher")
def launcher_warned(lab: Lab) -> str:
    """SIGUSR1 to torchrun alone: both processes save and end with the status that asks for a new start"""
    return launcher_asked(lab, signal.SIGUSR1, os.kill)


@case("SIGTERM to the launcher")
def launcher_terminated(lab: Lab) -> str:
    """SIGTERM to torchrun alone: both processes save and end with the status that asks for a new start"""
    return launcher_asked(lab, signal.SIGTERM, os.kill)


@case("Ctrl-C at the launcher's terminal")
def launcher_interrupted(lab: Lab) -> str:
    """SIGINT to torchrun and all its processes at once, as a terminal sends it: both save and ask for a new start"""
    return launcher_asked(lab, signal.SIGINT, os.killpg)


@case("SIGUSR1 to one rank")
def rank_asked(lab: Lab) -> str:
    """SIGUSR1 to the second of two processes: both save the same step and stop"""
    output_dir = lab.new()
    slowly = [*TWO, "--save_ckpt_steps", "0"]
    with lab.held(output_dir, *slowly, steps=2, processes=2) as (run, gate):
        os.kill(run.ranks[1].pid, signal.SIGUSR1)
        gate.open()
        assert run.wait() == REQUEUE_STATUS, run.said
        assert [rank.exitcode for rank in run.ranks] == 2 * [REQUEUE_STATUS]
    state = torch.load(output_dir / checkpoint.LAST, weights_only=True)["state"]
    assert state["steps"] + STEPS_PER_EPOCH * state["epoch"] == num_steps(output_dir)
    lab.finishes(output_dir, *slowly, processes=2, expected=lab.unbroken(2, tuple(TWO)))
    return finished(1)


def asked_to_stop(lab: Lab, *numbers: signal.Signals) -> str:
    output_dir, naming = lab.new(), lab.gate(**NAMING)
    slowly = ["--save_ckpt_steps", "0"]
    with lab.held(output_dir, *slowly, steps=2, gates=[naming]) as (run, gate):
        run.signal(numbers[0])
        gate.open()
        run.wait_at(naming)
        for number in numbers[1:]:
            run.signal(number)
        naming.open()
        assert run.wait() == REQUEUE_STATUS, run.said
        said = run.said
    assert f"{numbers[0].name}: saved {output_dir / checkpoint.LAST} after step" in said and "Traceback" not in said
    assert "s after the signal; run the same command again to resume" in said
    lab.finishes(output_dir, *slowly)
    return finished(1)


@case("SIGTERM")
def terminated(lab: Lab) -> str:
    """SIGTERM to the process and its workers: it saves and asks for a new start"""
    return asked_to_stop(lab, signal.SIGTERM)


@case("SIGUSR1")
def warned(lab: Lab) -> str:
    """SIGUSR1, Slurm's warning before the time limit, to the process and its workers"""
    return asked_to_stop(lab, signal.SIGUSR1)


@case("Ctrl-C")
def interrupted(lab: Lab) -> str:
    """SIGINT to the process and its workers"""
    return asked_to_stop(lab, signal.SIGINT)


@case("a second signal while saving")
def asked_twice(lab: Lab) -> str:
    """SIGUSR1, and SIGTERM twice while the checkpoint is being written"""
    return asked_to_stop(lab, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM)


@case("kill -9 of a data-loader worker")
def worker_killed(lab: Lab) -> str:
    """kill -9 of the process that reads the videos: it is replaced"""
    output_dir = lab.new()
    with lab.held(output_dir, steps=2) as (run, gate):
        os.kill(children_of(run.pid)[0], signal.SIGKILL)
        gate.open()
        assert run.wait() == 0, run.said
        said = run.said
    assert "died (signal 9" in said and "restarting the workers" in said and "Traceback" not in said
    lab.is_right(output_dir)
    return finished(0)


@case("a data-loader worker stands still")
def worker_frozen(lab: Lab) -> str:
    """SIGSTOP of a worker between two videos: the watchdog ends it after --decode_seconds and no video is given up"""
    output_dir = lab.new()
    between_videos = lab.gate("VideoMAE.data.watched_loader:_collate_in_shared_memory", calls=4)
    watched = ["--decode_seconds", str(WATCHED_SECONDS)]
    with lab.held(output_dir, *watched, steps=2, gates=[between_videos]) as (run, gate):
        (worker,) = between_videos.wait(run)  # three batches have been fetched from it
        os.kill(worker, signal.SIGSTOP)
        between_videos.open()
        gate.open()
        assert run.wait() == 0, run.said
        said = run.said
    assert f"did not answer within {WATCHED_SECONDS} s; restarting the workers" in said, said
    assert "unreadable in training" not in said, said
    lab.is_right(output_dir)
    return finished(0)


@case("the whole run is frozen for a while")
def all_frozen(lab: Lab) -> str:
    """SIGSTOP of the process and its worker for longer than --decode_seconds, and SIGCONT: no video is given up"""
    output_dir = lab.new()
    with lab.held(output_dir, "--decode_seconds", str(WATCHED_SECONDS), steps=2) as (run, gate):
        run.signal(signal.SIGSTOP)
        gate.open()
        time.sleep(WATCHED_SECONDS + 1)
        run.signal(signal.SIGCONT)
        assert run.wait() == 0, run.said
        assert "did not answer" not in run.said
    lab.is_right(output_dir)
    return finished(0)


@case("one rank is frozen for a while")
def rank_frozen(lab: Lab) -> str:
    """SIGSTOP of one of two processes for three seconds, and SIGCONT: the other waits"""
    output_dir = lab.new()
    with lab.held(output_dir, *TWO, steps=2, processes=2) as (run, gate):
        os.kill(run.ranks[1].pid, signal.SIGSTOP)
        gate.open()
        time.sleep(3)
        os.kill(run.ranks[1].pid, signal.SIGCONT)
        assert run.wait() == 0, run.said
    lab.is_right(output_dir, lab.unbroken(2, tuple(TWO)))
    return finished(0)

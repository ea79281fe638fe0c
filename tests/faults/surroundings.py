"""Disks, memory, clocks and numbers that fail a run, and videos that do."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from cases import case
from killed import WATCHED_SECONDS, block
from lab import STEPS_PER_EPOCH, Lab, all_whole, finished, lines, num_steps, outcome, sentence_of, stopped

from VideoMAE.training import checkpoint

NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
TRAINED_ON = "00004"
ALLOWING = ["--max_bad_videos", "0.2"]


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def in_own_mounts(*arguments: object) -> None:
    """Mounts something for this process and its children alone; for root."""
    if ctypes.CDLL(None).unshare(NEW_MOUNTS):
        raise OSError("this process may not have mounts of its own")
    mount("--make-rprivate", "/")
    mount(*arguments)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of some MiB at a new folder; for root. What it holds lies in the folder itself afterwards."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "none", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@case("the disk is full")
def disk_full(lab: Lab) -> str:
    """the output folder's file system (a tmpfs of 80 MB) has no room for the next checkpoint"""
    disk = lab.new("disk")
    output_dir = disk / "run"
    with small_disk(disk, "80m"):
        with lab.held(output_dir, steps=2) as (run, gate):
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            (disk / "others").write_bytes(bytes(max(free - 5_000_000, 0)))
            gate.open()
            sentence = sentence_of(run)
        assert "the disk is full" in sentence and str(output_dir) in sentence
        all_whole(output_dir)
        (disk / "others").unlink()
        mount("-o", "remount,size=400m", disk)
        assert "resumed from" in lab.finishes(output_dir)
    return stopped(sentence, lab.root)


@case("the disk is full to the last byte")
def no_byte_left(lab: Lab) -> str:
    """not even a line of the log has room"""
    disk = lab.new("disk")
    output_dir = disk / "run"
    slowly = ["--save_ckpt_steps", "0"]
    with small_disk(disk, "400m"):
        with lab.held(output_dir, *slowly, steps=STEPS_PER_EPOCH + 2) as (run, gate):
            with contextlib.suppress(OSError), (disk / "others").open("wb", buffering=0) as file:
                while file.write(bytes(1_000_000)):
                    pass
            gate.open()
            sentence = sentence_of(run)
        assert "the disk is full" in sentence and str(output_dir) in sentence, sentence
        all_whole(output_dir)
        (disk / "others").unlink()
        assert "resumed from" in lab.finishes(output_dir, *slowly)
    return stopped(sentence, lab.root)


@case("files may not grow any more")
def file_too_large(lab: Lab) -> str:
    """the process may write no file beyond 1 MB (RLIMIT_FSIZE)"""
    output_dir = lab.interrupted()
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    sentence = lab.stops(output_dir, before=limit, untouched=False)
    assert str(output_dir) in sentence and "cannot be written" in sentence
    all_whole(output_dir)
    lab.finishes(output_dir)
    return stopped(sentence, lab.root)


@case("the output folder is read-only")
def read_only(lab: Lab) -> str:
    """the output folder is mounted read-only when the run is to go on"""
    output_dir = lab.interrupted()
    sentence = lab.stops(output_dir, before=partial(in_own_mounts, "--bind", "-o", "ro", output_dir, output_dir))
    assert str(output_dir) in sentence and "Read-only file system" in sentence
    lab.finishes(output_dir)
    return stopped(sentence, lab.root)


@case("the output folder is deleted")
def folder_deleted(lab: Lab) -> str:
    """somebody deletes the output folder of a run at work"""
    output_dir = lab.new()
    with lab.held(output_dir, steps=2) as (run, gate):
        output_dir.rename(lab.new("deleted"))
        gate.open()
        sentence = sentence_of(run)
    noticed = "was deleted or replaced during the run" in sentence
    in_writing = "cannot be written: No such file" in sentence  # it went while a file was being written
    assert str(output_dir) in sentence and (noticed or in_writing), sentence
    assert not output_dir.exists()
    lab.finishes(output_dir)
    return stopped(sentence, lab.root)


@case("/dev/shm is full")
def no_shared_memory(lab: Lab) -> str:
    """the shared memory through which workers hand over batches has 64 KB"""
    output_dir = lab.interrupted()
    small = partial(in_own_mounts, "-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm")
    sentence = lab.stops(output_dir, "--decode_seconds", "4", before=small)
    assert "/dev/shm" in sentence and "0 MiB free" in sentence
    lab.finishes(output_dir)
    return stopped(sentence, lab.root)


def clock_that_jumps_back() -> None:
    """time.time of this process and its children jumps back by a day in the midst of the run, and once more."""
    calls, real = itertools.count(), time.time
    time.time = lambda: real() - 86400 * (min(next(calls) // 10, 2))  # type: ignore[assignment]


@case("the clock is set back")
def clock_back(lab: Lab) -> str:
    """time.time of the process jumps back by a day, twice, with --save_ckpt_minutes and the watchdog at work"""
    output_dir = lab.new()
    lab.finishes(output_dir, "--save_ckpt_minutes", "0.001", "--decode_seconds", "10", before=clock_that_jumps_back)
    return finished(0)


@case("the loss becomes NaN")
def not_a_number(lab: Lab) -> str:
    """a learning rate of 1e30: the run stops before the weights are touched, and names the videos"""
    output_dir = lab.new()
    with lab.running(output_dir, "--lr", "1e30") as run:
        sentence = sentence_of(run)
    assert "became nan" in sentence or "not finite" in sentence
    assert "on the videos 0" in sentence and f"the last good checkpoint is {output_dir / checkpoint.LAST}" in sentence
    all_whole(output_dir)
    content = torch.load(output_dir / checkpoint.LAST, weights_only=True)
    assert all(bool(torch.isfinite(weights).all()) for weights in content["model"].values())
    assert content["state"]["steps"] == num_steps(output_dir)
    short = sentence.replace(f"{lab.root}/", "").removeprefix("error: ")
    return f"stopped: {short}; that checkpoint is whole, all its weights are finite"


# Videos


def remove(video: Path) -> None:
    video.unlink()


def truncate(video: Path) -> None:
    os.truncate(video, video.stat().st_size // 2)


def replace_by_text(video: Path) -> None:
    video.write_text("<html><body>404: this video is no longer available</body></html>\n")


def bad_video(lab: Lab, spoil: Callable[[Path], None], reason: str, *, allowed_too: bool = False) -> str:
    """A training video is spoilt while its run works. The allowance of bad videos decides what comes of it."""
    dataset, output_dir = lab.own_dataset(), lab.new()
    video = dataset / f"videos/{TRAINED_ON}.mp4"
    whole = video.read_bytes()
    watched = ["--decode_seconds", str(WATCHED_SECONDS)]
    with lab.held(output_dir, *watched, steps=2, dataset=dataset) as (run, gate):
        spoil(video)
        gate.open()
        sentence = sentence_of(run)
    assert f"unreadable training videos: 1, more than --max_bad_videos allows: {TRAINED_ON}: " in sentence
    assert reason in sentence
    all_whole(output_dir)
    if allowed_too:
        with_another_video(lab, output_dir, dataset)
    video.unlink(missing_ok=True)
    video.write_bytes(whole)
    lab.finishes(output_dir, dataset=dataset)
    also = "; with --max_bad_videos 0.2 finished with another video in its place" if allowed_too else ""
    return stopped(sentence, lab.root) + also


def with_another_video(lab: Lab, output_dir: Path, dataset: Path) -> None:
    """A copy of the folder goes on where the bad video is allowed, with the steps so far as they were."""
    allowing = Path(shutil.copytree(output_dir, lab.new()))
    watched = ["--decode_seconds", str(WATCHED_SECONDS)]
    with lab.running(allowing, *watched, *ALLOWING, dataset=dataset) as run:
        assert run.wait() == 0, run.said
        assert f"unreadable in training, replaced by another video: {TRAINED_ON}: " in run.said
        assert "Traceback" not in run.said
    ours, theirs = outcome(allowing), lab.unbroken()
    kept = len(lines(output_dir / "steps.jsonl"))
    assert len(ours["steps"]) == len(theirs["steps"]) and ours["steps"][: kept - 1] == theirs["steps"][: kept - 1]


@case("a training video is removed")
def video_removed(lab: Lab) -> str:
    """a training video vanishes while its run works, with --max_bad_videos allowing it and not"""
    return bad_video(lab, remove, "no such file", allowed_too=True)


@case("a training video is truncated")
def video_truncated(lab: Lab) -> str:
    """half of a training video vanishes while its run works, which --max_bad_videos does not allow"""
    return bad_video(lab, truncate, "")


@case("a training video is replaced by text")
def video_replaced(lab: Lab) -> str:
    """a training video becomes a page that says 404 while its run works, which is not allowed"""
    return bad_video(lab, replace_by_text, "")


@case("a training video hangs its reader")
def video_hangs(lab: Lab) -> str:
    """a training video becomes a file at which the reader waits for ever; --decode_seconds ends it, allowed and not"""
    return bad_video(lab, block, f"the reader did not answer within {WATCHED_SECONDS} s", allowed_too=True)


@case("a test video is removed")
def test_video_removed(lab: Lab) -> str:
    """a test video vanishes during training: it is counted as unreadable, all else is as without it"""
    dataset, output_dir = lab.own_dataset(), lab.new()
    with lab.held(output_dir, steps=2, dataset=dataset) as (run, gate):
        (dataset / "videos/50001.mp4").unlink()
        gate.open()
        assert run.wait() == 0, run.said
    ours, theirs = outcome(output_dir), lab.unbroken()
    assert (ours["steps"], ours["epochs"]) == (theirs["steps"], theirs["epochs"])
    assert ours["results"]["num_unreadable"] == 1 and list(ours["results"]["unreadable"]) == ["50001"]
    of_others = [line for line in theirs["predictions"].splitlines() if '"50001"' not in line]
    assert ours["predictions"].splitlines()[:-1] == of_others
    return "finished with the unbroken run's numbers of all other videos, without a restart"

"""Files of the output folder that are damaged, and starts that do not fit to what is there."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from cases import case
from lab import REQUEUE_STATUS, STEPS_PER_EPOCH, Lab, finished, lines, outcome, stopped

from VideoMAE.cli import counted
from VideoMAE.training import checkpoint


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def newest_is_damaged(lab: Lab, damage: Callable[[Path], None]) -> str:
    output_dir = lab.interrupted()
    damage(output_dir / checkpoint.LAST)
    said = lab.finishes(output_dir)
    assert f"skipped a damaged checkpoint: {output_dir / checkpoint.LAST}" in said
    assert f"resumed from {output_dir / checkpoint.PREVIOUS}" in said
    return finished(1)


@case("the newest checkpoint is truncated")
def newest_truncated(lab: Lab) -> str:
    """a third of checkpoint-last.pth is lost: the one before serves"""
    return newest_is_damaged(lab, truncate)


@case("a bit of the newest checkpoint is flipped")
def newest_flipped(lab: Lab) -> str:
    """one bit in the middle of checkpoint-last.pth: the one before serves"""
    return newest_is_damaged(lab, flip_a_bit)


@case("the newest checkpoint is empty")
def newest_empty(lab: Lab) -> str:
    """checkpoint-last.pth has no bytes: the one before serves"""
    return newest_is_damaged(lab, empty)


@case("every checkpoint is damaged")
def all_damaged(lab: Lab) -> str:
    """a bit flipped in each checkpoint"""
    output_dir = lab.interrupted()
    saved = {path: path.read_bytes() for path in output_dir.glob("checkpoint-*")}
    for path in saved:
        flip_a_bit(path)
    sentence = lab.stops(output_dir)
    assert "every checkpoint is damaged" in sentence
    for path, content in saved.items():
        path.write_bytes(content)
    lab.finishes(output_dir)
    return stopped(sentence, lab.root)


@case("the best checkpoint is damaged before the test")
def best_damaged(lab: Lab) -> str:
    """a bit flipped in checkpoint-best.pth of a trained network"""
    output_dir = lab.new()
    with lab.running(output_dir) as run:
        assert run.wait() == 0, run.said
    best = output_dir / checkpoint.BEST
    content = best.read_bytes()
    flip_a_bit(best)
    sentence = lab.stops(output_dir)
    assert str(best) in sentence and "checksum" in sentence
    best.write_bytes(content)
    lab.finishes(output_dir)
    return stopped(sentence, lab.root)


@case("leftovers of killed processes")
def leftover_files(lab: Lab) -> str:
    """temporary files of processes that were killed lie about: they are cleared away"""
    output_dir = lab.interrupted()
    for name in (checkpoint.LAST, checkpoint.BEST, "config.json", "steps.jsonl"):
        (output_dir / f".{name}.4194999.tmp").write_bytes(b"\0" * 1000)
    (output_dir / "video_check.json.4194999.tmp").write_text("{")
    lab.finishes(output_dir)
    return finished(1)


@case("killed while config.json was written")
def first_file_cut(lab: Lab) -> str:
    """all that there is of a run is the temporary file of its config.json"""
    output_dir = lab.new()
    output_dir.mkdir()
    (output_dir / ".config.json.4194999.tmp").write_text('{"data": ')
    lab.finishes(output_dir)
    return finished(1)


@case("config.json is damaged")
def config_damaged(lab: Lab) -> str:
    """the second half of config.json is lost"""
    output_dir = lab.interrupted()
    file = output_dir / "config.json"
    content = file.read_text()
    file.write_text(content[: len(content) // 2])
    sentence = lab.stops(output_dir)
    assert f"{file}: not valid JSON" in sentence
    file.write_text(content)
    lab.finishes(output_dir)
    return stopped(sentence, lab.root)


@case("video_check.json is damaged")
def check_damaged(lab: Lab) -> str:
    """the second half of what is known of the videos is lost: they are looked at again"""
    output_dir = lab.interrupted()
    truncate(output_dir / "video_check.json")
    assert "ignoring the damaged cache" in lab.finishes(output_dir)
    return finished(1)


def steps_end_with(lab: Lab, rest: bytes) -> str:
    output_dir = lab.interrupted()
    for name in ("steps.jsonl", "log.txt"):
        with (output_dir / name).open("ab") as file:
            file.write(rest)
    lab.finishes(output_dir)
    return finished(1)


@case("half a line in the logs")
def half_a_line(lab: Lab) -> str:
    """steps.jsonl and log.txt end within a line"""
    return steps_end_with(lab, b'{"epoch": 0, "step": 7, "lo')


@case("rubbish at the end of the logs")
def rubbish(lab: Lab) -> str:
    """steps.jsonl and log.txt end with bytes that are no text, as a power cut leaves them"""
    return steps_end_with(lab, b"7\n\0\0\0\xff\xfe\x80\n")


@case("a lock file of a dead process")
def stale_lock(lab: Lab) -> str:
    """.lock names a process that is long gone"""
    output_dir = lab.interrupted()
    (output_dir / ".lock").write_text("process 4194999 on elsewhere\n")
    lab.finishes(output_dir)
    return finished(1)


@case("two runs on one output folder")
def second_run(lab: Lab) -> str:
    """the same command again while the first one works"""
    output_dir = lab.new()
    with lab.held(output_dir, steps=2) as (run, gate):
        sentence = lab.stops(output_dir)
        assert f"process {run.pid} on" in sentence and "in use by" in sentence
        gate.open()
        assert run.wait() == 0, run.said
    lab.is_right(output_dir)
    return stopped(re.sub("process [0-9]+ on .* works", "process N on HOST works", sentence), lab.root)


@case("labels changed between stop and resume")
def labels_changed(lab: Lab) -> str:
    """one intensity in train_labels.json is another one"""
    output_dir, labels = lab.interrupted(), lab.dataset / "train_labels.json"
    content = labels.read_text()
    labels.write_text(content.replace("0.", "0.0", 1))
    try:
        sentence = lab.stops(output_dir)
    finally:
        labels.write_text(content)
    assert "the checksum of the labels" in sentence
    lab.finishes(output_dir)
    return stopped(re.sub("[0-9a-f]{64}", "...", sentence), lab.root)


@case("another flag between stop and resume")
def flag_changed(lab: Lab) -> str:
    """the same folder with another learning rate"""
    output_dir = lab.interrupted()
    sentence = lab.stops(output_dir, "--lr", "0.02")
    assert "--lr: 0.03 there, 0.02 here" in sentence
    lab.finishes(output_dir)
    return stopped(sentence, lab.root)


def other_processes(lab: Lab, before: int, after: int, backend: list[str]) -> str:
    """Begun by one number of processes with a total batch of 2, gone on with by another one."""
    output_dir = lab.new()
    batch = {1: "2", 2: "1"}
    with lab.held(output_dir, *backend, "--batch_size", batch[before], steps=3, processes=before) as (run, gate):
        run.signal(signal.SIGUSR1)
        gate.open()
        assert run.wait() == REQUEUE_STATUS, run.said
    done = lines(output_dir / "steps.jsonl")
    with lab.running(output_dir, *backend, "--batch_size", batch[after], processes=after) as run:
        assert run.wait() == 0, run.said
        assert f"this run had {counted(before, 'process')} and now has {after}" in run.said
        assert "Traceback" not in run.said
    steps = lines(output_dir / "steps.jsonl")
    assert steps[: len(done)] == done
    assert [line["step"] for line in steps] == list(range(2 * STEPS_PER_EPOCH))
    for ours, theirs in zip(steps, lab.unbroken()["steps"], strict=True):
        assert abs(ours["loss"] - theirs["loss"]) < 0.1
    outcome(output_dir)
    return "finished with numbers close to the unbroken run's after 1 restart, and says so"


@case("more processes than before")
def more_processes(lab: Lab) -> str:
    """begun by one process, gone on with by two"""
    return other_processes(lab, 1, 2, [])


@case("fewer processes than before, ZeRO 2")
def fewer_processes(lab: Lab) -> str:
    """begun by two processes with DeepSpeed's ZeRO 2, gone on with by one"""
    return other_processes(lab, 2, 1, ["--enable_deepspeed", "--zero_stage", "2"])

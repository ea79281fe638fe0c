"""Logs: a JSON line per step and epoch, events, curves; what an interrupted run left is cut back; others are silent."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from matplotlib import image
from tensorboardX.proto.event_pb2 import Event
from torch import Tensor, zeros

from VideoMAE.files import read_complete_json_lines
from VideoMAE.training import metric_logger
from VideoMAE.training.metric_logger import MetricLogger, draw_curves, memory_gib


class OneBatch(NamedTuple):
    clips: Tensor


def write_run(folder: Path, *, first: int = 0, epochs: int = 2, log_dir: Path | None = None) -> MetricLogger:
    """Two steps an epoch; the run has not ended."""
    log = MetricLogger(folder, enabled=True)
    log.open(log_dir, epoch=first, steps=0, first_step=0)
    for epoch in range(first, epochs):
        for step in (2 * epoch, 2 * epoch + 1):
            log.step(epoch=epoch, step=step, values={"loss": 1.0 / (step + 1), "lr": 1e-3, "grad_norm": None})
        log.epoch(epoch, {"train_loss": 0.5 / (epoch + 1), "val_acc1": 10.0 * epoch, "val_bce": None, "lr": 1e-3})
    return log


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag. An event is its length, a checksum of that, itself, and its checksum."""
    scalars: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            event = Event.FromString(data[position + 12 : position + 12 + length])
            position += 12 + length + 4
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars


def test_every_step_and_epoch_is_a_json_line_before_the_run_ends(tmp_path: Path) -> None:
    log = write_run(tmp_path)
    assert read_jsonl(tmp_path / "steps.jsonl") == [
        {"epoch": step // 2, "step": step, "loss": 1.0 / (step + 1), "lr": 1e-3, "grad_norm": None} for step in range(4)
    ]
    assert read_jsonl(tmp_path / "log.txt") == [
        {"epoch": 0, "train_loss": 0.5, "val_acc1": 0.0, "val_bce": None, "lr": 1e-3},
        {"epoch": 1, "train_loss": 0.25, "val_acc1": 10.0, "val_bce": None, "lr": 1e-3},
    ]
    assert not log.steps.closed


def test_a_resumed_run_drops_the_lines_of_the_epochs_it_repeats(tmp_path: Path) -> None:
    write_run(tmp_path, epochs=3)
    write_run(tmp_path, first=1, epochs=2)
    assert [line["epoch"] for line in read_jsonl(tmp_path / "log.txt")] == [0, 1]
    assert [line["step"] for line in read_jsonl(tmp_path / "steps.jsonl")] == [0, 1, 2, 3]


def test_a_new_run_begins_with_empty_files(tmp_path: Path) -> None:
    write_run(tmp_path, epochs=3)
    write_run(tmp_path, epochs=1)
    assert [line["epoch"] for line in read_jsonl(tmp_path / "log.txt")] == [0]
    assert [line["step"] for line in read_jsonl(tmp_path / "steps.jsonl")] == [0, 1]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, epochs=2)
    for name in ("log.txt", "steps.jsonl"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text[: len(text) - 9])
    assert [line["step"] for line in read_complete_json_lines(tmp_path / "steps.jsonl")] == [0, 1, 2]
    write_run(tmp_path, first=1, epochs=2)
    assert [line["epoch"] for line in read_jsonl(tmp_path / "log.txt")] == [0, 1]
    assert [line["step"] for line in read_jsonl(tmp_path / "steps.jsonl")] == [0, 1, 2, 3]


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert read_complete_json_lines(tmp_path / "log.txt") == []


def test_tensorboard_shows_steps_and_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_logger, "draw_curves", lambda folder: None)  # slow
    write_run(tmp_path).close()
    events = read_events(tmp_path / "tensorboard")
    assert events.keys() == {"step/loss", "step/lr", "epoch/train_loss", "epoch/val_acc1", "epoch/lr"}
    assert [step for step, _ in events["step/loss"]] == [0, 1, 2, 3]
    np.testing.assert_allclose([value for _, value in events["step/loss"]], [1, 1 / 2, 1 / 3, 1 / 4], rtol=1e-6)
    assert events["epoch/val_acc1"] == [(0, 0.0), (1, 10.0)]


def test_tensorboard_events_go_where_the_flag_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_logger, "draw_curves", lambda folder: None)  # slow
    write_run(tmp_path / "run", log_dir=tmp_path / "logs").close()
    assert "step/loss" in read_events(tmp_path / "logs")
    assert sorted(os.listdir(tmp_path / "run")) == ["log.txt", "steps.jsonl"]


def test_closing_draws_the_curves_and_ends_the_files(tmp_path: Path) -> None:
    log = write_run(tmp_path)
    assert not (tmp_path / "curves.png").exists()
    log.close()
    assert log.steps.closed
    pixels = image.imread(tmp_path / "curves.png", format="png")
    height, width = pixels.shape[:2]
    assert 300 < height < 800
    assert 1000 < width < 2500
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


def test_curves_are_drawn_without_validation_and_not_before_the_first_epoch(tmp_path: Path) -> None:
    draw_curves(tmp_path)
    assert os.listdir(tmp_path) == []
    (tmp_path / "log.txt").write_text('{"epoch": 0, "train_loss": 0.5}\n')
    (tmp_path / "steps.jsonl").write_text('{"epoch": 0, "step": 0, "loss": 0.5, "lr": 0.1}\n{"epoch": 0, "st')
    draw_curves(tmp_path)
    width = image.imread(tmp_path / "curves.png", format="png").shape[1]
    assert width > 1000
    (tmp_path / "steps.jsonl").write_text("")  # as after --linear_probe, which has no learning rate to draw
    draw_curves(tmp_path)
    assert image.imread(tmp_path / "curves.png", format="png").shape[1] == pytest.approx(width * 2 / 3, abs=1)


def test_another_process_writes_and_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = MetricLogger(tmp_path, enabled=False)
    log.open(tmp_path / "logs", epoch=0, steps=0, first_step=0)
    log.step(epoch=0, step=0, values={"loss": 1.0})
    log.epoch(0, {"train_loss": 1.0})
    batches = [OneBatch(zeros(2, 3))] * 3
    assert list(log.progress(batches, describe="epoch 0", total=3)) == batches
    log.say("a sentence")
    log.close()
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr() == ("", "")


def test_the_main_process_shows_progress_on_a_terminal_and_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    log = MetricLogger(tmp_path, enabled=True)
    batches = [OneBatch(zeros(2, 3))] * 3
    shown_batches = []
    for batch in log.progress(batches, describe="epoch 7", total=3):
        time.sleep(0.6)  # the bar is drawn twice a second
        shown_batches.append(batch)
    assert shown_batches == batches
    log.say("a sentence")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "epoch 7" in shown.err
    assert "2/3" in shown.err
    assert "clips/s" in shown.err
    assert "a sentence" in shown.err


def test_a_test_without_training_leaves_a_runs_logs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("log.txt", "steps.jsonl")}
    monkeypatch.setattr(metric_logger, "draw_curves", lambda folder: pytest.fail("curves were drawn"))
    log = MetricLogger(tmp_path, enabled=True)  # never opened, as with --eval
    log.epoch(0, {"train_loss": 1.0})
    log.close()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_memory_is_a_plausible_number_of_gib() -> None:
    assert 0.05 < memory_gib() < 200

"""Checkpoints are written whole or not at all, and damaged ones are passed over by name."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from VideoMAE.files import write_atomically, write_text
from VideoMAE.training import checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]

FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from VideoMAE.files import write_text
from VideoMAE.training import checkpoint
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for write in (
    lambda: checkpoint.save(path, {"model": {"weight": torch.zeros(100_000)}}),
    lambda: write_text(path.with_suffix(".json"), "x" * 200_000),
):
    try:
        write()
    except ValueError as error:
        sys.stdout.write(f"{error}\\n")
"""


def content(epoch: int) -> dict[str, Any]:
    return {"model": {"weight": torch.full((50,), float(epoch))}, "epoch": epoch}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_is_saved_is_read_again_and_no_temporary_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / checkpoint.LAST
    checkpoint.save(path, content(3))
    found = checkpoint.newest(path.parent)
    assert found is not None and found[0] == path
    assert found[1]["epoch"] == 3
    assert torch.equal(found[1]["model"]["weight"], content(3)["model"]["weight"])
    assert os.listdir(path.parent) == [checkpoint.LAST]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (RuntimeError("unexpected pos 64 vs 0"), "unexpected pos 64 vs 0"),
    ],
)
def test_a_failing_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, reason: Exception, words: str
) -> None:
    path = tmp_path / checkpoint.LAST
    checkpoint.save(path, content(1))
    before = path.read_bytes()

    def write_half(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise reason

    with pytest.raises(ValueError, match=re.escape(f"{path}: cannot be written: {words}")):
        write_atomically(path, write_half)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [checkpoint.LAST]


def test_an_interruption_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    write_text(path, "old")

    def write_half(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write_half)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["log.txt"]


def test_until_it_is_whole_a_file_stands_under_another_name_in_the_same_folder(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.LAST
    checkpoint.save(path, content(1))
    seen: list[Any] = []

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        epoch = checkpoint.newest(tmp_path)[1]["epoch"]
        seen.append((temporary.parent, temporary.name, temporary.stat().st_ino, epoch))

    write_atomically(path, write)
    ((folder, name, inode, epoch),) = seen
    assert folder == tmp_path
    assert name != path.name
    assert epoch == 1
    assert path.read_text() == "new"
    assert path.stat().st_ino == inode  # renamed, not copied


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"log.txt: cannot be written: .*"):
        write_text(tmp_path / "file" / "log.txt", "text")


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.LAST
    checkpoint.save(path, content(1))
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"{path}: cannot be written: ")
    assert said[1].startswith(f"{path.with_suffix('.json')}: cannot be written: ")
    assert all("its previous content is unchanged" in line for line in said)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [checkpoint.LAST]


def test_the_newest_checkpoint_is_the_last_then_that_of_the_highest_epoch(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "absent") is None
    names = [checkpoint.epoch_name(9), checkpoint.epoch_name(10), checkpoint.LAST]
    for epoch, name in enumerate(names):
        checkpoint.save(tmp_path / name, content(epoch))
        path, found = checkpoint.newest(tmp_path)
        assert path.name == name
        assert found["epoch"] == epoch


def test_the_best_weights_alone_are_nothing_to_go_on_from(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / checkpoint.BEST, content(5))
    assert checkpoint.newest(tmp_path) is None
    checkpoint.save(tmp_path / checkpoint.epoch_name(3), content(3))
    assert checkpoint.newest(tmp_path)[1]["epoch"] == 3


def test_damaged_checkpoints_are_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for epoch in (3, 12):
        checkpoint.save(tmp_path / checkpoint.epoch_name(epoch), content(epoch))
    checkpoint.save(tmp_path / checkpoint.LAST, content(13))
    cut(tmp_path / checkpoint.LAST)
    (tmp_path / checkpoint.epoch_name(12)).write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        path, found = checkpoint.newest(tmp_path)
    assert path == tmp_path / "checkpoint-3.pth"
    assert found["epoch"] == 3
    passed_over = [record.getMessage() for record in caplog.records]
    assert len(passed_over) == 2
    assert str(tmp_path / checkpoint.LAST) in passed_over[0]
    assert "checkpoint-12.pth" in passed_over[1]


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    for name in (checkpoint.LAST, checkpoint.epoch_name(3)):
        checkpoint.save(tmp_path / name, content(1))
        cut(tmp_path / name)
    with pytest.raises(ValueError, match=r"every checkpoint is damaged; move the folder away or pass --no_auto_resume"):
        checkpoint.newest(tmp_path)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("checkpoint-.pth", "checkpoint-final.pth", "model.pth", f".{checkpoint.LAST}.77.tmp"):
        checkpoint.save(tmp_path / name, content(1))
    assert checkpoint.newest(tmp_path) is None

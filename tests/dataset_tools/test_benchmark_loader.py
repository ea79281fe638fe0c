"""The benchmark of the loader: parts that add up, the run's own items and flags, one-line errors."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from vce_files import make_vce_folder
from video_files import write_grey_video

from VideoMAE.cli import counted
from VideoMAE.dataset_tools import benchmark_loader

SMALL_V2V = ["--num_frames", "4", "--input_size", "32", "--batch_size", "2", "--aa", "none", "--device", "cpu"]
SMALL = [*SMALL_V2V, "--short_side_size", "32"]
QUICK = ["--seconds", "0.2"]
BROKEN = "00001"


@pytest.fixture(scope="module")
def vce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vce") / "vce_dataset"
    return make_vce_folder(root, 9, 4, num_frames=60, unreadable=(BROKEN, "50002"))


@pytest.fixture(scope="module")
def v2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six readable videos in three training pairs, one pair with a broken one, a test pair and a list."""
    root = tmp_path_factory.mktemp("v2v") / "v2v_dataset"
    (root / "videos").mkdir(parents=True)
    for number in range(9):
        write_grey_video(root / "videos" / f"{number:05d}.mp4", 12, width=48, height=40)
    (root / "videos" / f"{BROKEN}.mp4").write_bytes(b"")
    labels = {
        "train": [["00000", BROKEN], ["00002", "00003"], ["00004", "00005"], ["00003", "00005"]],
        "test": [["00006", "00007"]],
        "listwise": [["00006", "00007", "00008"]],
    }
    for split, comparisons in labels.items():
        (root / f"{split}_labels.json").write_text(json.dumps({"comparisons": comparisons}))
    return root


def benchmark(*arguments: object) -> int:
    """Run the program in this process, which has torch loaded already -> exit status."""
    return benchmark_loader.main([*map(str, arguments)])


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def test_training_items_are_split_into_parts_that_add_up(
    vce: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "found.json"
    flags = [*SMALL, "--train_fps", "None", "--sampling_rate", "3", "--num_sample", "2"]
    assert benchmark(vce, *QUICK, "--workers", 0, 2, "--json", file, *flags) == 0
    found = json.loads(file.read_text())
    assert list(found["cpu_seconds"]) == ["open", "decode", "augment", "collate"]
    assert all(seconds > 0 for seconds in found["cpu_seconds"].values())
    assert found["num_clips"] == 2 * found["num_items"] > 0
    rate = found["clips_per_second_and_core"]
    assert rate == pytest.approx(found["num_clips"] / sum(found["cpu_seconds"].values()))
    assert found["cores_per_gpu"] == math.ceil(300 / rate)
    assert list(found["clips_per_second_by_workers"]) == ["0", "2"]
    assert min(found["clips_per_second_by_workers"].values()) > 0
    assert found["flags"]["data"]["sampling_rate"] == 3
    assert found["num_videos"] == 7  # 9 training videos, of which one is held out and one is broken
    assert list(found["unreadable"]) == [BROKEN]
    assert re.search(rf"left out: {BROKEN} \(.*{BROKEN}\.mp4\): the file is empty", caplog.text)
    assert f"needs {counted(found['cores_per_gpu'], 'core')};" in caplog.text


def test_timing_changes_no_clip_and_ends_with_its_block(vce: Path) -> None:
    loader = benchmark_loader.open_benchmark(vce, "train", [*SMALL, "--train_fps", "10"], max_videos=100).loader(0)
    key = next(benchmark_loader.endless_keys(loader.sampler))[0]
    expected = loader.dataset[key].clips
    seconds = {"open": 0.0, "decode": 0.0}
    with benchmark_loader.reading_timed(seconds):
        clips = loader.dataset[key].clips
    assert torch.equal(clips, expected)
    assert min(seconds.values()) > 0
    before = dict(seconds)
    _ = loader.dataset[key]
    assert seconds == before, "calls outside the context are not timed"


def test_test_videos_are_measured_by_views(vce: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    assert benchmark(vce, "--mode", "test", *QUICK, "--workers", 1, "--json", file, *SMALL) == 0
    found = json.loads(file.read_text())
    assert found["num_clips"] == 6 * found["num_items"]
    assert list(found["unreadable"]) == ["50002"]


@pytest.mark.parametrize(("mode", "per_batch", "num_videos"), [("train", 4, 4), ("test", 3, 3)])
def test_v2v_has_its_items_too(v2v: Path, tmp_path: Path, mode: str, per_batch: int, num_videos: int) -> None:
    """Two comparisons of two videos; or batches of twice as many videos, of which there are three."""
    file = tmp_path / "found.json"
    more = ["--seconds", 1e-6, "--workers", 0]  # one batch
    assert benchmark(v2v, "--mode", mode, *more, "--json", file, *SMALL_V2V) == 0
    found = json.loads(file.read_text())
    assert found["num_clips"] == per_batch
    assert found["num_videos"] == num_videos
    assert list(found["unreadable"]) == ([BROKEN] if mode == "train" else [])


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--seconds", "0"], "--seconds 0: must be above 0"),
        (["--workers", "-1"], "--workers -1: must be at least 0"),
        (["--max_videos", "0"], "--max_videos 0: must be at least 1"),
        ([*SMALL, "--batch_size", "50"], "7 training videos do not fill one total batch of 50 "),
        (["--train_fps", "0.5", *SMALL], "none of the 8 training videos is readable and long enough for a clip"),
        (["--input_size", "0"], "--input_size 0: must be at least 1"),
        (["--exclude", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--aa", "rand-x"], "--aa"),
    ],
)
def test_wrong_values_are_one_sentence(
    vce: Path, capsys: pytest.CaptureFixture[str], flags: list[str], reason: str
) -> None:
    assert benchmark(vce, *flags, *([] if "--train_fps" in flags else ["--train_fps", "None"])) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_unknown_flag_is_named(vce: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark(vce, "--colour", "3")
    assert stopped.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_datasets_that_are_none_are_one_sentence(
    vce: Path, v2v: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark(tmp_path / "nothing") == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'nothing'}: no such folder\n"
    assert benchmark(tmp_path) == 1
    assert "has no train_labels.json" in capsys.readouterr().err
    for root, reason in ((vce, "none of the 8 videos can be read"), (v2v, "none of the 6 videos can be read")):
        emptied = tmp_path / root.name
        shutil.copytree(root, emptied)
        for video in (emptied / "videos").iterdir():
            video.write_bytes(b"")
        assert benchmark(emptied) == 1
        assert reason in capsys.readouterr().err

"""The predict command: its formats and curves equal the library's predictions; unreadable videos set exit status 1;
wrong flags, Ctrl-C and a closed pipe end it cleanly."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gates import Gate
from matplotlib import image
from tiny_runs import TinyRuns
from tolerance import nearly
from video_files import moving_frames, write_changing_video, write_video

from VideoMAE.inference.output import by_distinct_names
from VideoMAE.inference.predictor import Prediction, load_predictor
from VideoMAE.predict import main

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos in nested folders, one of them damaged, and a text file."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("b/one.mp4", "b/c/two.MKV")):
        (folder / name).parent.mkdir(exist_ok=True)
        write_video(folder / name, moving_frames(30, seed=number))
    (folder / "a.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path, tiny_runs: TinyRuns) -> list[Prediction]:
    return load_predictor(list(tiny_runs))([folder / name for name in ("a.mp4", "b/c/two.MKV", "b/one.mp4")])


def flags(runs: TinyRuns, *more: str | Path) -> list[str]:
    return ["--checkpoint", *map(str, runs), "--device", "cpu", "--num_workers", "0", *map(str, more)]


def as_json(prediction: Prediction) -> dict[str, Any]:
    found = {key: value for key, value in prediction._asdict().items() if value is not None}
    return {**found, "path": str(prediction.path)}


def test_json_lines_have_all_values_in_order_and_a_bad_video_sets_the_exit_status(
    folder: Path, tiny_runs: TinyRuns, expected: list[Prediction], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), *flags(tiny_runs, "--format", "jsonl")]) == 1
    captured = capsys.readouterr()
    entries = [json.loads(line) for line in captured.out.splitlines()]
    assert entries == [nearly(as_json(prediction)) for prediction in expected]
    assert entries[0] == {"path": str(folder / "a.mp4"), "error": "the file is empty"}
    assert f"unreadable: {folder / 'a.mp4'}: the file is empty" in captured.err


def test_videos_that_change_their_size_are_predicted_like_others(
    tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_changing_video(tmp_path / "a.webm", codec="libvpx-vp9")
    write_changing_video(tmp_path / "b.mp4")
    for decoding in (["--num_workers", "0"], ["--num_workers", "1"]):
        assert main([str(tmp_path), *flags(tiny_runs, "--format", "jsonl"), *decoding]) == 0
        entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [Path(entry["path"]).name for entry in entries] == ["a.webm", "b.mp4"]
        assert all(entry["score"] and len(entry["intensities"]) == 27 for entry in entries)


def test_a_csv_file_is_written_atomically_with_all_values(
    folder: Path, tiny_runs: TinyRuns, expected: list[Prediction], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "predictions.csv"
    assert main([str(folder), *flags(tiny_runs, "--format", "csv", "--output", output)]) == 1
    assert capsys.readouterr().out == "" and os.listdir(output.parent) == [output.name]
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, prediction in zip(rows, expected, strict=True):
        assert (row.pop("path"), row.pop("error")) == (str(prediction.path), prediction.error or "")
        values = {"duration_seconds": prediction.duration_seconds, "score": prediction.score}
        values |= prediction.intensities or dict.fromkeys(row.keys() - values.keys())
        assert {name: float(cell) if cell else None for name, cell in row.items()} == nearly(values)


def test_the_table_shows_the_strongest_emotions_with_bars_and_the_score(
    folder: Path, tiny_runs: TinyRuns, expected: list[Prediction], capsys: pytest.CaptureFixture[str]
) -> None:
    one = folder / "b/one.mp4"
    assert main([str(one), *flags(tiny_runs, "--top", "2")]) == 0
    intensities, score = expected[2].intensities, expected[2].score
    assert intensities is not None
    [(first, high), (second, low)] = sorted(intensities.items(), key=lambda item: -item[1])[:2]
    width = max(len(first), len(second))
    assert capsys.readouterr().out == (
        f"{one}: 1.0 s, pleasantness {score:.3f}\n"
        f"  {first:<{width}}  {high:.2f}  {'█' * round(20 * high)}\n"
        f"  {second:<{width}}  {low:.2f}  {'█' * round(20 * low)}\n"
    )
    assert main([str(one), *flags((tiny_runs.v2v,))]) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out == f"{one}: 1.0 s, pleasantness {score:.3f}\n"


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_curves_over_time_and_their_plots(
    folder: Path, tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    more = ["--over_time", "--output_dir", tmp_path / "curves", "--window_seconds", "0.5", "--hop_seconds", "0.2"]
    assert main([str(folder), *flags(tiny_runs, "--format", form, *more)]) == 1
    assert sorted(os.listdir(tmp_path / "curves")) == sorted(
        f"{n}.{end}" for n in ("one", "two") for end in (form, "png")
    )
    assert f"{folder / 'a.mp4'}: cannot be read: the file is empty" in capsys.readouterr().out
    lines = (tmp_path / f"curves/one.{form}").read_text().splitlines()
    rows = [json.loads(line) for line in lines] if form == "jsonl" else [*csv.DictReader(lines)]
    curves = load_predictor(list(tiny_runs)).over_time(folder / "b/one.mp4", window_seconds=0.5, hop_seconds=0.2)
    assert [*rows[0]] == ["seconds", "score", *curves.emotions] and len(rows) == len(curves.times_seconds) == 3
    for row, seconds, score, intensities in zip(
        rows, curves.times_seconds, curves.scores, curves.intensities, strict=True
    ):
        assert list(map(float, row.values())) == pytest.approx([seconds, score, *intensities], abs=2e-6)
    picture = image.imread(tmp_path / "curves/one.png")
    assert picture.shape[0] > 600 and picture.std() > 0.05


def test_videos_with_equal_names_get_different_files() -> None:
    paths = [Path("a/x.mp4"), Path("b/x.avi"), Path("x-2.mp4"), Path("c/x.mp4")]
    assert by_distinct_names(paths) == dict(zip(["x", "x-2", "x-2-2", "x-3"], paths, strict=True))


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--over_time"], 2, "--over_time and --output_dir need each other"),
        (["--output_dir", "x"], 2, "--over_time and --output_dir need each other"),
        (["--over_time", "--output_dir", "x", "--output", "y"], 2, "remove --output"),
        (["--hop_seconds", "0"], 2, "--hop_seconds 0: must be above 0"),
        (["--num_workers", "-1"], 2, "--num_workers -1: must be at least 0"),
        (["--output", "/"], 1, "--output /: is a folder"),
        (["--output", "/dev/null/x"], 1, "--output /dev/null/x: cannot be written"),
        (["--model", "vit_base_patch16_224"], 1, "width 128 and depth 4, but --model vit_base_patch16_224"),
        (["--checkpoint", "/nowhere"], 1, "/nowhere: no such checkpoint"),
    ],
)
def test_a_wrong_flag_is_reported_in_one_line(
    folder: Path, tiny_runs: TinyRuns, capsys: pytest.CaptureFixture[str], more: list[str], status: int, message: str
) -> None:
    assert main([str(folder / "b/one.mp4"), *flags(tiny_runs, *more)]) == status
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")


def test_a_folder_without_videos_and_missing_arguments_are_errors(
    folder: Path, tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert main([str(tmp_path), *flags(tiny_runs)]) == 1
    assert f"error: no video files in {tmp_path} (1 other file)" in capsys.readouterr().err
    assert main(flags(tiny_runs)) == 2
    for arguments in ([str(folder)], [str(folder), *flags(tiny_runs), "--no_such_flag"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def start_program(folder: Path, *arguments: str | Path, gate: Gate) -> subprocess.Popen[str]:
    """The program as a file, from another folder, in a process group of its own as under a shell."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "VideoMAE/predict.py"), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **gate.environment()},
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_ctrl_c_exits_with_130_and_leaves_no_files(folder: Path, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(20):
        (tmp_path / f"many/{number:04d}.mp4").symlink_to(folder / "b/one.mp4")
    arguments = ["many", "--checkpoint", *tiny_runs, "--output", "out.jsonl", "--num_workers", "1"]
    gate = Gate(tmp_path / "many/gate", "VideoMAE.inference.predictor:ClipBatches.add", calls=5)
    process = start_program(tmp_path, *arguments, gate=gate)
    gate.wait(process)
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate()
    assert process.returncode == 130, messages
    assert messages.splitlines()[-1] == "error: stopped" and "Traceback" not in messages, messages
    assert os.listdir(tmp_path) == ["many"]
    while group_of(process.pid):  # killed, and about to end
        time.sleep(0.05)


def group_of(leader: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == leader and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


def test_a_closed_pipe_ends_the_program_without_a_traceback(folder: Path, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    gate = Gate(tmp_path, "VideoMAE.inference.output:text_of", calls=2)
    process = start_program(folder, *["b/one.mp4"] * 3, "--checkpoint", tiny_runs.v2v, "--format", "csv", gate=gate)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "path,duration_seconds,score,error\n"
    assert process.stdout.readline().startswith("b/one.mp4,1.0,")
    process.stdout.close()
    gate.open()
    assert process.wait() == 1
    assert "Traceback" not in process.stderr.read() and not group_of(process.pid)
    process.stderr.close()

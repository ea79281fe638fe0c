"""Excluded videos are left out of a run, counted, and part of its identity."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from v2v_dataset import TINY, write_dataset
from vce_files import make_vce_folder

from VideoMAE import run_class_finetuning, run_v2v_finetuning
from VideoMAE.data.exclusion import Exclusion, format_excluded, read_excluded
from VideoMAE.data.vce import read_class_list
from VideoMAE.runtime import distributed

VCE = shlex.split("""
    --model vit_micro_patch16_224 --num_frames 8 --input_size 32 --short_side_size 32 --aa none --warmup_epochs 0
    --batch_size 4 --num_workers 0 --device cpu --test_num_segment 1 --test_num_crop 1
""")


def run(program: Any, *arguments: object) -> None:
    try:
        program.main([str(argument) for argument in arguments])
    finally:
        distributed.stop()


def refusal(program: Any, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(program, *arguments)
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    return stopped.value.code


def test_a_file_of_ids_may_have_reasons_comments_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "exclude.txt"
    file.write_text("# checked\n\n00001\n  00002  # no such file\nmy film # bad # very\n#00003\n00004\t# x\n")
    expected = {"00001": "", "00002": "no such file", "my film": "bad # very", "00004": "x"}
    assert read_excluded(file) == expected
    file.write_text(format_excluded(expected))
    assert read_excluded(file) == expected


def test_a_comparison_of_two_excluded_videos_is_lost_once(tmp_path: Path) -> None:
    file = tmp_path / "exclude.txt"
    file.write_text("a\nb\nc\n")
    exclusion = Exclusion(file)
    kept = [exclusion.keeps(entry, split="train") for entry in (["a", "b"], ["b", "d"], ["d", "e"])]
    assert kept == [False, False, True]
    assert exclusion.results() == {"excluded": {"train": 2, "unknown_ids": ["c"]}}


def test_the_fingerprint_depends_on_the_ids_only(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file, text in zip(files, ("1\n2 # bad\n", "# why\n2\n1\n", "1\n3\n"), strict=True):
        file.write_text(text)
    first, again, other = (Exclusion(file).fingerprint() for file in files)
    assert first == again != other
    assert Exclusion(None).fingerprint() is None
    assert Exclusion(None).results() == {}


def test_a_vce_run_leaves_excluded_videos_out_and_counts_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_vce_folder(tmp_path / "data", 20, 5, unreadable=("00003", "50001"), num_frames=120)
    labels = json.loads((data / "train_labels.json").read_text())
    labels["00007"]["emotions"]["Joy"] = "much"
    (data / "train_labels.json").write_text(json.dumps(labels))
    exclude, output = tmp_path / "exclude.txt", tmp_path / "run"
    exclude.write_text("00003 # empty\n00007\n50001\n99999\n")
    flags = ["--data_path", data, "--output_dir", output, *VCE, "--epochs", 2, "--max_bad_videos", 0]
    assert "00007: the intensity of Joy is 'much'" in refusal(run_class_finetuning, *flags)
    with caplog.at_level("INFO"):
        run(run_class_finetuning, *flags, "--exclude", exclude)
    assert f"--exclude {exclude}: 4 ids; excluded videos: 2 train, 1 test" in caplog.text
    assert f"--exclude {exclude}: 1 id not in the labels: 99999" in caplog.text
    assert "16 training videos" in caplog.text  # of 18 that remain, 2 validate
    results = json.loads((output / "results.json").read_text())
    assert results["excluded"] == {"train": 2, "test": 1, "unknown_ids": ["99999"]}
    assert (results["num_videos"], results["num_unreadable"]) == (4, 0)
    tested = [json.loads(line)["id"] for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert tested == ["50000", "50002", "50003", "50004"]
    moved = exclude.rename(tmp_path / "moved.txt")
    run(run_class_finetuning, *flags, "--exclude", moved)
    moved.write_text("00003\n00007\n50001\n")
    assert "another configuration (--exclude_content: 4 ids, sha256 " in refusal(
        run_class_finetuning, *flags, "--exclude", moved
    )
    moved.write_text("\n".join([*labels, *(f"5000{i}" for i in range(5))]))
    assert "train_labels.json: contains only excluded videos" in refusal(
        run_class_finetuning, *flags, "--exclude", moved
    )


def test_csv_lists_leave_excluded_videos_out(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("/videos/00001.mp4 3\n/videos/00002.mp4 4\n")
    (tmp_path / "exclude.txt").write_text("00001\n")
    exclusion = Exclusion(tmp_path / "exclude.txt")
    read = read_class_list(tmp_path / "test.csv", exclusion=exclusion)
    assert read.ids == ["00002"]
    assert exclusion.results() == {"excluded": {"test": 1, "unknown_ids": []}}


def test_a_v2v_run_leaves_every_comparison_with_an_excluded_video_out(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", bad=("00048",))
    comparisons = json.loads((data / "train_labels.json").read_text())["comparisons"]
    (data / "train_labels.json").write_text(json.dumps({"comparisons": [*comparisons, ["00000", "00000"]]}))
    exclude, output = tmp_path / "exclude.txt", tmp_path / "run"
    exclude.write_text("00000\n00048\n00063\n00070\n")
    flags = ["--data_dir", data, "--results_path", output, *TINY, "--num_epochs", 1, "--max_bad_videos", 0]
    assert "duplicate video 00000" in refusal(run_v2v_finetuning, *flags)
    run(run_v2v_finetuning, *flags, "--exclude", exclude)
    results = json.loads((output / "results.json").read_text())
    assert results["excluded"] == {"train": 2, "test": 1, "listwise": 2, "unknown_ids": []}
    assert (results["num_pairs"], results["num_lists"], results["num_unreadable"]) == (13, 2, 0)
    scored = {json.loads(line)["id"] for line in (output / "scores.jsonl").read_text().splitlines()}
    assert not scored & {"00048", "00063", "00070"}


def test_a_v2v_dataset_may_have_no_lists(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (data / "listwise_labels.json").write_text('{"comparisons": []}')
    run(run_v2v_finetuning, "--data_dir", data, "--results_path", tmp_path / "run", *TINY, "--num_epochs", 1)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["list_accuracy"] is results["chance"]["list_accuracy"] is None
    assert (results["num_pairs"], results["num_lists"]) == (14, 0)


def test_an_unreadable_file_of_ids_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    flags = ["--data_path", tmp_path, "--output_dir", tmp_path / "run", *VCE, "--exclude"]
    assert refusal(run_class_finetuning, *flags, "absent.txt").endswith("absent.txt: no such file; check --exclude")
    for name in ("binary", "."):
        assert f"error: {tmp_path / name}: cannot be read" in refusal(run_class_finetuning, *flags, tmp_path / name)

"""The adapter from VCE's labels to lists of files and classes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from VideoMAE.data.vce import EMOTIONS

TOOL = Path(__file__).resolve().parents[2] / "data_prep" / "vce_to_videomae_dataset.py"


def run_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def write_labels(folder: Path, split: str, tops: dict[str, list[str]]) -> None:
    """Write a label file whose videos have 0.5 at their top emotions and 0.1 elsewhere, names in reverse order."""
    entries = {
        video_id: {
            "emotions": {name: 0.5 if name in names else 0.1 for name in reversed(EMOTIONS)},
            "file": f"videos/{video_id}.mp4",
            "topK": names,
        }
        for video_id, names in tops.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}_labels.json").write_text(json.dumps(entries), encoding="utf-8")


@pytest.fixture
def vce(tmp_path: Path) -> Path:
    folder = tmp_path / "vce_dataset"
    tops = {
        "00002": ["Admiration"],
        "00000": ["Aesthetic Appreciation", "Adoration"],
        "00001": ["Surprise"],
        "00003": ["Sexual Desire"],
    }
    write_labels(folder, "train", tops)
    write_labels(folder, "test", {"00004": ["Amusement"]})
    return folder


def read(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()


def test_validation_is_the_last_entries_and_the_first_of_equals_in_alphabetical_order_wins(
    vce: Path, tmp_path: Path
) -> None:
    done = run_tool("-d", vce, "-o", tmp_path / "lists", "--val_samples", 2)
    assert done.returncode == 0, done.stderr
    videos = vce.resolve() / "videos"
    assert read(tmp_path / "lists", "train") == [f"{videos}/00002.mp4 0", f"{videos}/00000.mp4 1"]
    assert read(tmp_path / "lists", "val") == [f"{videos}/00001.mp4 26", f"{videos}/00003.mp4 25"]
    assert read(tmp_path / "lists", "test") == [f"{videos}/00004.mp4 3"]


def test_a_dataset_of_other_emotions_has_its_own_classes(tmp_path: Path) -> None:
    (tmp_path / "emotions.json").write_text(json.dumps(["calm", "joy"]))
    for split, intensities in (("train", {"1": (0, 1), "2": (1, 0)}), ("test", {"3": (0, 1)})):
        entries = {
            key: {"emotions": dict(zip(("calm", "joy"), pair, strict=True)), "file": f"videos/{key}.mp4"}
            for key, pair in intensities.items()
        }
        (tmp_path / f"{split}_labels.json").write_text(json.dumps(entries))
    done = run_tool("-d", tmp_path, "-o", tmp_path / "lists", "--val_samples", 1)
    assert done.returncode == 0, done.stderr
    videos = tmp_path.resolve() / "videos"
    assert read(tmp_path / "lists", "train") == [f"{videos}/1.mp4 1"]
    assert read(tmp_path / "lists", "val") == [f"{videos}/2.mp4 0"]


@pytest.mark.parametrize("val_samples", [4, 5000])
def test_holding_out_every_training_video_is_refused(vce: Path, tmp_path: Path, val_samples: int) -> None:
    done = run_tool("-d", vce, "-o", tmp_path / "lists", "--val_samples", val_samples)
    assert done.returncode == 1
    assert f"--val_samples {val_samples}" in done.stderr
    assert "4 entries" in done.stderr
    assert not (tmp_path / "lists").exists()


def test_other_lists_stay_unless_overwrite_is_passed(vce: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    assert run_tool("-d", vce, "-o", lists, "--val_samples", 1).returncode == 0
    before = read(lists, "train")
    assert run_tool("-d", vce, "-o", lists, "--val_samples", 1).returncode == 0, "the same content again is no conflict"
    refused = run_tool("-d", vce, "-o", lists, "--val_samples", 2)
    assert refused.returncode == 1
    assert "--overwrite" in refused.stderr
    assert read(lists, "train") == before
    assert run_tool("-d", vce, "-o", lists, "--val_samples", 2, "--overwrite").returncode == 0
    assert read(lists, "train") == before[:2]


def test_a_missing_label_file_is_named(vce: Path, tmp_path: Path) -> None:
    (vce / "test_labels.json").unlink()
    done = run_tool("-d", vce, "-o", tmp_path / "lists", "--val_samples", 1)
    assert done.returncode == 1
    assert "test_labels.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"00000": {"file": "videos/00000.mp4"}}', '{"00000": {"emotions": {}}}']
)
def test_a_malformed_label_file_is_named(vce: Path, tmp_path: Path, content: str) -> None:
    (vce / "train_labels.json").write_text(content, encoding="utf-8")
    done = run_tool("-d", vce, "-o", tmp_path / "lists", "--val_samples", 1)
    assert done.returncode == 1
    assert "train_labels.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_white_space_in_a_path_is_refused(vce: Path, tmp_path: Path) -> None:
    spaced = vce.rename(tmp_path / "vce dataset")
    done = run_tool("-d", spaced, "-o", tmp_path / "lists", "--val_samples", 1)
    assert done.returncode == 1
    assert "white space" in done.stderr

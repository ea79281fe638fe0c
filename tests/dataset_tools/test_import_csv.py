"""One's own videos and CSV file become a dataset that is checked as fine and trained on, by its own emotion names."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import video_files
from label_folders import read

from VideoMAE.dataset_tools import import_csv
from VideoMAE.dataset_tools.check_dataset import Settings as CheckSettings
from VideoMAE.dataset_tools.check_dataset import check_dataset
from VideoMAE.dataset_tools.import_csv import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
EMOTIONS = ["calm", "fear", "joy", "weh mut", "Zorn"]
NUM_VIDEOS = 20


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """film 0.mp4 to film 19.mp4, every other one in a folder of its own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "more").mkdir()
    first = video_files.write_moving_video(folder / "film 0.mp4", 30, fps=15)
    for i in range(1, NUM_VIDEOS):
        os.link(first, folder / path_of(i))
    return folder


def path_of(i: int) -> str:
    return f"more/film {i}.mp4" if i % 2 else f"film {i}.mp4"


def intensities(i: int) -> list[float]:
    return [round(float(value), 3) for value in np.random.default_rng(i).uniform(size=len(EMOTIONS))]


def write_ratings(folder: Path, *more: str, delimiter: str = ",") -> Path:
    lines = [["path", *EMOTIONS], *([path_of(i), *map(str, intensities(i))] for i in range(NUM_VIDEOS))]
    file = folder / "ratings.csv"
    file.write_text("\n".join([*(delimiter.join(line) for line in lines), *more]) + "\n", encoding="utf-8-sig")
    return file


def write_pairs(folder: Path, *more: str) -> Path:
    """Chains of four videos, the better one first."""
    lines = [f"{path_of(i + 1)},{path_of(i)},me" for i in range(NUM_VIDEOS) if i % 4 < 3]
    file = folder / "pairs.csv"
    file.write_text("\n".join(["better,worse,rater", *lines, *more]))
    return file


def problems(root: Path, kind: str) -> list[str]:
    report = check_dataset(CheckSettings(root, decode="all"), kind=kind)
    assert "published" not in report.to_text()  # the counts of VCE and V2V mean nothing for one's own data
    return [finding.text for finding in report.problems]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_of_emotions_become_a_vce_dataset(videos: Path, tmp_path: Path, delimiter: str) -> None:
    root = tmp_path / "data"
    assert import_csv.run(Settings(write_ratings(tmp_path, delimiter=delimiter), root, videos_dir=videos))
    assert read(root / "emotions.json") == sorted(EMOTIONS)
    train, test = read(root / "train_labels.json"), read(root / "test_labels.json")
    assert (len(train), len(test)) == (16, 4)
    assert set(train) | set(test) == {f"film {i}" for i in range(NUM_VIDEOS)}
    entry = (train | test)["film 3"]
    expected = dict(zip(EMOTIONS, intensities(3), strict=True))
    assert entry["emotions"] == expected
    assert entry["topK"] == sorted(EMOTIONS, key=lambda name: -expected[name])[:3]
    assert (root / entry["file"]).stat().st_ino == (videos / path_of(3)).stat().st_ino
    assert problems(root, "vce") == []


def test_an_imported_dataset_of_5_emotions_trains_and_tests(videos: Path, tmp_path: Path) -> None:
    root, output = tmp_path / "data", tmp_path / "run"
    program = [sys.executable, str(REPOSITORY / "data_prep/import_csv.py"), str(write_ratings(tmp_path))]
    done = subprocess.run(
        [*program, "--output_dir", str(root), "--videos_dir", str(videos)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "(VCE, 5 emotions): 20 lines, 20 videos, 0 bad lines" in done.stdout
    run = [sys.executable, "-m", "VideoMAE.run_class_finetuning", "--data_path", str(root), "--output_dir", str(output)]
    run += ["--model", "vit_micro_patch16_224", "--num_frames", "8", "--input_size", "32", "--short_side_size", "32"]
    run += ["--aa", "none", "--epochs", "1", "--warmup_epochs", "0", "--batch_size", "4", "--num_workers", "0"]
    run += ["--device", "cpu", "--no_save_ckpt", "--mixup", "0.8"]
    done = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = read(output / "results.json")
    assert results["emotions"] == sorted(EMOTIONS)
    assert results["acc5"] == results["chance"]["acc5"] == 100
    assert results["chance"]["predicted_in_true_top3"] == pytest.approx(60)
    predictions = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    labels = read(root / "test_labels.json")
    assert [line["id"] for line in predictions] == list(labels)
    for line in predictions:
        assert list(line["predicted"]) == sorted(EMOTIONS)
        assert line["true_top3"] == labels[line["id"]]["topK"]
        assert np.shape(line["view_logits"]) == (6, 5)
    refused = subprocess.run([*run, "--nb_classes", "27"], cwd=REPOSITORY, capture_output=True, text=True)
    assert refused.returncode == 1
    assert f"error: --nb_classes 27: the dataset {root} has 5 emotions" in refused.stderr


def test_pairs_become_a_v2v_dataset_whose_splits_share_no_video(videos: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert import_csv.run(Settings(write_pairs(tmp_path), root, videos_dir=videos, copy=True, test_fraction=0.4))
    found = {name: read(root / f"{name}_labels.json")["comparisons"] for name in ("train", "test", "listwise")}
    assert (len(found["train"]), len(found["test"]), found["listwise"]) == (9, 6, [])
    assert all(int(better.split()[1]) == int(worse.split()[1]) + 1 for worse, better in found["train"])
    assert not {key for pair in found["train"] for key in pair} & {key for pair in found["test"] for key in pair}
    assert problems(root, "v2v") == []
    copied = next((root / "videos").iterdir())
    assert copied.stat().st_nlink == 1


def test_the_seed_decides_the_split(videos: Path, tmp_path: Path) -> None:
    splits = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        import_csv.run(Settings(write_ratings(tmp_path), tmp_path / name, videos_dir=videos, seed=seed))
        splits.append(list(read(tmp_path / name / "test_labels.json")))
    assert splits[0] == splits[1] != splits[2]


BAD_LINES = {
    "film 2.mp4,1,0,0,0,0": "duplicate video film 2, see line 4",
    "absent.mp4,1,0,0,0,0": "no such video: ",
    ",1,0,0,0,0": "names no video",
    "other/film 4.mp4,1,0,0,0,0": "would have the same id; add a column 'id'",
    "film 8.mp4,1,0": "3 cells, the header has 6",
    "one.mp4,1.5,0,0,0,0": "calm is '1.5', not a number in [0, 1]",
    "one.mp4,nan,0,0,0,0": "calm is 'nan', not a number in [0, 1]",
    "one.mp4,0,much,0,0,0": "fear is 'much', not a number in [0, 1]",
    "empty.mp4,0,0,0,0,0": "the file is empty",
    "a#b.mp4,0,0,0,0,0": "invalid id 'a#b'",
}


def test_every_bad_line_is_named_with_its_number_and_nothing_is_made(tmp_path: Path) -> None:
    for name in ("one", "other/film 4", "a#b", *(path_of(i)[:-4] for i in range(NUM_VIDEOS))):
        path = tmp_path / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        video_files.write_grey_video(path, 3) if name == "one" else os.link(tmp_path / "one.mp4", path)
    (tmp_path / "empty.mp4").touch()
    file = write_ratings(tmp_path, *BAD_LINES)
    command = [
        sys.executable,
        str(REPOSITORY / "data_prep/import_csv.py"),
        str(file),
        "--output_dir",
        str(tmp_path / "data"),
    ]
    done = subprocess.run([*command, "--report", str(tmp_path / "report.json")], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file}: {len(BAD_LINES)} bad lines; {tmp_path}/data was not made")
    said = done.stdout.splitlines()
    for place, reason in enumerate(BAD_LINES.values()):
        assert said[place].startswith(f"{file}, line {NUM_VIDEOS + 2 + place}: ")
        assert reason in said[place]
    assert len(read(tmp_path / "report.json")["bad_lines"]) == len(said) == len(BAD_LINES)
    assert not list(tmp_path.glob("*data*"))
    assert not import_csv.run(Settings(file, tmp_path / "data", skip_bad_lines=True))
    assert problems(tmp_path / "data", "vce") == []


def test_lines_without_a_rating_are_bad_lines_even_if_most_lack_it(videos: Path, tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text(
        "path,calm,joy\n" + "".join(f"{path_of(i)},0.5,{'1' if i < 3 else ''}\n" for i in range(NUM_VIDEOS))
    )
    settings = Settings(file, tmp_path / "data", videos_dir=videos, test_fraction=0.4, skip_bad_lines=True)
    assert not import_csv.run(settings)
    assert len(read(tmp_path / "data/metadata.json")) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "expected a header and at least one line"),
        ("calm,joy\n0,1\n", "has no column 'path' or 'id'"),
        ("path,joy\na.mp4,1\n", "expected two or more columns of emotions"),
        ("path,joy,joy\na.mp4,1,1\n", "all named and all different"),
        (b"\xff\xfe\x00", "not a CSV file in UTF-8"),
        ('path,a,b\n"x.mp4,1,1\n', "not a CSV file in UTF-8"),
        (
            "path,joy,rater,calm\na.mp4,1,anna,1\nb.mp4,0,ben,1\nc.mp4,0.5,anna,\n",
            r"ratings.csv: column 'rater' has text, not a number, in 3 lines \('anna'\); remove such columns",
        ),
    ],
)
def test_a_csv_file_of_another_form_is_one_sentence(tmp_path: Path, content: Any, reason: str) -> None:
    file = tmp_path / "ratings.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=reason):
        import_csv.run(Settings(file, tmp_path / "data"))


def test_what_leaves_a_split_empty_or_a_folder_overwritten_is_refused(videos: Path, tmp_path: Path) -> None:
    ratings, pairs = write_ratings(tmp_path), write_pairs(tmp_path)
    for file, fraction in ((ratings, 0.01), (ratings, 1.0), (pairs, 0.1)):
        with pytest.raises(ValueError, match=f"--test_fraction {fraction:g} of .* leaves a split empty"):
            import_csv.run(Settings(file, tmp_path / "data", videos_dir=videos, test_fraction=fraction))
    absent = tmp_path / "absent"
    with pytest.raises(ValueError, match=f"{absent}: no such folder; pass the folder of the videos as --videos_dir"):
        import_csv.run(Settings(ratings, tmp_path / "data", videos_dir=absent))
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        import_csv.run(Settings(ratings, tmp_path, videos_dir=videos))
    bad = write_pairs(tmp_path, "film 0.mp4,film 0.mp4,me")
    with pytest.raises(ValueError, match="1 bad line;"):
        import_csv.run(Settings(bad, tmp_path / "data", videos_dir=videos))


def test_ids_find_their_files_whatever_their_ending(tmp_path: Path) -> None:
    for name in ("a.webm", "b.mp4", "c.mkv"):
        video_files.transport_stream(tmp_path / "x.mp4")
        (tmp_path / "x.mp4").rename(tmp_path / name)
    (tmp_path / "ratings.csv").write_text("id,calm,joy\na,0,1\nb,1,0\nc,1,1\n")
    assert import_csv.run(Settings(tmp_path / "ratings.csv", tmp_path / "data"))
    assert sorted(path.name for path in (tmp_path / "data/videos").iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]

"""Subsets: which videos they hold, that they are whole datasets, how they are linked, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gates import Gate
from label_folders import connected_groups, draw_comparisons, make_v2v_labels, make_vce_labels, read
from vce_files import make_vce_folder
from video_files import write_grey_video

from VideoMAE import run_class_finetuning, run_v2v_finetuning
from VideoMAE.data.vce import EMOTIONS
from VideoMAE.dataset_tools import make_subset
from VideoMAE.runtime import distributed

DATA_PREP = Path(__file__).resolve().parents[2] / "data_prep"
SPLITS = ("train", "test", "listwise")


@pytest.fixture(scope="module")
def vce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_labels(tmp_path_factory.mktemp("vce") / "source", {"train": 600, "test": 200})


@pytest.fixture(scope="module")
def v2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lists = [[f"{first + place:05d}" for place in range(2 + first % 3)] for first in range(5000, 5120, 4)]
    comparisons = {
        "train": draw_comparisons([2] * 60 + [3] * 30 + [7] * 10 + [25] * 2, first=0),
        "test": draw_comparisons([2] * 40 + [5] * 4, first=1000, seed=1),
        "listwise": lists,
    }
    return make_v2v_labels(tmp_path_factory.mktemp("v2v") / "source", comparisons)


def make(*arguments: object) -> int:
    """Run the program in this process -> exit status."""
    return make_subset.main([*map(str, arguments)])


def start(*arguments: object, gate: Gate) -> subprocess.Popen[str]:
    command = [sys.executable, str(DATA_PREP / "make_subset.py"), *map(str, arguments)]
    environment = {**os.environ, **gate.environment()}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def labels(root: Path) -> dict[str, Any]:
    return {split: read(root / f"{split}_labels.json") for split in SPLITS if (root / f"{split}_labels.json").exists()}


def comparisons(root: Path) -> dict[str, list[list[str]]]:
    return {split: content["comparisons"] for split, content in labels(root).items()}


def video_ids(root: Path) -> set[str]:
    return {path.stem for path in (root / "videos").iterdir()}


def tops(entries: dict[str, Any]) -> Counter[str]:
    return Counter(max(EMOTIONS, key=lambda name: entry["emotions"][name]) for entry in entries.values())


@pytest.mark.parametrize("asked", [("--num_videos", 120), ("--fraction", 0.15)], ids=["number", "fraction"])
def test_every_split_and_every_top_emotion_keeps_its_share(vce: Path, tmp_path: Path, asked: tuple[str, float]) -> None:
    assert make(vce, tmp_path / "subset", *asked) == 0
    source, subset = labels(vce), labels(tmp_path / "subset")
    assert {split: len(entries) for split, entries in subset.items()} == {"train": 90, "test": 30}
    for split in source:
        before, now = tops(source[split]), tops(subset[split])
        assert len(before) > 8
        for emotion, count in before.items():
            assert abs(now[emotion] - 0.15 * count) <= 1


def test_a_subset_holds_entries_videos_and_metadata_of_its_videos_only_and_in_order(vce: Path, tmp_path: Path) -> None:
    assert make(vce, tmp_path / "subset", "--num_videos", 50) == 0
    chosen = video_ids(tmp_path / "subset")
    assert len(chosen) == 50
    for name in ("train_labels.json", "test_labels.json", "metadata.json"):
        expected = [(key, entry) for key, entry in read(vce / name).items() if key in chosen]
        assert list(read(tmp_path / "subset" / name).items()) == expected
    assert sum(map(len, labels(tmp_path / "subset").values())) == 50
    assert not list(tmp_path.glob("*.partial*"))


def test_metadata_keep_the_form_of_their_numbers(vce: Path, tmp_path: Path) -> None:
    assert make(vce, tmp_path / "subset", "--num_videos", 20) == 0
    assert '"height": 240,' in (tmp_path / "subset/metadata.json").read_text()


@pytest.mark.parametrize("kind", ["vce", "v2v"])
def test_with_one_seed_a_larger_subset_contains_the_smaller_ones(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(kind)
    for count in (30, 31, 77, 150, 251):
        assert make(source, tmp_path / str(count), "--num_videos", count) == 0
    nested = [video_ids(tmp_path / str(count)) for count in (30, 31, 77, 150, 251)]
    assert all(small <= large for small, large in zip(nested, nested[1:], strict=False))


@pytest.mark.parametrize("kind", ["vce", "v2v"])
def test_the_seed_decides_alone(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue(kind)
    for name, seed in (("first", 3), ("again", 3), ("other", 4)):
        assert make(source, tmp_path / name, "--num_videos", 60, "--seed", seed) == 0
    assert labels(tmp_path / "first") == labels(tmp_path / "again")
    assert video_ids(tmp_path / "first") != video_ids(tmp_path / "other")


@pytest.mark.parametrize("count", [40, 90, 200])
def test_components_are_whole_but_for_one_a_split_that_is_cut_to_a_connected_part(
    v2v: Path, tmp_path: Path, count: int
) -> None:
    assert make(v2v, tmp_path / "subset", "--num_videos", count) == 0
    source, subset = comparisons(v2v), comparisons(tmp_path / "subset")
    report = read(tmp_path / "subset/subset.json")["splits"]
    for split in source:
        chosen = {key for entry in subset[split] for key in entry}
        assert subset[split] == [entry for entry in source[split] if chosen.issuperset(entry)]
        parts = [(group & chosen, group) for group in connected_groups(source[split]) if group & chosen]
        cut = [(part, group) for part, group in parts if part != group]
        assert len(cut) <= 1
        assert len(connected_groups(subset[split])) == len(parts), "a part is not connected"
        assert report[split]["cut_component"] == ([len(cut[0][0]), len(cut[0][1])] if cut else None)
    assert count - 2 * len(SPLITS) <= len(video_ids(tmp_path / "subset")) <= count


def test_component_sizes_keep_their_shares(v2v: Path, tmp_path: Path) -> None:
    assert make(v2v, tmp_path / "subset", "--fraction", 0.5) == 0
    sizes = Counter(map(len, connected_groups(comparisons(tmp_path / "subset")["train"])))
    assert abs(sizes[2] - 30) <= 2
    assert abs(sizes[3] - 15) <= 2
    assert abs(sizes[7] - 5) <= 1


def test_a_component_larger_than_the_wish_gives_a_connected_part(tmp_path: Path) -> None:
    whole = {"train": draw_comparisons([300], first=0), "test": draw_comparisons([80], first=500)}
    make_v2v_labels(tmp_path / "source", whole)
    assert make(tmp_path / "source", tmp_path / "subset", "--num_videos", 38) == 0
    subset = comparisons(tmp_path / "subset")
    assert [len(connected_groups(entries)) for entries in subset.values()] == [1, 1]
    assert [len({key for entry in entries for key in entry}) for entries in subset.values()] == [30, 8]


def test_links_are_absolute_and_survive_a_move_of_the_subset(vce: Path, tmp_path: Path) -> None:
    assert make(vce, tmp_path / "subset", "--num_videos", 20) == 0
    moved = (tmp_path / "subset").rename(tmp_path / "elsewhere")
    for link in (moved / "videos").iterdir():
        assert link.is_symlink()
        assert Path(os.readlink(link)) == (vce / "videos" / link.name).resolve()
    assert make(moved, tmp_path / "smaller", "--num_videos", 10) == 0
    for link in (tmp_path / "smaller/videos").iterdir():
        assert Path(os.readlink(link)) == (vce / "videos" / link.name).resolve(), "a link to a link"


@pytest.mark.parametrize("link", ["hard", "copy"])
def test_hard_links_share_the_file_and_copies_do_not(vce: Path, tmp_path: Path, link: str) -> None:
    assert make(vce, tmp_path / "subset", "--num_videos", 20, "--link", link) == 0
    for path in (tmp_path / "subset/videos").iterdir():
        original = vce / "videos" / path.name
        assert not path.is_symlink()
        assert path.read_bytes() == original.read_bytes()
        assert (path.stat().st_ino == original.stat().st_ino) == (link == "hard")


def test_the_source_is_only_read(vce: Path, tmp_path: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [vce, *vce.rglob("*")]}
    for link in ("symbolic", "copy"):
        assert make(vce, tmp_path / link, "--num_videos", 20, "--link", link) == 0
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [vce, *vce.rglob("*")]} == before


def test_videos_without_a_file_are_named_and_not_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_vce_labels(tmp_path / "source", {"train": 40, "test": 20})
    for key in ("00003", "00045"):
        (source / f"videos/{key}.mp4").unlink()
    assert make(source, tmp_path / "subset", "--fraction", 1) == 1
    assert "00003, 00045" in capsys.readouterr().err
    ids = {key for entries in labels(tmp_path / "subset").values() for key in entries}
    assert ids == video_ids(tmp_path / "subset")
    assert len(ids) == 58
    assert read(tmp_path / "subset/subset.json")["missing_in_source"] == ["00003", "00045"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["SRC", "DST"], "either --num_videos or --fraction"),
        (["SRC", "DST", "--num_videos", "5", "--fraction", "0.5"], "either --num_videos or --fraction"),
        (["SRC", "DST", "--num_videos", "0"], "--num_videos 0: must be at least 1"),
        (["SRC", "DST", "--num_videos", "801"], "--num_videos 801 is more than the 800 videos"),
        (["SRC", "DST", "--num_videos", "1"], "1 of 800 videos leave none of the 200 of test"),
        (["SRC", "DST", "--fraction", "1.5"], "--fraction 1.5: must be at most 1"),
        (["SRC", "DST", "--fraction", "0.1", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["SRC", "SRC/inside", "--fraction", "0.1"], "which is only read"),
        (["SRC", "FULL", "--fraction", "0.1"], "is not an empty folder"),
        (["FULL", "DST", "--fraction", "0.1"], "has no train_labels.json"),
        (["NONE", "DST", "--fraction", "0.1"], "no such folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    vce: Path, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL/mine.txt").write_text("precious")
    named = [argument if argument.startswith("-") else argument.replace("SRC", str(vce)) for argument in arguments[:2]]
    paths = [name if name.startswith("/") else str(tmp_path / name) for name in named]
    assert make(*paths, *arguments[2:]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "DST").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["FULL", "mine.txt"]


def test_a_killed_run_leaves_nothing_that_looks_whole_and_is_made_good_by_the_next(tmp_path: Path) -> None:
    source = make_vce_labels(tmp_path / "source", {"train": 40, "test": 10})
    command = (source, tmp_path / "subset", "--fraction", "1", "--link", "copy")
    gate = Gate(tmp_path / "gate", "shutil:copy2", calls=4)
    process = start(*command, gate=gate)
    gate.wait(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(list(tmp_path.glob(".subset.partial-*/new/videos/*"))) == 3
    assert not (tmp_path / "subset").exists()
    assert make(*command) == 0
    assert len(video_ids(tmp_path / "subset")) == 50
    assert not list(tmp_path.glob("*.partial*"))


def test_a_stopped_run_leaves_nothing(tmp_path: Path) -> None:
    source = make_vce_labels(tmp_path / "source", {"train": 40, "test": 10})
    gate = Gate(tmp_path / "source/gate", "shutil:copy2", calls=4)
    process = start(source, tmp_path / "subset", "--fraction", "1", "--link", "copy", gate=gate)
    gate.wait(process)
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == 130
    assert "was not made" in error
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_of_somebody_else_with_a_similar_name_is_left_alone(vce: Path, tmp_path: Path) -> None:
    (tmp_path / "subset.partial").mkdir()
    (tmp_path / "subset.partial/mine.txt").write_text("precious")
    assert make(vce, tmp_path / "subset", "--fraction", "0.1") == 0
    assert (tmp_path / "subset.partial/mine.txt").read_text() == "precious"


def test_a_vce_run_trains_and_tests_on_a_subset(tmp_path: Path) -> None:
    source = make_vce_folder(tmp_path / "source", 30, 9)
    assert make(source, tmp_path / "subset", "--num_videos", 13) == 0
    small = ["--model", "vit_micro_patch16_224", "--num_frames", "8", "--input_size", "32", "--short_side_size", "32"]
    quick = ["--epochs", "1", "--batch_size", "3", "--num_workers", "0", "--device", "cpu", "--aa", "none"]
    folders = ["--data_path", str(tmp_path / "subset"), "--output_dir", str(tmp_path / "run")]
    run_class_finetuning.main([*folders, *small, *quick, "--warmup_epochs", "0"])
    assert read(tmp_path / "run/results.json")["num_videos"] == 3


def test_a_v2v_run_trains_and_tests_on_a_subset(tmp_path: Path) -> None:
    pairs = {"train": draw_comparisons([4] * 10, first=0), "test": draw_comparisons([2] * 8, first=40)}
    lists = [[f"{first + place:05d}" for place in range(3)] for first in range(60, 84, 3)]
    source = make_v2v_labels(tmp_path / "source", {**pairs, "listwise": lists})
    for path in (source / "videos").iterdir():
        write_grey_video(path, 6, width=48, height=32)
    assert make(source, tmp_path / "subset", "--fraction", "0.5") == 0
    small = ["--model", "vit_micro_patch16_224", "--input_size", "32", "--num_frames", "4", "--device", "cpu"]
    quick = ["--num_epochs", "1", "--batch_size", "4", "--num_workers", "0", "--disable_tqdm", "1"]
    folders = ["--data_dir", str(tmp_path / "subset"), "--results_path", str(tmp_path / "run")]
    try:
        run_v2v_finetuning.main([*folders, "--mode", "train", "--val_fraction", "0.3", *small, *quick])
    finally:
        distributed.stop()
    measured = json.loads((tmp_path / "run/results.json").read_text())
    assert (measured["num_pairs"], measured["num_lists"]) == (4, 4)


def test_the_summary_of_a_tiny_subset_is_in_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = make_vce_labels(tmp_path / "source", {"train": 8, "test": 1})
    assert make(source, tmp_path / "subset", "--num_videos", 5) == 0
    assert caplog.messages == [
        "train: 4 of 8 videos; each most intense emotion keeps its share to within 1 video",
        "test: 1 of 1 video; each most intense emotion keeps its share to within 1 video",
        f"made {tmp_path / 'subset'}: 5 videos",
    ]

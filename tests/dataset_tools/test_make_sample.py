"""The sample dataset: layout, labels, repeatability, and what it refuses."""

import os
import signal
import subprocess
import sys
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from gates import Gate
from label_folders import read

from VideoMAE.dataset_tools import make_sample as labels

DATA_PREP = Path(__file__).resolve().parents[2] / "data_prep"
NUM_TRAIN, NUM_TEST = 14, 6


def start(*arguments: object, gate: Gate | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, str(DATA_PREP / "make_sample.py"), *map(str, arguments)]
    environment = {**os.environ, **(gate.environment() if gate else {})}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def make(output_dir: Path, *arguments: object) -> tuple[int, str, str]:
    process = start("--output_dir", output_dir, "--num_train", NUM_TRAIN, "--num_test", NUM_TEST, *arguments)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("made") / "sample"
    returncode, _, stderr = make(output_dir)
    assert returncode == 0, stderr
    return output_dir


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def plan_v2v(seed: int) -> tuple[dict[str, list[list[str]]], dict[str, float]]:
    """Label 260 videos without drawing them -> the comparisons of the three sets, and the valences."""
    rng = np.random.default_rng(seed)
    combinations = [labels.COMBINATIONS[index % 12] for index in range(260)]
    emotions = {f"{index:05d}": labels.draw_intensities(entry, rng) for index, entry in enumerate(combinations)}
    valences = {
        video_id: sum(labels.VALENCE_WEIGHTS[name] * level for name, level in entry.items())
        for video_id, entry in emotions.items()
    }
    sets = labels.split_for_v2v(list(valences), rng)
    comparisons = {name: labels.compare_in_pairs(sets[name], valences, rng) for name in ("train", "test")}
    comparisons["listwise"] = labels.compare_in_lists(sets["listwise"], valences, rng)
    return comparisons, valences


def test_the_layout_and_the_fields_are_those_of_vce(sample: Path) -> None:
    vce = sample / "vce_dataset"
    ids = [f"{index:05d}" for index in range(NUM_TRAIN + NUM_TEST)]
    assert sorted(path.name for path in vce.iterdir()) == [
        "metadata.json",
        "test_labels.json",
        "train_labels.json",
        "videos",
    ]
    train, test = read(vce / "train_labels.json"), read(vce / "test_labels.json")
    assert [*train, *test] == ids == list(read(vce / "metadata.json"))
    assert len(train) == NUM_TRAIN
    for video_id, entry in {**train, **test}.items():
        assert list(entry) == ["emotions", "file", "topK"]
        assert list(entry["emotions"]) == sorted(labels.EMOTIONS)
        assert len(entry["emotions"]) == 27
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in entry["emotions"].values())
        ranked = sorted(entry["emotions"], key=lambda name: (-entry["emotions"][name], name))
        assert entry["topK"] == ranked[:3]
        assert entry["file"] == f"videos/{video_id}.mp4"
        assert (vce / entry["file"]).is_file()


def test_metadata_agrees_with_the_decoded_videos(sample: Path) -> None:
    for entry in read(sample / "vce_dataset" / "metadata.json").values():
        with av.open(str(sample / "vce_dataset" / entry["file"])) as container:
            stream = container.streams.video[0]
            frames = list(container.decode(stream))
            rate = Fraction(entry["frame_rate"])
            assert (frames[0].width, frames[0].height) == (entry["width"], entry["height"])
            assert frames[0].format.name == "yuv420p"
            assert stream.codec_context.name == entry["codec_name"] == "h264"
            assert str(len(frames)) == entry["number_of_frames"]
            assert stream.average_rate == rate
            assert entry["frame_rate"] == f"{rate}/1"
            assert entry["duration"] == f"{float(len(frames) / rate):.6f}"


def test_v2v_shares_videos_and_metadata_with_vce_and_nothing_between_its_sets(sample: Path) -> None:
    vce, v2v = sample / "vce_dataset", sample / "v2v_dataset"
    assert read(v2v / "metadata.json") == read(vce / "metadata.json")
    sets = {name: read(v2v / f"{name}_labels.json")["comparisons"] for name in ("train", "test", "listwise")}
    videos = {name: {video_id for ids in comparisons for video_id in ids} for name, comparisons in sets.items()}
    assert all(videos.values())
    assert sum(map(len, videos.values())) == len(set.union(*videos.values()))
    for video_id in set.union(*videos.values()):
        assert (v2v / "videos" / f"{video_id}.mp4").samefile(vce / "videos" / f"{video_id}.mp4")


@pytest.mark.parametrize("seed", range(5))
def test_comparisons_rise_in_valence_but_for_a_few_flipped_pairs(seed: int) -> None:
    comparisons, valences = plan_v2v(seed)
    assert len(comparisons["train"]) >= 150
    assert len(comparisons["test"]) >= 60
    assert len(comparisons["listwise"]) >= 20
    for name in ("train", "test"):
        gaps = [valences[better] - valences[worse] for worse, better in comparisons[name]]
        assert min(map(abs, gaps)) >= labels.MIN_PAIR_GAP
        assert 0 < sum(gap < 0 for gap in gaps) <= 0.03 * len(gaps)
    for ids in comparisons["listwise"]:
        assert 2 <= len(ids) <= 4
        assert min(np.diff([valences[video_id] for video_id in ids])) >= labels.MIN_LIST_GAP


def test_training_pairs_fall_into_many_components() -> None:
    comparisons, _ = plan_v2v(0)
    neighbours: dict[str, set[str]] = defaultdict(set)
    for worse, better in comparisons["train"]:
        neighbours[worse].add(better)
        neighbours[better].add(worse)
    sizes = []
    unseen = set(neighbours)
    while unseen:
        component, frontier = set(), {next(iter(unseen))}
        while frontier:
            component |= frontier
            frontier = set().union(*(neighbours[video_id] for video_id in frontier)) - component
        sizes.append(len(component))
        unseen -= component
    assert len(sizes) >= 15
    assert max(sizes) <= 8


def test_noise_changes_the_most_intense_emotion_of_a_few_videos_only() -> None:
    rng = np.random.default_rng(0)
    changed = []
    for combination in labels.COMBINATIONS * 100:
        intensities = labels.draw_intensities(combination, rng)
        changed.append(max(intensities, key=lambda name: intensities[name]) != combination.top)
    assert 0.04 <= np.mean(changed) <= 0.09


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_processes(sample: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again", "--num_processes", 1)[0] == 0
    again, first = read_files(tmp_path / "again"), read_files(sample)
    assert again.keys() == first.keys()
    assert [name for name in first if again[name] != first[name]] == []


def test_a_finished_sample_is_kept_and_other_settings_are_refused(sample: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*")}
    returncode, stdout, _ = make(sample)
    assert returncode == 0
    assert "already" in stdout
    returncode, _, stderr = make(sample, "--seed", 1)
    assert returncode == 1
    assert "'seed': 1" in stderr
    assert {path: path.stat().st_mtime_ns for path in sample.rglob("*")} == before


def test_a_sample_that_lost_a_video_is_refused(sample: Path) -> None:
    video = sample / "vce_dataset" / "videos" / "00003.mp4"
    kept = video.rename(video.with_suffix(".kept"))
    try:
        returncode, _, stderr = make(sample)
    finally:
        kept.rename(video)
    assert returncode == 1
    assert "00003.mp4" in stderr


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious", encoding="utf-8")
    returncode, _, stderr = make(tmp_path)
    assert returncode == 1
    assert str(tmp_path) in stderr
    assert len(stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, stop_signal: signal.Signals) -> None:
    folder, gate = tmp_path / "folder", Gate(tmp_path / "gate", "concurrent.futures._base:Future.result")
    folder.mkdir()
    process = start("--output_dir", folder / "sample", "--num_train", 300, "--num_processes", 1, gate=gate)
    gate.wait(process)
    assert list(folder.rglob("*.mp4"))
    process.send_signal(stop_signal)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "value"), [("--num_train", 7), ("--num_test", 0), ("--num_processes", 0), ("--seed", -1)]
)
def test_too_small_a_setting_is_named(tmp_path: Path, flag: str, value: int) -> None:
    process = start("--output_dir", tmp_path / "sample", flag, value)
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert f"{flag} {value}: must be at least" in stderr
    assert not (tmp_path / "sample").exists()

"""A check of a dataset reports every planted defect and nothing else, and its list of bad ids makes a run possible."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import video_files
from label_folders import read
from vce_files import make_vce_folder

from VideoMAE.data.exclusion import read_excluded
from VideoMAE.data.v2v import Pair
from VideoMAE.dataset_tools import build_metadata
from VideoMAE.dataset_tools.check_dataset import Settings, check_dataset
from VideoMAE.dataset_tools.label_checks import NOT_EXCLUDED, NOTES, JSONObject, cycles, label_defect
from VideoMAE.dataset_tools.programs import kind_of

DATA_PREP = Path(__file__).resolve().parents[2] / "data_prep"
Found = Counter[tuple[str, tuple[str, ...]]]


def start(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DATA_PREP / f"{program}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def check(root: Path, *, kind: str = "vce", decode: Any = "none") -> tuple[Found, str]:
    """Checks a dataset in this process -> kinds and ids of what was found, but counts; the same for people."""
    report = check_dataset(Settings(root, decode=decode), kind=kind)
    findings = [finding._asdict() for finding in report.problems + report.notes]
    return counted(findings), report.to_text()


def counted(findings: list[dict[str, Any]]) -> Found:
    return Counter((entry["kind"], tuple(entry["ids"])) for entry in findings if entry["kind"] != "counts")


def check_by_command(root: Path, *arguments: object, fine: bool) -> tuple[Found, str]:
    """Checks a dataset in a process of its own -> what its JSON report holds; what it said."""
    report = root.parent / "report.json"
    done = start("check_dataset", root, "--report", report, *arguments)
    assert done.returncode == (0 if fine else 1), done.stderr + done.stdout
    assert done.stderr == ""
    content = json.loads(report.read_text())
    assert content["fine"] == fine
    return counted(content["problems"] + content["remarks"]), done.stdout


def write(file: Path, content: Any) -> None:
    file.unlink()  # files of the copies are links
    file.write_text(json.dumps(content))


def linked(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target, copy_function=os.link))


def write_metadata(root: Path) -> None:
    settings = build_metadata.Settings(root, num_workers=2, probe_seconds=60, overwrite=True)
    assert build_metadata.run(settings)


# VCE

Labels = dict[str, Any]
NUM_TRAIN = 30


def more_emotions(entry: Labels) -> None:
    entry["emotions"]["Schadenfreude"] = 0.5


def wrong_name(entry: Labels) -> None:
    entry["emotions"]["horror"] = entry["emotions"].pop("Horror")


def intensity(value: Any) -> Callable[[Labels], None]:
    return lambda entry: entry["emotions"].update(Horror=value)


LABEL_DEFECTS: list[tuple[str, str, Callable[[Labels], Any]]] = [
    ("26 emotions", "bad_emotions", lambda entry: entry["emotions"].pop("Horror")),
    ("28 emotions", "bad_emotions", more_emotions),
    ("a wrong name", "bad_emotions", wrong_name),
    ("no emotions", "bad_emotions", lambda entry: entry.pop("emotions")),
    ("an intensity of 1.3", "bad_intensity", intensity(1.3)),
    ("an intensity that is NaN", "bad_intensity", intensity(float("nan"))),
    ("an intensity that is a string", "bad_intensity", intensity("0.5")),
    ("topK in another order", "bad_top_k", lambda entry: entry["topK"].reverse()),
    ("no topK", "bad_top_k", lambda entry: entry.pop("topK")),
    ("a file above the folder", "bad_file_name", lambda entry: entry.update(file="../x.mp4")),
    ("an absolute file", "bad_file_name", lambda entry: entry.update(file="/x.mp4")),
]
METADATA_DEFECTS: list[tuple[str, str, Callable[[Labels], Any]]] = [
    ("another frame rate", "metadata_differs", lambda entry: entry.update(frame_rate="25/1")),
    ("another size", "metadata_differs", lambda entry: entry.update(width=640)),
    ("a duration that is no string", "bad_metadata", lambda entry: entry.update(duration=2)),
]
READABLE_BUT_ODD = ["one_frame", "odd_size", "ten_bit", "rotated", "overstated_frame_count", "changes_size"]
ODD_IDS = [f"{NUM_TRAIN - 1 - place:05d}" for place in range(len(READABLE_BUT_ODD))]


def damaged_end(path: Path) -> None:
    """Sound at its beginning, zeros in its second half."""
    video_files.write_moving_video(path, 36, gop=6)
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    middle = (start + end) // 2
    content[middle:end] = bytes(end - middle)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def sound_vce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing wrong, some readable videos that are unusual; metadata.json made by build_metadata.py."""
    root = make_vce_folder(tmp_path_factory.mktemp("sound") / "vce", NUM_TRAIN, 3, num_frames=6)
    for key, name in zip(ODD_IDS, READABLE_BUT_ODD, strict=True):
        video_files.ODD_VIDEOS[name](root / f"videos/{key}.mp4")
    write_metadata(root)
    return root


def plant_in_vce(root: Path) -> tuple[Found, list[str]]:
    """Spoils a dataset -> what is to be found, and a name for each defect."""
    labels, metadata = read(root / "train_labels.json"), read(root / "metadata.json")
    test = read(root / "test_labels.json")
    found, names, ids = Found(), [f"video with {name}" for name in READABLE_BUT_ODD], iter(sorted(labels))
    found.update(("unusual_video", (key,)) for key in ODD_IDS)

    def plant(name: str, kind: str, *keys: str) -> None:
        names.append(name)
        found[kind, keys] += 1

    for name, kind, spoil in LABEL_DEFECTS:
        key = next(ids)
        spoil(labels[key])
        plant(name, kind, key)
        if kind == "bad_file_name":
            (root / f"videos/{key}.mp4").unlink()
    for name, kind, spoil in METADATA_DEFECTS:
        key = next(ids)
        spoil(metadata[key])
        plant(name, kind, key)
    makers = {**video_files.BAD_VIDEOS, "damaged_end": damaged_end, "named pipe": os.mkfifo, "missing": None}
    for name, maker in makers.items():
        key = next(ids)
        path = root / f"videos/{key}.mp4"
        path.unlink()
        if maker is not None:
            maker(path)
        plant(f"video: {name}", "unreadable", key)
    shutil.copy(root / "videos/00029.mp4", root / "videos/unknown.mp4")
    plant("a video that no label names", "unlabelled", "unknown")
    test["00029"] = labels["00029"]
    plant("an id in both splits", "several_splits", "00029")
    test["50009"], metadata["50009"] = test["50001"], metadata["50001"]
    plant("a video under two ids", "same_video", "50009")
    hanging = root / "videos/50002.mp4"  # a playlist that leads to a pipe in which nothing ever comes
    hanging.unlink()
    hanging.write_text("ffconcat version 1.0\nfile pipe.txt\n")
    os.mkfifo(root / "videos/pipe.txt")
    plant("a video that hangs its decoder", "unreadable", "50002")
    found["unlabelled", ("pipe",)] += 1
    for name, content in (("train_labels", labels), ("metadata", metadata), ("test_labels", test)):
        write(root / f"{name}.json", content)
    return found, names


@pytest.mark.parametrize("decode", ["ends", "all"])
def test_a_video_without_any_key_frame_is_checked_like_others(tmp_path: Path, decode: str) -> None:
    root = make_vce_folder(tmp_path / "vce", 8, 1, num_frames=6)
    video_files.no_key_frame(root / "videos/00001.mp4")
    write_metadata(root)
    found, _ = check_by_command(root, "--decode", decode, fine=True)
    assert not found


def test_a_sound_dataset_is_fine_and_its_oddities_are_said(sound_vce: Path) -> None:
    found, said = check_by_command(sound_vce, "--decode", "all", fine=True)
    assert found == Counter(("unusual_video", (key,)) for key in ODD_IDS)
    for text in (
        "one frame",
        "181 x 99",
        "rotated by 90",
        "declares 20 more frames than its 26",
        "yuv420p10le",
        "changes its size to 128 x 96, read as 64 x 48",
    ):
        assert text in said
    assert "train_labels.json: 30 videos, the published file has 50,000" in said
    assert said.endswith("(vce): fine\n")


def test_all_30_defects_of_a_vce_dataset_are_reported_and_nothing_else(sound_vce: Path, tmp_path: Path) -> None:
    root = linked(sound_vce, tmp_path / "vce")
    expected, names = plant_in_vce(root)
    assert len(names) >= 30, names
    exclude = tmp_path / "exclude.txt"
    flags = ["--decode", "all", "--decode_seconds", 8, "--write_exclude", exclude]
    found, said = check_by_command(root, *flags, fine=False)
    assert found == expected
    assert "50002 (videos/50002.mp4): did not answer within 8 s" in said
    bad = {key for (kind, ids), _ in expected.items() if kind not in NOTES + NOT_EXCLUDED for key in ids}
    assert read_excluded(exclude).keys() == bad
    assert read_excluded(exclude)["00004"] == "train_labels.json: 00004: Horror is 1.3"
    assert read_excluded(exclude)["50002"].endswith("did not answer within 8 s")


def test_damage_that_needs_decoding_is_found_only_by_decoding(sound_vce: Path, tmp_path: Path) -> None:
    root = linked(sound_vce, tmp_path / "vce")
    path = root / "videos/00003.mp4"
    path.unlink()
    damaged_end(path)
    damaged = ("unreadable", ("00003",))
    assert damaged not in check(root, decode="none")[0]
    assert damaged not in check(root, decode="first")[0]
    assert damaged in check(root, decode="ends")[0]
    assert damaged in check(root, decode="all")[0]


def test_a_second_check_reads_only_what_has_changed(sound_vce: Path, tmp_path: Path) -> None:
    root = linked(sound_vce, tmp_path / "vce")
    check(root)
    cache = root / ".checked_videos.decode_none.json"
    remembered = read(cache)
    assert len(remembered["videos"]) == NUM_TRAIN + 3
    remembered["videos"]["videos/00001.mp4"][1] = "remembered as bad"
    remembered["videos"]["videos/00002.mp4"][0][2] += 1  # another time of change
    remembered["videos"]["videos/00002.mp4"][1] = "remembered as bad"
    cache.write_text(json.dumps(remembered))
    assert [ids for kind, ids in check(root)[0] if kind == "unreadable"] == [("00001",)]


# Files as a whole


@pytest.mark.parametrize(
    ("spoil", "kind", "text"),
    [
        (lambda file: file.unlink(), "missing_file", "train_labels.json"),
        (lambda file: write(file, {}), "malformed_file", "train_labels.json: holds no videos"),
        (lambda file: write(file, []), "malformed_file", "expected a JSON object, found list"),
        (lambda file: os.truncate(file, 0), "malformed_file", "train_labels.json: the file is empty"),
        (lambda file: os.truncate(file, 99), "malformed_file", "not valid JSON (truncated?)"),
        (lambda file: file.write_text('{"1": 1, "1": 2}'), "duplicate_key", "duplicate key '1'"),
    ],
    ids=["missing", "empty object", "list", "empty", "truncated", "id twice"],
)
def test_a_label_file_that_cannot_be_used_is_named(
    sound_vce: Path, tmp_path: Path, spoil: Callable[[Path], Any], kind: str, text: str
) -> None:
    root = tmp_path / "vce"
    root.mkdir()
    for name in ("train_labels.json", "test_labels.json", "metadata.json"):
        shutil.copy(sound_vce / name, root / name)
    os.symlink(sound_vce / "videos", root / "videos")
    spoil(root / "train_labels.json")
    found, said = check(root)
    assert kind in {kind for kind, _ in found}
    assert text in said


def test_what_is_no_dataset_is_one_sentence(tmp_path: Path) -> None:
    done = start("check_dataset", tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: {tmp_path}: has no train_labels.json and no test_labels.json")
    with pytest.raises(ValueError, match="absent: no such folder"):
        kind_of(tmp_path / "absent")


# V2V

COMPARISONS = {
    "train": [[f"{i:05d}", f"{i + 1:05d}"] for i in range(0, 20, 2)],
    "test": [[f"{i:05d}", f"{i + 1:05d}"] for i in range(20, 30, 2)],
    "listwise": [["00030", "00031", "00032"], ["00033", "00034"]],
}
V2V_DEFECTS: list[tuple[str, str, str, list[Any]]] = [
    ("train", "a pair with one id", "bad_comparison", ["00000"]),
    ("train", "a pair with three ids", "bad_comparison", ["00002", "00004", "00006"]),
    ("train", "a video with itself", "bad_comparison", ["00008", "00008"]),
    ("train", "an id that is a number", "bad_comparison", [8]),
    ("test", "an empty pair", "bad_comparison", []),
    ("listwise", "a list of one", "bad_comparison", ["00030"]),
    ("listwise", "a list with an id twice", "bad_comparison", ["00031", "00032", "00031"]),
    ("train", "an id without file", "unreadable", ["absent", "00000"]),
    ("train", "an id without metadata", "no_metadata", ["unlisted", "00000"]),
    ("train", "an id that is no file name", "bad_id", ["00000", ".hidden"]),
    ("train", "a contradiction", "contradiction", ["00011", "00010"]),
    ("test", "a cycle", "cycle", ["00025", "00027"]),
    ("test", "a pair twice", "repeated_comparison", ["00028", "00029"]),
    ("test", "a video of training in the test", "several_splits", ["00020", "00014"]),
]
CONCERNED = {
    "a video with itself": ("00008",),
    "an id that is a number": (),
    "a list with an id twice": ("00031", "00032"),
    "an id without file": ("absent",),
    "an id without metadata": ("unlisted",),
    "an id that is no file name": (),
    "a contradiction": ("00010", "00011"),
    "a cycle": ("00024", "00025", "00027"),
    "a video of training in the test": ("00014",),
}


@pytest.fixture(scope="module")
def sound_v2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound") / "v2v"
    (root / "videos").mkdir(parents=True)
    video = video_files.write_grey_video(root / "video.mp4", 4)
    for i in range(35):
        os.link(video, root / f"videos/{i:05d}.mp4")
    for split, comparisons in COMPARISONS.items():
        (root / f"{split}_labels.json").write_text(json.dumps({"comparisons": comparisons}))
    write_metadata(root)
    return root


def test_all_defects_of_a_v2v_dataset_are_reported_and_nothing_else(sound_v2v: Path, tmp_path: Path) -> None:
    assert check(sound_v2v, kind="v2v")[0] == Counter()
    root = linked(sound_v2v, tmp_path / "v2v")
    comparisons = {split: list(entries) for split, entries in COMPARISONS.items()}
    expected = Found()
    for split, name, kind, entry in V2V_DEFECTS:
        comparisons[split].append(entry)
        expected[kind, CONCERNED.get(name, tuple(entry))] += 1
    comparisons["test"].append(["00027", "00024"])  # closes the cycle that 00024 < 00025 < 00027 begins
    os.link(root / "videos/00000.mp4", root / "videos/unlisted.mp4")
    for split, entries in comparisons.items():
        write(root / f"{split}_labels.json", {"comparisons": entries})
    metadata = read(root / "metadata.json")
    write(root / "metadata.json", {**metadata, "absent": {**metadata["00000"], "file": "videos/absent.mp4"}})
    exclude = tmp_path / "exclude.txt"
    found, said = check_by_command(root, "--write_exclude", exclude, fine=False)
    assert found == expected
    assert "00024 < 00025 < 00027 < 00024: a cycle of 3 videos" in said
    assert "00010 < 00011 in train, but 00011 < 00010 in train" in said
    assert "00014 is in train and test" in said
    assert {"absent", "unlisted", "00008", "00014"} <= read_excluded(exclude).keys()
    assert not {"00010", "00011", "00024"} & read_excluded(exclude).keys()


def test_counts_near_those_of_v2v_are_compared_with_them(sound_v2v: Path, tmp_path: Path) -> None:
    root = linked(sound_v2v, tmp_path / "v2v")
    assert "published" not in check(root, kind="v2v")[1]
    write(root / "test_labels.json", {"comparisons": [[f"a{i}", f"b{i}"] for i in range(3188)]})
    shutil.rmtree(root / "videos")
    said = check(root, kind="v2v")[1]
    assert "test_labels.json: 3,188 comparisons over 6,376 videos, the published file has 3,189 over 6,223" in said
    assert said.count("published file") == 1


def test_a_cycle_is_named_once_per_group_and_none_where_preferences_agree() -> None:
    pairs = [Pair(*text) for text in ("ab", "bc", "cd", "da", "ca", "xy", "yz", "zx", "dx", "mn", "an")]
    assert sorted(map("".join, cycles(pairs))) == ["abc", "xyz"]
    assert cycles([Pair("a", "b"), Pair("b", "c"), Pair("a", "c")]) == cycles([]) == []


def test_top_k_may_name_equal_intensities_in_any_order() -> None:
    intensities = JSONObject([("a", 0.5), ("b", 0.5), ("c", 0.1), ("d", 0.1)])
    for right in (["a", "b", "c"], ["b", "a", "d"]):
        assert label_defect({"emotions": intensities, "topK": right}, "abcd") is None
    for wrong in (["a", "c", "b"], ["a", "b"], ["a", "a", "b"], ["a", "b", "x"], "abc", None, [1, 2, 3]):
        kind, _ = label_defect({"emotions": intensities, "topK": wrong}, "abcd") or ("none", "")
        assert kind == "bad_top_k"

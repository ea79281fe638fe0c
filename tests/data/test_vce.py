"""VCE's labels and datasets: a sentence for everything that can be wrong, the same clip for the same key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augmentation import default_transform
from torch import Tensor
from vce_files import make_entry, make_vce_folder, top_emotion

from VideoMAE.augment.video_transforms import TrainTransform, ValidationTransform
from VideoMAE.data.clips import EvaluationDataset, SampleKey, TrainClips, TrainDataset, ValidationClips
from VideoMAE.data.vce import EMOTIONS, Annotations, read_annotations, read_class_list, read_emotions
from VideoMAE.video.reader import UnreadableVideoError

ID = "00002"

Entries = dict[str, Any]


def three_entries() -> Entries:
    return {f"{i:05d}": make_entry(f"{i:05d}", i, num_levels=3) for i in range(3)}


def write_labels(root: Path, text: str) -> Path:
    file = root / "train_labels.json"
    file.write_text(text, encoding="utf-8")
    return file


def set_intensity(value: Any) -> Callable[[Entries], Any]:
    return lambda entries: entries[ID]["emotions"].update({"Horror": value})


def set_file(value: Any) -> Callable[[Entries], Any]:
    return lambda entries: entries[ID].update({"file": value})


def one_emotion_more(entries: Entries) -> None:
    entries[ID]["emotions"]["Schadenfreude"] = 0.5


def wrong_name(entries: Entries) -> None:
    entries[ID]["emotions"]["horror"] = entries[ID]["emotions"].pop("Horror")


BAD_ENTRIES: dict[str, tuple[Callable[[Entries], Any], str]] = {
    "26 emotions": (lambda entries: entries[ID]["emotions"].pop("Joy"), "has 26 emotions, expected 27"),
    "28 emotions": (one_emotion_more, "has 28 emotions, expected 27"),
    "a wrong name": (wrong_name, "unknown emotion 'horror'"),
    "no emotions": (lambda entries: entries[ID].pop("emotions"), "has no 'emotions' object"),
    "emotions as a list": (lambda entries: entries[ID].update(emotions=[0.1] * 27), "has no 'emotions' object"),
    "intensity 1.3": (set_intensity(1.3), "the intensity of Horror is 1.3, not in [0, 1]"),
    "intensity -0.1": (set_intensity(-0.1), "the intensity of Horror is -0.1, not in [0, 1]"),
    "intensity NaN": (set_intensity(float("nan")), "the intensity of Horror is nan, not in [0, 1]"),
    "intensity Infinity": (set_intensity(float("inf")), "the intensity of Horror is inf, not in [0, 1]"),
    "a huge integer": (set_intensity(10**400), "the intensity of Horror is"),
    "a string": (set_intensity("0.5"), "the intensity of Horror is '0.5', not a number"),
    "a bool": (set_intensity(True), "the intensity of Horror is True, not a number"),
    "null": (set_intensity(None), "the intensity of Horror is None, not a number"),
    "a list of one": (set_intensity([0.5]), "the intensity of Horror is [0.5], not a number"),
    "no file": (lambda entries: entries[ID].pop("file"), "has no 'file'"),
    "an empty file name": (set_file(""), "has no 'file'"),
    "a number as file name": (set_file(2), "has no 'file'"),
    "a path above the folder": (set_file("../00002.mp4"), "'file' is '../00002.mp4', outside"),
    "a path that climbs later": (set_file("videos/../../x.mp4"), "'file' is 'videos/../../x.mp4', outside"),
    "an absolute path": (set_file("/etc/passwd"), "'file' is '/etc/passwd', outside the dataset folder"),
    "a list as entry": (lambda entries: entries.update({ID: [1, 2]}), "has no 'file'"),
    "null as entry": (lambda entries: entries.update({ID: None}), "has no 'file'"),
}

BAD_FILES: dict[str, tuple[str, str]] = {
    "empty": ("", "the file is empty"),
    "blank": (" \n", "the file is empty"),
    "malformed": ("{'00000': 1}", "not valid JSON"),
    "truncated": (json.dumps(three_entries())[:-200], "not valid JSON"),
    "a list": (json.dumps(list(three_entries().values())), "expected an object, found a list"),
    "a string": ('"x"', "expected an object, found a single value"),
    "without videos": ("{}", "contains no videos"),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_a_bad_label_is_an_error_naming_file_video_and_reason(tmp_path: Path, name: str) -> None:
    spoil, reason = BAD_ENTRIES[name]
    entries = three_entries()
    spoil(entries)
    file = write_labels(tmp_path, json.dumps(entries))
    with pytest.raises(ValueError, match=re.escape(f"{file}: video {ID}: {reason}")):
        read_annotations(tmp_path, "train")


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_label_file_is_an_error_naming_file_and_reason(tmp_path: Path, name: str) -> None:
    text, reason = BAD_FILES[name]
    file = write_labels(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{file}: {reason}")):
        read_annotations(tmp_path, "train")


def test_a_missing_label_file_is_an_error_that_names_the_flag(tmp_path: Path) -> None:
    expected = f"{tmp_path / 'test_labels.json'}: no such file; is --data_path the folder"
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_annotations(tmp_path, "test")


def test_a_label_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train_labels.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"train_labels.json: cannot be read: .*utf-8"):
        read_annotations(tmp_path, "train")
    (tmp_path / "test_labels.json").mkdir()
    with pytest.raises(ValueError, match=r"test_labels.json: cannot be read: "):
        read_annotations(tmp_path, "test")


def test_a_duplicate_video_id_is_an_error(tmp_path: Path) -> None:
    text = json.dumps(three_entries()).replace('"00001":', f'"{ID}":')
    file = write_labels(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(str(file)) + f".*'{ID}' twice"):
        read_annotations(tmp_path, "train")


def test_a_duplicate_emotion_is_an_error(tmp_path: Path) -> None:
    file = write_labels(tmp_path, json.dumps(three_entries()).replace('"Horror":', '"Joy":', 1))
    with pytest.raises(ValueError, match=re.escape(str(file)) + ".*'Joy' twice"):
        read_annotations(tmp_path, "train")


def test_labels_become_ids_paths_and_intensities_in_file_order(tmp_path: Path) -> None:
    entries = dict(reversed(three_entries().items()))
    write_labels(tmp_path, json.dumps(entries))
    annotations = read_annotations(tmp_path, "train")
    assert annotations.ids == ["00002", "00001", "00000"]
    assert annotations.paths == [tmp_path / f"videos/{key}.mp4" for key in annotations.ids]
    assert annotations.intensities.dtype == np.float32
    expected = [[entries[key]["emotions"][name] for name in EMOTIONS] for key in annotations.ids]
    np.testing.assert_allclose(annotations.intensities, expected, rtol=1e-6)
    assert not annotations.classes_only


def test_the_vector_is_alphabetical_whatever_the_order_in_the_file(tmp_path: Path) -> None:
    assert list(EMOTIONS) == sorted(EMOTIONS)
    values = {name: position / 27 for position, name in enumerate(sorted(EMOTIONS))}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(sorted(EMOTIONS))
        shuffled = {str(name): values[str(name)] for name in order}
        write_labels(tmp_path, json.dumps({ID: {"emotions": shuffled, "file": "videos/00002.mp4"}}))
        (row,) = read_annotations(tmp_path, "train").intensities
        np.testing.assert_allclose(row, np.arange(27) / 27, rtol=1e-6)


def test_integers_0_and_1_are_intensities(tmp_path: Path) -> None:
    entries = three_entries()
    entries[ID]["emotions"] = dict.fromkeys(EMOTIONS, 0) | {"Joy": 1}
    write_labels(tmp_path, json.dumps(entries))
    assert EMOTIONS[read_annotations(tmp_path, "train").intensities[2].argmax()] == "Joy"


def test_the_emotions_are_the_published_ones(golden: Any) -> None:
    counts = golden("vce_top_emotion_counts.json")
    assert set(EMOTIONS) == counts["train_labels"].keys() == counts["test_labels"].keys()
    assert len(EMOTIONS) == 27


def test_selected_rows_keep_video_and_label_together(tmp_path: Path) -> None:
    write_labels(tmp_path, json.dumps(three_entries()))
    annotations = read_annotations(tmp_path, "train")
    some = annotations.select([2, 0])
    assert some.ids == ["00002", "00000"]
    assert some.paths == [annotations.paths[2], annotations.paths[0]]
    np.testing.assert_array_equal(some.intensities, annotations.intensities[[2, 0]])
    assert annotations.select([]).intensities.shape == (0, 27)


def test_a_class_list_becomes_one_hot_rows_and_paths_may_have_spaces(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("/data/my videos/00001.mp4 3\n\n/data/b.c.mp4 26\n  videos/x.mp4 0 \n", encoding="utf-8")
    annotations = read_class_list(file)
    assert annotations.ids == ["00001", "b.c", "x"]
    assert annotations.paths == [Path("/data/my videos/00001.mp4"), Path("/data/b.c.mp4"), Path("videos/x.mp4")]
    np.testing.assert_array_equal(annotations.intensities, np.eye(27, dtype=np.float32)[[3, 26, 0]])
    assert annotations.classes_only
    assert annotations.select([0]).classes_only


def test_videos_of_a_class_list_with_equal_file_names_are_called_by_their_paths(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text("/a/1.mp4 3\n/b/1.mp4 4\n/b/2.mp4 5\n", encoding="utf-8")
    assert read_class_list(file).ids == ["/a/1.mp4", "/b/1.mp4", "/b/2.mp4"]


@pytest.mark.parametrize(
    "line", ["/a/b.mp4", "/a/b.mp4 27", "/a/b.mp4 -1", "/a/b.mp4 x", "/a/b.mp4 1.0", "5", "/a.mp4,5"]
)
def test_a_bad_line_of_a_class_list_is_an_error_with_its_number(tmp_path: Path, line: str) -> None:
    file = tmp_path / "train.csv"
    file.write_text(f"/a/a.mp4 1\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 3: expected 'PATH CLASS'")):
        read_class_list(file)


def test_a_missing_or_empty_class_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val.csv: no such file"):
        read_class_list(tmp_path / "val.csv")
    (tmp_path / "test.csv").write_text("\n \n")
    with pytest.raises(ValueError, match="test.csv: contains no videos"):
        read_class_list(tmp_path / "test.csv")


def make_annotations(num_videos: int) -> Annotations:
    intensities = np.random.default_rng(0).random((num_videos, 27)).astype(np.float32)
    return Annotations(
        [f"{i:05d}" for i in range(num_videos)], [Path(f"{i}.mp4") for i in range(num_videos)], intensities
    )


class DrawnClips:
    """Clips that show what was drawn; the videos in `unreadable` cannot be read."""

    def __init__(self, *unreadable: int) -> None:
        self.unreadable = {Path(f"{i}.mp4") for i in unreadable}

    def __call__(self, path: Path, rng: np.random.Generator) -> Tensor:
        if path in self.unreadable:
            raise UnreadableVideoError(path, "it is cut off")
        return torch.from_numpy(np.append(rng.random(3), float(path.stem)))


def test_a_training_clip_depends_on_seed_epoch_and_video_alone() -> None:
    annotations = make_annotations(4)
    first = TrainDataset(annotations, make_clips=DrawnClips(), seed=0)
    keys = [SampleKey(position, epoch) for epoch in range(3) for position in range(4)]
    drawn = {key: first[key].clips for key in keys}
    again = TrainDataset(annotations, make_clips=DrawnClips(), seed=0)
    for key in reversed(keys):
        assert torch.equal(again[key].clips, drawn[key])
        assert torch.equal(first[key].clips, drawn[key])
        np.testing.assert_array_equal(first[key].targets.numpy(), annotations.intensities[key.position])
    assert len({tuple(clips[:3].tolist()) for clips in drawn.values()}) == 12
    other_seed = TrainDataset(annotations, make_clips=DrawnClips(), seed=1)
    assert not torch.equal(other_seed[keys[0]].clips, drawn[keys[0]])


def test_an_unreadable_training_video_is_named_and_the_next_readable_one_replaces_it() -> None:
    annotations = make_annotations(4)
    dataset = TrainDataset(annotations, make_clips=DrawnClips(3, 0), seed=0)
    sample = dataset[SampleKey(3, 5)]
    assert sample.position == 1
    assert sample.skipped == {"00003": "it is cut off", "00000": "it is cut off"}
    assert torch.equal(sample.clips, dataset[SampleKey(1, 5)].clips)
    np.testing.assert_array_equal(sample.targets.numpy(), annotations.intensities[1])
    assert dataset[SampleKey(1, 5)].skipped == {}


def test_training_without_a_readable_video_is_an_error() -> None:
    dataset = TrainDataset(make_annotations(2), make_clips=DrawnClips(0, 1), seed=0)
    with pytest.raises(ValueError, match="none of the 2 training videos can be read: it is cut off"):
        dataset[SampleKey(0, 0)]


def test_evaluation_reports_an_unreadable_video_without_replacing_it() -> None:
    annotations = make_annotations(3)
    dataset = EvaluationDataset(annotations, make_clips=DrawnClips(1), seed=0)
    sample = dataset[1]
    assert sample.clips is None
    assert sample.position == 1
    assert sample.skipped == {"00001": "it is cut off"}
    for index in (0, 2):
        assert dataset[index].clips[3] == index
        assert dataset[index].position == index
        assert dataset[index].skipped == {}
        np.testing.assert_array_equal(dataset[index].targets.numpy(), annotations.intensities[index])


def test_an_evaluation_clip_is_the_same_at_every_call_and_differs_between_videos_and_seeds() -> None:
    first, again = (EvaluationDataset(make_annotations(3), make_clips=DrawnClips(), seed=0) for _ in range(2))
    drawn = [first[index].clips for index in range(3)]
    for index in (2, 0, 1):
        assert torch.equal(again[index].clips, drawn[index])
        assert torch.equal(first[index].clips, drawn[index])
    assert not torch.equal(drawn[0][:3], drawn[1][:3])
    other_seed = EvaluationDataset(make_annotations(3), make_clips=DrawnClips(), seed=1)
    assert not torch.equal(other_seed[0].clips, drawn[0])


def test_clips_of_real_videos_are_read_reproducibly_and_show_their_videos(tmp_path: Path) -> None:
    root = make_vce_folder(tmp_path / "vce", 4, 2, num_frames=90, unreadable=("00001",))
    annotations = read_annotations(root, "train")
    assert [EMOTIONS[row.argmax()] for row in annotations.intensities] == [
        top_emotion(video, num_levels=3) for video in range(4)
    ]
    assert read_annotations(root, "test").ids == ["50000", "50001"]
    train = TrainDataset(
        annotations,
        make_clips=TrainClips(8, 4, 4.0, 2, default_transform(TrainTransform, 32, auto_augment="none")),
        seed=0,
    )
    sample = train[SampleKey(0, 0)]
    assert sample.clips.shape == (2, 3, 8, 32, 32)
    assert torch.equal(sample.clips, train[SampleKey(0, 0)].clips)
    assert not torch.equal(sample.clips, train[SampleKey(0, 1)].clips)
    assert not torch.equal(sample.clips[0], sample.clips[1])
    replaced = train[SampleKey(1, 0)]
    assert replaced.position == 2
    assert replaced.skipped == {"00001": "the file is empty"}
    clips = ValidationClips(8, 4, ValidationTransform(32, 32))
    validation = EvaluationDataset(annotations, make_clips=clips, seed=0)
    assert validation[1].clips is None
    dark, bright, dark_again = (validation[index].clips for index in (0, 2, 3))
    assert dark.shape == (1, 3, 8, 32, 32)
    assert bright.mean() - dark.mean() > 2
    assert abs(dark.mean() - dark_again.mean()) < 0.1


# Other emotions


def test_emotions_follow_the_datasets_own_list(tmp_path: Path) -> None:
    assert read_emotions(tmp_path) == EMOTIONS
    (tmp_path / "emotions.json").write_text('["joy", "calm", "Angst"]')
    entry = {"file": "videos/a.mp4", "emotions": {"calm": 0.5, "Angst": 1, "joy": 0.25}}
    write_labels(tmp_path, json.dumps({"a": entry}))
    annotations = read_annotations(tmp_path, "train")
    assert annotations.emotions == annotations.select([0]).emotions == ("joy", "calm", "Angst")
    np.testing.assert_array_equal(annotations.intensities, [[0.25, 0.5, 1]])
    write_labels(tmp_path, json.dumps(three_entries()))
    with pytest.raises(ValueError, match="video 00000: has 27 emotions, expected 3"):
        read_annotations(tmp_path, "train")
    (tmp_path / "val.csv").write_text("/a.mp4 2\n/b.mp4 3\n")
    with pytest.raises(ValueError, match="line 2: expected 'PATH CLASS' with a class below 3"):
        read_class_list(tmp_path / "val.csv", emotions=read_emotions(tmp_path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "expected a list, found an object"),
        ("[1, 2]", "expected a list of emotion names"),
        ('["joy", " "]', "expected a list of emotion names"),
        ('["joy"]', "two or more distinct emotion names"),
        ('["joy", "joy"]', "two or more distinct emotion names"),
        ("[", "not valid JSON"),
    ],
)
def test_a_malformed_list_of_emotions_is_named(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "emotions.json").write_text(content)
    with pytest.raises(ValueError, match=f"emotions.json: .*{reason}"):
        read_annotations(tmp_path, "train")

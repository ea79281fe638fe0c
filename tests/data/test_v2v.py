"""V2V's comparisons: reading with every rule, the split by connected videos, the dataset."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from video_files import grey_level, write_grey_video

from VideoMAE.augment.video_transforms import IMAGENET_MEAN, IMAGENET_STD, SquashTransform
from VideoMAE.data.clip_sampling import evenly_spaced
from VideoMAE.data.clips import ComparisonDataset, EvenClips, SampleKey, collate_comparisons
from VideoMAE.data.v2v import (
    Pair,
    check_metadata,
    hold_out_connected,
    num_contradictions,
    read_comparisons,
    videos_of,
    without_videos,
)
from VideoMAE.video.reader import UnreadableVideoError

GOLDEN = Path(__file__).parents[1] / "golden"


def write_labels(folder: Path, comparisons: Any, name: str = "train_labels.json") -> Path:
    file = folder / name
    file.write_text(json.dumps({"comparisons": comparisons}))
    return file


def test_pairs_and_lists_are_read_in_order(tmp_path: Path) -> None:
    file = write_labels(tmp_path, [["00002", "00001"], ["00003", "00001", "00004"]])
    read = read_comparisons(file, only_pairs=False)
    assert read == [("00002", "00001"), ("00003", "00001", "00004")]
    assert isinstance(read[0], Pair)
    assert read[0].better == "00001"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (["a"], r"has 1 video id \(a\), expected 2"),
        (["a", "b", "c"], r"has 3 video ids \(a, b, c\), expected 2"),
        ([], r"has 0 video ids \(none\), expected 2"),
        (["a", "a"], "duplicate video a"),
        (["a", 7], "7 is not a video id"),
        (["a", ""], '"" is not a video id'),
        (["a", None], "null is not a video id"),
        ("ab", '"ab" is not a list of video ids'),
        (["a", "../b"], "outside the dataset folder"),
    ],
)
def test_a_bad_pair_is_named_with_file_number_and_reason(tmp_path: Path, entry: Any, reason: str) -> None:
    file = write_labels(tmp_path, [["x", "y"], entry])
    with pytest.raises(ValueError, match=rf"train_labels.json: comparison 2: .*{reason}"):
        read_comparisons(file, only_pairs=True)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [([], "has 0 video ids"), (["a"], "has 1 video id "), (["a", "b", "c", "b"], "duplicate video b")],
)
def test_a_bad_list_is_named_with_file_number_and_reason(tmp_path: Path, entry: Any, reason: str) -> None:
    file = write_labels(tmp_path, [["a", "b", "c", "d", "e"], entry], "listwise_labels.json")
    with pytest.raises(ValueError, match=rf"listwise_labels.json: comparison 2: {reason}"):
        read_comparisons(file, only_pairs=False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty"),
        ('{"comparisons": [["a", "b"', "not valid JSON"),
        ("[]", "expected an object"),
        ("{}", 'has no list "comparisons"'),
        ('{"comparisons": {}}', 'has no list "comparisons"'),
        ('{"comparisons": []}', "contains no comparisons"),
    ],
)
def test_a_bad_file_is_named_with_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "test_labels.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=f"test_labels.json: .*{reason}"):
        read_comparisons(file, only_pairs=True)
    with pytest.raises(ValueError, match=r"gone.json: no such file"):
        read_comparisons(tmp_path / "gone.json", only_pairs=True)


def test_a_video_without_metadata_is_named(tmp_path: Path) -> None:
    file = write_labels(tmp_path, [["a", "b"], ["c", "d"], ["b", "e"]])
    read = read_comparisons(file, only_pairs=True)
    check_metadata(tmp_path, read, file=file)  # a dataset without the file
    (tmp_path / "metadata.json").write_text(json.dumps({key: {} for key in "abd"}))
    with pytest.raises(ValueError, match=r"2 videos not in .*metadata.json, first c of comparison c < d"):
        check_metadata(tmp_path, read, file=file)


def test_contradictions_are_counted_once_and_across_lists() -> None:
    assert num_contradictions([("a", "b"), ("b", "a"), ("b", "a"), ("c", "a")]) == 1
    assert num_contradictions([("a", "b", "c"), ("c", "a")]) == 1
    assert num_contradictions([("a", "b"), ("b", "c"), ("c", "a")]) == 0


def test_videos_come_once_in_order_of_appearance(tmp_path: Path) -> None:
    videos = videos_of(tmp_path, [("b", "a"), ("c", "b", "d")])
    assert videos.ids == ["b", "a", "c", "d"]
    assert videos.paths[0] == tmp_path / "videos" / "b.mp4"


def test_comparisons_with_an_unreadable_video_are_lost_and_no_others() -> None:
    whole, lost = without_videos([Pair("a", "b"), Pair("b", "c"), ("d", "e", "a")], ["a"])
    assert (whole, lost) == ([("b", "c")], [("a", "b"), ("d", "e", "a")])


def drawn_comparisons(num_groups: int, seed: int) -> list[tuple[str, ...]]:
    """Random comparisons of 2 to 4 videos inside groups of five videos."""
    rng = np.random.default_rng(seed)
    groups = [[f"{group}-{i}" for i in range(5)] for group in range(num_groups)]
    drawn = [tuple(rng.permutation(groups[rng.integers(num_groups)])[: rng.integers(2, 5)]) for _ in range(150)]
    return [tuple(map(str, entry)) for entry in drawn]


@pytest.mark.parametrize("seed", range(5))
def test_held_out_comparisons_share_no_video_with_training_and_none_is_lost(seed: int) -> None:
    comparisons = drawn_comparisons(30, seed)
    split = hold_out_connected(comparisons, fraction=0.2, seed=seed)
    on_sides = [{key for entry in side for key in entry} for side in (split.train, split.held_out)]
    assert on_sides[0].isdisjoint(on_sides[1])
    assert sorted(split.train + split.held_out) == sorted(comparisons)
    assert 0.15 * len(comparisons) < len(split.held_out) <= 0.2 * len(comparisons)
    assert split == hold_out_connected(comparisons, fraction=0.2, seed=seed)
    assert split.held_out != hold_out_connected(comparisons, fraction=0.2, seed=seed + 100).held_out


def test_one_large_component_stays_in_training() -> None:
    chain = [Pair(str(i), str(i + 1)) for i in range(90)]
    islands = [Pair(f"a{i}", f"b{i}") for i in range(10)]
    split = hold_out_connected([*chain, *islands], fraction=0.05, seed=0)
    assert set(chain) <= set(split.train)
    assert (len(split.held_out), split.num_components, split.largest) == (5, 11, 90)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_a_split_that_leaves_one_side_empty_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="--val_fraction .* leaves training or validation empty.*--select_on test"):
        hold_out_connected([Pair("a", "b"), Pair("b", "c")], fraction=fraction, seed=0)


def test_frames_are_evenly_spaced_as_in_the_reference() -> None:
    for case in json.loads((GOLDEN / "sampling_0.json").read_text())["evenly_spaced"]:
        assert evenly_spaced(case["num_frames"], clip_len=case["k"]).tolist() == case["indices"]


def even_clips(clip_len: int = 4, size: int = 32) -> EvenClips:
    return EvenClips(clip_len, SquashTransform(size), decode_size=(size, size))


def test_a_clip_shows_the_whole_video_and_the_whole_frame(tmp_path: Path) -> None:
    path = write_grey_video(tmp_path / "a.mp4", 30, width=96, height=40)
    clip = even_clips()(path, np.random.default_rng(0))
    assert clip.shape == (1, 3, 4, 32, 32)
    mean, std = np.array(IMAGENET_MEAN)[:, None], np.array(IMAGENET_STD)[:, None]
    levels = clip[0].mean(dim=(2, 3)).numpy() * std + mean
    np.testing.assert_allclose(255 * levels, np.tile([grey_level(i) for i in (0, 10, 19, 29)], (3, 1)), atol=4)


@pytest.fixture
def dataset(tmp_path: Path) -> ComparisonDataset:
    (tmp_path / "videos").mkdir()
    for number, key in enumerate("abc"):
        level = 60 * number + 40
        write_grey_video(tmp_path / "videos" / f"{key}.mp4", 10, levels=lambda _, level=level: level)
    (tmp_path / "videos" / "bad.mp4").write_bytes(b"")
    comparisons = [Pair("a", "b"), Pair("bad", "c"), ("c", "a", "b")]
    return ComparisonDataset(comparisons, tmp_path, make_clips=even_clips(), blank=torch.zeros(1, 3, 4, 32, 32), seed=0)


def test_clips_stand_from_least_to_most_preferred(dataset: ComparisonDataset) -> None:
    sample = dataset[SampleKey(2, 0)]
    levels = sample.clips.mean(dim=(1, 2, 3, 4))
    assert levels.argsort().tolist() == [1, 2, 0]
    assert (sample.weight, sample.skipped) == (1.0, {})


def test_an_unreadable_video_costs_its_comparison_and_is_named(dataset: ComparisonDataset) -> None:
    batch = collate_comparisons([dataset[SampleKey(index, 0)] for index in range(3)])
    assert batch.clips.shape == (7, 3, 4, 32, 32)
    assert batch.lengths == (2, 2, 3)
    assert batch.weights.tolist() == [1.0, 0.0, 1.0]
    assert batch.skipped == {"bad": "the file is empty"}
    assert not batch.clips[2].any()
    torch.testing.assert_close(batch.clips[0], batch.clips[5])


def test_augmented_clips_depend_on_seed_epoch_and_place_alone(dataset: ComparisonDataset) -> None:
    def noisy(path: Path, rng: np.random.Generator) -> torch.Tensor:
        if path.stem == "bad":
            raise UnreadableVideoError(path, "no")
        return torch.full((1, 3, 1, 1, 1), float(rng.random()))

    dataset.make_clips = noisy
    first, again, later = (dataset[SampleKey(0, epoch)].clips for epoch in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert first[0, 0] != first[1, 0]
    dataset.seed = 1
    assert not torch.equal(first, dataset[SampleKey(0, 3)].clips)

"""Splits: held-out, readable and long enough videos; too many unreadable ones."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from VideoMAE.data.splits import hold_out, long_enough, readable, remaining_unreadable, unreadable
from VideoMAE.data.vce import Annotations
from VideoMAE.video.check import VideoCheck
from VideoMAE.video.reader import VideoInfo


def make_annotations(num_videos: int) -> Annotations:
    intensities = np.repeat(np.arange(num_videos, dtype=np.float32)[:, None], 27, axis=1)
    ids = [f"{i:05d}" for i in range(num_videos)]
    return Annotations(ids, [Path(f"/vce/videos/{key}.mp4") for key in ids], intensities)


def make_check(
    annotations: Annotations, *, bad: dict[int, str], num_frames: dict[int, int] | None = None
) -> VideoCheck:
    """Videos have 360 frames at 30 fps unless `num_frames` overrides that."""
    lengths = dict.fromkeys(range(len(annotations.ids)), 360) | (num_frames or {})
    infos = {
        str(path): VideoInfo(lengths[i], 30.0, 240, 320, "h264", lengths[i] / 30)
        for i, path in enumerate(annotations.paths)
        if i not in bad
    }
    return VideoCheck(infos, {str(annotations.paths[i]): reason for i, reason in bad.items()})


@pytest.mark.parametrize(
    ("num_videos", "fraction", "num_held_out"),
    [(5000, 0.1, 500), (60, 0.1, 6), (10, 0.1, 1), (11, 0.1, 2), (30, 0.07, 3), (100, 0.07, 7), (2, 0.5, 1)],
)
def test_the_last_videos_are_held_out_and_the_first_train(num_videos: int, fraction: float, num_held_out: int) -> None:
    annotations = make_annotations(num_videos)
    train, validation = hold_out(annotations, fraction=fraction)
    assert len(validation.ids) == num_held_out
    assert train.ids + validation.ids == annotations.ids
    assert train.paths + validation.paths == annotations.paths
    np.testing.assert_array_equal(np.concatenate((train.intensities, validation.intensities)), annotations.intensities)


@pytest.mark.parametrize(("num_videos", "fraction"), [(10, 0.0), (10, 1.0), (10, 0.95), (10, -0.1), (1, 0.5)])
def test_a_fraction_that_leaves_a_part_empty_is_an_error_naming_the_flag(num_videos: int, fraction: float) -> None:
    with pytest.raises(ValueError, match=f"--val_fraction {fraction} of {num_videos} videos leaves .* empty"):
        hold_out(make_annotations(num_videos), fraction=fraction)


def test_unreadable_videos_are_named_by_id_and_the_readable_keep_their_order() -> None:
    annotations = make_annotations(5)
    check = make_check(annotations, bad={3: "it is cut off", 1: "no such file"})
    assert unreadable(annotations, check) == {"00001": "no such file", "00003": "it is cut off"}
    kept = readable(annotations, check)
    assert kept.ids == ["00000", "00002", "00004"]
    assert kept.intensities[:, 0].tolist() == [0, 2, 4]


def test_bad_videos_of_another_split_do_not_count() -> None:
    everything = make_annotations(6)
    check = make_check(everything, bad={5: "empty"})
    assert unreadable(everything.select(range(4)), check) == {}
    assert remaining_unreadable(everything.select(range(4)), check, max_fraction=0.0) == 0


@pytest.mark.parametrize(
    ("num_videos", "num_bad", "max_fraction", "left"),
    [(100, 0, 0.01, 1), (100, 1, 0.01, 0), (99, 0, 0.01, 0), (100, 28, 0.29, 1), (250, 1, 0.01, 1), (10, 10, 1.0, 0)],
)
def test_the_remaining_number_of_unreadable_videos_follows_from_the_fraction(
    num_videos: int, num_bad: int, max_fraction: float, left: int
) -> None:
    annotations = make_annotations(num_videos)
    check = make_check(annotations, bad=dict.fromkeys(range(num_bad), "empty"))
    assert remaining_unreadable(annotations, check, max_fraction=max_fraction) == left


def test_too_many_bad_videos_are_an_error_that_names_them_all() -> None:
    annotations = make_annotations(100)
    check = make_check(annotations, bad={7: "it is cut off", 42: "no such file"})
    with pytest.raises(ValueError, match="unreadable training videos: 2 of 100, but --max_bad_videos 0.01") as caught:
        remaining_unreadable(annotations, check, max_fraction=0.01)
    assert "allows 1: 00007: it is cut off; 00042: no such file" in str(caught.value)


def test_videos_shorter_than_a_clip_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    annotations = make_annotations(5)
    check = make_check(annotations, bad={4: "empty"}, num_frames={0: 119, 1: 120, 2: 1})
    with caplog.at_level(logging.INFO):
        kept = long_enough(annotations, check, clip_len=16, clip_fps=4.0)
    assert kept.ids == ["00001", "00003"]
    assert kept.intensities[:, 0].tolist() == [1, 3]
    assert "training videos shorter than a clip (16 frames at 4 fps): 2 of 4, left out" in caplog.text


def test_without_a_clip_rate_every_readable_video_is_long_enough(caplog: pytest.LogCaptureFixture) -> None:
    annotations = make_annotations(4)
    check = make_check(annotations, bad={3: "empty"}, num_frames={0: 1})
    with caplog.at_level(logging.INFO):
        assert long_enough(annotations, check, clip_len=16, clip_fps=None).ids == ["00000", "00001", "00002"]
    assert caplog.text == ""


def test_no_video_long_enough_is_an_error() -> None:
    annotations = make_annotations(2)
    check = make_check(annotations, bad={0: "empty"}, num_frames={1: 119})
    with pytest.raises(ValueError, match="none of the 2 training videos is readable and long enough for a clip"):
        long_enough(annotations, check, clip_len=16, clip_fps=4.0)

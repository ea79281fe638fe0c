"""Sampling of frames: the original programs' indices, uniform draws, and the examples of docstrings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from VideoMAE.data.clip_sampling import (
    crop_axis,
    crop_starts,
    even_in_windows,
    evenly_spaced,
    num_fps_windows,
    random_fps_window,
    random_window,
    segment_starts,
    sliding_starts,
    strided_frames,
    strided_in_windows,
    window_indices,
)

NUM_STORED = 40  # the golden lists of strided frames may be cut to this many


class FixedDraw:
    """A generator with a fixed draw; records the requested ranges."""

    def __init__(self, value: int) -> None:
        self.value = value
        self.requested: list[tuple[int, ...]] = []

    def integers(self, *bounds: int) -> int:
        self.requested.append(bounds)
        return self.value


def cases_of(golden: Any, mode: str) -> list[dict[str, Any]]:
    cases = [case for case in golden("sampling_0.json")["clip_indices"] if case["mode"] == mode]
    assert len(cases) == 54
    return cases


def test_windows_have_the_original_programs_frames(golden: Any) -> None:
    for case in cases_of(golden, "random_clip"):
        indices = window_indices(
            case["num_frames"], clip_len=case["clip_len"], stride=case["stride"], end=case["clip_end"]
        )
        assert indices.tolist() == case["indices"], case
        assert indices.dtype == np.int64


def test_a_random_window_is_the_golden_one_for_the_drawn_end(golden: Any) -> None:
    for case in cases_of(golden, "random_clip"):
        draw = FixedDraw(case["clip_end"])
        indices = random_window(case["num_frames"], clip_len=case["clip_len"], stride=case["stride"], rng=draw)
        assert indices.tolist() == case["indices"], case
        window = case["clip_len"] * case["stride"]
        assert draw.requested == ([] if case["clip_end"] is None else [(window, case["num_frames"])])


def test_strided_frames_are_the_original_programs(golden: Any) -> None:
    for case in cases_of(golden, "all_strided_frames"):
        indices = strided_frames(case["num_frames"], clip_len=case["clip_len"], stride=case["stride"])
        assert indices.dtype == np.int64
        stored = case["indices"]
        if len(stored) < NUM_STORED:
            assert indices.tolist() == stored, case
        assert indices[: len(stored)].tolist() == stored, case
        assert len(indices) == max(-(-case["num_frames"] // case["stride"]), case["clip_len"])


def test_evenly_spaced_frames_are_the_original_programs(golden: Any) -> None:
    for case in golden("sampling_0.json")["evenly_spaced"]:
        indices = evenly_spaced(case["num_frames"], clip_len=case["k"])
        assert indices.tolist() == case["indices"], case
        assert indices.dtype == np.int64


def test_views_are_the_original_programs(golden: Any) -> None:
    settings = ("strided_frames", "height", "width", "num_segments", "num_crops", "clip_len", "crop_size")
    cases = golden("sampling_0.json")["test_views"]
    assert len({tuple(case[name] for name in settings) for case in cases}) == 10
    for case in cases:
        num_strided, height, width, num_segments, num_crops, clip_len, crop_size = (case[name] for name in settings)
        starts = segment_starts(num_strided, num_segments=num_segments, clip_len=clip_len)
        crops = crop_starts(max(height, width), num_crops=num_crops, crop_size=crop_size)
        assert len(starts) == num_segments and len(crops) == num_crops
        view = (starts[case["segment"]], crops[case["crop"]], crop_axis(height, width))
        assert view == (case["first_frame"], case["crop_start"], case["crop_axis"]), case


def test_a_single_segment_and_a_single_crop_are_in_the_middle() -> None:
    assert segment_starts(40, num_segments=1, clip_len=16) == [12]
    assert crop_starts(48, num_crops=1, crop_size=32) == [8]


def test_docstring_examples_hold() -> None:
    assert window_indices(100, clip_len=4, stride=4, end=40).tolist() == [24, 29, 34, 39]
    assert random_window(9, clip_len=4, stride=4, rng=np.random.default_rng(0)).tolist() == [0, 8, 8, 8]
    example = random_fps_window(60, video_fps=30, clip_len=4, clip_fps=4, rng=FixedDraw(1))
    assert example.tolist() == [7, 15, 22, 30]
    assert strided_frames(10, clip_len=4, stride=4).tolist() == [0, 4, 8, 8]
    assert evenly_spaced(10, clip_len=3).tolist() == [0, 4, 9]
    assert segment_starts(40, num_segments=2, clip_len=16) == [0, 24]
    assert crop_starts(48, num_crops=3, crop_size=32) == [0, 8, 16]


def test_window_ends_are_uniform_from_the_first_possible_to_the_last_frame() -> None:
    rng = np.random.default_rng(0)
    draws = 8000
    firsts = [int(random_window(84, clip_len=16, stride=4, rng=rng)[0]) for _ in range(draws)]
    counts = np.bincount(firsts, minlength=20)
    assert len(counts) == 20  # ends 64 to 83
    assert np.abs(counts - draws / 20).max() < 5 * np.sqrt(draws / 20)


@pytest.mark.parametrize("num_frames", [*range(1, 70), 96, 150, 361])
def test_random_windows_are_sorted_and_within_the_video(num_frames: int) -> None:
    rng = np.random.default_rng(num_frames)
    for clip_len, stride in ((16, 4), (16, 1), (8, 3)):
        indices = random_window(num_frames, clip_len=clip_len, stride=stride, rng=rng)
        assert indices.shape == (clip_len,)
        assert 0 <= indices[0] <= indices[-1] < num_frames
        assert np.all(np.diff(indices) >= 0)


@pytest.mark.parametrize(
    ("num_frames", "video_fps", "expected"),
    [
        (360, 30, 33),  # floor(48) - 15
        (120, 30, 1),
        (119, 30, 0),
        (127, 30, 1),
        (128, 30, 2),  # floor(17.07) - 15
        (1, 30, 0),
        (250, 25, 25),
        (480, 60, 17),
        (64, 16, 1),
        (120, 30000 / 1001, 1),
        (100, 3, 118),  # slower than the clip: frames repeat
    ],
)
def test_windows_at_4_fps_are_counted_as_in_the_original(num_frames: int, video_fps: float, expected: int) -> None:
    assert num_fps_windows(num_frames, video_fps=video_fps, clip_len=16, clip_fps=4) == expected


@pytest.mark.parametrize(("num_frames", "video_fps"), [(360, 30), (120, 30), (250, 25), (131, 30000 / 1001), (40, 3)])
def test_fps_windows_are_consecutive_resampled_frames_and_all_equally_likely(num_frames: int, video_fps: float) -> None:
    resampled = [int(k * video_fps / 4) for k in range(int(num_frames * 4 / video_fps))]
    windows = [resampled[start : start + 16] for start in range(len(resampled) - 15)]
    rng = np.random.default_rng(0)
    draws = 150 * len(windows)
    counts = [0] * len(windows)
    for _ in range(draws):
        indices = random_fps_window(num_frames, video_fps=video_fps, clip_len=16, clip_fps=4, rng=rng)
        assert indices.dtype == np.int64
        counts[windows.index(indices.tolist())] += 1
    assert max(resampled) < num_frames
    assert np.abs(np.array(counts) - 150).max() < 5 * np.sqrt(150)


def test_a_video_too_short_for_a_clip_at_4_fps_is_an_error() -> None:
    with pytest.raises(ValueError, match="119 frames at 30 fps are too few for a clip of 16 frames at 4 fps"):
        random_fps_window(119, video_fps=30, clip_len=16, clip_fps=4, rng=np.random.default_rng(0))


def test_windows_slide_within_the_video_and_a_short_video_has_one() -> None:
    assert sliding_starts(10, window_frames=4, hop_frames=3).tolist() == [0, 3, 6]
    assert sliding_starts(10, window_frames=4.5, hop_frames=3).tolist() == [0, 3]
    assert sliding_starts(3, window_frames=4, hop_frames=3).tolist() == [0]
    assert sliding_starts(10, window_frames=8, hop_frames=0.1).tolist() == [0, 1, 2]  # a hop is at least one frame
    assert len(sliding_starts(300, window_frames=30.0, hop_frames=0.3 * 30)) == 31  # 0.3 x 30 is not quite 9


@pytest.mark.parametrize("num_frames", [1, 5, 64, 200])
def test_frames_of_a_window_are_those_of_the_video_from_its_start(num_frames: int) -> None:
    size = {"num_frames": num_frames, "clip_len": 16}
    starts = sliding_starts(num_frames, window_frames=64, hop_frames=7)
    strided = strided_in_windows(starts, window_frames=64, **size)
    for start, row in zip(starts.astype(int), strided, strict=True):
        assert row.tolist() == (start + strided_frames(num_frames - start, clip_len=16, stride=4)[:16]).tolist()
    whole = even_in_windows(np.zeros(1), window_frames=max(num_frames, 64), **size)
    assert whole.tolist() == [evenly_spaced(num_frames, clip_len=16).tolist()]
    assert even_in_windows(np.array([10.0]), num_frames=100, window_frames=31, clip_len=4).tolist() == [
        [10, 20, 30, 40]
    ]

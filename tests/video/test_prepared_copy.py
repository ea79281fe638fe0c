"""Prepared copies answer as the videos they were made from: the same numbers, the same frames, or the nearest held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import video_files

from VideoMAE.data import clip_sampling
from VideoMAE.data.clips import EvenClips, TestClips, TrainClips
from VideoMAE.video.copy_video import Copied, Recipe, copy_video
from VideoMAE.video.prepared_copy import CopiedVideo, copied_video
from VideoMAE.video.reader import UnreadableVideoError, Video, probe

NUM_FRAMES, FPS = 150, 30


def level_of(frame: int) -> int:
    """A grey level that no other frame within 50 has."""
    return 4 * (frame * 7 % 60) + 8


def make_copy(source: Path, folder: Path, **recipe: object) -> Path:
    folder.mkdir(exist_ok=True)
    made = Recipe(short_side=256, gop=8, crf=12, preset="veryfast", every=1, evenly=None)._replace(**recipe)
    copied = copy_video(source, recipe=made, folder=folder)
    assert isinstance(copied, Copied)
    return Path(copied.temporary).rename(folder / "copy.mp4")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "video.mp4"
    return video_files.write_grey_video(path, NUM_FRAMES, fps=FPS, levels=level_of, gop=50, bframes=2)


@pytest.fixture(scope="module")
def copies(source: Path) -> dict[str, Path]:
    recipes = {"all": {}, "intra": {"gop": 1}, "fourth": {"every": 4}, "even": {"evenly": 16}}
    return {name: make_copy(source, source.parent / name, **recipe) for name, recipe in recipes.items()}


def frames_shown(path: Path, indices: np.ndarray) -> list[int]:
    """Which source frames were read, told by their grey."""
    with Video(path) as video:
        levels = video.frames_at(indices).mean(axis=(1, 2, 3))
    candidates = np.array([level_of(frame) for frame in range(NUM_FRAMES)])
    shown = []
    for index, level in zip(indices.tolist(), levels, strict=True):
        near = np.arange(max(index - 12, 0), min(index + 13, NUM_FRAMES))
        shown.append(int(near[np.abs(candidates[near] - level).argmin()]))
    return shown


@pytest.mark.parametrize("num_frames", [1, 2, 3, 9, 10, 61])
@pytest.mark.parametrize("every", [1, 2, 3, 4, 7, 100])
def test_the_nearest_held_frame_stands_for_another_and_is_at_most_half_a_step_away(num_frames: int, every: int) -> None:
    copied = CopiedVideo(num_frames, 30.0, every)
    held = copied.held().tolist()
    assert held[0] == 0 and held[-1] == num_frames - 1 and set(range(0, num_frames, every)) <= set(held)
    for index, place in enumerate(copied.positions(np.arange(num_frames)).tolist()):
        distances = [abs(index - frame) for frame in held]
        assert place == distances.index(min(distances))
        assert distances[place] <= every // 2


def test_frames_of_evenly_spaced_copies_are_those_that_v2v_asks_for_and_others_are_refused() -> None:
    copied = CopiedVideo(360, 30.0, evenly=16)
    asked = clip_sampling.evenly_spaced(360, clip_len=16)
    assert copied.held()[copied.positions(asked)].tolist() == asked.tolist()
    with pytest.raises(ValueError, match="holds 16 evenly spaced frames of 360 .--evenly 16. and not frame 7"):
        copied.positions(np.array([0, 7]))
    assert CopiedVideo(3, 30.0, evenly=16).held().tolist() == [0, 1, 2]


def test_the_comment_of_a_file_brings_back_what_was_written_and_others_mean_nothing() -> None:
    copied = CopiedVideo(361, 30000 / 1001, 2)
    assert copied_video({"comment": copied.to_comment()}) == copied
    assert copied_video({}) is copied_video({"comment": "my holiday"}) is copied_video({"title": "x"}) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-1], "damaged"),
        (lambda text: text.replace("num_frames", "frames"), "damaged"),
        (lambda text: text.replace("361", "0"), "unknown format"),
        (lambda text: text.replace("361", '"many"'), "unknown format"),
        (lambda text: text.replace('_copy": 1', '_copy": 99'), "unknown format"),
    ],
    ids=["cut", "a name", "no frames", "a text", "a later version"],
)
def test_a_comment_that_is_not_ours_any_more_is_an_error(change: Callable[[str], str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        copied_video({"comment": change(CopiedVideo(361, 30.0).to_comment())})


@pytest.mark.parametrize("name", ["all", "intra", "fourth", "even"])
def test_a_copy_has_its_sources_length_and_rate(source: Path, copies: dict[str, Path], name: str) -> None:
    ours, theirs = probe(copies[name]), probe(source)
    assert (ours.num_frames, ours.fps, ours.duration_seconds) == (NUM_FRAMES, FPS, theirs.duration_seconds)
    with Video(copies[name]) as video, Video(copies[name], info=ours) as known:
        assert (video.num_frames, video.fps, video.info) == (NUM_FRAMES, FPS, ours)
        held = video.frames_held
        assert np.array_equal(video.frames_at(held), known.frames_at(held)) and held[-1] == NUM_FRAMES - 1
        for wrong in (-1, NUM_FRAMES):
            with pytest.raises(ValueError, match=f"has frames 0 to {NUM_FRAMES - 1}; frame {wrong}"):
                video.frames_at(np.array([wrong]))


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_whole_copy_gives_every_frame_under_its_sources_number(copies: dict[str, Path], decoder: str) -> None:
    assert frames_shown(copies["all"], np.arange(NUM_FRAMES)) == list(range(NUM_FRAMES))
    mixed = np.array([149, 3, 3, 64, 0, 63, 148])
    assert frames_shown(copies["intra"], mixed) == frames_shown(copies["all"], mixed) == mixed.tolist()
    with Video(copies["all"], decoder=decoder) as video, Video(copies["all"], size=(20, 30)) as small:
        assert np.ptp(video.frames_at(np.array([5, 2, 5])).mean(axis=(1, 2, 3))[[0, 2]]) == 0
        assert small.frames_at(mixed).shape == (7, 20, 30, 3)


def test_a_copy_of_every_fourth_frame_keeps_the_meaning_of_stride_and_rate_in_time(copies: dict[str, Path]) -> None:
    for seed in range(5):
        draws = [
            clip_sampling.random_window(NUM_FRAMES, clip_len=16, stride=4, rng=np.random.default_rng(seed)),
            clip_sampling.random_fps_window(
                NUM_FRAMES, video_fps=FPS, clip_len=16, clip_fps=4, rng=np.random.default_rng(seed)
            ),
        ]
        for indices in draws:
            errors = np.abs(np.array(frames_shown(copies["fourth"], indices)) - indices)
            assert errors.max() <= 2 and errors.any()
    strided = clip_sampling.strided_frames(NUM_FRAMES, clip_len=16, stride=4)
    assert frames_shown(copies["fourth"], strided) == strided.tolist()


def as_levels(frames: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """In place of a transform, so that frames are told apart."""
    return torch.from_numpy(frames.mean(axis=(1, 2, 3)))


def test_every_way_to_choose_frames_sees_the_same_moments_in_source_and_copy(
    source: Path, copies: dict[str, Path]
) -> None:
    views = TestClips(16, 4, 2, 3, short_side_size=32, crop_size=32)
    for seed in range(3):
        for clips in (
            TrainClips(16, 4, 4.0, 1, as_levels),
            TrainClips(16, 4, None, 1, as_levels),
            EvenClips(16, as_levels),
            views,
        ):
            ours, theirs = (clips(path, np.random.default_rng(seed)) for path in (copies["all"], source))
            assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < (0.05 if clips is views else 1.5)
    even = EvenClips(16, as_levels)
    ours, theirs = (even(path, np.random.default_rng(0)) for path in (copies["even"], source))
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 1.5
    with pytest.raises(UnreadableVideoError, match="use it only for runs with --num_frames 16"):
        views(copies["even"], np.random.default_rng(0))


def test_a_copy_that_lost_frames_is_unreadable(copies: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    with av.open(str(copies["all"])) as whole, av.open(str(cut), "w") as container:
        container.metadata["comment"] = whole.metadata["comment"]
        stream = container.add_stream_from_template(whole.streams.video[0])
        for packet in list(whole.demux(video=0))[:40]:
            packet.stream = stream
            container.mux(packet)
    for read in (probe, Video):
        with pytest.raises(UnreadableVideoError, match="it contains 40 of the 150 frames of the copy"):
            read(cut)


def test_a_copy_that_somebody_encoded_anew_with_b_frames_still_gives_the_right_frames(
    copies: dict[str, Path], tmp_path: Path
) -> None:
    again = tmp_path / "again.mp4"
    with av.open(str(copies["fourth"])) as whole:
        frames = [frame.to_ndarray(format="rgb24") for frame in whole.decode(video=0)]
        comment = whole.metadata["comment"]
    video_files.write_video(again, iter(frames), bframes=3, gop=30, comment=comment)
    asked = np.array([0, 8, 100, 149])
    assert frames_shown(again, asked) == asked.tolist()

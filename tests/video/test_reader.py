from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import video_files
from video_files import BAD_VIDEOS, ODD_VIDEOS

from VideoMAE.video.reader import UnreadableVideoError, Video, probe

NUM_SHOWN_FRAMES = {"one_frame": 1}
WORDS_OF_REASONS = {
    "zero_bytes": "empty",
    "text": "not a video",
    "truncated": "cut off",
    "truncated_faststart": "cut off",
    "audio_only": "no video stream",
    "no_frames": "no frames",
    "damaged_first_frame": "first frame cannot be decoded",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@cache
def made(folder: Path, name: str) -> Path:
    path = folder / f"{name}.mp4"
    (BAD_VIDEOS | ODD_VIDEOS)[name](path)
    return path


@cache
def decoded_by_pyav(path: Path) -> np.ndarray:
    """Every frame in order, upright, in the size of the first -> (N, H, W, 3) uint8"""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        size = {"width": frames[0].width, "height": frames[0].height, "interpolation": "BILINEAR"}
        return np.stack([np.rot90(frame.to_ndarray(format="rgb24", **size), frame.rotation // 90) for frame in frames])


def nearest(frame: np.ndarray, candidates: np.ndarray) -> int:
    return int(np.abs(candidates.astype(np.int16) - frame).mean(axis=(1, 2, 3)).argmin())


def test_frame_i_of_a_grey_video_has_level_8_i(tmp_path: Path) -> None:
    path = video_files.write_grey_video(tmp_path / "grey.mp4", 30, bframes=2)
    with Video(path) as video:
        frames = video.frames_at(np.array([29, 3, 3, 0, 17]))
    assert frames.shape == (5, 48, 64, 3) and frames.dtype == np.uint8
    assert np.abs(frames.mean(axis=(1, 2, 3)) - [232, 24, 24, 0, 136]).max() <= 3


@pytest.mark.parametrize("kind", [{"gop": 12, "bframes": 2}, {"codec": "mpeg4"}], ids=["decord", "PyAV"])
def test_frames_one_after_the_other_are_those_in_a_piece(tmp_path: Path, kind: dict[str, Any]) -> None:
    path = video_files.write_video(tmp_path / "moving.mp4", video_files.moving_frames(60), **kind)
    indices = np.array([0, 1, 2, *range(5, 57, 3), 59])
    with Video(path) as video:
        frames = list(video.iterate(indices))
        np.testing.assert_array_equal(np.stack(frames), video.frames_at(indices))
        assert len(next(iter(video.iterate(np.array([30]))))) == 48
    with pytest.raises(ValueError, match="is closed"):
        next(video.iterate(indices))


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_any_indices_give_the_frames_that_sequential_decoding_gives(folder: Path, name: str) -> None:
    expected = decoded_by_pyav(made(folder, name))
    assert len(expected) == NUM_SHOWN_FRAMES.get(name, 26)
    random = np.random.default_rng(0)
    with Video(made(folder, name)) as video:
        assert video.num_frames == len(expected)
        for num_indices in (1, 2, 5, 16, 16, 16):
            indices = random.integers(0, video.num_frames, num_indices)
            frames = video.frames_at(indices)
            assert frames.shape == (num_indices, *expected.shape[1:])
            # PyAV's own conversion of 10-bit pixels is coarser than the filter's, and its scaling is another one.
            limit = 6 if name in ("ten_bit", "changes_size") else 0.5
            assert np.abs(frames.astype(int) - expected[indices]).mean() < limit
            if name != "ten_bit":
                assert [nearest(frame, expected) for frame in frames] == indices.tolist()


@pytest.mark.parametrize("name", ODD_VIDEOS)
def test_a_size_given_on_opening_is_the_upright_size_of_the_frames(folder: Path, name: str) -> None:
    with Video(made(folder, name), size=(30, 20)) as video:
        frames = video.frames_at(np.array([video.num_frames - 1, 0]))
        assert frames.shape == (2, 30, 20, 3)
        bright_corner = frames[1, -6:, :4] if name == "rotated" else frames[1, :6, :4]
        assert bright_corner.mean() > 200


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_shown_upright(tmp_path: Path, degrees: int) -> None:
    path = tmp_path / "turned.mp4"
    video_files.rotated(path, degrees)
    stored = next(video_files.moving_frames(1, width=96))
    with Video(path) as video:
        frame = video.frames_at(np.array([0]))[0]
    info = probe(path)
    assert frame.shape == (info.height, info.width, 3) == ((48, 96, 3) if degrees == 180 else (96, 48, 3))
    assert np.abs(frame.astype(int) - np.rot90(stored, degrees // 90)).mean() < 12


def test_both_decoders_squash_alike(tmp_path: Path) -> None:
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    video_files.write_video(plain, video_files.moving_frames(26, width=96))
    video_files.rotated(turned, 180)
    with Video(plain, size=(30, 40)) as first, Video(turned, size=(30, 40)) as second:
        indices = np.arange(10)
        assert np.array_equal(first.frames_at(indices), np.rot90(second.frames_at(indices), 2, axes=(1, 2)))


@pytest.mark.parametrize("name", BAD_VIDEOS)
@pytest.mark.parametrize("read", [probe, Video])
def test_a_bad_file_is_refused_by_name_and_reason(folder: Path, name: str, read: type[Video]) -> None:
    with pytest.raises(UnreadableVideoError, match=WORDS_OF_REASONS[name]) as caught:
        read(made(folder, name))
    assert str(made(folder, name)) in str(caught.value)
    assert caught.value.path == str(made(folder, name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [probe, Video])
def test_missing_files_and_folders_are_refused(tmp_path: Path, read: type[Video]) -> None:
    with pytest.raises(UnreadableVideoError, match="no such file"):
        read(tmp_path / "absent.mp4")
    with pytest.raises(UnreadableVideoError, match="folder"):
        read(tmp_path)


@pytest.mark.parametrize(("place", "sound"), [(18, "18 frames"), (1, "1 frame")])
def test_damage_after_the_first_frame_is_an_error_and_sound_frames_stay_readable(
    tmp_path: Path, place: int, sound: str
) -> None:
    path = video_files.write_grey_video(tmp_path / "grey.mp4", 24)
    with av.open(str(path)) as container:  # the entry lives as long as the container is open
        entry = container.streams.video[0].index_entries[place]
        start, size = entry.pos, entry.size
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    for _ in range(10):  # decord alone fails on the sound frames now and then
        with Video(path) as video:
            with pytest.raises(UnreadableVideoError, match=f"cannot be decoded beyond its first {sound} "):
                video.frames_at(np.array([place, 23]))
            frames = video.frames_at(np.array([place - 1, 0]))
            assert np.abs(frames.mean(axis=(1, 2, 3)) - [8 * (place - 1), 0]).max() <= 3


def test_probe_and_video_agree_on_what_the_file_holds(folder: Path) -> None:
    for name in ODD_VIDEOS:
        with Video(made(folder, name)) as video:
            assert video.info == probe(made(folder, name)), name
            assert video.info.duration_seconds == pytest.approx(video.num_frames / video.fps)
    assert probe(made(folder, "overstated_frame_count"))[:6] == (26, 30.0, 48, 64, "h264", 26 / 30)
    assert probe(made(folder, "cut_by_edit_list"))[:6] == (26, 30.0, 48, 64, "h264", 26 / 30)


def test_fps_is_exact_for_common_rates(tmp_path: Path) -> None:
    for fps in (4, 15, 24, 25, 30, 60):
        assert probe(video_files.write_grey_video(tmp_path / f"{fps}.mp4", 9, fps=fps)).fps == fps


@pytest.mark.parametrize("wrong", [-1, 26, 1000])
def test_an_index_outside_the_video_is_an_error(folder: Path, wrong: int) -> None:
    with Video(made(folder, "cropped")) as video, pytest.raises(ValueError, match=f"frames 0 to 25; frame {wrong} "):
        video.frames_at(np.array([0, wrong]))


def test_no_indices_give_no_frames_and_a_closed_video_none_at_all(folder: Path) -> None:
    with Video(made(folder, "cropped")) as video:
        assert video.frames_at(np.array([], np.int64)).shape == (0, 58, 98, 3)
    with pytest.raises(ValueError, match="closed"):
        video.frames_at(np.array([0]))


def test_the_error_survives_the_way_out_of_a_data_loading_worker() -> None:
    error = pickle.loads(pickle.dumps(UnreadableVideoError("a.mp4", "it is empty")))
    assert (error.path, error.reason) == ("a.mp4", "it is empty")
    assert str(error) == "cannot read video a.mp4: it is empty"
    assert str(UnreadableVideoError(str(error))) == str(error)

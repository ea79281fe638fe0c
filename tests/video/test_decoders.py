"""Whatever decodes, the same bits for the same indices: every kind of file, every decoder, an independent peer."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
import video_files
from augmentation import default_transform
from video_files import ODD_VIDEOS

from VideoMAE.augment.video_transforms import SquashTransform, TrainTransform, ValidationTransform
from VideoMAE.data.clips import EvenClips, TestClips, TrainClips, ValidationClips
from VideoMAE.video import decoders as video_decoders
from VideoMAE.video import reader as video_reader
from VideoMAE.video.container import IndexedFile, find_later_size, index_file, opened
from VideoMAE.video.decoders import DecoderName, RGBConverter, require_decoder
from VideoMAE.video.reader import UnreadableVideoError, Video, VideoOpener, probe

NUM_FRAMES = 26
HEVC_GROUPS = "log-level=none:keyint=8:min-keyint=8"


def film(path: Path, *, codec: str = "libx264", **settings: object) -> None:
    video_files.write_video(path, video_files.moving_frames(NUM_FRAMES), codec=codec, **settings)  # type: ignore[arg-type]


def changing(path: Path, *, suffix: str = ".mp4", **settings: object) -> None:
    """26 frames whose size changes after 13, in the container of `suffix` under the name of an mp4."""
    video_files.write_changing_video(path.with_suffix(suffix), **settings)  # type: ignore[arg-type]
    path.with_suffix(suffix).replace(path)


KINDS: dict[str, Callable[[Path], object]] = ODD_VIDEOS | {
    "b_frames": partial(film, bframes=3),
    "b_pyramid": partial(film, bframes=7, gop=24, codec_options={"x264-params": "b-pyramid=normal:b-adapt=0"}),
    "variable_rate_b_frames": partial(film, bframes=3, gop=6, timestamps=lambda i: i + i * i // 3),
    "short_groups": partial(film, bframes=1, gop=2),
    "gradual_refresh": partial(film, codec_options={"x264-params": "intra-refresh=1:keyint=8:bframes=0"}),
    "interlaced": partial(film, bframes=2, codec_options={"x264-params": "tff=1"}),
    "tagged_bt709": partial(film, bframes=2, codec_options={"x264-params": "colormatrix=bt709:colorprim=bt709"}),
    "full_range": partial(film, pix_fmt="yuvj420p"),
    "hevc": partial(film, codec="libx265", bframes=3, codec_options={"x265-params": f"{HEVC_GROUPS}:open-gop=0"}),
    "hevc_open_groups": partial(
        film, codec="libx265", bframes=3, codec_options={"x265-params": f"{HEVC_GROUPS}:open-gop=1"}
    ),
    "vp9": partial(film, codec="libvpx-vp9", gop=8, codec_options={"lag-in-frames": "10", "cpu-used": "8"}),
    "shrinks": partial(changing, sizes=((96, 128), (48, 64))),
    "changes_size_rotated": partial(changing, rotation=90),
    "changes_size_vp9": partial(changing, codec="libvpx-vp9"),
    "changes_size_webm": partial(changing, codec="libvpx-vp9", suffix=".webm"),
    "changes_size_ts": partial(changing, suffix=".ts"),
    "av1": partial(film, codec="libsvtav1", gop=8, codec_options={"preset": "12", "svtav1-params": "lp=1"}),
}
READ_BY_DECORD = {
    *("one_frame", "cropped", "overstated_frame_count", "variable_rate", "late_start", "fragmented"),
    *("b_frames", "b_pyramid", "variable_rate_b_frames", "short_groups", "interlaced", "tagged_bt709", "full_range"),
    *("changes_size", "shrinks"),
}
READ_FROM_THE_FIRST_FRAME_ON = {
    *("cut_by_edit_list", "transport_stream", "hevc_open_groups", "changes_size_webm", "changes_size_ts"),
}
CHANGING = [
    "changes_size",
    "shrinks",
    "changes_size_rotated",
    "changes_size_vp9",
    "changes_size_webm",
    "changes_size_ts",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@cache
def made(folder: Path, name: str) -> Path:
    path = folder / f"{name}.mp4"
    KINDS[name](path)
    return path


@cache
def every_frame(path: Path) -> np.ndarray:
    """Upright frames by PyAV alone, (N, H, W, 3) uint8. PyAV's own change to RGB is the decoders', except for pixels of
    10 bits, interlaced ones and frames of another size than the first, which are changed as in the reader."""
    is_own = path.stem in ("ten_bit", "interlaced")
    frames: list[np.ndarray] = []
    for frame, rgb in frames_as_they_are(path):
        to_rgb = RGBConverter(frames[0].shape[:2] if frames else rgb.shape[:2])
        frames.append(to_rgb(frame) if is_own or frames and rgb.shape != frames[0].shape else rgb)
    return np.stack(frames)


def frames_as_they_are(path: Path) -> Iterator[tuple[av.VideoFrame, np.ndarray]]:
    """Each frame, and its upright pixels in its own size by PyAV alone."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame, np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


@pytest.fixture(params=["decord", "pyav"])
def decoder(request: pytest.FixtureRequest) -> DecoderName:
    return request.param


@contextmanager
def indexed(path: Path) -> Iterator[IndexedFile]:
    with opened(path) as (container, stream):
        yield index_file(path, container, stream, None)


def draws(num_frames: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, num_frames, count) for count in (1, 2, 5, 16, 16)]


@pytest.mark.parametrize("name", KINDS)
def test_every_decoder_gives_the_bits_of_decoding_everything(folder: Path, name: str, decoder: DecoderName) -> None:
    expected = every_frame(made(folder, name))
    with Video(made(folder, name), decoder=decoder) as video:
        assert video.num_frames == len(expected)
        for indices in draws(video.num_frames):
            np.testing.assert_array_equal(video.frames_at(indices), expected[indices])
        np.testing.assert_array_equal(video.frames_at(np.arange(video.num_frames)), expected)


@pytest.mark.parametrize("name", KINDS)
def test_a_decoder_reads_what_it_reads_rightly_and_nothing_else(folder: Path, name: str) -> None:
    with indexed(made(folder, name)) as file:
        assert video_reader.is_supported_by_decord(file) == (name in READ_BY_DECORD)
        assert video_reader.has_entries(file) == (name not in READ_FROM_THE_FIRST_FRAME_ON)


@pytest.mark.parametrize("name", sorted(KINDS.keys() - READ_FROM_THE_FIRST_FRAME_ON))
def test_pyav_reads_from_key_frames_without_the_help_of_reading_everything(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = every_frame(made(folder, name))
    monkeypatch.setattr(video_decoders.SequentialSource, "iterate", None)
    with Video(made(folder, name), decoder="pyav") as video:
        for indices in draws(video.num_frames):
            np.testing.assert_array_equal(video.frames_at(indices), expected[indices])


@pytest.mark.parametrize("name", ["b_pyramid", "rotated", "hevc", "cut_by_edit_list", *CHANGING])
def test_every_decoder_squashes_to_the_same_bits(folder: Path, name: str, decoder: DecoderName) -> None:
    size, indices = (30, 40), np.array([20, 3, 3, 11])
    with opened(made(folder, name)) as (container, stream):
        to_rgb = RGBConverter(size)
        expected = np.stack([to_rgb(frame) for frame in container.decode(stream)])[indices]
    with Video(made(folder, name), size=size, decoder=decoder) as video:
        np.testing.assert_array_equal(video.frames_at(indices), expected)


@pytest.mark.parametrize("name", CHANGING)
def test_a_video_that_changes_its_size_is_read_in_its_first_frame_s_size(folder: Path, name: str) -> None:
    """An independent scaling, by OpenCV from RGB, is close; the frame before or after is not."""
    own = [rgb for _, rgb in frames_as_they_are(made(folder, name))]
    height, width = own[0].shape[:2]
    assert {rgb.shape for rgb in own} != {own[0].shape}
    with Video(made(folder, name)) as video:
        assert (video.info.height, video.info.width) == (height, width)
        frames = video.frames_at(np.arange(26)).astype(float)
    scaled = np.stack([cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA) for rgb in own]).astype(float)
    assert abs(frames[13:] - scaled[13:]).mean() < 10 < abs(frames[14:] - scaled[13:-1]).mean()
    np.testing.assert_array_equal(frames[:13], own[:13])


@pytest.mark.parametrize("name", CHANGING)
def test_a_later_size_is_found(folder: Path, name: str) -> None:
    expected = {"shrinks": "64 x 48", "changes_size_rotated": "96 x 128"}.get(name, "128 x 96")
    assert find_later_size(made(folder, name), probe(made(folder, name))) == expected
    for constant in ("b_frames", "rotated"):
        assert find_later_size(made(folder, constant), probe(made(folder, constant))) == ""


def test_every_decoder_makes_the_same_clips(folder: Path, decoder: DecoderName) -> None:
    path = made(folder, "b_frames")

    def clips(open_video: Callable[..., Video]) -> list[torch.Tensor]:
        train, squash = default_transform(TrainTransform, 32), SquashTransform(32)
        makers = [
            TrainClips(4, 2, None, 2, train, open_video),
            ValidationClips(4, 2, ValidationTransform(32, 32), open_video),
            EvenClips(4, squash, (32, 32), open_video),
            TestClips(4, 2, 2, 3, 32, 32, open_video),
        ]
        return [make(path, np.random.default_rng(3)) for make in makers]

    for ours, expected in zip(clips(VideoOpener(decoder, {str(path): probe(path)})), clips(Video), strict=True):
        assert torch.equal(ours, expected)


def overwrite(source: Path, target: Path, place: int, *, keep: int) -> Path:
    """A copy whose packet `place`, in the order of decoding, holds nonsense after its first `keep` bytes."""
    with av.open(str(source)) as container:
        entry = container.streams.video[0].index_entries[place]
        start, end = entry.pos + keep, entry.pos + entry.size
    content = bytearray(source.read_bytes())
    content[start:end] = bytes([0x55]) * (end - start)
    target.write_bytes(content)
    return target


def test_pyav_needs_nothing_of_other_groups(folder: Path, tmp_path: Path) -> None:
    whole = made(folder, "b_frames")
    damaged = overwrite(whole, tmp_path / "damaged.mp4", 5, keep=0)
    with Video(damaged, decoder="pyav") as video:
        np.testing.assert_array_equal(video.frames_at(np.array([13, 20])), every_frame(whole)[[13, 20]])
        with pytest.raises(UnreadableVideoError, match="cannot be decoded beyond"):
            video.frames_at(np.arange(12))
        np.testing.assert_array_equal(video.frames_at(np.array([13])), every_frame(whole)[[13]])


def test_pyav_does_not_decode_frames_that_nobody_wants_or_refers_to(folder: Path, tmp_path: Path) -> None:
    path = whole = made(folder, "b_frames")
    with indexed(whole) as file:
        unreferred = [place for place, packet in enumerate(file.compressed) if not bytes(packet)[4] & 0x60]
        times = [packet.pts for packet in file.packets]
    damaged = [place for place in unreferred if place > 5]  # opening decodes the first frames
    assert len(damaged) > 3
    for place in damaged:
        path = overwrite(path, tmp_path / f"{place}.mp4", place, keep=8)
    sound = np.array([i for i, time in enumerate(sorted(times)) if times.index(time) not in damaged])
    with Video(path, decoder="pyav") as video:
        np.testing.assert_array_equal(video.frames_at(sound), every_frame(whole)[sound])


def test_what_is_known_of_a_file_is_used_until_the_file_changes(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(made(folder, "b_frames").read_bytes())
    known = probe(path)
    told = known._replace(height=1)
    with Video(path, info=told) as video:
        assert video.info == told
    path.write_bytes(made(folder, "rotated").read_bytes())
    with Video(path, info=told) as video:
        assert video.info == probe(path) != known
        np.testing.assert_array_equal(video.frames_at(np.array([7])), every_frame(made(folder, "rotated"))[[7]])


def test_a_file_too_large_to_hold_is_read_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("VideoMAE.video.container.MAX_HELD_BYTES", 100)
    with Video(made(folder, "b_frames"), decoder="pyav") as video:
        np.testing.assert_array_equal(
            video.frames_at(np.array([9, 21])), every_frame(made(folder, "b_frames"))[[9, 21]]
        )


def test_opening_again_and_again_leaves_no_files_and_no_threads(folder: Path, decoder: DecoderName) -> None:
    def held() -> tuple[int, int, int]:
        kernel = [len(list(Path(f"/proc/self/{what}").iterdir())) for what in ("fd", "task")]
        return kernel[0], kernel[1], threading.active_count()

    def read() -> None:
        for name in ("b_frames", "cut_by_edit_list"):
            with Video(made(folder, name), decoder=decoder) as video:
                video.frames_at(np.array([3, 15]))

    read()
    before = held()
    for _ in range(20):
        read()
    assert held() <= before


def test_encoding_leaves_the_priority_of_the_tests_alone(tmp_path: Path) -> None:
    KINDS["av1"](tmp_path / "av1.mp4")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_missing_decoder_is_one_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ValueError, match="--decoder decord: not installed; pip install decord, or use .*pyav$"):
        require_decoder("decord")
    require_decoder("pyav")

"""metadata.json from the videos: the published form, every readable video, the others named."""

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
import video_files

from VideoMAE.dataset_tools import build_metadata
from VideoMAE.dataset_tools.build_metadata import Settings
from VideoMAE.video.reader import VideoInfo

PROGRAM = Path(__file__).parents[2] / "data_prep/build_metadata.py"


def make_videos(root: Path) -> Path:
    (root / "videos").mkdir(parents=True)
    video_files.write_moving_video(root / "videos/00001.mp4", 30, fps=25, width=80, height=64)
    video_files.rotated(root / "videos/00002.mp4")
    return root


def test_an_entry_has_the_published_form_and_the_container_agrees(tmp_path: Path) -> None:
    root = make_videos(tmp_path / "data")
    assert build_metadata.run(Settings(root))
    entries = json.loads((root / "metadata.json").read_text())
    assert list(entries) == ["00001", "00002"]
    assert entries["00001"] == {
        "codec_name": "h264",
        "duration": "1.200000",
        "file": "videos/00001.mp4",
        "frame_rate": "25/1",
        "height": 64,
        "number_of_frames": "30",
        "width": 80,
    }
    with av.open(str(root / "videos/00001.mp4")) as container:
        stream = container.streams.video[0]
        assert entries["00001"]["number_of_frames"] == str(stream.frames)
        assert float(entries["00001"]["duration"]) == pytest.approx(float(stream.duration * stream.time_base))
    assert (entries["00002"]["width"], entries["00002"]["height"]) == (48, 96)  # upright


def test_ntsc_rates_are_exact_fractions() -> None:
    info = VideoInfo(300, 30000 / 1001, 48, 64, "h264", 10.01)
    assert build_metadata.metadata_entry(info, "videos/a.mp4")["frame_rate"] == "30000/1001"


def test_bad_files_are_named_and_the_rest_is_written(tmp_path: Path) -> None:
    root = make_videos(tmp_path / "data")
    for name, maker in video_files.BAD_VIDEOS.items():
        maker(root / f"videos/{name}.mp4")
    command = [sys.executable, str(PROGRAM), str(root), "--report", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert list(json.loads((root / "metadata.json").read_text())) == ["00001", "00002"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["unreadable"]) == {f"videos/{name}.mp4" for name in video_files.BAD_VIDEOS}
    assert not report["fine"]
    for file, reason in report["unreadable"].items():
        assert f"unreadable: {file}: {reason}\n" in done.stdout
    assert f"2 videos, {len(video_files.BAD_VIDEOS)} unreadable and left out" in done.stdout


def test_another_metadata_json_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    root = make_videos(tmp_path / "data")
    file = root / "metadata.json"
    file.write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="metadata.json exists with other content; pass --overwrite"):
        build_metadata.run(Settings(root))
    assert file.read_text() == '{"mine": 1}'
    assert build_metadata.run(Settings(root, overwrite=True))
    assert build_metadata.run(Settings(root))  # the same content
    assert [path.name for path in root.iterdir() if "tmp" in path.name] == []


def test_two_files_of_one_id_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match="videos: holds no videos"):
        build_metadata.run(Settings(tmp_path))
    for ending in ("mp4", "webm"):
        (tmp_path / f"videos/a.{ending}").touch()
    with pytest.raises(ValueError, match=r"videos/a.mp4 and videos/a.webm would have the same id"):
        build_metadata.run(Settings(tmp_path))
    with pytest.raises(ValueError, match="absent/videos: no such folder"):
        build_metadata.run(Settings(tmp_path / "absent"))

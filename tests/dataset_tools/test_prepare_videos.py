"""Prepared copies of whole datasets: what they hold, that they go on where they were stopped, and what is refused."""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import video_files
from gates import Gate
from surroundings import small_disk  # noqa: E402
from vce_files import make_vce_folder

from VideoMAE.dataset_tools import prepare_videos
from VideoMAE.dataset_tools.check_dataset import Settings as CheckSettings
from VideoMAE.dataset_tools.check_dataset import check_dataset
from VideoMAE.video.copy_video import Copied, Recipe, copy_video, scaled_size
from VideoMAE.video.prepared_copy import copied_video
from VideoMAE.video.reader import UnreadableVideoError, Video, probe

DATA_PREP = Path(__file__).resolve().parents[2] / "data_prep"
RECIPE = Recipe(short_side=256, gop=8, crf=16, preset="veryfast", every=1, evenly=None)
FAST = ["--preset", "ultrafast"]


def prepare(*arguments: object) -> int:
    """Run the program in this process -> exit status."""
    return prepare_videos.main([*map(str, [*arguments, *FAST, "--num_workers", 1])])


def start(*arguments: object, gate: Gate) -> subprocess.Popen[str]:
    command = [sys.executable, str(DATA_PREP / "prepare_videos.py"), *map(str, [*arguments, *FAST, "--num_workers", 2])]
    environment = {**os.environ, **gate.environment()}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def last_line(captured: Any) -> str:
    return captured.err.strip().splitlines()[-1]


def contents(root: Path) -> dict[str, tuple[Any, ...]]:
    """What shows that nobody wrote into a folder: each file's digest, time of change and inode."""
    return {
        str(path.relative_to(root)): (*path.lstat()[1:2], path.lstat().st_mtime_ns, digest(path))
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copies(root: Path) -> dict[str, tuple[Any, ...]]:
    return {name: found for name, found in contents(root).items() if name.startswith("videos/")}


def lines(root: Path) -> list[dict[str, Any]]:
    """Of the journal, those that are whole."""
    found = (root / "prepared_videos.jsonl").read_text().splitlines()
    return [json.loads(line) for line in found if line.endswith("}")]


def is_fine(root: Path, *, kind: str = "vce") -> None:
    report = check_dataset(CheckSettings(root, decode="all", num_workers=1), kind=kind)
    assert not report.problems, report.to_text()
    assert not {"unlabelled", "unusual_video"} & {finding.kind for finding in report.notes}, report.to_text()


@pytest.fixture(scope="module")
def vce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_vce_folder(tmp_path_factory.mktemp("source") / "vce", 8, 2, num_frames=40)
    (root / "metadata.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def prepared(vce: Path) -> Path:
    before = contents(vce)
    target = vce.parent / "prepared"
    assert prepare(vce, target) == 0
    assert contents(vce) == before
    return target


# What a copy holds


def test_a_copy_has_the_sources_labels_to_the_byte_and_passes_the_check(vce: Path, prepared: Path) -> None:
    for name in ("train_labels.json", "test_labels.json"):
        assert (prepared / name).read_bytes() == (vce / name).read_bytes()
    is_fine(prepared)
    assert sorted(path.name for path in prepared.iterdir()) == [
        ".checked_videos.decode_all.json",
        ".lock",
        "metadata.json",
        "prepared.json",
        "prepared_videos.jsonl",
        "test_labels.json",
        "train_labels.json",
        "videos",
    ]


def test_the_manifest_has_settings_sizes_checksums_and_likeness(vce: Path, prepared: Path) -> None:
    for line in lines(prepared):
        copy, source = prepared / line["file"], vce / line["file"]
        assert (line["bytes"], line["sha256"]) == (copy.stat().st_size, digest(copy))
        assert (line["source_bytes"], line["source_modified_ns"]) == (source.stat().st_size, source.stat().st_mtime_ns)
        assert line["source_size"] == [64, 48] and line["num_held"] == line["info"]["num_frames"] == 40
        assert 30 < line["psnr_db"] < 90
    manifest = json.loads((prepared / "prepared.json").read_text())
    assert manifest["complete"] and manifest["source"] == str(vce) and manifest["unreadable"] == {}
    assert manifest["settings"] == {**RECIPE._asdict(), "crf": 21, "preset": "ultrafast"}
    assert (manifest["num_videos"], manifest["bytes"]) == (10, sum(line["bytes"] for line in lines(prepared)))


def test_pairs_and_lists_are_copied_with_their_videos(tmp_path: Path) -> None:
    root = tmp_path / "v2v"
    (root / "videos").mkdir(parents=True)
    for number in range(4):
        video_files.write_grey_video(root / f"videos/{number}.mp4", 20, levels=lambda i, n=number: 40 * n + i)
    content = {"train": [["0", "1"]], "test": [["2", "3"]], "listwise": []}
    for split, entries in content.items():
        (root / f"{split}_labels.json").write_text(json.dumps({"comparisons": entries}))
    assert prepare(root, tmp_path / "copy", "--evenly", 4) == 0
    is_fine(tmp_path / "copy", kind="v2v")
    with av.open(str(tmp_path / "copy/videos/3.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == 4 and float(stream.average_rate) == pytest.approx(6, rel=1e-3)
    with Video(tmp_path / "copy/videos/3.mp4") as video:
        levels = video.frames_at(np.array([0, 6, 13, 19])).mean(axis=(1, 2, 3))
    assert np.abs(levels - [120, 126, 133, 139]).max() < 1.5


def full_range(path: Path) -> None:
    video_files.write_video(path, video_files.moving_frames(26), pix_fmt="yuvj420p")


def tagged_bt709(path: Path) -> None:
    options = {"colorspace": "bt709", "color_range": "tv"}
    video_files.write_video(path, video_files.moving_frames(26), codec_options=options)


def upside_down(path: Path) -> None:
    video_files.rotated(path, 180)


def turned_right(path: Path) -> None:
    video_files.rotated(path, 270)


ORDINARY = [*video_files.ODD_VIDEOS.values(), full_range, tagged_bt709, upside_down, turned_right]
# Colours that decoders spread over neighbouring pixels in another way, and frames that are made half as large.
LARGEST_DIFFERENCES = {"odd_size": 8, "ten_bit": 8, "changes_size": 10}


@pytest.mark.parametrize("make", ORDINARY, ids=lambda make: make.__name__)
def test_copies_of_unusual_videos_show_the_same_frames_upright_at_an_even_rate(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "video.mp4")
    copied = copy_video(tmp_path / "video.mp4", recipe=RECIPE, folder=tmp_path)
    assert isinstance(copied, Copied)
    size = (copied.info.height, copied.info.width)
    with Video(tmp_path / "video.mp4", size=size) as source, Video(copied.temporary) as copy:
        assert (copy.num_frames, copy.fps) == (source.num_frames, source.fps)
        indices = np.arange(source.num_frames)
        differences = np.abs(source.frames_at(indices).astype(int) - copy.frames_at(indices)).mean(axis=(1, 2, 3))
    assert differences.max() < LARGEST_DIFFERENCES.get(make.__name__, 3)
    with av.open(copied.temporary) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        frames = list(container.decode(video=0))
        stream = container.streams.video[0]
        assert not any(frame.rotation for frame in frames)
        assert not any(entry.is_discard for entry in stream.index_entries)
        assert [entry.is_keyframe for entry in stream.index_entries] == [i % 8 == 0 for i in range(len(frames))]
        assert len(np.unique(np.diff([frame.pts for frame in frames]))) <= 1


def test_sound_is_dropped_and_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    source = tmp_path / "video.mp4"
    with av.open(str(source), "w") as container:
        film, sound = container.add_stream("libx264", rate=30), container.add_stream("aac", rate=16000)
        film.width, film.height, film.pix_fmt = 400, 300, "yuv420p"
        for pixels in video_files.moving_frames(20, width=400, height=300):
            container.mux(film.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        heard.sample_rate, heard.pts = 16000, 0
        container.mux(sound.encode(heard))
        container.mux(film.encode(None))
        container.mux(sound.encode(None))
    found = [copy_video(source, recipe=RECIPE, folder=tmp_path) for _ in range(4)]
    assert isinstance(found[0], Copied) and len({copied.sha256 for copied in found}) == 1  # type: ignore[union-attr]
    with av.open(found[0].temporary) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert (found[0].info.height, found[0].info.width) == (256, 342)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((320, 426), (256, 340)),
        ((426, 320), (340, 256)),
        ((2160, 3840), (256, 456)),
        ((99, 181), (98, 180)),
        ((256, 256), (256, 256)),
        ((3, 1000), (2, 1000)),
        ((720, 406), (454, 256)),
    ],
)
def test_copies_are_even_never_enlarged_and_keep_their_aspect(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled_size(*size, short_side=256) == expected


# Stopping and going on


@pytest.fixture
def larger(vce: Path, tmp_path: Path) -> Path:
    """A dataset of 24 videos that take a while."""
    root = tmp_path / "larger"
    labels = json.loads((vce / "train_labels.json").read_text())
    entry = labels["00000"]
    film = video_files.write_moving_video(tmp_path / "film.mp4", 60, width=160, height=128)
    (root / "videos").mkdir(parents=True)
    for split, first, count in (("train", 0, 18), ("test", 18, 6)):
        names = [f"{number:05d}" for number in range(first, first + count)]
        entries = {name: {**entry, "file": f"videos/{name}.mp4"} for name in names}
        (root / f"{split}_labels.json").write_text(json.dumps(entries))
        for name in names:
            os.link(film, root / f"videos/{name}.mp4")
    return root


def all_whole(root: Path) -> int:
    """Every file with a video's name is a whole copy -> how many."""
    found = list((root / "videos").iterdir())
    for path in found:
        assert path.suffix == ".mp4" and not path.name.startswith(".")
        with av.open(str(path)) as container:
            assert copied_video(container.metadata)
            assert len(list(container.decode(video=0))) == 60
    return len(found)


def test_killed_or_interrupted_nothing_is_half_named_and_the_next_call_does_only_the_rest(
    larger: Path, tmp_path: Path
) -> None:
    target, before = tmp_path / "copy", contents(larger)
    journal = target / "prepared_videos.jsonl"
    for num_done, number in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT), start=1):
        gate = Gate(tmp_path / f"gate{num_done}", "VideoMAE.dataset_tools.prepare_videos:add_copy", calls=2)
        process = start(larger, target, gate=gate)
        gate.wait(process)
        process.send_signal(number)
        _, said = process.communicate()
        assert all_whole(target) == len(lines(target)) == num_done
        if number != signal.SIGKILL:
            assert process.returncode == 130 and "Traceback" not in said and not (target / ".unfinished").exists()
            assert said.endswith("error: stopped; repeat the command to resume\n")
    kept = {line["file"]: copies(target)[line["file"]] for line in lines(target)}
    with journal.open("a") as torn:
        torn.write('{"file": "videos/00')
    assert prepare(larger, target) == 0
    after = copies(target)
    assert kept.items() <= after.items() and len(after) == all_whole(target) == 24
    assert contents(larger) == before
    is_fine(target)
    assert prepare(larger, target) == 0
    assert copies(target) == after


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_on_a_full_disk_it_stops_with_a_sentence_and_goes_on_when_there_is_room(
    larger: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "disk/copy"
    with small_disk(tmp_path / "disk", "500k"):
        assert prepare(larger, target) == 1
        said = last_line(capfd.readouterr())
        assert f"error: {target}" in said and "the disk is full" in said and "Traceback" not in said
        num_done = all_whole(target)
        assert 0 < num_done < 24 and not (target / ".unfinished").exists()
        subprocess.run(["mount", "-o", "remount,size=100m", str(tmp_path / "disk")], check=True)
        kept = copies(target)
        assert prepare(larger, target) == 0
        assert all_whole(target) == 24 and kept.items() <= copies(target).items()


def test_what_cannot_be_written_is_no_fault_of_the_video(vce: Path, tmp_path: Path) -> None:
    found = copy_video(vce / "videos/00000.mp4", recipe=RECIPE, folder=tmp_path / "absent")
    assert isinstance(found, OSError) and "No such file" in str(found)


def test_a_source_that_changed_and_a_copy_that_was_damaged_are_copied_again(vce: Path, tmp_path: Path) -> None:
    source, target = Path(shutil.copytree(vce, tmp_path / "source")), tmp_path / "copy"
    assert prepare(source, target) == 0
    before = copies(target)
    video_files.write_grey_video(source / "videos/00001.mp4", 33)
    os.truncate(target / "videos/00002.mp4", 500)
    (target / "videos/00003.mp4").unlink()
    assert prepare(source, target) == 0
    after = copies(target)
    changed = {"videos/00001.mp4", "videos/00002.mp4", "videos/00003.mp4"}
    assert {name for name in after if after[name] != before[name]} == changed
    assert probe(target / "videos/00001.mp4").num_frames == 33


# Bad videos


def eight_k(path: Path) -> None:
    options = {"preset": "ultrafast"}
    video_files.write_video(path, video_files.grey_frames(2, width=7680, height=4320), codec_options=options)


def test_bad_videos_are_named_the_others_copied_and_mended_ones_taken_up_by_the_next_call(
    vce: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, target = Path(shutil.copytree(vce, tmp_path / "source")), tmp_path / "copy"
    caplog.set_level(logging.INFO)
    names = ["zero_bytes", "truncated", "audio_only", "damaged_end", "missing", "hanging"]
    bad = {name: f"videos/{place:05d}.mp4" for place, name in enumerate(names)}
    (source / "metadata.json").write_text(json.dumps({"00000": entry_of(bad["zero_bytes"])}))
    whole = {name: (source / file).read_bytes() for name, file in bad.items()}
    for name, file in bad.items():
        (source / file).unlink()
        if name in video_files.BAD_VIDEOS:
            video_files.BAD_VIDEOS[name](source / file)
    damage_the_end(source / bad["damaged_end"])
    (source / bad["hanging"]).write_text("ffconcat version 1.0\nfile pipe.txt\n")
    os.mkfifo(source / "videos/pipe.txt")
    eight_k(source / "videos/50000.mp4")
    assert prepare(source, target, "--encode_seconds", 8) == 1
    said = caplog.text
    for name, reason in {
        "zero_bytes": "the file is empty",
        "truncated": "damaged or cut off",
        "audio_only": "no video stream",
        "damaged_end": "cannot be decoded beyond",
        "missing": "no such file",
        "hanging": "did not answer within 8 s",
    }.items():
        assert any(f"bad: {bad[name]}: " in line and reason in line for line in said.splitlines()), (name, said)
    assert "4 videos copied, 0 of them before, 6 bad" in said
    manifest = json.loads((target / "prepared.json").read_text())
    assert manifest["unreadable"].keys() == set(bad.values()) and not manifest["complete"]
    assert (probe(target / "videos/50000.mp4").height, probe(target / "videos/50000.mp4").width) == (256, 456)
    metadata = json.loads((target / "metadata.json").read_text())
    assert metadata["00000"] == entry_of(bad["zero_bytes"]) and metadata.keys() == {
        "00000",
        "00006",
        "00007",
        "50000",
        "50001",
    }
    before = copies(target)
    for name, file in bad.items():
        (source / file).unlink(missing_ok=True)
        (source / file).write_bytes(whole[name])
    assert prepare(source, target, "--encode_seconds", 60) == 0
    assert "10 videos copied, 4 of them before, 0 bad" in caplog.text
    assert before.items() <= copies(target).items()
    is_fine(target)


def entry_of(file: str) -> dict[str, Any]:
    rest = {"duration": "9.0", "frame_rate": "30/1", "height": 48, "width": 64, "number_of_frames": "270"}
    return {"codec_name": "h264", "file": file, **rest}


def damage_the_end(path: Path) -> None:
    """Sound at its beginning, zeros in its second half."""
    video_files.write_moving_video(path, 36, gop=6)
    content = bytearray(path.read_bytes())
    end = content.index(b"moov") - 4
    content[end // 2 : end] = bytes(end - end // 2)
    path.write_bytes(content)


def test_where_no_video_can_be_copied_one_sentence_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = make_vce_folder(tmp_path / "source", 1, 1, unreadable=("00000", "50000"))
    assert prepare(source, tmp_path / "copy") == 1
    expected = f"error: {source}: none of its 2 videos can be copied: the file is empty"
    assert last_line(capfd.readouterr()) == expected


def test_a_file_whose_index_promises_more_frames_than_it_has_is_bad(tmp_path: Path) -> None:
    damage_the_end(tmp_path / "video.mp4")
    with pytest.raises(UnreadableVideoError, match="cannot be decoded beyond"):
        copy_video(tmp_path / "video.mp4", recipe=RECIPE, folder=tmp_path)


# Refusals


def test_a_target_of_other_settings_is_refused_and_left_as_it_is(
    vce: Path, prepared: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(prepared)
    assert prepare(vce, prepared, "--gop", 4) == 1
    assert last_line(capfd.readouterr()) == (
        f"error: {prepared} was made with gop 8, not 4; choose another DST, or delete it first"
    )
    other = Path(shutil.copytree(vce, vce.parent / "other"))
    assert prepare(other, prepared) == 1
    assert f"was made with source {vce}, not {other}" in last_line(capfd.readouterr())
    assert contents(prepared) == before


def foreign(folder: Path) -> Path:
    (folder / "foreign").mkdir()
    (folder / "foreign/thesis.tex").write_text("years of work")
    return folder / "foreign"


def damaged_manifest(folder: Path) -> Path:
    (folder / "damaged").mkdir()
    (folder / "damaged/prepared.json").write_text("{")
    return folder / "damaged"


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


def leading_into_the_source(folder: Path) -> Path:
    (folder / "linked").mkdir()
    (folder / "linked/videos").symlink_to(folder / "source/videos")
    return folder / "linked"


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "the source": (lambda folder: folder / "source", "is the source"),
    "the source by another name": (lambda folder: folder / "x/../source", "is the source"),
    "in the source": (lambda folder: folder / "source/copy", "inside the source"),
    "around the source": (lambda folder: folder, "is inside DST"),
    "of somebody else": (foreign, "contains files that prepare_videos.py did not make (thesis.tex)"),
    "with a damaged manifest": (damaged_manifest, "not valid JSON"),
    "a file": (a_file, "is not a folder"),
    "with a link for videos": (leading_into_the_source, "is a link"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_targets_that_could_do_harm_are_refused_and_nothing_is_written(
    vce: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    make, said = REFUSED[name]
    source = Path(shutil.copytree(vce, tmp_path / "source"))
    target = make(tmp_path)
    before = contents(tmp_path)
    assert prepare(source, target) == 1
    line = capfd.readouterr().err
    assert line.startswith("error: ") and said in line and line.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_copy_of_a_copy_is_refused(prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert prepare(prepared, tmp_path / "again") == 1
    assert "is a prepared copy;" in capfd.readouterr().err and not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gop", 0], "--gop 0: must be at least 1"),
        (["--crf", 60], "--crf 60: must be at most 51"),
        (["--short_side", 8], "--short_side 8: must be at least 16"),
        (["--encode_seconds", 0], "--encode_seconds 0: must be above 0"),
        (["--evenly", 16, "--every", 2], "excludes --every"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_one_sentence(
    vce: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[object], said: str
) -> None:
    assert prepare(vce, tmp_path / "copy", *flags) == 1
    line = capfd.readouterr().err
    assert said in line and line.count("\n") == 1 and not (tmp_path / "copy").exists()


def test_a_source_without_labels_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for source, said in ((tmp_path / "absent", "no such folder"), (tmp_path, "has no train_labels.json")):
        assert prepare(source, tmp_path.parent / "copy") == 1
        assert said in capfd.readouterr().err

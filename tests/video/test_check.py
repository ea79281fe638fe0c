from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import video_files

from VideoMAE.video.check import check_videos
from VideoMAE.video.reader import VideoInfo, probe

INFO = VideoInfo(30, 30.0, 48, 64, "h264", 1.0)


def probe_by_name(path: Path) -> VideoInfo:
    """Hangs, crashes or fails when the file's name says so."""
    if path.name.startswith("hang"):
        time.sleep(600)
    if path.name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.name.startswith("exit"):
        os._exit(3)
    if path.name.startswith("raise"):
        raise RuntimeError("odd")
    return INFO


def probe_that_counts(path: Path) -> VideoInfo:
    with (path.parent / "probed.txt").open("a") as calls:
        calls.write(f"{path.name}\n")
    return probe(path)


def probe_that_refuses_torch(path: Path) -> VideoInfo:
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported")
    return INFO


def num_probed(folder: Path) -> int:
    calls = folder / "probed.txt"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    """Two good files, an empty one and an absent one."""
    video_files.write_grey_video(tmp_path / "a.mp4", 5)
    video_files.write_grey_video(tmp_path / "b.mp4", 7)
    video_files.zero_bytes(tmp_path / "empty.mp4")
    return {name: tmp_path / f"{name}.mp4" for name in ("b", "empty", "a", "absent")}


@pytest.mark.parametrize("num_processes", [0, 1, 2])
def test_good_files_are_described_and_bad_ones_named_in_the_order_asked_for(
    videos: dict[str, Path], num_processes: int
) -> None:
    check = check_videos(videos, num_processes=num_processes)
    assert [(name, info.num_frames) for name, info in check.infos.items()] == [("b", 7), ("a", 5)]
    assert check.unreadable == {"empty": "the file is empty", "absent": "no such file"}


def test_files_that_hang_or_crash_their_process_are_named_and_the_rest_is_checked() -> None:
    names = ["a", "hang1", "b", "crash", "c", "exit", "d", "hang2", "raise", *(f"e{i}" for i in range(20))]
    check = check_videos(
        {name: Path(name) for name in names}, num_processes=2, limit_seconds=4, probe_function=probe_by_name
    )
    assert list(check.infos) == [name for name in names if len(name) < 4]
    assert check.unreadable == {
        "hang1": "did not answer within 4 s",
        "crash": "crashed its reader (signal 11)",
        "exit": "crashed its reader (exit code 3)",
        "hang2": "did not answer within 4 s",
        "raise": "RuntimeError: odd",
    }


def children() -> set[str]:
    """Ids of the processes that any thread of this one has started and not yet waited for."""
    return {pid for thread in Path("/proc/self/task").iterdir() for pid in (thread / "children").read_text().split()}


def test_no_process_is_left_behind() -> None:
    before = children()  # those of other tests: multiprocessing keeps a helper or two
    check_videos({"hang": Path("hang")}, num_processes=1, limit_seconds=0.1, probe_function=probe_by_name)
    assert children() <= before


def test_processes_do_not_import_torch_even_when_the_main_module_does(tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text(
        "import sys, types\n"
        "sys.modules['torch'] = types.ModuleType('torch')\n"  # stands for an import in the main module
        f"sys.path[:0] = {[*filter(None, sys.path), str(Path(__file__).parent)]!r}\n"
        "from pathlib import Path\n"
        "from test_check import probe_that_refuses_torch\n"
        "from VideoMAE.video.check import check_videos\n"
        "check = check_videos({'a': Path('a')}, num_processes=1, probe_function=probe_that_refuses_torch)\n"
        "assert list(check.infos) == ['a'], check\n"
    )
    subprocess.run([sys.executable, str(main)], check=True, cwd=Path(__file__).parents[2])


def test_the_cache_spares_unchanged_files_and_only_them(videos: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "folder" / "cache.json"

    def check() -> tuple[dict[str, int], int]:
        before = num_probed(tmp_path)
        found = check_videos(videos, num_processes=0, cache=cache, probe_function=probe_that_counts)
        assert found.unreadable == {"empty": "the file is empty", "absent": "no such file"}
        return {name: info.num_frames for name, info in found.infos.items()}, num_probed(tmp_path) - before

    assert check() == ({"b": 7, "a": 5}, 4)
    assert check() == ({"b": 7, "a": 5}, 1)  # the absent file is looked for again
    video_files.write_grey_video(videos["a"], 9)
    assert check() == ({"b": 7, "a": 9}, 2)
    os.utime(videos["b"], ns=(0, 0))
    assert check() == ({"b": 7, "a": 9}, 2)
    videos["b"] = videos["b"].replace(tmp_path / "moved.mp4")
    assert check() == ({"b": 7, "a": 9}, 2)
    assert [path.name for path in cache.parent.iterdir()] == ["cache.json"]


def test_a_file_that_hung_is_tried_again_in_spite_of_the_cache(tmp_path: Path) -> None:
    path, cache = tmp_path / "hang.mp4", tmp_path / "cache.json"
    path.write_bytes(b"x")
    check = check_videos({"a": path}, num_processes=1, limit_seconds=0.1, cache=cache, probe_function=probe_by_name)
    assert "did not answer" in check.unreadable["a"]
    assert "did not answer" not in check_videos({"a": path}, num_processes=0, cache=cache).unreadable["a"]


def test_a_run_that_goes_on_has_the_videos_that_it_began_with(videos: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    began_with = check_videos(videos, num_processes=0, cache=cache)
    videos["a"].unlink()
    video_files.write_grey_video(videos["absent"], 3)
    assert check_videos(videos, num_processes=0, cache=cache, frozen=True) == began_with
    assert check_videos(videos, num_processes=0, cache=cache).infos.keys() == {"b", "absent"}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1}', '{"version": 1, "videos": {"a": [1, 2]}}'])
def test_a_damaged_cache_is_ignored_with_a_warning_and_replaced(
    videos: dict[str, Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(damage)
    with caplog.at_level(logging.WARNING):
        assert len(check_videos(videos, num_processes=0, cache=cache).infos) == 2
    assert str(cache) in caplog.text
    assert set(json.loads(cache.read_text())["videos"]) == {"a", "b", "empty", "absent"}


def test_a_cache_of_another_version_is_not_used(videos: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    found = check_videos(videos, num_processes=0, cache=cache)
    content = json.loads(cache.read_text())
    content["videos"]["a"][1] = "another meaning in that version"
    cache.write_text(json.dumps(content))
    assert "a" in check_videos(videos, num_processes=0, cache=cache).unreadable
    cache.write_text(json.dumps({**content, "version": content["version"] + 1}))
    assert check_videos(videos, num_processes=0, cache=cache) == found


def test_an_interrupted_check_keeps_the_answers_it_had(videos: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"

    def interrupted(path: Path) -> VideoInfo:
        if path.stem == "a":
            raise KeyboardInterrupt
        return probe(path)

    with pytest.raises(KeyboardInterrupt):
        check_videos(videos, num_processes=0, cache=cache, probe_function=interrupted)
    assert set(json.loads(cache.read_text())["videos"]) == {"b", "empty"}


def test_a_probe_function_that_processes_cannot_import_is_an_error_at_once(videos: dict[str, Path]) -> None:
    with pytest.raises((AttributeError, TypeError, RuntimeError), match=r"pickle|lambda|local"):
        check_videos(videos, num_processes=1, probe_function=lambda path: INFO)


def test_nothing_to_check_starts_nothing() -> None:
    assert check_videos({}, num_processes=4) == ({}, {})

"""Videos are found in folders at any depth, by suffix; what is named itself is taken as it is."""

from __future__ import annotations

from pathlib import Path

from VideoMAE.video.search import find_videos


def test_folders_are_searched_and_named_files_taken_in_the_order_given(tmp_path: Path) -> None:
    names = ["b/two.webm", "b/a/one.MP4", "b/c.mkv", "b/notes.txt", "b/.DS_Store", "odd.bin"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b/linked.avi").symlink_to(tmp_path / "odd.bin")
    (tmp_path / "b/loop").symlink_to(tmp_path / "b")
    (tmp_path / "folder").symlink_to(tmp_path / "b")
    odd, missing = tmp_path / "odd.bin", tmp_path / "missing.mp4"
    found = find_videos([odd, tmp_path / "b", missing, odd])
    inside = [tmp_path / name for name in ("b/a/one.MP4", "b/c.mkv", "b/linked.avi", "b/two.webm")]
    assert found.paths == [odd, *inside, missing, odd]
    assert found.num_ignored == 2
    assert [path.name for path in find_videos([tmp_path / "folder"]).paths] == [path.name for path in inside]
    assert find_videos([]) == ([], 0)

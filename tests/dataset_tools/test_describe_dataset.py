"""Descriptions of datasets: numbers against independent computations, and a self-contained page."""

import itertools
import json
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from label_folders import connected_groups, draw_comparisons, draw_intensities, make_v2v_labels, make_vce_labels, read
from scipy import stats
from vce_files import make_vce_folder
from video_files import truncated, write_grey_video

from VideoMAE.data.vce import EMOTIONS
from VideoMAE.dataset_tools import describe_charts as charts
from VideoMAE.dataset_tools import describe_dataset as program
from VideoMAE.dataset_tools.programs import read_emotions
from VideoMAE.reporting import chart_style as style
from VideoMAE.reporting import page as page_module

DATA_PREP = Path(__file__).resolve().parents[2] / "data_prep"

BROKEN = "00004"
PNG_START = b"\x89PNG\r\n"


def describe_here(root: Path, output_dir: Path, *flags: object) -> int:
    """Runs the program in this process, which has torch loaded already. -> exit status"""
    return program.main([str(root), "--output_dir", str(output_dir), *map(str, flags)])


def describe(root: Path, output_dir: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, DATA_PREP / "describe_dataset.py", root, "--output_dir", output_dir, *flags]
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def vce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of 10 frames at 30 fps, one of them broken; metadata.json has five others."""
    root = make_vce_folder(tmp_path_factory.mktemp("vce") / "my <set>", 8, 4, num_frames=10, unreadable=(BROKEN,))
    told = {"duration": "60.5", "frame_rate": "25/1", "height": 100, "width": 200, "number_of_frames": "1512"}
    malformed = {"duration": "long", "frame_rate": "0/0", "height": 100, "width": 200, "number_of_frames": "1512"}
    metadata = {**{f"{index:05d}": told for index in range(4)}, "50000": told, "50001": malformed}
    (root / "metadata.json").write_text(json.dumps(metadata))
    return root


@pytest.fixture(scope="module")
def described(vce: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    output_dir = tmp_path_factory.mktemp("described") / "page"
    before = {path: path.stat().st_mtime_ns for path in vce.rglob("*")}
    done = describe(vce, output_dir, "--num_thumbnails", 4, "--num_processes", 2)
    assert {path: path.stat().st_mtime_ns for path in vce.rglob("*")} == before, "the dataset is only read"
    return done, output_dir


class References(HTMLParser):
    """The external references and the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.tags: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name in ("src", "srcset", "href", "action", "data", "poster", "background") or name.startswith("on"):
                if not (value or "").startswith("data:image/"):
                    self.outside.append(f"{tag} {name}={value}")
            elif name != "content" and "://" in (value or ""):
                self.outside.append(f"{tag} {name}={value}")


def intensities(root: Path, *splits: str) -> np.ndarray:
    entries = [entry for split in splits for entry in read(root / f"{split}_labels.json").values()]
    return np.array([[entry["emotions"][name] for name in EMOTIONS] for entry in entries])


def test_the_page_is_self_contained(described: tuple[Any, Path]) -> None:
    page = (described[1] / "index.html").read_text()
    found = References(page)
    assert found.outside == []
    assert not {"script", "link", "iframe", "object", "embed"} & found.tags.keys()
    assert not [word for word in ("http://", "https://", "url(", "@import") if word in page]
    assert "default-src 'none'" in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert found.tags["source"] == 7, "each chart is there for a dark page too"


def test_charts_are_written_beside_the_page(described: tuple[Any, Path]) -> None:
    names = "top_emotions", "intensities", "correlation", "together_in_top3", "durations", "sizes", "frame_rates"
    files = {path.name: path.read_bytes() for path in described[1].iterdir()}
    assert set(files) == {*(f"{name}.png" for name in names), "index.html", "description.json"}
    assert all(content.startswith(PNG_START) for name, content in files.items() if name.endswith(".png"))


def test_a_broken_video_is_named_and_has_no_thumbnail(described: tuple[Any, Path]) -> None:
    done, output_dir = described
    assert done.returncode == 1
    assert BROKEN in done.stderr
    assert len(done.stderr.splitlines()) == 1
    numbers, page = read(output_dir / "description.json"), (output_dir / "index.html").read_text()
    assert list(numbers["unreadable"]) == [BROKEN]
    assert f"{BROKEN}: the file is empty" in page
    assert numbers["num_videos"] == {"train": 8, "test": 4}
    shown = [key for pictures in numbers["examples"].values() for key, _ in pictures]
    assert shown.count(BROKEN) > 0
    assert References(page).tags["img"] == 7 + len(shown) - shown.count(BROKEN)


def test_examples_are_the_most_intense_videos(described: tuple[Any, Path], vce: Path) -> None:
    entries = {**read(vce / "train_labels.json"), **read(vce / "test_labels.json")}
    for name, pictures in read(described[1] / "description.json")["examples"].items():
        values = [entries[key]["emotions"][name] for key, _ in pictures]
        assert values == sorted((entry["emotions"][name] for entry in entries.values()), reverse=True)[:4]
        assert [caption for _, caption in pictures] == [f"{value:.2f}" for value in np.float32(values)]


def test_video_properties_come_from_metadata_or_else_from_the_files(described: tuple[Any, Path]) -> None:
    videos = read(described[1] / "description.json")["videos"]
    assert videos["sizes"] == {"64x48": 6, "200x100": 5}
    assert videos["frame_rates"] == {"30": 6, "25": 5}
    assert videos["total_hours"] == pytest.approx((5 * 60.5 + 6 * 10 / 30) / 3600)
    assert videos["share_shorter_than_a_clip"] == pytest.approx(6 / 11)


def test_markup_in_the_folder_name_is_escaped(described: tuple[Any, Path]) -> None:
    page = (described[1] / "index.html").read_text()
    assert "my &lt;set&gt;" in page
    assert "<set>" not in page


def test_emotion_numbers_agree_with_independent_computations(tmp_path: Path) -> None:
    root = make_vce_labels(tmp_path / "vce", {"train": 300, "test": 100})
    numbers = program.emotion_numbers(read_emotions(root))
    both, train, test = intensities(root, "train", "test"), intensities(root, "train"), intensities(root, "test")
    ranked = {
        split: [sorted(range(27), key=lambda k, row=row: (-row[k], k)) for row in rows]  # type: ignore[misc]
        for split, rows in (("train", train), ("test", test))
    }
    for split, orders in ranked.items():
        firsts, top3 = Counter(order[0] for order in orders), Counter(k for order in orders for k in order[:3])
        assert numbers["top1_counts"][split] == [firsts[k] for k in range(27)]
        assert numbers["top3_counts"][split] == [top3[k] for k in range(27)]
    for k, name in enumerate(EMOTIONS):
        found, described = numbers["intensity"][name], stats.describe(both[:, k], ddof=0)
        assert found["mean"] == pytest.approx(described.mean, abs=1e-6)
        assert found["standard_deviation"] == pytest.approx(described.variance**0.5, abs=1e-6)
        for share, value in found["percentiles"].items():
            assert value == pytest.approx(stats.scoreatpercentile(both[:, k], float(share)), abs=1e-6)
        assert found["share_of_zeros"] == pytest.approx(np.mean(both[:, k] == 0))
        assert sum(found["histogram"]) == 400
    for i, j in itertools.combinations(range(27), 2):
        expected = stats.pearsonr(both[:, i], both[:, j]).statistic
        assert numbers["correlation"][i][j] == pytest.approx(expected, abs=1e-6)
        shared = sum({i, j} <= set(order[:3]) for orders in ranked.values() for order in orders)
        assert numbers["together_in_top3"][i][j] == shared


def test_the_majority_guess_predicts_the_most_common_training_emotions(tmp_path: Path) -> None:
    root = make_vce_labels(tmp_path / "vce", {"train": 300, "test": 100})
    found = program.emotion_numbers(read_emotions(root))["guesses"]
    train, test = intensities(root, "train"), intensities(root, "test")
    commonest = [k for k, _ in sorted(Counter(train.argmax(axis=1)).items(), key=lambda item: (-item[1], item[0]))]
    assert found["majority_emotions"] == [EMOTIONS[k] for k in commonest[:3]]
    top = test.argmax(axis=1)
    assert found["majority_guess"]["acc1"] == pytest.approx(np.mean(top == commonest[0]) * 100)
    assert found["majority_guess"]["acc3"] == pytest.approx(np.mean(np.isin(top, commonest[:3])) * 100)
    in_top3 = [commonest[0] in sorted(range(27), key=lambda k: (-row[k], k))[:3] for row in test]  # noqa: B023
    assert found["majority_guess"]["predicted_in_true_top3"] == pytest.approx(np.mean(in_top3) * 100)


class Named(NamedTuple):
    """Annotations with other emotions than VCE's."""

    ids: list[str]
    intensities: np.ndarray
    emotions: tuple[str, ...]


@pytest.mark.parametrize("num_emotions", [1, 2, 3, 27])
def test_datasets_with_other_emotions_are_described(num_emotions: int) -> None:
    names = tuple(f"feeling {number}" for number in range(num_emotions))
    values = draw_intensities(50)[:, :num_emotions].astype(np.float32)
    values[:, -1] = 0.25  # never varies
    annotations = Named([str(index) for index in range(50)], values, names)
    numbers = program.emotion_numbers({"train": annotations, "test": annotations})
    assert list(numbers["intensity"]) == list(names)
    assert numbers["correlation"][-1][-1] is None
    drawn = charts.emotion_charts(numbers)
    assert ("correlation" in [chart.name for chart in drawn]) == (num_emotions > 1)
    for chart in drawn:
        assert style.as_png(chart.draw(style.DARK)).startswith(PNG_START)


def test_charts_of_many_emotions_show_the_most_common() -> None:
    values = np.concatenate([draw_intensities(200), draw_intensities(200, seed=1)], axis=1).astype(np.float32)
    annotations = Named([str(index) for index in range(200)], values, tuple(f"feeling {k}" for k in range(54)))
    numbers = program.emotion_numbers({"train": annotations, "test": annotations})
    shown = charts.shown_emotions(numbers)
    assert len(shown) == 40
    assert shown[0] == f"feeling {np.bincount(values.argmax(axis=1)).argmax()}"
    assert all("14 least common" in chart.caption for chart in charts.emotion_charts(numbers))


def test_thumbnails_fit_into_their_budget() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 96, 128, 3), dtype=np.uint8)
    pictures = {str(index): picture for index, picture in enumerate(noise)}
    generous = page_module.as_jpegs(pictures, budget_bytes=10**9)
    tight = page_module.as_jpegs(pictures, budget_bytes=sum(map(len, generous.values())) // 2)
    assert tight.keys() == generous.keys()
    assert sum(map(len, tight.values())) <= sum(map(len, generous.values())) // 2


@pytest.fixture(scope="module")
def v2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with a contradiction and a cycle of three, lists of 2 to 4; one video is broken; no metadata."""
    train = [*draw_comparisons([5, 4, 2], first=0), ["00900", "00901"], ["00901", "00900"]]
    train += [["00910", "00911"], ["00911", "00912"], ["00912", "00910"]]
    lists = [["00800", "00801"], ["00810", "00811", "00812"], ["00820", "00821", "00822", "00823"]]
    comparisons = {"train": train, "test": draw_comparisons([3, 2], first=100, seed=1), "listwise": lists}
    root = make_v2v_labels(tmp_path_factory.mktemp("v2v") / "v2v", comparisons)
    (root / "metadata.json").unlink()
    for path in (root / "videos").iterdir():
        write_grey_video(path, 6)
    truncated(root / "videos/00811.mp4")
    return root


def test_comparison_numbers_agree_with_independent_computations(
    v2v: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe_here(v2v, tmp_path / "page", "--num_processes", 1) == 1
    assert "00811" in capsys.readouterr().err
    numbers = read(tmp_path / "page/description.json")
    assert numbers["kind"] == "v2v"
    for split in ("train", "test", "listwise"):
        entries, found = read(v2v / f"{split}_labels.json")["comparisons"], numbers["splits"][split]
        degrees = Counter(key for entry in entries for key in entry)
        sizes = [len(group) for group in connected_groups(entries)]
        assert found["num_comparisons"] == len(entries)
        assert found["num_videos"] == len(degrees)
        assert found["degrees"] == {str(value): count for value, count in Counter(degrees.values()).items()}
        assert found["component_sizes"] == {str(value): count for value, count in Counter(sizes).items()}
        assert (found["num_components"], found["largest_component"]) == (len(sizes), max(sizes))
        assert found["lengths"] == {str(value): count for value, count in Counter(map(len, entries)).items()}
    assert numbers["splits"]["train"]["num_contradictions"] == 1
    assert numbers["splits"]["train"]["num_videos_in_cycles"] == 5
    assert set(numbers["num_shared_videos"].values()) == {0}
    assert numbers["records"]["00823"] == [3, 0]
    assert numbers["records"]["00910"] == [1, 1]
    assert numbers["examples"]["Most preferred"][0][1].startswith("preferred")
    assert "00820" in [key for key, _ in numbers["examples"]["Least preferred"]]
    assert numbers["videos"]["frame_rates"] == {"30": numbers["num_videos"] - 1}
    assert References((tmp_path / "page/index.html").read_text()).outside == []


def test_at_most_max_probed_videos_without_metadata_are_opened(
    v2v: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    describe_here(v2v, tmp_path / "page", "--num_thumbnails", 0, "--max_probed", 5, "--num_processes", 1)
    numbers = read(tmp_path / "page/description.json")
    assert numbers["videos"]["num_videos"] + len(numbers["unreadable"]) == 5
    assert f"probing 5 of {numbers['num_videos']} videos" in caplog.text
    assert (
        f"the properties of {numbers['num_videos_without_facts']} others are unknown"
        in (tmp_path / "page/index.html").read_text()
    )


@pytest.mark.parametrize(
    ("root", "output_dir", "flags", "said"),
    [
        ("vce", "vce/inside", [], "which must not be modified"),
        ("nowhere", "page", [], "no such folder"),
        ("empty", "page", [], "has no train_labels.json"),
        ("torn", "page", [], "not valid JSON"),
        ("vce", "page", ["--num_processes", "0"], "--num_processes 0: must be at least 1"),
    ],
)
def test_invalid_folders_and_flags_give_a_one_line_error(
    tmp_path: Path, root: str, output_dir: str, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_vce_labels(tmp_path / "vce", {"train": 3, "test": 3})
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/train_labels.json").write_text('{"00000": {"emotions"')
    assert describe_here(tmp_path / root, tmp_path / output_dir, *flags) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / output_dir).exists()

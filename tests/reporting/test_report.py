"""Reports and comparisons: numbers against independent computations, and pages without other numbers."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from label_folders import connected_groups, draw_comparisons, make_v2v_labels, read
from result_folders import EMOTIONS, HOSTILE, make_labels, make_v2v_results, make_vce_results, read_test
from tiny_runs import TinyRuns
from video_files import write_grey_video

from VideoMAE import report
from VideoMAE.reporting import show_results
from VideoMAE.reporting.bootstrap import Resampling
from VideoMAE.reporting.emotion_numbers import compare_emotions, emotion_report, emotion_test
from VideoMAE.reporting.preference_numbers import compare_preferences, preference_test
from VideoMAE.reporting.report_charts import curve_charts
from VideoMAE.reporting.run_files import read_dataset, read_run

REPOSITORY = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"(?<![\w.])[−-]?\d+(?:,\d{3})*(?:\.\d+)?")


class Page(HTMLParser):
    """The text, the tags and the external references of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "source"):
            self.open.append(tag)
        for name, value in attrs:
            is_reference = name in ("src", "srcset", "href") and not str(value).startswith("data:image/")
            if is_reference or name.startswith("on"):
                self.outside.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags close in order"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def numbers(self) -> set[str]:
        return {number for text in self.text for number in NUMBER.findall(text)}


def numbers_in(content: Any) -> Iterator[str]:
    """Every number of report.json in all formats of the pages, and those in its texts unchanged."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from numbers_in(key)
            yield from numbers_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from numbers_in(value)
    elif isinstance(content, str):
        yield from NUMBER.findall(content)
    elif isinstance(content, (int, float)):
        for form in (f"{content:,}", f"{content:.1f}", f"{content:.2f}", f"{content:.3f}", f"{content:.3g}"):
            yield form.replace("-", "−")


def make_report(*arguments: object) -> tuple[dict[str, Any], Page]:
    """Runs the program in this process. -> report.json, the page"""
    folder = Path(str(arguments[arguments.index("--output_dir") + 1]))
    assert report.main([*map(str, arguments), "--num_processes", "1", "--num_resamples", "300"]) == 0
    return read(folder / "report.json"), Page((folder / "index.html").read_text(encoding="utf-8"))


def check_page(numbers: dict[str, Any], page: Page, folder: Path) -> None:
    """Checks that apply to every page."""
    assert page.outside == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert page.numbers() - {*numbers_in(numbers)} == set()
    without_captions = {key: value for key, value in numbers.items() if key != "charts"}
    for name, chart in numbers["charts"].items():
        assert {*NUMBER.findall(chart["title"])} - {*numbers_in(without_captions)} - signs(without_captions) == set()
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n")


def signs(numbers: Any) -> set[str]:
    """Absolute values, which titles contain: "0.010 too high"."""
    return {value.lstrip("−") for value in numbers_in(numbers)}


@pytest.fixture(scope="module")
def vce(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset with two of its videos, and two runs tested on it; names, ids and emotions contain markup."""
    folder = tmp_path_factory.mktemp("vce")
    data = make_labels(folder / "data")
    (data / "videos").mkdir()
    for number in (2, 29):  # of the test videos; the last one is the worst predicted
        write_grey_video(data / f"videos/{number:05d}.mp4", 6)
    first = make_vce_results(folder / "run <u>1<u>", data, left_out=["00041"])
    second = make_vce_results(folder / "second", data, noise=0.2, seed=1, left_out=["00045"])
    return {"data": data, "first": first, "second": second}


@pytest.fixture(scope="module")
def v2v(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("v2v")
    pairs = [sorted(pair) for pair in draw_comparisons([6, 5, 4, 3, 2, 2], first=0)]
    lists = [["00100", "00101"], ["00110", "00111", "00112"], ["00112", "00120", "00121", "00122"], ["00130", "00131"]]
    data = make_v2v_labels(folder / "data", {"train": pairs, "test": pairs, "listwise": lists})
    first = make_v2v_results(folder / "first", data, noise=1.5, left_out=["00101"])
    return {"data": data, "first": first, "second": make_v2v_results(folder / "second", data, noise=0.3)}


@pytest.fixture(scope="module")
def vce_report(vce: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Page, Path]:
    folder = tmp_path_factory.mktemp("report")
    return *make_report(vce["first"], "--output_dir", folder), folder


def predictions(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true intensities of the readable videos."""
    lines = [line for line in map(json.loads, (run / "predictions.jsonl").read_text().splitlines()) if "true" in line]
    return tuple(np.array([[*line[key].values()] for line in lines]) for key in ("predicted", "true"))  # type: ignore[return-value]


def test_the_page_is_self_contained_and_its_numbers_are_in_report_json(
    vce_report: tuple[dict[str, Any], Page, Path],
) -> None:
    check_page(*vce_report)
    assert {path.suffix for path in vce_report[2].iterdir()} == {".html", ".json", ".png"}


def test_metrics_equal_results_json_and_are_within_their_intervals(
    vce: dict[str, Path], vce_report: tuple[dict[str, Any], Page, Path]
) -> None:
    measured, found = read(vce["first"] / "results.json"), vce_report[0]["test"]["metrics"]
    names = {"acc1", "acc3", "predicted_in_true_top3", "bce", "mean_absolute_error", "mean_correlation"}
    assert found.keys() == names, "of the five emotions, the top 5 are all"
    for name, entry in found.items():
        for who, stored in {**measured, "model": measured}.items():
            if who not in ("model", "majority_guess", "chance") or stored[name] is None:
                continue
            assert entry[who]["value"] == pytest.approx(stored[name], rel=1e-4)
            if entry[who]["low"] is not None:
                assert entry[who]["low"] <= entry[who]["value"] <= entry[who]["high"]
    assert found["acc1"]["majority_guess"]["low"] is not None
    assert vce_report[0]["test"]["method"]["num_resamples"] == 300


def test_emotion_numbers_agree_with_scipy(vce: dict[str, Path], vce_report: tuple[dict[str, Any], Page, Path]) -> None:
    predicted, true = predictions(vce["first"])
    for place, name in enumerate(EMOTIONS):
        found = vce_report[0]["test"]["emotions"][name]
        pearson = scipy.stats.pearsonr(predicted[:, place], true[:, place]).statistic
        assert found["pearson"]["value"] == pytest.approx(pearson, abs=1e-4)
        assert found["spearman"] == pytest.approx(
            scipy.stats.spearmanr(predicted[:, place], true[:, place]).statistic, abs=0.01
        )
        assert found["num_first"] == sum(row.argmax() == place for row in true)


def test_confusion_calibration_and_worst_videos_agree_with_a_loop(
    vce: dict[str, Path], vce_report: tuple[dict[str, Any], Page, Path]
) -> None:
    predicted, true = predictions(vce["first"])
    test = vce_report[0]["test"]
    names = test["confusion"]["emotions"]
    for row, true_name in enumerate(names):
        for column, predicted_name in enumerate(names):
            expected = sum(
                EMOTIONS[t.argmax()] == true_name and EMOTIONS[p.argmax()] == predicted_name
                for t, p in zip(true, predicted, strict=True)
            )
            assert test["confusion"]["counts"][row][column] == expected
    bins: dict[int, list[tuple[float, float]]] = {}
    for p, t in zip(predicted.ravel(), true.ravel(), strict=True):
        bins.setdefault(math.floor(20 * p), []).append((p, t))
    error = sum(abs(sum(p - t for p, t in entries)) for entries in bins.values()) / predicted.size
    assert test["calibration"]["overall"]["error"] == pytest.approx(error, abs=0.002)
    assert sum(test["calibration"]["overall"]["counts"]) == predicted.size
    ids = [key for key in read_test(vce["data"])[0] if key != "00041"]
    order = np.argsort(-np.abs(predicted - true).mean(axis=1))
    assert [entry["id"] for entry in test["worst"]] == [ids[place] for place in order[:6]]
    assert [entry["id"] for entry in test["best"]] == [ids[place] for place in order[::-1][:6]]


def test_markup_in_ids_names_and_reasons_is_escaped(
    vce: dict[str, Path], vce_report: tuple[dict[str, Any], Page, Path]
) -> None:
    numbers, page, _ = vce_report
    text = "".join(page.text)
    assert not {"u", "i"} & set(page.tags)
    assert page.tags.count("b") == 6, "those of the tiles"
    assert vce["first"].name in text
    assert "00041: no <i>frames</i> in 00041" in text
    assert numbers["unreadable"].keys() == {"00041"}
    assert f"{HOSTILE} · predicted" in text
    assert "Awe <b>&amp;" in text


def num_thumbnails(page: Page) -> int:
    """The number of images that are not charts; each chart has a second source for dark pages."""
    return page.tags.count("img") - page.tags.count("source")


def test_readable_videos_have_a_thumbnail_and_the_others_are_counted(
    vce_report: tuple[dict[str, Any], Page, Path],
) -> None:
    numbers, page, _ = vce_report
    shown = [entry["id"] for key in ("best", "worst") for entry in numbers["test"][key]]
    assert numbers["test"]["worst"][0]["id"] == HOSTILE
    assert num_thumbnails(page) == 1 + shown.count("00042")
    assert len(numbers["without_picture"]) == len(shown) - num_thumbnails(page)
    assert f"{len(shown) - num_thumbnails(page)} example videos cannot be read and have no thumbnail" in "".join(
        page.text
    )


def test_a_missing_dataset_is_named_on_the_page(vce: dict[str, Path], tmp_path: Path) -> None:
    run = make_vce_results(tmp_path / "classes", vce["data"], "--loss", "ce", "--test_average", "softmax")
    numbers, page = make_report(run, "--output_dir", tmp_path / "page", "--data_path", tmp_path / "gone")
    check_page(numbers, page, tmp_path / "page")
    assert str(tmp_path / "gone") in "".join(page.text)
    assert "no picture" in page.text
    assert num_thumbnails(page) == 0
    measured, found = read(run / "results.json"), numbers["test"]["metrics"]
    assert found.keys() == {"acc1", "acc3", "predicted_in_true_top3"}
    for metric, entry in found.items():
        assert entry["model"]["value"] == pytest.approx(measured[metric])
        assert entry["majority_guess"] == {"value": measured["majority_guess"][metric], "low": None, "high": None}


def without_truth(run: Path) -> None:
    """Removes the true intensities, as in the first format of predictions.jsonl."""
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if key != "true"} for line in lines]
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one-line error of a failed report, with exit status 1."""
    assert report.main([*map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    return error


def test_missing_true_intensities_are_read_from_the_dataset(
    vce: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(vce["first"], tmp_path / "run")
    beside = emotion_test(read_run(run), read_dataset(read_run(run)))
    without_truth(run)
    found = emotion_test(read_run(run), read_dataset(read_run(run)))
    assert found.ids == beside.ids
    assert np.array_equal(found.targets, beside.targets)
    changed, fewer = make_labels(tmp_path / "changed", seed=4), make_labels(tmp_path / "fewer", num_test=4)
    for data, reason in (
        (changed, "the labels have changed since its test: "),
        (tmp_path / "gone", "predictions.jsonl has no true intensities, and the dataset cannot be read"),
        (fewer, "the dataset has no labels for 26 of its 29 test videos"),
    ):
        error = error_of(capsys, run, "--data_path", data, "--output_dir", tmp_path / "page")
        assert reason in error
        assert str(run) in error
    assert not (tmp_path / "page").exists()


def test_predictions_that_contradict_results_json_are_reported(vce: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(vce["first"], tmp_path / "run")
    shutil.copy(vce["second"] / "predictions.jsonl", folder)
    run = read_run(folder)
    notes = emotion_report(run, read_dataset(run), Resampling(100, 0))["notes"]
    assert any(note.startswith("results.json has ") and "top-1 accuracy" in note for note in notes)


def test_metrics_of_a_real_run_equal_its_own(tiny_runs: TinyRuns) -> None:
    run = read_run(tiny_runs.vce)
    found = emotion_report(run, read_dataset(run), Resampling(100, 0))
    assert run.results is not None
    assert found["num_unreadable"] == 1
    for metric in ("bce", "mean_absolute_error", "mean_correlation"):
        assert found["metrics"][metric]["model"]["value"] == pytest.approx(run.results[metric], abs=1e-3)
    for metric, entry in found["metrics"].items():
        for guess in ("majority_guess", "chance"):
            stored = run.results[guess][metric]
            assert entry[guess]["value"] == (None if stored is None else pytest.approx(stored))


def test_a_run_without_test_results_gets_a_page_of_its_curves(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "log.txt", "steps.jsonl"):
        shutil.copy(tiny_runs.vce / name, run)
    numbers, page = make_report(run, "--output_dir", tmp_path / "page")
    check_page(numbers, page, tmp_path / "page")
    assert "The run has not finished its test: this page shows only its curves." in page.text
    assert set(numbers["charts"]) == {"curves_loss", "curves_validation", "curves_learning_rate"}
    logged = [json.loads(line) for line in (run / "log.txt").read_text().splitlines()]
    assert [line["train_loss"] for line in numbers["curves"]["epochs"]] == [line["train_loss"] for line in logged]


def test_pair_and_list_metrics_equal_results_json_and_are_resampled_by_component(
    v2v: dict[str, Path], tmp_path: Path
) -> None:
    numbers, page = make_report(v2v["first"], "--output_dir", tmp_path / "page", "--num_examples", 2)
    check_page(numbers, page, tmp_path / "page")
    measured, test = read(v2v["first"] / "results.json"), numbers["test"]
    for metric in ("pair_accuracy", "list_accuracy", "pair_accuracy_in_lists", "mean_kendall_tau"):
        assert test["metrics"][metric]["model"]["value"] == pytest.approx(measured[metric])
    assert (test["num_pairs_lost"], test["num_lists_lost"]) == (measured["num_pairs_lost"], 1)
    pairs = read(v2v["data"] / "test_labels.json")["comparisons"]
    assert test["method"]["num_resampled"] == len(connected_groups(pairs)) == 6
    assert test["method"]["num_components_of_lists"] == 2
    lines = [json.loads(line) for line in (v2v["first"] / "scores.jsonl").read_text().splitlines()]
    scores = {line["id"]: line["score"] for line in lines if "score" in line}
    margins = sorted(scores[better] - scores[worse] for worse, better in pairs)
    assert [entry["margin"] for entry in test["pairs_wrong"]] == pytest.approx([m for m in margins if m <= 0][:2])
    assert sum(entry["num_pairs"] for entry in test["margins"]) == len(pairs)


def test_a_comparison_uses_the_common_test_videos(vce: dict[str, Path], tmp_path: Path) -> None:
    numbers, page = make_report(vce["first"], vce["second"], "--output_dir", tmp_path / "page")
    check_page(numbers, page, tmp_path / "page")
    assert numbers["only"]["a"] == {"00045": "could not be read in B's test"}
    assert numbers["only"]["b"] == {"00041": "could not be read in A's test"}
    test = numbers["test"]
    assert test["num_common"] == 28 == sum(test["agreement"].values())
    for entry in test["metrics"].values():
        found = entry["difference"]
        assert found["value"] == pytest.approx(entry["b"]["value"] - entry["a"]["value"])
        assert found["low"] <= found["value"] <= found["high"]
    assert test["metrics"]["mean_absolute_error"]["percent_b_better"] > 99
    changes = [entry["error_b"] - entry["error_a"] for entry in test["better_in_b"]]
    assert changes == sorted(changes)
    assert max(changes) < 0


def test_a_run_compared_with_itself_has_no_differences(vce: dict[str, Path], v2v: dict[str, Path]) -> None:
    run = read_run(vce["first"])
    emotions = emotion_test(run, read_dataset(run))
    found = [compare_emotions([run, run], [emotions, emotions], Resampling(100, 0))]
    run = read_run(v2v["first"])
    preferences = preference_test(run, read_dataset(run))
    found.append(compare_preferences([run, run], [preferences, preferences], Resampling(100, 0)))
    for test in found:
        for entry in test["metrics"].values():
            assert entry["difference"] == {"value": 0, "low": 0, "high": 0}
            assert entry["percent_b_better"] == 50
        assert test["agreement"]["only_a"] == test["agreement"]["only_b"] == 0
        assert test["better_in_a"] == test["better_in_b"] == []


def test_one_component_and_one_bin_are_singular(tmp_path: Path) -> None:
    pairs = [[f"{number:05d}", f"{number + 1:05d}"] for number in range(7)]
    data = make_v2v_labels(tmp_path / "data", {"train": pairs, "test": pairs, "listwise": []})
    run = make_v2v_results(tmp_path / "run", data)
    numbers, page = make_report(run, "--output_dir", tmp_path / "page")
    check_page(numbers, page, tmp_path / "page")
    text = "".join(page.text)
    assert "Each draw takes 1 connected component of the pairs" in text
    assert "The pairs in 1 bin of equal count" in text


def test_curves_without_learning_rates_have_no_chart_of_them() -> None:
    curves = {"epochs": [{"epochs_done": 1, "train_loss": 0.5}], "steps": [{"epoch": 1.0, "loss": 0.5}]}
    assert [chart.name for chart in curve_charts({"": curves})] == ["curves_loss"]


def test_two_v2v_runs_are_compared(v2v: dict[str, Path], tmp_path: Path) -> None:
    numbers, page = make_report(v2v["first"], v2v["second"], "--output_dir", tmp_path / "page", "--num_examples", 1)
    check_page(numbers, page, tmp_path / "page")
    test = numbers["test"]
    assert test["num_only"] == {"a": {"pairs": 0, "lists": 0}, "b": {"pairs": 0, "lists": 1}}
    assert "Only in B and left out: 0 pairs and 1 list." in "".join(page.text)
    assert numbers["only"]["b"] == {"00101": "could not be read in A's test"}
    entry = test["better_in_b"][0]
    assert entry["margin_b"] > entry["margin_a"]


def test_runs_with_different_labels_or_tasks_are_rejected(
    vce: dict[str, Path], v2v: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = make_vce_results(tmp_path / "changed", make_labels(tmp_path / "others", seed=5))
    error = error_of(capsys, vce["first"], changed)
    assert "were tested on different labels: 29 of the 29 common videos have different intensities" in error
    assert "of the same task" in error_of(capsys, vce["first"], v2v["first"])
    pair = read(v2v["data"] / "test_labels.json")["comparisons"][0]
    comparisons = {"train": [pair], "test": [pair[::-1]], "listwise": [["00100", "00101"]]}
    run = make_v2v_results(tmp_path / "turned_run", make_v2v_labels(tmp_path / "turned", comparisons))
    assert "were tested on different labels: 1 of " in error_of(capsys, v2v["first"], run)
    assert [path.name for path in tmp_path.rglob("*") if "report" in path.name] == []


def test_invalid_folders_flags_and_files_give_a_one_line_error(
    vce: dict[str, Path], v2v: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = tmp_path / "started"
    started.mkdir()
    assert "has no config.json" in error_of(capsys, started)
    shutil.copy(vce["first"] / "config.json", started)
    assert "neither results.json nor a finished epoch" in error_of(capsys, started)
    assert "no such folder" in error_of(capsys, tmp_path / "nowhere")
    assert "--num_resamples must be at least 100, not 5" in error_of(capsys, vce["first"], "--num_resamples", 5)
    assert "is inside the dataset" in error_of(capsys, vce["first"], "--output_dir", vce["data"] / "report")
    torn = shutil.copytree(vce["first"], tmp_path / "torn")
    (torn / "predictions.jsonl").write_bytes((torn / "predictions.jsonl").read_bytes()[:-40])
    assert "predictions.jsonl, line 30: not valid JSON" in error_of(capsys, torn)
    gone = error_of(capsys, v2v["first"], "--data_path", tmp_path / "gone")
    assert "the dataset with its pairs and lists cannot be read" in gone


def test_report_py_runs_as_a_file_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, REPOSITORY / "VideoMAE/report.py", "nowhere"]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: nowhere: no such folder\n")


def test_show_results_prints_the_metrics_of_each_run(
    vce: dict[str, Path], v2v: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_results.main([str(vce["first"]), str(v2v["first"])]) == 0
    shown = capsys.readouterr().out
    assert f"{read(vce['first'] / 'results.json')['acc1']:.1f}" in shown
    assert f"{read(v2v['first'] / 'results.json')['pair_accuracy']:.1f}" in shown
    assert show_results.main([str(tmp_path)]) == 1
    assert "results.json: no such file" in capsys.readouterr().err

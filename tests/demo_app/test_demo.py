"""The demo: its page in a browser, its endpoints through Gradio's client, rejected requests, and removal of files."""

import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import demo_site
import numpy as np
import pytest
from demo_site import MAX_SECONDS, MAX_UPLOAD_MB, Site, open_browser, serving, why_no_browser, why_no_server
from tiny_runs import TinyRuns
from video_files import grey_frames, moving_frames, write_video

from VideoMAE import demo
from VideoMAE.data.vce import EMOTIONS
from VideoMAE.demo_app import videos as demo_videos
from VideoMAE.demo_app.answers import NUM_DIFFERENCES, Answers, Reference, find_examples, read_reference
from VideoMAE.inference.predictor import Prediction, load_predictor


def must_have(reason: str | None) -> None:
    """Skips the test for a missing requirement; fails it under CI=true."""
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(f"CI needs it: {reason}")
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def runs(tiny_runs: TinyRuns) -> list[Path]:
    return list(tiny_runs)


@pytest.fixture(scope="module")
def videos(folder: Path) -> list[Path]:
    """Two readable videos of 2 s."""
    return [
        write_video(folder / f"film <{n}> & co.mp4", moving_frames(20, width=48, height=32, seed=90 + n), fps=10)
        for n in range(2)
    ]


@pytest.fixture(scope="module")
def server(folder: Path, runs: list[Path]) -> Iterator[Site]:
    must_have(why_no_server())
    with serving(folder / "site", "--checkpoint", *map(str, runs)) as running:
        yield running


@pytest.fixture
def site(server: Site) -> Site:
    """The running server; uploads of earlier tests are not counted."""
    server.forget_uploads()
    return server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    must_have(why_no_browser())
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def client(server: Site) -> Any:
    from gradio_client import Client

    return Client(server.url, verbose=False, httpx_kwargs={"timeout": 600})


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """The page, with its requests in `page.requests` and its console errors in `page.errors`."""
    opened = open_page(browser, site)
    yield opened
    opened.close()


def open_page(browser: Any, site: Site) -> Any:
    page = browser.new_page()
    page.set_default_timeout(600_000)
    page.requests, page.errors = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
    page.goto(site.url)
    page.wait_for_selector("#one-video input[type=file]", state="attached")
    return page


def ask(client: Any, name: str, *files: Path) -> Any:
    from gradio_client import handle_file

    return client.predict(*map(handle_file, files), api_name=name)


def test_an_uploaded_video_gets_predictions_and_curves(page: Any, site: Site, videos: list[Path]) -> None:
    page.set_input_files("#one-video input[type=file]", videos[0])
    page.wait_for_selector("#one-time figure")
    assert page.inner_text("#one-result h3.emo-name") == "film _0_ _ co.mp4"
    values = [float(text) for text in page.locator("#one-result td:nth-child(2)").all_text_contents()]
    assert len(values) == 27 and values == sorted(values, reverse=True)
    pleasantness, emotions = (page.locator("#one-result figure img").nth(n) for n in range(2))
    assert re.fullmatch(r"More pleasant than \d+ % of the 5 test videos", pleasantness.get_attribute("alt"))
    assert emotions.get_attribute("alt").startswith("Mostly ")
    assert page.locator("#one-time figure").count() == 2
    for picture in page.locator("figure img").all():
        assert picture.evaluate("picture => picture.naturalWidth") > 0, "the browser shows every chart"
    assert {url.split("/")[2] for url in page.requests if url.startswith("http")} == {site.url.split("/")[2]}
    assert page.errors == []
    assert site.uploads() == []


def test_an_example_gets_a_prediction_and_two_videos_are_compared(page: Any, site: Site, videos: list[Path]) -> None:
    page.locator("#examples button").first.click()
    page.locator("#one-result h3.emo-name", has_text=re.compile(r"^000\d\d.mp4$")).wait_for()
    page.get_by_role("tab", name="Compare two").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Select a video A.").wait_for()
    for letter, path in zip("AB", videos, strict=True):
        page.set_input_files(f"#two-{letter} input[type=file]", path)
        page.locator(f"#two-{letter} .file-preview").wait_for()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_selector("#two-result .emo-two")
    assert "is more pleasant" in page.inner_text("#two-result .emo-finding >> nth=0")
    assert page.locator("#two-result tbody tr").count() == NUM_DIFFERENCES
    assert site.uploads() == []


def test_a_file_that_is_not_a_video_gives_a_one_line_error(page: Any, site: Site, folder: Path) -> None:
    bad = folder / "notes.mp4"
    bad.write_text("no video at all")
    logged = len(site.log.read_text())
    page.set_input_files("#one-video input[type=file]", bad)
    alert = page.locator("#one-result [role=alert]")
    alert.wait_for()
    assert alert.inner_text() == "notes.mp4: it is not a video, or it is damaged or cut off (invalid data)"
    assert site.uploads() == [] and "Traceback" not in site.log.read_text()[logged:]


def test_simultaneous_users_get_their_own_results(page: Any, browser: Any, site: Site, videos: list[Path]) -> None:
    pages = [page, open_page(browser, site)]
    for one, path in zip(pages, videos, strict=True):
        one.set_input_files("#one-video input[type=file]", path)
    for number, one in enumerate(pages):
        one.locator("#one-result h3.emo-name", has_text=f"film _{number}_ _ co.mp4").wait_for()
        one.wait_for_selector("#one-time figure")


def test_endpoints_return_the_predictions_of_the_library(client: Any, runs: list[Path], videos: list[Path]) -> None:
    predictor = load_predictor(runs, device="cpu")
    expected = predictor(videos)
    found = ask(client, "/predict", videos[0])
    assert found["intensities"] == pytest.approx(expected[0].intensities, abs=1e-5)
    assert found["score"] == pytest.approx(expected[0].score, abs=1e-5)
    scores = [json.loads(line)["score"] for line in (runs[1] / "scores.jsonl").read_text().splitlines()]
    assert found["percentile"] == pytest.approx(100 * np.mean([score < found["score"] for score in scores]))
    curves, found = predictor.over_time(videos[0]), ask(client, "/over_time", videos[0])
    np.testing.assert_allclose(found["intensities"], curves.intensities, atol=1e-5)
    np.testing.assert_allclose(found["scores"], curves.scores, atol=1e-5)
    np.testing.assert_allclose(found["times_seconds"], curves.times_seconds)
    found = ask(client, "/compare", *videos)
    gap = expected[1].score - expected[0].score
    assert found["score_difference"] == pytest.approx(gap, abs=1e-5)
    assert found["more_pleasant"] == ("second" if gap > 0 else "first")
    gaps = list(map(abs, found["intensity_differences"].values()))
    assert len(gaps) == 27 and gaps == sorted(gaps, reverse=True)


def test_ten_simultaneous_uploads_of_one_file_all_get_predictions(client: Any, site: Site, videos: list[Path]) -> None:
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: ask(client, "/predict", videos[0]), range(10)))
    assert all(entry == found[0] for entry in found) and found[0]["video"] == "film _0_ _ co.mp4"
    assert site.uploads() == []


def test_a_video_that_is_too_long_is_rejected_and_removed(client: Any, site: Site, folder: Path) -> None:
    long = write_video(folder / "long.mp4", grey_frames(MAX_SECONDS * 2 + 2, width=32, height=32), fps=2)
    with pytest.raises(Exception, match=r"^long.mp4: it lasts 6 s; the maximum is 5 s$"):
        ask(client, "/predict", long)
    assert site.uploads() == []


def answer(site: Site, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of the response to a request without a browser."""
    request = urllib.request.Request(site.url + path, body, {name.replace("_", "-"): headers[name] for name in headers})
    try:
        with urllib.request.urlopen(request, timeout=600) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_an_upload_that_is_too_large_is_rejected(site: Site) -> None:
    kind = {"content_type": "multipart/form-data; boundary=x"}
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../big.mp4"\r\n\r\n'
    status, text = answer(site, "gradio_api/upload", head + bytes((MAX_UPLOAD_MB + 1) << 20) + b"\r\n--x--", **kind)
    assert (status, text) == (413, "the file is larger than 1 MB")
    assert answer(site, "gradio_api/upload", iter([head]), **kind)[0] == 411
    assert site.uploads() == []
    status, text = answer(site, "gradio_api/upload", head + b"small\r\n--x--", **kind)
    (kept,) = json.loads(text)
    assert status == 200 and Path(kept).name == "big.mp4" and Path(kept) in site.uploads()


def call(site: Site, name: str, *values: Any) -> str:
    """The response of an endpoint to arbitrary values, as a hostile client may send them."""
    body = json.dumps({"data": values}).encode()
    status, text = answer(site, f"gradio_api/call/{name}", body, content_type="application/json")
    assert status == 200
    return answer(site, f"gradio_api/call/{name}/{json.loads(text)['event_id']}")[1]


def test_paths_of_the_server_and_urls_are_rejected(site: Site, videos: list[Path], runs: list[Path]) -> None:
    secret = runs[0] / "config.json"
    for path in (str(videos[0]), str(secret), "http://127.0.0.1:9/film.mp4", "/proc/self/environ", "uploads"):
        for more in ({}, {"is_stream": True}, {"url": "http://127.0.0.1:9/film.mp4"}):
            text = call(site, "predict", {"path": path, "meta": {"_type": "gradio.FileData"}, **more})
            assert text.startswith("event: error") and "intensities" not in text, (path, more)
    for prefix in ("gradio_api/file=", "file=", "gradio_api/file/", "gradio_api/proxy=", "static/", "assets/"):
        for path in (str(secret), os.path.relpath(secret, site.temp.parent), "..%2f..%2f..%2f..%2fetc%2fpasswd"):
            assert answer(site, prefix + path)[0] in (400, 403, 404), prefix + path


def test_the_endpoints_are_described(site: Site) -> None:
    status, text = answer(site, "api")
    assert status == 200 and site.url in text
    assert all(f"/{name}</code>" in text for name in ("predict", "over_time", "compare"))


def test_every_response_forbids_loading_from_other_sites(site: Site) -> None:
    for path in ("", "api", "gradio_api/info"):
        with urllib.request.urlopen(site.url + path, timeout=600) as found:
            assert found.headers.get_all("Content-Security-Policy")[0].startswith("default-src 'self'; "), path


def test_sigterm_stops_the_server_and_removes_all_files(tmp_path: Path, runs: list[Path]) -> None:
    must_have(why_no_server())
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\nsmall\r\n--x--'
    with serving(tmp_path / "site", "--checkpoint", str(runs[0])) as site:
        assert answer(site, "gradio_api/upload", body, content_type="multipart/form-data; boundary=x")[0] == 200
        assert site.uploads() != []
        assert site.stop(signal.SIGTERM) == 0
        assert list(site.temp.iterdir()) == []


def test_a_decoder_that_hangs_rejects_only_its_file(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (seen,) = demo_videos.probe_videos([videos[0]], max_seconds=MAX_SECONDS)
    assert isinstance(seen, demo_videos.DemoVideo) and seen.duration_seconds == pytest.approx(2)
    assert seen.thumbnail.shape[0] == demo_videos.TILE_HEIGHT
    monkeypatch.setattr(demo_videos, "open_video", demo_site.hang)
    monkeypatch.setattr(demo_videos, "PROBE_LIMIT_SECONDS", 0.3)
    assert demo_videos.probe_videos([videos[0]], max_seconds=5) == [f"{videos[0].name}: did not answer within 0.3 s"]


def test_only_files_in_the_upload_folder_are_accepted_and_they_are_removed(tmp_path: Path) -> None:
    uploads = demo_videos.Uploads(tmp_path / "uploads")
    paths = [uploads.folder / name / "a.mp4" for name in ("1", "2", "old")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(b"x")
    outside, link = tmp_path / "b.mp4", uploads.folder / "1" / "link.mp4"
    outside.write_bytes(b"x")
    link.symlink_to(outside)
    for wrong in (outside, link, uploads.folder / "1", uploads.folder / "1/../../b.mp4", uploads.folder / "3/c.mp4"):
        with pytest.raises(ValueError, match="only a video that was uploaded"):
            uploads.checked(wrong)
    with pytest.raises(ValueError, match="only a video"), uploads.removed_after(paths[0], outside):
        pass
    with pytest.raises(KeyError), uploads.removed_after(paths[1]):
        raise KeyError
    assert [path.exists() for path in paths] == [False, False, True] and outside.exists()
    uploads.remove_older_than(paths[2].parent.stat().st_mtime + 1)
    assert list(uploads.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a.mp4", "a.mp4"),
        ("../../etc/p.mp4", "p.mp4"),
        ("C:\\x\\a b.mp4", "a b.mp4"),
        ("<b>.mp4", "_b_.mp4"),
        ("..", "video"),
        ("", "video"),
        (".hidden", "hidden"),
        ("x\0y.mp4", "x_y.mp4"),
        ("é" * 200 + ".mp4", "é" * 76 + ".mp4"),
    ],
)
def test_upload_names_are_sanitized(name: str, kept: str) -> None:
    assert demo_videos.safe_name(name) == kept


def test_reference_scores_and_examples_come_from_the_runs(
    runs: list[Path], tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    reference = read_reference(runs)
    assert (len(reference.scores), reference.num_intensities, len(reference.mean_intensities)) == (5, 4, 27)
    assert len(reference.facts) == 2 and not reference.is_synthetic
    by_hand = Reference(np.array([1.0, 2.0, 2.0, 5.0]), {}, 0, [])
    assert [by_hand.percentile(score) for score in (0, 1, 2, 4, 9)] == [0, 12.5, 50, 75, 100]
    assert by_hand.rank_of(4) == "More pleasant than 75 % of the 4 test videos"
    lines = [json.loads(line) for line in (runs[1] / "scores.jsonl").read_text().splitlines()]
    ranked = [line["id"] for line in sorted(lines, key=lambda line: line["score"])]
    assert [path.stem for path in find_examples(runs, None)] == ranked
    assert [path.name for path in find_examples(runs, tiny_runs.v2v_videos)][:2] == [
        "00000.mp4",
        "00001.mp4",
    ]
    with pytest.raises(ValueError, match=r"--examples .*nowhere: no such folder"):
        find_examples(runs, tmp_path / "nowhere")
    assert not len(read_reference([tmp_path]).scores)
    (tmp_path / "scores.jsonl").write_text('{"id": "1", "score": 1}\n{"id"')
    with pytest.raises(ValueError, match=r"scores.jsonl, line 2: not valid JSON"):
        read_reference([tmp_path])


@pytest.mark.parametrize("has_intensities", [False, True])
@pytest.mark.parametrize("has_score", [False, True])
def test_predictions_of_either_task_alone_are_shown(has_intensities: bool, has_score: bool) -> None:
    predictor: Any = SimpleNamespace(tasks=(), emotions=())
    answers = Answers(predictor, Reference(np.array([0.0, 1.0]), {}, 0, []), max_seconds=9)
    seen = demo_videos.DemoVideo("<i>.mp4", Path("x"), 2.0, b"", np.zeros((2, 2, 3), np.uint8))
    intensities = {"Joy": 0.5, "Awe <3": 0.25, "Fear": 0.0} if has_intensities else None
    prediction = Prediction(seen.path, intensities, 0.5 if has_score else None, 2.0, None)
    text = answers.html(seen, prediction)
    assert "<i>.mp4" not in text and "&lt;i&gt;.mp4" in text and "Awe <3" not in text
    assert ('alt="Mostly ' in text, 'alt="More pleasant' in text) == (has_intensities, has_score)
    text = answers.comparison_html((seen, prediction), (seen, prediction))
    assert ("The largest difference is in" in text, "equally pleasant" in text) == (has_intensities, has_score)
    assert answers.values(seen, prediction)["percentile"] == (50 if has_score else None)
    assert answers.compare(prediction, prediction)["more_pleasant"] == ("equal" if has_score else None)


def test_training_data_are_stated_only_for_the_published_datasets_and_the_licence_always() -> None:
    for tasks, emotions, rated in (
        (("vce", "v2v"), EMOTIONS, "by the emotions they felt and which of two is more pleasant."),
        (("vce", "v2v"), ("Joy", "Fear"), "rated by which of two is more pleasant."),
        (("vce",), ("Joy", "Fear"), None),
    ):
        predictor: Any = SimpleNamespace(tasks=tasks, emotions=emotions)
        text = Answers(predictor, Reference(np.array([]), {}, 0, []), max_seconds=9).head_html()
        assert (rated or "<p>The model predicts the average viewer's report") in text
        assert ("The model was trained on" in text, "It predicts" in text) == (rated is not None,) * 2
        assert "Weights derived from the published VideoMAE weights are licensed CC BY-NC 4.0" in text


def test_results_of_up_to_three_emotions_are_those_of_the_first(tmp_path: Path) -> None:
    results = {"acc1": 50.0, "acc3": 100.0, "num_videos": 1, "emotions": ["Joy", "Awe", "Fear"]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert read_reference([tmp_path]).facts == ["top-1 accuracy 50 % on 1 test video"]


def ending(capsys: pytest.CaptureFixture[str], *flags: object) -> Any:
    """The exit status of the command if it is not 1, otherwise its error message."""
    try:
        status = demo.main([*map(str, flags)])
    except SystemExit as ended:
        status = ended.code
    return capsys.readouterr().err.strip() if status == 1 else status


def test_invalid_flags_give_a_one_line_error(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(capsys) == 2  # no --checkpoint
    assert ending(capsys, "--checkpoint", "x", "--prot", "1") == 2
    capsys.readouterr()
    for value in (0, "nan"):
        sentence = f"error: --max_seconds {value}: must be above 0"
        assert ending(capsys, "--checkpoint", "x", "--max_seconds", value) == sentence
    assert ending(capsys, "--checkpoint", *"xyz") == "error: --checkpoint takes one or two, not 3"
    monkeypatch.setattr(demo, "find_spec", lambda name: name)  # with Gradio
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = ending(capsys, "--checkpoint", runs[0], "--port", port)
        assert re.match(rf"error: cannot serve at --host 127.0.0.1 --port {port}: Address already in use", sentence)
    monkeypatch.setattr(demo, "find_spec", lambda name: None)  # without
    assert re.match(r"error: the demo needs Gradio: \S+ -m pip install .gradio", ending(capsys, "--checkpoint", "x"))


def test_an_invalid_checkpoint_gives_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    must_have(why_no_server())
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    sentence = ending(capsys, "--checkpoint", tmp_path / "weights.pth", "--port", 0)
    assert sentence.startswith(f"error: {tmp_path}/weights.pth: ") and "\n" not in sentence

"""Downloads are whole and checked or not there at all: against a real server that serves, cuts, stalls, or answers
with web pages."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from drive_site import HAS_OPENSSL, drive
from gates import wait_until
from weight_files import REPOSITORY, RunsCode, equal, pretraining_network

from VideoMAE.checkpoints.programs import convert
from VideoMAE.checkpoints.programs import download as main

PAGE = b"<!DOCTYPE html><html><head><title>Too many users</title></head><body>quota</body></html>"
NETWORK = {"embed_dim": 48, "depth": 2, "patch_size": 16, "tubelet_size": 2}


class Site:
    """What the server does: `content` by path, and how far answers go before they break off or stall."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.html = False
        self.cut_answers = 0  # so many more answers end after `bytes_of_cut`
        self.bytes_of_cut = 0
        self.stall = False
        self.asked: list[tuple[str, str | None]] = []  # method, Range
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self.address = ""


class Handler(BaseHTTPRequestHandler):
    """Files with ranges and the headers of the hub."""

    def __init__(self, site: Site, *args: Any) -> None:
        self.site = site
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(None)

    def answer(self, body: bytes | None) -> None:
        site, whole = self.site, self.site.content.get(self.path)
        site.asked.append((self.command, self.headers.get("Range")))
        if site.html:
            return self.send(200, PAGE, {"Content-Type": "text/html"})
        if whole is None:
            return self.send(404, b"nothing here", {"X-Error-Code": "EntryNotFound"})
        headers = {
            "ETag": f'"{hashlib.sha256(whole).hexdigest()}"',
            "X-Repo-Commit": "c" * 40,
            "Accept-Ranges": "bytes",
        }
        part = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if part is None:
            return self.send(200, whole, headers)
        start = int(part[1])
        return self.send(
            206, whole[start:], {**headers, "Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"}
        )

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.site.cut_answers and status in (200, 206):
            self.wfile.write(body[: self.site.bytes_of_cut])
            self.wfile.flush()
            self.site.cut_answers -= 1  # one that the client gave up before does not count
            if self.site.stall:
                self.site.stalled.set()
                self.site.go_on.wait()
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site))
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield site
    site.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub folder with a decoder of 28 MB, so that there is something to break off, and the same published."""
    folder = tmp_path_factory.mktemp("weights")
    model = pretraining_network(decoder_hidden_size=768, decoder_intermediate_size=3072, num_hidden_layers=2)
    model.save_pretrained(folder / "hub")
    assert convert([str(folder / "hub"), str(folder / "published.pth"), "--to", "published"]) == 0
    return folder


def catalogue(folder: Path, site: Site, weights: Path, **changes: Any) -> Path:
    """Both entries, served by the site."""
    site.content["/drive"] = (weights / "published.pth").read_bytes()
    site.content["/group/tiny/resolve/main/model.safetensors"] = (weights / "hub/model.safetensors").read_bytes()
    common = {"what": "tiny", "licence": "none", "network": NETWORK, "size_bytes": None, "sha256": None, **changes}
    hub = {"repo_id": "group/tiny", "filename": "model.safetensors", "revision": "main"}
    entries = {
        "drive": {"source": "google_drive", "url": f"{site.address}/drive", "file": "drive.pth", **common},
        "hub": {"source": "huggingface", **hub, "file": "hub.pth", **common},
    }
    path = folder / "catalogue.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def download(
    tmp_path: Path, site: Site, weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Downloads into tmp_path / "out" -> status, JSON report, what stood on standard error."""
    path = catalogue(tmp_path, site, weights)
    monkeypatch.setenv("HF_ENDPOINT", site.address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def call(name: str, *flags: str, catalogue: Path = path) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        status = main([name, "--json", "--catalogue", str(catalogue), "--output_dir", str(tmp_path / "out"), *flags])
        said = capfd.readouterr()
        return status, json.loads(said.out), said.err

    return call


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@pytest.mark.parametrize("name", ["drive", "hub"])
def test_what_is_served_arrives_under_the_published_names_and_is_recorded_and_left_alone_afterwards(
    tmp_path: Path, site: Site, weights: Path, download: Callable[..., Any], name: str
) -> None:
    status, report, said = download(name, "--record")
    assert status == 0, said
    assert files(tmp_path / "out") == {f"{name}.pth"}
    arrived = torch.load(tmp_path / f"out/{name}.pth", weights_only=True)["model"]
    assert equal(arrived, torch.load(weights / "published.pth", weights_only=True)["model"])
    served = weights / ("published.pth" if name == "drive" else "hub/model.safetensors")
    known = {"size_bytes": served.stat().st_size, "sha256": hashlib.sha256(served.read_bytes()).hexdigest()}
    assert {key: report[key] for key in known} == known
    recorded = json.loads((tmp_path / "catalogue.json").read_text())[name]
    assert {key: recorded[key] for key in known} == known
    asked = len(site.asked)
    status, report, _ = download(name)
    assert (status, report["status"]) == (0, "exists already, verified")
    assert len(site.asked) == asked


@pytest.mark.parametrize("name", ["drive", "hub"])
def test_an_answer_that_breaks_off_is_gone_on_with_in_the_same_call(
    tmp_path: Path, site: Site, download: Callable[..., Any], name: str
) -> None:
    site.cut_answers, site.bytes_of_cut = 1, 15_000_000
    status, _, said = download(name)
    assert status == 0, said
    ranges = [asked for method, asked in site.asked if method == "GET"]
    assert [int(asked.removeprefix("bytes=")[:-1]) > 0 for asked in ranges if asked] == [True]


@pytest.mark.parametrize("name", ["drive", "hub"])
def test_a_killed_download_leaves_no_weights_and_the_next_call_goes_on_where_it_stopped(
    tmp_path: Path, site: Site, weights: Path, download: Callable[..., Any], name: str
) -> None:
    site.cut_answers, site.bytes_of_cut, site.stall = 1, 15_000_000, True
    command = [sys.executable, str(REPOSITORY / "models/download.py"), name, "--output_dir", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*command, "--catalogue", str(tmp_path / "catalogue.json")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(site.stalled.is_set, process)
    kept = tmp_path / f"out/.download-{name}"
    wait_until(lambda: any(path.stat().st_size >= 10_000_000 for path in kept.rglob("download.*")), process)
    process.send_signal(signal.SIGKILL if name == "drive" else signal.SIGINT)
    site.go_on.set()
    _, said = process.communicate()
    if name == "hub":
        assert process.returncode == 130
        assert b"error: stopped; repeat the command to resume" in said
    assert files(tmp_path / "out") == {f".download-{name}"}
    site.asked.clear()
    status, _, err = download(name)
    assert status == 0, err
    assert [int(asked.removeprefix("bytes=")[:-1]) >= 10_000_000 for method, asked in site.asked if asked] == [True]
    assert files(tmp_path / "out") == {f"{name}.pth"}


@pytest.mark.parametrize("name", ["drive", "hub"])
def test_a_web_page_in_place_of_weights_is_recognised_and_the_way_by_hand_is_said(
    tmp_path: Path, site: Site, download: Callable[..., Any], name: str
) -> None:
    site.html = True
    status, report, _ = download(name)
    assert status == 1
    assert re.search("a web page,? titled 'Too many users'", report["problem"]), report["problem"]
    assert not (tmp_path / f"out/{name}.pth").exists()
    site.html = False
    assert download(name)[0] == 0  # nothing of the page is left in the way


def test_a_page_under_the_hub_s_own_headers_is_recognised(
    tmp_path: Path, site: Site, download: Callable[..., Any]
) -> None:
    site.content["/group/tiny/resolve/main/model.safetensors"] = PAGE
    status, report, _ = download("hub")
    assert (status, files(tmp_path / "out")) == (1, set())
    assert ".safetensors: a web page titled 'Too many users', not weights" in report["problem"]


@pytest.mark.parametrize("name", ["drive", "hub"])
@pytest.mark.parametrize("kind", ["cut", "nan", "other", "malicious"])
def test_weights_that_are_not_what_the_catalogue_promises_never_get_the_name(
    tmp_path: Path, site: Site, weights: Path, download: Callable[..., Any], name: str, kind: str
) -> None:
    path = "/drive" if name == "drive" else "/group/tiny/resolve/main/model.safetensors"
    whole = site.content[path]
    model = pretraining_network()
    expected = {
        "cut": "truncated or damaged",
        "nan": "1 non-finite value in encoder.blocks.0.norm1.weight",
        "other": "depth is 1, expected 2: another network",
        "malicious": "refused: the pickle contains an object of type posix.system"
        if name == "drive"
        else "truncated or damaged",
    }[kind]
    if kind == "cut":
        site.content[path] = whole[: len(whole) // 2]
    elif kind == "malicious":
        torch.save({"model": {}, "code": RunsCode(tmp_path / "owned")}, tmp_path / "evil.pth")
        site.content[path] = (tmp_path / "evil.pth").read_bytes()
    else:
        if kind == "other":
            model = pretraining_network(num_hidden_layers=1)
        else:
            with torch.no_grad():
                model.videomae.encoder.layer[0].layernorm_before.weight[0] = float("nan")
        model.save_pretrained(tmp_path / "other")
        file = tmp_path / "other/model.safetensors"
        if name == "drive":
            content = torch.load(weights / "published.pth", weights_only=True)["model"]
            if kind == "other":
                content = {key: value for key, value in content.items() if not key.startswith("encoder.blocks.1.")}
            else:
                content["encoder.blocks.0.norm1.weight"][0] = float("nan")
            file = tmp_path / "other.pth"
            torch.save({"model": content}, file)
        site.content[path] = file.read_bytes()
    status, report, _ = download(name)
    assert status == 1
    assert expected in report["problem"]
    assert not files(tmp_path / "out")
    assert not (tmp_path / "owned").exists()
    site.content[path] = whole
    assert download(name)[0] == 0


DRIVE_ANSWERS: dict[str, tuple[bytes | None, dict[str, str], str]] = {
    "weights": (None, {"Content-Disposition": 'attachment; filename="x.pth"', "Content-Type": "application/zip"}, ""),
    "quota": (
        b'<html><p class="uc-error-subcaption">Too many users</p></html>',
        {"Content-Type": "text/html"},
        "Too many",
    ),
    "login": (b"<html><title>Sign in</title></html>", {"Content-Type": "text/html"}, "Cannot retrieve the public link"),
}


@pytest.mark.skipif(not HAS_OPENSSL, reason="a certificate takes openssl")
@pytest.mark.parametrize("kind", DRIVE_ANSWERS)
def test_drive_s_own_way_gives_weights_or_says_that_a_page_came(
    tmp_path: Path, weights: Path, download: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    body, headers, said = DRIVE_ANSWERS[kind]
    entries = json.loads((tmp_path / "catalogue.json").read_text())
    del entries["drive"]["url"]
    entries["drive"]["id"] = "1" * 33
    (tmp_path / "catalogue.json").write_text(json.dumps(entries))
    with drive(tmp_path, body or (weights / "published.pth").read_bytes(), headers) as variables:
        for key, value in variables.items():
            monkeypatch.setenv(key, value)
        status, report, _ = download("drive")
    if kind == "weights":
        assert (status, report["status"]) == (0, "downloaded, verified")
    else:
        assert status == 1
        assert f"Google Drive returned a web page instead of the file (quota, login): {said}" in report["problem"]
        assert f"open https://drive.google.com/file/d/{'1' * 33}/view in a browser" in report["problem"]


def test_another_size_or_checksum_than_the_recorded_one_is_refused(
    tmp_path: Path, site: Site, weights: Path, download: Callable[..., Any]
) -> None:
    size = len(site.content["/drive"])
    for changes, said in (
        ({"size_bytes": size + 1}, f"size_bytes is {size}, expected {size + 1}"),
        ({"size_bytes": size, "sha256": "0" * 64}, f"expected {'0' * 64}"),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        status, report, _ = download("drive", catalogue=catalogue(tmp_path / "other", site, weights, **changes))
        assert (status, files(tmp_path / "out")) == (1, set())
        assert said in report["problem"]


def test_a_damaged_file_that_is_there_already_is_named_and_kept(tmp_path: Path, download: Callable[..., Any]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/drive.pth").write_bytes(b"my own notes")
    status, report, _ = download("drive")
    assert status == 1
    assert "The file existed already: move it away to download it again" in report["problem"]
    assert (tmp_path / "out/drive.pth").read_bytes() == b"my own notes"


def test_without_a_way_to_the_server_the_reason_and_the_steps_by_hand_are_said(
    tmp_path: Path, site: Site, weights: Path, download: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del site.content["/group/tiny/resolve/main/model.safetensors"]
    status, report, _ = download("hub")
    assert status == 1
    assert "404" in report["problem"]
    assert "python models/convert.py model.safetensors" in report["problem"]
    nobody = "http://127.0.0.1:9"
    site.address = nobody
    path = catalogue(tmp_path, site, weights)
    status, report, _ = download("drive", catalogue=path)
    assert status == 1
    assert f"{nobody}/drive: cannot be reached: Connection refused. Manual download: open {nobody}" in report["problem"]
    assert f"save the file as {tmp_path}/out/drive.pth and run" in report["problem"]
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    status, report, _ = download("hub")
    assert status == 1
    assert f"{nobody}/group/tiny/resolve/main/model.safetensors: cannot be reached: Conn" in report["problem"]
    assert "Manual download: get https://huggingface.co/group/tiny/resolve/main/model.safetensors" in report["problem"]


def test_the_shipped_catalogue_lists_the_published_sources_from_any_folder(tmp_path: Path) -> None:
    script = str(REPOSITORY / "models/download.py")
    listed = subprocess.run([sys.executable, script, "--list"], cwd=tmp_path, capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    for part in ("1tEhLyskjb755TJ65ptsrafUG2llSwQE1", "MCG-NJU/videomae-base", "CC BY-NC 4.0"):
        assert part in listed.stdout


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {"file": "a.pth"}}', None])
def test_a_catalogue_that_is_none_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "catalogue.json").write_text(content)
    assert main(["a", "--catalogue", str(tmp_path / "catalogue.json")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/catalogue.json: ")


def test_an_unknown_name_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vit-b"]) == 1
    assert f"no entry 'vit-b' in {REPOSITORY}/models/catalogue.json; " in (said := capsys.readouterr().err)
    assert "kinetics400-vitb-1600, kinetics400-vitb-1600-huggingface" in said

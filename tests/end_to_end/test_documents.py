"""The documents: their commands run as printed, their links, commands and flags exist."""

from __future__ import annotations

import ast
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_runs import TinyRuns

from VideoMAE import cli
from VideoMAE.cli import COMMANDS
from VideoMAE.config import REFUSED_FLAGS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
DOCUMENTS = [
    *PAGES,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "models/README.md",
    REPOSITORY / "tests/benchmarks/README.md",
]
BIN = Path(sys.executable).parent
# What a block marked `<!-- needs: REASON -->` needs that a test cannot provide.
REASONS = {
    "VCE": "the published dataset or weights, and a GPU",
    "V2V": "the published dataset or weights, and a GPU",
    "Slurm": "a cluster",
    "network": "a download or an upload",
    "browser": "a server that runs until it is stopped",
    "setup": "a new virtual environment, or a new clone",
}
MAX_README_LINES = 200
MAX_LINE_LENGTH = 160
# Flags of programs that are not the project's, as the documents use them.
FOREIGN_FLAGS = {
    "--nodes",
    "--signal",  # sbatch, scancel
    "--init",
    "--checkout",  # git submodule update
}


class Block(NamedTuple):
    """A fenced block of a document: the line of its fence, its language, the reason not to run it, and its text."""

    line: int
    language: str
    reason: str | None
    text: str


def name_of(document: Path) -> str:
    """`docs/use.md`"""
    return str(document.relative_to(REPOSITORY))


def blocks_of(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    blocks: list[Block] = []
    lines = document.read_text(encoding="utf-8").splitlines()
    fence: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if fence is None:
            fence = number
            continue
        needs = re.fullmatch(r"<!-- needs: (.*) -->", lines[fence - 1])
        text = "\n".join(lines[fence + 1 : number]) + "\n"
        blocks.append(Block(fence + 1, lines[fence][3:], needs and needs[1], text))
        fence = None
    return blocks


def prose_of(document: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def material(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documents assume: the repository's folders, the quickstart's sample and runs, and a user's own files."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("scripts", "data_prep", "models", "tests", "VideoMAE", "constraints.txt"):
        (folder / name).symlink_to(REPOSITORY / name)
    make_sample = [sys.executable, REPOSITORY / "data_prep/make_sample.py", "--output_dir", folder / "sample"]
    subprocess.run([*make_sample, "--num_train", "8", "--num_test", "4"], check=True, capture_output=True)
    videos = sorted((folder / "sample/vce_dataset/videos").iterdir())
    for name in ("sample/vce_dataset/videos/00259.mp4", "my_video.mp4"):
        shutil.copy(videos[0], folder / name)
    (folder / "films").mkdir()
    rows = [["path", "calm", "joy", "fear"]]
    for number, video in enumerate(videos[:8]):
        shutil.copy(video, folder / f"films/{number:02d}.mp4")
        rows.append([f"{number:02d}.mp4", *[f"{0.1 + (number * step % 10) / 12:.1f}" for step in (1, 3, 7)]])
    with (folder / "ratings.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture
def work(material: Path, tiny_runs: TinyRuns, tmp_path: Path) -> Path:
    """A page's working folder, in which its blocks may write."""
    shutil.copytree(material, tmp_path / "work", symlinks=True)
    for name, run in {"quickstart_vce": tiny_runs.vce, "quickstart_v2v": tiny_runs.v2v}.items():
        shutil.copytree(run, tmp_path / "work/output" / name)
    return tmp_path / "work"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_run_as_printed(page: Path, work: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(BIN.parent),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    interpreters = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": ["python", "-c"]}
    for block in blocks_of(page):
        if block.language not in interpreters or block.reason is not None:
            continue
        command = [*interpreters[block.language], block.text]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{name_of(page)}, line {block.line}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_that_do_not_run_have_one_of_the_known_reasons(page: Path) -> None:
    assert {block.reason for block in blocks_of(page)} <= {None, *REASONS}
    marks = page.read_text(encoding="utf-8").count("<!-- needs: ")
    assert marks == sum(block.reason is not None for block in blocks_of(page))


def anchors_of(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose_of(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_lead_to_files_and_headings(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target


def test_every_page_is_linked_from_the_index_and_the_readme_links_the_index() -> None:
    index = (REPOSITORY / "docs/README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page.name != "README.md" and f"({page.name})" not in index] == []
    assert "(docs/README.md)" in PAGES[0].read_text(encoding="utf-8")


def test_the_readme_is_short_and_lines_are_of_readable_length() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
    long = [
        f"{page.name}:{number}"
        for page in PAGES
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > MAX_LINE_LENGTH
    ]
    assert long == []


def test_documented_commands_exist() -> None:
    named = {
        (name, name_of(document))
        for document in DOCUMENTS
        for name in re.findall(r"\bemodiversity ([a-z][a-z0-9-]*)", document.read_text(encoding="utf-8"))
    }
    assert named
    assert [entry for entry in sorted(named) if entry[0] not in COMMANDS] == []


def flags_in(text: str) -> set[str]:
    """The long flags in a text."""
    return set(re.findall(r"(?<![\w-])--[a-z]\w*", text))


def flags_in_help(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The flags of `emodiversity COMMAND`."""
    monkeypatch.setattr(sys, "argv", ["emodiversity", command, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    return flags_in(capsys.readouterr().out)


def flags_of_main(program: Path) -> set[str]:
    """The flags that tyro makes of the arguments of a program's `main`."""
    functions = [
        node for node in ast.parse(program.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
    ]
    return {f"--{argument.arg}" for main in functions if main.name == "main" for argument in main.args.kwonlyargs}


def test_documented_flags_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"--help", *FOREIGN_FLAGS, *REFUSED_FLAGS}
    known |= {flag for command in COMMANDS for flag in flags_in_help(command, capsys, monkeypatch)}
    for program in (REPOSITORY / "tests/benchmarks").glob("*.py"):
        known |= flags_of_main(program)
    for program in [*(REPOSITORY / "scripts").glob("*.sh"), REPOSITORY / "tests/faults/table.py"]:
        known |= flags_in(program.read_text(encoding="utf-8"))
    documented = {name_of(document): flags_in(document.read_text(encoding="utf-8")) for document in DOCUMENTS}
    assert {name: sorted(flags - known) for name, flags in documented.items() if flags - known} == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_documented_modules_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    files = set(re.findall(r"\b(?:VideoMAE|data_prep|models|scripts|tests)/[\w/]+\.(?:py|sh|sbatch)\b", text))
    assert [name for name in sorted(files) if not (REPOSITORY / name).exists()] == []
    packages = "|".join(path.parent.name for path in sorted((REPOSITORY / "VideoMAE").glob("*/__init__.py")))
    modules = set(re.findall(rf"`((?:{packages})\.[a-z]\w*)", text))
    assert [
        name for name in sorted(modules) if not (REPOSITORY / f"VideoMAE/{name.replace('.', '/')}.py").exists()
    ] == []


def test_the_map_in_the_readme_has_every_file_and_folder_of_the_package() -> None:
    (code_map,) = [block.text for block in blocks_of(PAGES[0]) if block.text.startswith("VideoMAE/")]
    listed = set(re.findall(r"[\w]+\.py|\w+/", code_map))
    expected = {path.name for path in (REPOSITORY / "VideoMAE").glob("*.py")} - {"__init__.py"}
    expected |= {f"{path.parent.name}/" for path in (REPOSITORY / "VideoMAE").glob("*/__init__.py")}
    assert sorted(expected - listed) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_removed_options_are_not_mentioned(document: Path) -> None:
    text = document.read_text(encoding="utf-8").lower()
    assert [name for name in ("torchcodec", "device_augment") if name in text] == []

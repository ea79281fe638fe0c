"""How every program starts and ends, the command `emodiversity`, and the package that carries both."""

import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import VideoMAE
from VideoMAE import cli
from VideoMAE.cli import COMMANDS, UsageError

REPOSITORY = Path(__file__).resolve().parents[1]

LOGGING_PROGRAM = """
import logging, sys
from VideoMAE.cli import show_messages
show_messages(sys.stdout)
torch = logging.getLogger("torch._subclasses.fake_tensor")
torch.setLevel(logging.NOTSET)  # its level until all of torch is imported
torch.info("FakeTensor cache stats:")
torch.warning("a warning of torch")
logging.getLogger("VideoMAE.inference.predictor").info("3 videos")
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Something to run."""

    count: int = 1
    """A number."""


def test_torchs_notes_are_hidden_and_its_warnings_and_our_notes_are_shown() -> None:
    command = [sys.executable, "-c", LOGGING_PROGRAM]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a warning of torch\n3 videos\n", "")


@pytest.mark.parametrize(("result", "status"), [(None, 0), (True, 0), (False, 1), ("text", 0)])
def test_the_exit_status_is_1_only_if_the_work_returns_false(result: object, status: int) -> None:
    assert cli.run(lambda settings: result, Settings, []) == status


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("--count 0: must be above 0"), 1, "error: --count 0: must be above 0\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (UsageError("--a and --b need each other"), 2, "error: --a and --b need each other; see --help\n"),
        (KeyboardInterrupt(), 130, "error: stopped; results are kept\n"),
    ],
    ids=["ValueError", "OSError", "UsageError", "Ctrl-C"],
)
def test_an_error_is_one_line_with_its_exit_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(settings: Settings) -> None:
        raise error

    assert cli.run(fail, Settings, [], when_stopped="results are kept") == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_work_with_status_130_and_the_previous_handler_returns(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    assert cli.run(lambda settings: os.kill(os.getpid(), number), Settings, []) == 130
    assert signal.getsignal(number) is before


def test_an_unexpected_exception_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda settings: 1 // 0, Settings, [])


def test_wrong_flags_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda settings: None, Settings, ["--counts", "3"])
    assert ended.value.code == 2
    assert "--counts" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_its_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["emodiversity", command, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert f"usage: emodiversity {command} " in capsys.readouterr().out


def test_help_into_a_pipe_that_is_closed_has_no_traceback() -> None:
    command = f"{shlex.quote(sys.executable)} -m VideoMAE.run_class_finetuning --help | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


HELP_OF_ALL = """
import sys
from VideoMAE import cli
for command in cli.COMMANDS:
    sys.argv = ["emodiversity", command, "--help"]
    try:
        cli.main()
    except SystemExit:
        pass
sys.stderr.write(" ".join(sorted({"torch", "timm", "transformers", "gradio", "deepspeed"} & sys.modules.keys())))
"""


def test_no_help_imports_a_package_that_takes_seconds() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("usage: emodiversity ") == len(COMMANDS)
    assert done.stderr == ""


def test_the_command_lists_all_commands_and_rejects_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["emodiversity"])
    assert cli.main() == 0
    listed = capsys.readouterr().out
    assert all(f"  {command} " in listed for command in COMMANDS)
    monkeypatch.setattr(sys, "argv", ["emodiversity", "tran-vce"])
    assert cli.main() == 2
    assert capsys.readouterr().err.startswith("error: unknown command tran-vce\n")
    monkeypatch.setattr(sys, "argv", ["emodiversity", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"emodiversity {VideoMAE.__version__}\n"


def test_every_program_file_has_a_command() -> None:
    programs = [path for folder in ("data_prep", "models") for path in (REPOSITORY / folder).glob("*.py")]
    targets = {re.search(r"Runs (\S+); see --help", path.read_text(encoding="utf-8"))[1] for path in programs}  # type: ignore[index]
    commands = {target.replace(":", ".") for target, _ in COMMANDS.values()}
    assert len(targets) == len(programs) and targets <= commands


def test_one_is_singular() -> None:
    assert [cli.counted(number, "video") for number in (0, 1, 1234)] == ["0 videos", "1 video", "1,234 videos"]


def test_a_wheel_contains_the_package_its_data_and_its_dependencies(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build leaves files in its folder
    for name in ("VideoMAE", "models"):
        ignored = shutil.ignore_patterns("__pycache__", "*.pth", "*.egg-info")
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "README.md"):
        shutil.copy(REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*build, str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("emodiversity-*.whl")
    assert wheel.name.startswith(f"emodiversity-{VideoMAE.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        text = archive.read(metadata).decode()
    modules = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "VideoMAE").rglob("*")
        if path.suffix in (".py", ".html", ".css")
        and not {"scripts", "models"} & set(path.relative_to(REPOSITORY).parts)
    }
    packed = {name for name in names if name.startswith("VideoMAE/")}
    assert packed == modules | {"VideoMAE/models/catalogue.json"}
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for name in (line.split(">=")[0] for line in lines if line and not line.startswith("#")):
        assert f"Requires-Dist: {name}>=" in text

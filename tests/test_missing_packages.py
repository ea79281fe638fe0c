"""What a user without the project's environment is told."""

import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

import VideoMAE

REPOSITORY = Path(__file__).resolve().parents[1]
WITHOUT_PACKAGES = [sys.executable, "-S"]  # -S: this interpreter without its site-packages
OPTIONAL = {"deepspeed", "decord", "decord2"}  # programs run without them
PROGRAMS = sorted(
    path.relative_to(REPOSITORY)
    for folder in ("VideoMAE", "data_prep", "models")
    for path in (REPOSITORY / folder).glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8") and path.name != "launch.py"
)


def complaint_of(*command: str, cwd: Path = REPOSITORY) -> str:
    done = subprocess.run([*WITHOUT_PACKAGES, *command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_program_without_its_packages_says_in_one_sentence_what_to_run(program: Path, tmp_path: Path) -> None:
    sentence = complaint_of(str(REPOSITORY / program), "--help", cwd=tmp_path)
    assert sentence.startswith(f"error: {sys.executable} has no package ") and sentence.count("\n") == 1
    assert f"source {REPOSITORY}/.venv/bin/activate" in sentence
    if program.parent.name == "VideoMAE":
        assert complaint_of("-m", f"VideoMAE.{program.stem}", "--help") == sentence


def test_there_are_programs_to_test() -> None:
    assert len(PROGRAMS) >= 18


def test_a_users_own_program_gets_the_same_sentence_as_an_import_error() -> None:
    assert "\nImportError: " in complaint_of("-c", "import VideoMAE")


@pytest.mark.parametrize("is_set_up", [True, False])
def test_the_advice_depends_on_whether_the_environment_is_there(
    is_set_up: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoMAE, "REPOSITORY", tmp_path)
    monkeypatch.setattr(VideoMAE, "REQUIRED", ["no_such_package"])
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/quickstart.sh").touch()
    if is_set_up:
        (tmp_path / ".venv/bin").mkdir(parents=True)
        (tmp_path / ".venv/bin/activate").touch()
    with pytest.raises(ImportError, match=r"\.venv/bin/activate'$") as caught:
        VideoMAE.check_packages()
    assert ("quickstart.sh --setup_only" in str(caught.value)) is not is_set_up


def test_an_installed_package_names_the_pip_command_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoMAE, "REPOSITORY", tmp_path)
    monkeypatch.setattr(VideoMAE, "REQUIRED", ["no_such_package"])
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin/emodiversity"), "predict"])
    with pytest.raises(SystemExit) as ended:
        VideoMAE.check_packages()
    command = f"'{sys.executable} -m pip install no_such_package'"
    assert str(ended.value.code).endswith(f"has no package no_such_package: install what is missing with {command}")


def distributions_by_package() -> dict[str, set[str]]:
    """By what is imported, what is installed: importlib.metadata.packages_distributions, which is incomplete before
    Python 3.11."""
    found: dict[str, set[str]] = {}
    for distribution in distributions():
        for top in {file.parts[0].removesuffix(".py") for file in distribution.files or ()}:
            found.setdefault(top, set()).add(distribution.metadata["Name"])
    return found


def test_the_required_packages_are_those_of_requirements_txt() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    named = {re.split(r"[>=<;]", line)[0].strip().lower() for line in lines if line and not line.startswith("#")}
    installed = distributions_by_package()
    required = {name.lower() for package in VideoMAE.REQUIRED for name in installed[package]}
    assert required & named == named - OPTIONAL
    assert all(named & {name.lower() for name in installed[package]} for package in VideoMAE.REQUIRED)

"""Rules of the repository: the direction of imports, which module may import what, and style."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "VideoMAE"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if not {"scripts", "models"} & set(path.parts))
PROGRAMS = sorted([*(REPOSITORY / "data_prep").rglob("*.py"), *(REPOSITORY / "models").rglob("*.py")])
ENTRY_POINTS = ("run_class_finetuning", "run_v2v_finetuning", "predict", "extract_features", "report", "demo")
# From the bottom to the top: a module imports its own layer and those above it in this list, never those below.
LAYERS = (
    # clip_sampling is arithmetic on frame numbers
    ("VideoMAE.runtime", "VideoMAE.files", "VideoMAE.cli", "VideoMAE.data.clip_sampling"),
    ("VideoMAE.video",),
    ("VideoMAE.data", "VideoMAE.augment"),
    ("VideoMAE.config", "VideoMAE.modeling_finetune", "VideoMAE.optim_factory"),
    tuple(
        f"VideoMAE.training.{name}"
        for name in (
            "backends",
            "checkpoint",
            "feature_store",
            "metric_logger",
            "metrics",
            "pretrained",
            "results",
            "tasks",
        )
    ),
    ("VideoMAE.engine_for_finetuning",),
    ("VideoMAE.training", "VideoMAE.checkpoints"),
    ("VideoMAE.inference", "VideoMAE.reporting"),
    ("VideoMAE.dataset_tools", "VideoMAE.demo_app"),
    tuple(f"VideoMAE.{name}" for name in ENTRY_POINTS),
    ("data_prep", "models"),
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def layer_of(name: str) -> int:
    """The lowest layer that lists the module or a package of it; -1 for the package itself and its `__init__`."""
    layers = [n for n, prefixes in enumerate(LAYERS) for p in prefixes if name == p or name.startswith(p + ".")]
    assert layers or name == "VideoMAE", f"{name} is in no layer"
    return min(layers, default=-1)


def imports(path: Path) -> Iterator[str]:
    """Full names of everything a module imports, wherever in the module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(*prefixes: str) -> set[str]:
    """Modules of the package that import one of these or something inside."""
    return {
        module_name(path)
        for path in MODULES
        if any(name == prefix or name.startswith(prefix + ".") for name in imports(path) for prefix in prefixes)
    }


def test_only_video_imports_a_decoder() -> None:
    assert not {name for name in importers("decord", "av") if not name.startswith("VideoMAE.video.")}


def test_only_backends_and_the_deepspeed_format_import_deepspeed_and_only_when_asked() -> None:
    assert importers("deepspeed") == {"VideoMAE.training.backends", "VideoMAE.checkpoints.deepspeed_format"}
    tree = ast.parse((PACKAGE / "training/backends.py").read_text())
    assert not [node for node in tree.body if isinstance(node, ast.Import) and node.names[0].name == "deepspeed"]


def test_only_metric_logger_imports_tensorboardx() -> None:
    assert importers("tensorboardX", "tensorboard") == {"VideoMAE.training.metric_logger"}


def test_only_the_demos_page_imports_gradio() -> None:
    assert importers("gradio", "fastapi", "starlette", "uvicorn") == {"VideoMAE.demo_app.page"}


def test_imports_point_downwards() -> None:
    names = {module_name(path) for path in MODULES if path.name != "__init__.py"}
    upwards = [
        f"{module_name(path)} imports {name}"
        for path in [*MODULES, *PROGRAMS]
        for name in set(imports(path)) & names
        if layer_of(name) > layer_of(module_name(path))
    ]
    assert upwards == []


def test_nothing_imports_an_entry_point() -> None:
    assert importers(*(f"VideoMAE.{name}" for name in ENTRY_POINTS)) == set()


def test_only_the_command_line_and_programs_without_it_read_argv() -> None:
    reading = {path.stem for path in MODULES if "sys.argv" in path.read_text(encoding="utf-8")}
    assert reading == {"run_class_finetuning", "run_v2v_finetuning", "cli", "launch", "__init__"}


def test_only_launch_environment_reads_the_launchers_variables() -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE")
    reading = set()
    for path in MODULES:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        subscripts = [node for node in nodes if isinstance(node, ast.Subscript)]
        written = {node.slice for node in subscripts if isinstance(node.ctx, ast.Store)}
        read = [str(node.value) for node in nodes if isinstance(node, ast.Constant) and node not in written]
        if any(text in names or text.startswith(("SLURM_", "TORCHELASTIC_")) for text in read):
            reading.add(module_name(path))
    assert reading == {"VideoMAE.runtime.launch_environment"}


def test_importing_a_module_has_no_side_effect_on_random_states_or_threads() -> None:
    with_gradio = importers("gradio")  # which draws, and need not be installed: imported when the page is served
    names = [name for name in map(module_name, MODULES) if name not in with_gradio]
    code = (
        "import torch, numpy, random; before = torch.get_rng_state(), numpy.random.get_state()[1].tolist(), "
        "random.getstate(), torch.get_num_threads(), torch.distributed.is_initialized()\n"
        f"for name in {names!r}: __import__(name)\n"
        "after = torch.get_rng_state(), numpy.random.get_state()[1].tolist(), random.getstate(), "
        "torch.get_num_threads(), torch.distributed.is_initialized()\n"
        "assert torch.equal(before[0], after[0]) and before[1:] == after[1:]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are neither blank, comments, imports nor lone punctuation."""
    kept = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if len(text) > 3 and not text.startswith(("#", "import ", "from ", '"""')):
            kept.append((number, text))
    return kept


def test_no_block_of_8_lines_stands_twice() -> None:
    places = defaultdict(list)
    for path in MODULES:  # the programs are one launcher each
        lines = code_lines(path)
        for start in range(len(lines) - 7):
            block = tuple(text for _, text in lines[start : start + 8])
            places[block].append(f"{path.relative_to(REPOSITORY)}:{lines[start][0]}")
    assert not [found for found in places.values() if len(found) > 1]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_style_and_types_are_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_shell_scripts_are_clean_and_strict() -> None:
    scripts = [*sorted((REPOSITORY / "scripts").rglob("*.s*")), REPOSITORY / ".ci/run"]
    assert {script.suffix for script in scripts} == {".sh", ".sbatch", ""}
    done = subprocess.run(
        ["shellcheck", "--external-sources", *map(str, scripts)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert "set -euo pipefail" in text or "sourced" in text, script


def test_the_repository_tracks_no_large_file_and_no_weights() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    assert not [file for file in files if file.is_file() and file.stat().st_size > 3_000_000]
    assert not [file for file in files if file.suffix in (".pth", ".pt", ".mp4", ".safetensors")]


def test_the_original_paths_lead_to_scripts_and_models() -> None:
    assert (PACKAGE / "scripts").resolve() == REPOSITORY / "scripts"
    assert (PACKAGE / "models").resolve() == REPOSITORY / "models"

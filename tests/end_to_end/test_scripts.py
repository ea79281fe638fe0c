"""The scripts people type: settings from the environment, one sentence when they cannot go on, the last flag wins."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from script_runs import run_script
from tiny_runs import TinyRuns
from vce_files import make_vce_folder

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = shlex.split("""
    --model vit_micro_patch16_224 --num_frames 8 --input_size 32 --short_side_size 32 --num_workers 0 --device cpu
""")
TRAINING = ["--aa", "none", "--epochs", "1", "--warmup_epochs", "0", "--no_enable_deepspeed"]


@pytest.mark.parametrize(
    "script", ["finetune_vce.sh", "evaluate_vce.sh", "finetune_v2v.sh", "evaluate_v2v.sh", "quickstart.sh", "test.sh"]
)
def test_help_says_how_to_call(script: str) -> None:
    done = run_script(script, "--help")
    assert done.returncode == 0
    assert f"bash scripts/{script}" in done.stdout
    assert "shellcheck" not in done.stdout


@pytest.mark.parametrize(
    ("script", "settings", "expected"),
    [
        ("finetune_vce.sh", {}, "error: DATA_PATH is not set: edit it at the top of"),
        ("finetune_vce.sh", {"DATA_PATH": "/absent"}, "error: DATA_PATH=/absent: no such file or folder"),
        ("finetune_vce.sh", {"DATA_PATH": "/tmp"}, "error: MODEL_PATH is not set"),
        (
            "finetune_vce.sh",
            {"DATA_PATH": "/tmp", "MODEL_PATH": "/absent.pth"},
            "error: MODEL_PATH=/absent.pth: no such",
        ),
        ("finetune_vce.sh", {"DATA_PATH": "/tmp", "MODEL_PATH": "none"}, "error: OUTPUT_DIR is not set"),
        (
            "finetune_vce.sh",
            {"DATA_PATH": "/tmp", "MODEL_PATH": "none", "OUTPUT_DIR": "/tmp/x", "RECIPE": "both"},
            "error: RECIPE=both: must be intensities or classes",
        ),
        (
            "finetune_vce.sh",
            {"DATA_PATH": "/tmp", "MODEL_PATH": "none", "OUTPUT_DIR": "/tmp/x", "NUM_PROCESSES": "3"},
            "error: TOTAL_BATCH=8 is not divisible by 3 processes",
        ),
        (
            "finetune_vce.sh",
            {"DATA_PATH": "/tmp", "MODEL_PATH": "none", "OUTPUT_DIR": "/tmp/x", "NUM_PROCESSES": "two"},
            "error: NUM_PROCESSES=two: must be a positive integer",
        ),
        (
            "finetune_v2v.sh",
            {"DATA_PATH": "/tmp", "MODEL_PATH": "none", "OUTPUT_DIR": "/tmp/x", "TOTAL_BATCH": "0"},
            "error: TOTAL_BATCH=0: must be a positive integer",
        ),
        (
            "finetune_v2v.sh",
            {
                "DATA_PATH": "/tmp",
                "MODEL_PATH": "none",
                "OUTPUT_DIR": "/tmp/x",
                "NUM_PROCESSES": "2",
                "SLURM_STEP_NUM_TASKS": "4",
            },
            "error: NUM_PROCESSES=2 but srun started 4 tasks: ask Slurm for one task per process",
        ),
        ("evaluate_vce.sh", {"DATA_PATH": "/tmp"}, "error: MODEL_PATH is not set"),
        (
            "finetune_vce.sh",
            {"DATA_PATH": "/tmp", "MODEL_PATH": "none", "OUTPUT_DIR": "/tmp/x", "PYTHON": "/bin/false"},
            "error: /bin/false has no torch",
        ),
        ("quickstart.sh", {"PYTHON": "no-such-python"}, "error: no-such-python is missing: install it"),
    ],
)
def test_what_is_not_set_or_missing_is_one_sentence(script: str, settings: dict[str, str], expected: str) -> None:
    done = run_script(script, **settings)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith(expected)


@pytest.mark.parametrize(
    ("version", "status", "said"),
    [
        ((3, 9, 18), 1, "but Python 3.10 or later is needed: set PYTHON=/path/to/python3.11"),
        ((3, 10, 0), 0, ""),
        ((3, 13, 5), 0, ""),
        ((3, 15, 0), 0, "is untested (3.10 to 3.13 are tested)"),
    ],
)
def test_the_set_up_takes_python_3_10_and_later_and_warns_of_an_untested_one(
    version: tuple[int, ...], status: int, said: str, tmp_path: Path
) -> None:
    python = tmp_path / "python"  # this interpreter, but for the version that it states
    python.write_text(
        "#!/bin/sh\n"
        f'case "$2" in *version_info*) set -- -c "import sys; sys.version_info = {version}; $2" ;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to("/bin/true")  # stands for an environment into which all is installed
    done = run_script("quickstart.sh", "--setup_only", PYTHON=str(python), VENV=str(tmp_path / "venv"))
    assert done.returncode == status
    assert said in done.stderr and bool(said) == bool(done.stderr), done.stderr


def test_an_unknown_flag_is_refused_by_name(tmp_path: Path) -> None:
    settings = {"DATA_PATH": "/tmp", "MODEL_PATH": "none", "OUTPUT_DIR": str(tmp_path / "run")}
    done = run_script("finetune_vce.sh", "--learning_rate", "1", **settings)
    assert done.returncode == 2
    assert "--learning_rate" in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()


def test_fine_tuning_and_evaluating_from_another_folder_agree_and_the_last_flag_wins(tmp_path: Path) -> None:
    data = make_vce_folder(tmp_path / "data", 10, 3)
    run = {"DATA_PATH": str(data), "MODEL_PATH": "none", "OUTPUT_DIR": "run", "NUM_PROCESSES": "1"}
    done = run_script("finetune_vce.sh", *SMALL, *TRAINING, "--lr", "1e-2", "--lr", "2e-2", cwd=tmp_path, **run)
    assert done.returncode == 0, done.stderr[-2000:]
    settings = json.loads((tmp_path / "run/config.json").read_text())
    assert settings["optim"]["lr"] == 2e-2
    assert settings["optim"]["batch_size"] == 8
    assert settings["loss"] == "bce"
    assert settings["model"]["model"] == "vit_micro_patch16_224"
    test = {**run, "MODEL_PATH": "run/checkpoint-best.pth", "OUTPUT_DIR": "eval"}
    done = run_script("evaluate_vce.sh", "--num_workers", "0", "--device", "cpu", cwd=tmp_path, **test)
    assert done.returncode == 0, done.stderr[-2000:]
    trained, tested = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("run", "eval"))
    assert trained == tested


def test_the_quickstart_ends_with_commands_that_run_as_they_stand_from_any_folder(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    work = tmp_path / "it's a test; $HOME"
    (work / "elsewhere").mkdir(parents=True)
    for name, path in zip(("vce", "v2v", "video.mp4"), (*tiny_runs, tiny_runs.vce_videos / "50000.mp4"), strict=True):
        (work / name).symlink_to(path)
    code = f"set -euo pipefail; . {REPOSITORY}/scripts/lib/common.sh; show_uses video.mp4 ./vce v2v/"
    done = subprocess.run(
        ["bash", "-c", code], cwd=work, env={**os.environ, "VENV": sys.prefix}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    arguments = [shlex.split(line)[1:] for line in shown]
    runs = [str(work / "vce"), str(work / "v2v")]
    assert arguments == [
        ["predict", str(work / "video.mp4"), "--checkpoint", *runs],
        ["report", runs[0]],
        ["report", runs[1]],
        ["-m", "pip", "install", "--quiet", "gradio", "-c", str(REPOSITORY / "constraints.txt")],
        ["demo", "--checkpoint", *runs],
    ]
    predicted = subprocess.run(shown[0], shell=True, cwd=work / "elsewhere", capture_output=True, text=True)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout.startswith(f"{work}/video.mp4: 4.0 s, pleasantness ")


def arguments_given_to_python(script: Path, tmp_path: Path, **settings: str) -> list[str]:
    """What a script would run, from a stand-in for the interpreter that only says its arguments."""
    (tmp_path / "python").write_text('#!/bin/sh\n[ "$1" = -c ] || { pwd; echo "$PYTHONPATH"; echo "$@"; }\n')
    (tmp_path / "python").chmod(0o755)
    required = {"DATA_PATH": "/tmp", "MODEL_PATH": "none", "OUTPUT_DIR": str(tmp_path / "run")}
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "PYTHONPATH")}
    done = subprocess.run(
        ["bash", str(script)],
        cwd=tmp_path,
        env={**environment, **required, "PYTHON": str(tmp_path / "python"), **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_PROCID": "1", "CUDA_VISIBLE_DEVICES": "0,1"}


def test_a_task_of_srun_is_one_process_of_as_many_as_there_are_tasks_on_all_nodes(tmp_path: Path) -> None:
    said = arguments_given_to_python(REPOSITORY / "scripts/finetune_vce.sh", tmp_path, **SRUN)
    assert said[2:4] == ["-m", "VideoMAE.run_class_finetuning"]
    assert said[said.index("--batch_size") + 1] == "2"


def test_torchrun_inside_tasks_of_srun_says_how_many_processes_there_are(tmp_path: Path) -> None:
    launched = {**SRUN, "RANK": "5", "WORLD_SIZE": "8"}
    said = arguments_given_to_python(REPOSITORY / "scripts/finetune_vce.sh", tmp_path, **launched)
    assert said[2:4] == ["-m", "VideoMAE.run_class_finetuning"]
    assert said[said.index("--batch_size") + 1] == "1"


@pytest.mark.parametrize("settings", [{"SLURM_NTASKS": "4"}, {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}])
def test_a_shell_of_slurm_and_a_single_task_start_torchrun_for_their_gpus(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_PROCID": "0"}
    said = arguments_given_to_python(REPOSITORY / "scripts/finetune_vce.sh", tmp_path, **visible, **settings)
    assert said[2:6] == ["-m", "VideoMAE.runtime.launch", "--standalone", "--nproc_per_node=2"]
    assert said[said.index("--batch_size") + 1] == "4"


@pytest.mark.parametrize("name", ["finetune_vce.sh", "finetune_v2v.sh"])
def test_scripts_work_through_the_original_path_and_as_a_copy_elsewhere(tmp_path: Path, name: str) -> None:
    said = arguments_given_to_python(REPOSITORY / "VideoMAE/scripts" / name, tmp_path)
    assert said[1] == str(REPOSITORY)
    copy = tmp_path / "slurm_script"
    copy.write_text((REPOSITORY / "scripts" / name).read_text())
    said = arguments_given_to_python(copy, tmp_path, REPO_PATH=str(REPOSITORY))
    assert said[1] == str(REPOSITORY)


@pytest.mark.parametrize(("visible", "processes"), [("", 1), ("0,1", 2), ("GPU-a", 1)])
def test_processes_are_as_many_as_visible_gpus(tmp_path: Path, visible: str, processes: int) -> None:
    said = arguments_given_to_python(REPOSITORY / "scripts/finetune_vce.sh", tmp_path, CUDA_VISIBLE_DEVICES=visible)
    assert (f"--nproc_per_node={processes}" in said) == (processes > 1)
    assert said[said.index("--batch_size") + 1] == str(8 // processes)


@pytest.mark.parametrize(("processes", "batch_size", "update_freq"), [("1", 8, 4), ("4", 8, 1), ("8", 4, 1)])
def test_the_classes_recipe_keeps_its_total_batch_on_1_4_and_8_processes(
    tmp_path: Path, processes: str, batch_size: int, update_freq: int
) -> None:
    # RANK makes the script think that torchrun started it.
    launched = {"RECIPE": "classes", "WORLD_SIZE": processes, "RANK": "0"}
    said = arguments_given_to_python(REPOSITORY / "scripts/finetune_vce.sh", tmp_path, **launched)
    assert said[said.index("--batch_size") + 1] == str(batch_size)
    assert said[said.index("--update_freq") + 1] == str(update_freq)
    assert said[said.index("--mixup") + 1] == "0.8"
    assert said[said.index("--train_fps") + 1] == "None"


@pytest.mark.parametrize("name", ["finetune_vce.sbatch", "finetune_v2v.sbatch"])
def test_an_sbatch_file_that_bash_runs_says_to_submit_it(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("REPO_PATH", "SLURM_SUBMIT_DIR")}
    done = subprocess.run(["bash", str(REPOSITORY / "scripts" / name)], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("submit this file with sbatch\n")


def test_the_sbatch_files_hold_no_flags_of_training_and_differ_in_names_only() -> None:
    vce, v2v = ((REPOSITORY / f"scripts/finetune_{name}.sbatch").read_text() for name in ("vce", "v2v"))
    assert "    --" not in vce.split("set -euo pipefail")[1]
    different = [(a, b) for a, b in zip(vce.splitlines(), v2v.splitlines(), strict=True) if a != b]
    same = [a.replace("VCE", "V2V").replace("_vce", "_v2v") == b for a, b in different]
    assert same.count(False) == 2  # the remark on the total batch, and the processor cores

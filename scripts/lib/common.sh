# shellcheck shell=bash
# Functions shared by the scripts; to be sourced. Expects `set -euo pipefail`; sets REPO_PATH and VENV.

REPO_PATH="${REPO_PATH:-$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}" # -P: VideoMAE/scripts is a link
VENV="${VENV:-$REPO_PATH/.venv}"

# DeepSpeed compiles an extension at its first start; storing it in the environment avoids recompilation.
if [ -d "$VENV" ]; then export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$VENV/torch_extensions}"; fi

# fail MESSAGE: prints an error and exits with status 1.
fail() {
    echo "error: $*" >&2
    exit 1
}

# show_help FILE: prints the comment at the top of a script.
show_help() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1" | sed '/^shellcheck /d'
}

# require_path NAME VALUE: fails unless the setting was edited and the path exists.
require_path() {
    case "$2" in
        "" | /path/to/*) fail "$1 is not set: edit it at the top of $0, or run '$1=... bash $0'" ;;
    esac
    [ -e "$2" ] || fail "$1=$2: no such file or folder"
}

# find_python: prints the interpreter: $PYTHON, or that of the virtual environment, or python3.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    elif [ -x "$VENV/bin/python" ]; then
        echo "$VENV/bin/python"
    else
        echo python3
    fi
}

# require_count NAME VALUE: fails unless the value is a positive integer.
require_count() {
    case "$2" in
        "" | 0* | *[!0-9]*) fail "$1=$2: must be a positive integer" ;;
    esac
}

# num_tasks: prints the number of tasks that srun started; 1 outside of a step, including in sbatch and salloc.
num_tasks() {
    echo "${SLURM_STEP_NUM_TASKS:-1}"
}

# count_processes: prints the number of training processes: the launcher's, $NUM_PROCESSES, one per GPU, or 1.
count_processes() {
    if [ -n "${WORLD_SIZE:-}" ]; then
        echo "$WORLD_SIZE"
    elif [ "$(num_tasks)" -gt 1 ]; then
        [ "${NUM_PROCESSES:-$(num_tasks)}" = "$(num_tasks)" ] ||
            fail "NUM_PROCESSES=$NUM_PROCESSES but srun started $(num_tasks) tasks: ask Slurm for one task per process"
        num_tasks
    elif [ -n "${NUM_PROCESSES:-}" ]; then
        echo "$NUM_PROCESSES"
    elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then # empty: no GPU
        awk -F, '{ print (NF > 0 ? NF : 1) }' <<<"$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
        nvidia-smi -L | grep -c GPU
    else
        echo 1
    fi
}

# show_uses VIDEO VCE_RUN V2V_RUN: prints commands that use the two runs and work in any folder.
show_uses() {
    local bin video vce v2v
    bin="$(realpath -s "$VENV")/bin" # -s: keeps links
    video="$(realpath -s "$1")" vce="$(realpath -s "$2")" v2v="$(realpath -s "$3")"
    echo
    echo "Predict how a video makes its viewer feel (any number of videos and folders):"
    show_line "$bin/emodiversity" predict "$video" --checkpoint "$vce" "$v2v"
    echo "Write a report on each run, in its folder:"
    show_line "$bin/emodiversity" report "$vce"
    show_line "$bin/emodiversity" report "$v2v"
    echo "Serve a web page to try videos; the first line installs Gradio:"
    show_line "$bin/python" -m pip install --quiet gradio -c "$REPO_PATH/constraints.txt"
    show_line "$bin/emodiversity" demo --checkpoint "$vce" "$v2v"
}

# show_line WORDS...: prints a quoted command.
show_line() {
    local line
    printf -v line ' %q' "$@"
    echo "   $line"
}

# run_module MODULE NUM_PROCESSES FLAGS...: runs a module on that many processes, with torchrun unless a launcher has
# started them.
run_module() {
    local module="$1" num_processes="$2" python cores here
    shift 2
    python="$(find_python)"
    "$python" -c 'import sys, importlib.util; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null ||
        fail "$python has no torch: run 'bash $REPO_PATH/scripts/quickstart.sh --setup_only' first, or set PYTHON"
    export PYTHONPATH="$REPO_PATH${PYTHONPATH:+:$PYTHONPATH}"
    case "$python" in */*) PATH="$(dirname "$python"):$PATH" && export PATH ;; esac # ninja for DeepSpeed
    if [ "$(num_tasks)" -gt 1 ]; then
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
    fi
    if [ -z "${OMP_NUM_THREADS:-}" ]; then
        cores="$(nproc 2>/dev/null || echo 1)"
        here="${LOCAL_WORLD_SIZE:-$num_processes}" # torchrun's number of processes on this machine
        export OMP_NUM_THREADS="$((cores > here ? cores / here : 1))"
    fi
    if [ -n "${RANK:-}" ] || [ "$(num_tasks)" -gt 1 ] || [ "$num_processes" -eq 1 ]; then
        exec "$python" -m "$module" "$@"
    fi
    exec "$python" -m VideoMAE.runtime.launch --standalone --nproc_per_node="$num_processes" -m "$module" "$@"
}

# shellcheck shell=bash
# What the scripts share: sourced, never run. Expects `set -euo pipefail`; sets REPO_PATH and VENV.

REPO_PATH="${REPO_PATH:-$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}" # -P: VideoMAE/scripts is a link
VENV="${VENV:-$REPO_PATH/.venv}"

# DeepSpeed compiles an extension at its first start: kept per environment, since another one's would be compiled anew.
if [ -d "$VENV" ]; then export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$VENV/torch_extensions}"; fi

# fail MESSAGE: says why and ends with status 1.
fail() {
    echo "error: $*" >&2
    exit 1
}

# show_help FILE: prints the comment at the top of a script.
show_help() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$1" | sed '/^shellcheck /d'
}

# require_path NAME VALUE: the setting must have been edited and exist.
require_path() {
    case "$2" in
        "" | /path/to/*) fail "$1 is not set: edit it at the top of $0, or run '$1=... bash $0'" ;;
    esac
    [ -e "$2" ] || fail "$1=$2: there is no such file or folder"
}

# find_python: the interpreter to run: $PYTHON, else the virtual environment's, else python3.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    elif [ -x "$VENV/bin/python" ]; then
        echo "$VENV/bin/python"
    else
        echo python3
    fi
}

# require_count NAME VALUE: a whole number from 1 on.
require_count() {
    case "$2" in
        "" | 0* | *[!0-9]*) fail "$1=$2: it is a whole number from 1 on" ;;
    esac
}

# num_tasks: how many tasks the srun around this one started; 1 outside of a step, in sbatch and salloc too.
num_tasks() {
    echo "${SLURM_STEP_NUM_TASKS:-1}"
}

# count_processes: how many processes train: the launcher's number, $NUM_PROCESSES, every GPU, or one.
count_processes() {
    if [ -n "${WORLD_SIZE:-}" ]; then
        echo "$WORLD_SIZE"
    elif [ "$(num_tasks)" -gt 1 ]; then
        [ "${NUM_PROCESSES:-$(num_tasks)}" = "$(num_tasks)" ] ||
            fail "NUM_PROCESSES=$NUM_PROCESSES but srun started $(num_tasks) tasks: ask Slurm for one task per process"
        num_tasks
    elif [ -n "${NUM_PROCESSES:-}" ]; then
        echo "$NUM_PROCESSES"
    elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then # set and empty hides every GPU
        awk -F, '{ print (NF > 0 ? NF : 1) }' <<<"$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
        nvidia-smi -L | grep -c GPU
    else
        echo 1
    fi
}

# show_uses VIDEO VCE_RUN V2V_RUN: what to type next; each line runs as it is, in any folder.
show_uses() {
    local python video vce v2v
    python="$(find_python)"
    case "$python" in */*) python="$(realpath -s "$python")" ;; esac # -s: a virtual environment's python is a link
    video="$(realpath -s "$1")" vce="$(realpath -s "$2")" v2v="$(realpath -s "$3")"
    echo
    echo "What viewers feel in a video, by these two runs (as many videos and folders as you like):"
    show_line "$python" "$REPO_PATH/VideoMAE/predict.py" "$video" --checkpoint "$vce" "$v2v"
    echo "A page about a run, to be found in its folder:"
    show_line "$python" "$REPO_PATH/VideoMAE/report.py" "$vce"
    show_line "$python" "$REPO_PATH/VideoMAE/report.py" "$v2v"
    echo "A page to try videos on; the first line installs what it needs:"
    show_line "$python" -m pip install --quiet gradio -c "$REPO_PATH/constraints.txt"
    show_line "$python" "$REPO_PATH/VideoMAE/demo.py" --checkpoint "$vce" "$v2v"
}

# show_line WORDS...: a command as a line to copy.
show_line() {
    local line
    printf -v line ' %q' "$@"
    echo "   $line"
}

# run_module MODULE NUM_PROCESSES FLAGS...: runs a module on that many processes, by torchrun when no launcher has
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
        here="${LOCAL_WORLD_SIZE:-$num_processes}" # torchrun's: how many of the processes are on this machine
        export OMP_NUM_THREADS="$((cores > here ? cores / here : 1))"
    fi
    if [ -n "${RANK:-}" ] || [ "$(num_tasks)" -gt 1 ] || [ "$num_processes" -eq 1 ]; then
        exec "$python" -m "$module" "$@"
    fi
    exec "$python" -m VideoMAE.runtime.launch --standalone --nproc_per_node="$num_processes" -m "$module" "$@"
}

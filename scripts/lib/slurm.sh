# shellcheck shell=bash
# Functions of the .sbatch files; to be sourced. Expects `set -euo pipefail`.

REPO_PATH="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export REPO_PATH
# shellcheck source=scripts/lib/common.sh
. "$REPO_PATH/scripts/lib/common.sh"

# lost_node: succeeds if a node of this job no longer starts tasks. Slurm takes minutes to detect that; the tasks on the
# other nodes fail earlier.
lost_node() {
    ! timeout 120 srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 true 2>/dev/null
}

# is_superseded: succeeds if Slurm has requeued this job, because of a request or because it lost this node.
is_superseded() {
    local now
    now="$(scontrol show job --oneliner "$SLURM_JOB_ID" 2>/dev/null | grep -o ' Restarts=[0-9]*')" || return 1
    [ "$now" != " Restarts=${SLURM_RESTART_COUNT:-0}" ]
}

# run_tasks SCRIPT FLAGS...: runs a script of scripts/ in every task; requeues the job if the run requests it or a node
# was lost.
#
# A run that is asked to stop (SIGTERM, SIGUSR1) saves and exits with status 75; 138 means that SIGUSR1 arrived before
# its handler was installed. After a task ends, --wait gives the others $SLURM_WAIT seconds (30): --kill-on-bad-exit
# would kill them immediately, while they save or report errors, and hide status 75.
run_tasks() {
    local script="$1" status=0
    shift
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # not inherited by srun since Slurm 22.05
    echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): $SLURM_TASKS_PER_NODE tasks on $SLURM_JOB_NODELIST"
    srun --kill-on-bad-exit=0 --wait="${SLURM_WAIT:-30}" bash "$REPO_PATH/scripts/$script" "$@" || status=$?
    if [ "$status" -eq 0 ] || is_superseded; then exit "$status"; fi
    if [ "$status" -eq 75 ] || [ "$status" -eq 138 ]; then
        echo "job $SLURM_JOB_ID is requeued and will resume from its checkpoint"
    elif [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && lost_node; then
        echo "job $SLURM_JOB_ID lost a node, is requeued and will resume from its checkpoint"
    else
        exit "$status"
    fi
    scontrol requeue "$SLURM_JOB_ID" || fail "cannot requeue job $SLURM_JOB_ID: submit it again to resume"
    exit "$status"
}

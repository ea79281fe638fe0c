# shellcheck shell=bash
# What the .sbatch files share: sourced, never run. Expects `set -euo pipefail`.

REPO_PATH="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export REPO_PATH
# shellcheck source=scripts/lib/common.sh
. "$REPO_PATH/scripts/lib/common.sh"

# lost_node: whether some node of this job no longer starts tasks. Slurm itself takes minutes to notice, and the tasks on
# the other nodes have failed by then.
lost_node() {
    ! timeout 120 srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 true 2>/dev/null
}

# is_superseded: whether Slurm has queued this job again meanwhile: somebody asked for it, or it lost this very node.
is_superseded() {
    local now
    now="$(scontrol show job --oneliner "$SLURM_JOB_ID" 2>/dev/null | grep -o ' Restarts=[0-9]*')" || return 1
    [ "$now" != " Restarts=${SLURM_RESTART_COUNT:-0}" ]
}

# run_tasks SCRIPT FLAGS...: runs a script of this folder in every task; queues the job again when the run asks for it, or
# a node was lost.
#
# A run that was told to stop (SIGTERM, SIGUSR1) saves and ends with status 75; 138 is a SIGUSR1 that came before it
# could listen. A dead task takes the others down by --wait, after half a minute ($SLURM_WAIT): --kill-on-bad-exit would
# kill them at once, while they save or say why, and hide the 75.
run_tasks() {
    local script="$1" status=0
    shift
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun of Slurm 22.05 and later does not take it over
    echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): $SLURM_TASKS_PER_NODE tasks on $SLURM_JOB_NODELIST"
    srun --kill-on-bad-exit=0 --wait="${SLURM_WAIT:-30}" bash "$REPO_PATH/scripts/$script" "$@" || status=$?
    if [ "$status" -eq 0 ] || is_superseded; then exit "$status"; fi
    if [ "$status" -eq 75 ] || [ "$status" -eq 138 ]; then
        echo "job $SLURM_JOB_ID goes back to the queue; it will go on from what was saved"
    elif [ "$SLURM_JOB_NUM_NODES" -gt 1 ] && lost_node; then
        echo "job $SLURM_JOB_ID has lost a node and goes back to the queue; it will go on from what was saved"
    else
        exit "$status"
    fi
    scontrol requeue "$SLURM_JOB_ID" || fail "Slurm does not queue job $SLURM_JOB_ID again: submit it once more"
    exit "$status"
}

#!/usr/bin/env bash
# Test a fine-tuned checkpoint on V2V's test pairs and lists; every distinct video is scored once.
#
#     DATA_PATH=... MODEL_PATH=... OUTPUT_DIR=... bash scripts/evaluate_v2v.sh [FLAGS]
#
# Edit the settings below or set them in the environment. FLAGS are those of
# `python -m VideoMAE.run_v2v_finetuning --help`. A checkpoint of this project contains its own --model, --num_frames,
# --input_size and --crop. For any other checkpoint the defaults apply (ViT-B, 16 frames of 224 x 224 pixels, squashed);
# pass the flags that differ.
#
#   DATA_PATH      folder of the V2V dataset
#   MODEL_PATH     fine-tuned checkpoint, e.g. OUTPUT/checkpoint-best.pth
#   OUTPUT_DIR     folder for results.json and scores.jsonl
#   NUM_PROCESSES  number of processes; default: one per GPU, or one

set -euo pipefail

DATA_PATH="${DATA_PATH:-/path/to/v2v_dataset}"
MODEL_PATH="${MODEL_PATH:-/path/to/checkpoint-best.pth}"
OUTPUT_DIR="${OUTPUT_DIR:-/path/to/output}"

# shellcheck source=scripts/lib/common.sh
. "${REPO_PATH:-$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}/scripts/lib/common.sh"
if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then show_help "$0" && exit 0; fi

require_path DATA_PATH "$DATA_PATH"
require_path MODEL_PATH "$MODEL_PATH"
case "$OUTPUT_DIR" in "" | /path/to/*) fail "OUTPUT_DIR is not set: edit it at the top of $0" ;; esac
num_processes="$(count_processes)"
require_count NUM_PROCESSES "$num_processes"

run_module VideoMAE.run_v2v_finetuning "$num_processes" \
    --mode eval \
    --data_dir "$DATA_PATH" \
    --checkpoint "$MODEL_PATH" \
    --results_path "$OUTPUT_DIR" \
    --num_workers 2 \
    "$@"

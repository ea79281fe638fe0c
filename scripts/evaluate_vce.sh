#!/usr/bin/env bash
# Test a fine-tuned checkpoint on VCE's test split: 2 segments x 3 crops of every video.
#
#     DATA_PATH=... MODEL_PATH=... OUTPUT_DIR=... bash scripts/evaluate_vce.sh [FLAGS]
#
# Edit the settings below or set them in the environment. FLAGS are those of
# `python -m VideoMAE.run_class_finetuning --help`. A checkpoint of this project contains its own --model, --num_frames,
# --input_size, --short_side_size, --sampling_rate and --loss. For any other checkpoint the defaults apply (ViT-B, 16
# frames of 224 x 224 pixels, bce); pass the flags that differ.
#
#   DATA_PATH      folder of the VCE dataset
#   MODEL_PATH     fine-tuned checkpoint, e.g. OUTPUT/checkpoint-best.pth
#   OUTPUT_DIR     folder for results.json and predictions.jsonl
#   NUM_PROCESSES  number of processes; default: one per GPU, or one

set -euo pipefail

DATA_PATH="${DATA_PATH:-/path/to/vce_dataset}"
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

run_module VideoMAE.run_class_finetuning "$num_processes" \
    --eval \
    --data_set VCE \
    --data_path "$DATA_PATH" \
    --finetune "$MODEL_PATH" \
    --output_dir "$OUTPUT_DIR" \
    --dist_eval \
    --test_num_segment 2 \
    --test_num_crop 3 \
    --num_workers 10 \
    "$@"

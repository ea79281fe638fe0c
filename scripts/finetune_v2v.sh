#!/usr/bin/env bash
# Fine-tune a VideoMAE ViT-B on V2V and test it on pairs and lists.
#
#     DATA_PATH=... MODEL_PATH=... OUTPUT_DIR=... bash scripts/finetune_v2v.sh [FLAGS]
#
# Edit the settings below or set them in the environment. FLAGS are those of
# `python -m VideoMAE.run_v2v_finetuning --help` and override the recipe.
#
#   DATA_PATH      folder of the V2V dataset (train_labels.json, test_labels.json, listwise_labels.json, videos/)
#   MODEL_PATH     checkpoint to start from, pre-trained or of a VCE run; "none": random initial weights
#   OUTPUT_DIR     folder for checkpoints, results and logs; the same command resumes an interrupted run
#   NUM_PROCESSES  number of training processes; default: one per GPU, or one
#   TOTAL_BATCH    pairs per optimizer step over all processes; default: the recipe's 4

set -euo pipefail

DATA_PATH="${DATA_PATH:-/path/to/v2v_dataset}"
MODEL_PATH="${MODEL_PATH:-/path/to/kinetics400-ViTB-1600-16x5x3-pretrain.pth}"
OUTPUT_DIR="${OUTPUT_DIR:-/path/to/output}"
TOTAL_BATCH="${TOTAL_BATCH:-4}"

# shellcheck source=scripts/lib/common.sh
. "${REPO_PATH:-$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}/scripts/lib/common.sh"
if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then show_help "$0" && exit 0; fi

require_path DATA_PATH "$DATA_PATH"
[ "$MODEL_PATH" = none ] || require_path MODEL_PATH "$MODEL_PATH"
case "$OUTPUT_DIR" in "" | /path/to/*) fail "OUTPUT_DIR is not set: edit it at the top of $0" ;; esac

start=()
[ "$MODEL_PATH" = none ] || start=(--checkpoint "$MODEL_PATH")

num_processes="$(count_processes)"
require_count NUM_PROCESSES "$num_processes"
require_count TOTAL_BATCH "$TOTAL_BATCH"
((TOTAL_BATCH % num_processes == 0)) || fail "TOTAL_BATCH=$TOTAL_BATCH is not divisible by $num_processes processes"

run_module VideoMAE.run_v2v_finetuning "$num_processes" \
    --mode train \
    --model vit_base_patch16_224 \
    --data_dir "$DATA_PATH" \
    --results_path "$OUTPUT_DIR" \
    --batch_size "$((TOTAL_BATCH / num_processes))" \
    --input_size 224 \
    --num_frames 16 \
    --loss logistic \
    --opt sgd \
    --lr 0.01 \
    --momentum 0.9 \
    --weight_decay 0 \
    --num_epochs 10 \
    --save_ckpt_freq 10 \
    --num_workers 2 \
    --enable_deepspeed \
    "${start[@]}" \
    "$@"

#!/usr/bin/env bash
# Fine-tune a VideoMAE ViT-B on VCE and test it.
#
#     DATA_PATH=... MODEL_PATH=... OUTPUT_DIR=... bash scripts/finetune_vce.sh [FLAGS]
#
# Edit the settings below or set them in the environment. FLAGS are those of
# `python -m VideoMAE.run_class_finetuning --help` and override the recipe.
#
#   DATA_PATH      folder of the VCE dataset (train_labels.json, test_labels.json, videos/)
#   MODEL_PATH     checkpoint to start from; "none": random initial weights
#   OUTPUT_DIR     folder for checkpoints, results and logs; the same command resumes an interrupted run
#   RECIPE         intensities (predict the 27 intensities) or classes (predict the most intense emotion)
#   LABEL_PATH     RECIPE=classes only: folder of train.csv, val.csv, test.csv; empty: the JSON labels
#   NUM_PROCESSES  number of training processes; default: one per GPU, or one
#   TOTAL_BATCH    videos per optimizer step over all processes; default: the recipe's, 8 or 32

set -euo pipefail

DATA_PATH="${DATA_PATH:-/path/to/vce_dataset}"
MODEL_PATH="${MODEL_PATH:-/path/to/kinetics400-ViTB-1600-16x5x3-pretrain.pth}"
OUTPUT_DIR="${OUTPUT_DIR:-/path/to/output}"
RECIPE="${RECIPE:-intensities}"
LABEL_PATH="${LABEL_PATH:-}"

# shellcheck source=scripts/lib/common.sh
. "${REPO_PATH:-$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}/scripts/lib/common.sh"
if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then show_help "$0" && exit 0; fi

require_path DATA_PATH "$DATA_PATH"
[ "$MODEL_PATH" = none ] || require_path MODEL_PATH "$MODEL_PATH"
case "$OUTPUT_DIR" in "" | /path/to/*) fail "OUTPUT_DIR is not set: edit it at the top of $0" ;; esac

case "$RECIPE" in
    intensities)
        total_batch="${TOTAL_BATCH:-8}"
        recipe=(--loss bce --train_fps 4)
        ;;
    classes)
        total_batch="${TOTAL_BATCH:-32}"
        recipe=(--loss ce --smoothing 0.1 --mixup 0.8 --cutmix 1.0 --mixup_switch_prob 0.5 --train_fps None)
        [ -z "$LABEL_PATH" ] || recipe+=(--label_path "$LABEL_PATH")
        ;;
    *) fail "RECIPE=$RECIPE: must be intensities or classes" ;;
esac
[ "$MODEL_PATH" = none ] || recipe+=(--finetune "$MODEL_PATH")

num_processes="$(count_processes)"
require_count NUM_PROCESSES "$num_processes"
require_count TOTAL_BATCH "$total_batch"
((total_batch % num_processes == 0)) || fail "TOTAL_BATCH=$total_batch is not divisible by $num_processes processes"
batch_size=$((total_batch / num_processes))
update_freq=1
while ((batch_size > 8 && batch_size % 2 == 0)); do
    batch_size=$((batch_size / 2))
    update_freq=$((update_freq * 2))
done

run_module VideoMAE.run_class_finetuning "$num_processes" \
    --model vit_base_patch16_224 \
    --data_set VCE \
    --data_path "$DATA_PATH" \
    --output_dir "$OUTPUT_DIR" \
    --batch_size "$batch_size" \
    --update_freq "$update_freq" \
    --num_sample 1 \
    --input_size 224 \
    --short_side_size 224 \
    --num_frames 16 \
    --sampling_rate 4 \
    --opt adamw \
    --lr 5e-4 \
    --opt_betas 0.9 0.999 \
    --weight_decay 0.05 \
    --epochs 50 \
    --save_ckpt_freq 10 \
    --dist_eval \
    --test_num_segment 2 \
    --test_num_crop 3 \
    --num_workers 10 \
    --enable_deepspeed \
    "${recipe[@]}" \
    "$@"

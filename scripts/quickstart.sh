#!/usr/bin/env bash
# Trains and tests a small model in minutes, on a CPU or on all GPUs.
#
#     bash scripts/quickstart.sh [--setup_only]
#
# Creates a virtual environment and a small synthetic dataset, fine-tunes a small ViT on it with scripts/finetune_vce.sh
# and then, from that checkpoint, with scripts/finetune_v2v.sh, tests both, and prints the metrics next to those of
# baselines, and commands that use the trained models. A repeated call installs nothing and resumes.
#
#   --setup_only   only create the virtual environment
#   PYTHON         interpreter for the virtual environment, 3.10 or later; default: python3
#   VENV           folder of the virtual environment; default: .venv in the repository
#   WORK           folder for the sample dataset and the results; default: the repository

set -euo pipefail

# shellcheck source=scripts/lib/common.sh
. "$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib/common.sh"
# shellcheck source=scripts/lib/setup.sh
. "$REPO_PATH/scripts/lib/setup.sh"
case "${1:-}" in
    -h | --help) show_help "$0" && exit 0 ;;
    "" | --setup_only) ;;
    *) fail "unknown argument $1; see --help" ;;
esac

set_up_venv "$REPO_PATH/requirements.txt"
if [ "${1:-}" = "--setup_only" ]; then exit 0; fi
export PYTHON="$VENV/bin/python"
WORK="${WORK:-$REPO_PATH}"
mkdir -p "$WORK"

"$PYTHON" "$REPO_PATH/data_prep/make_sample.py" --output_dir "$WORK/sample"

processes="$(count_processes)"
if [ "$processes" -eq 1 ] && [ "$(nproc)" -gt 1 ]; then processes=2; fi

# A small ViT from random weights on 180 videos needs other settings than the recipes for ViT-B and 50,000 videos.
small=(--model vit_micro_patch16_224 --input_size 64 --layer_decay 1 --drop_path 0 --num_workers 1 --save_ckpt_freq 100)
total_batch="$((processes > 8 ? processes : 8 / processes * processes))"
vce="$WORK/output/quickstart_vce"
v2v="$WORK/output/quickstart_v2v"

echo
echo "VCE: fine-tuning a small ViT from random weights (processes: $processes)"
DATA_PATH="$WORK/sample/vce_dataset" MODEL_PATH=none OUTPUT_DIR="$vce" \
    NUM_PROCESSES="$processes" TOTAL_BATCH="$total_batch" \
    bash "$REPO_PATH/scripts/finetune_vce.sh" "${small[@]}" \
    --short_side_size 64 --num_sample 4 --min_crop_area 0.3 --aa none --reprob 0 \
    --epochs 12 --warmup_epochs 2 --lr 3.2e-2 --clip_grad 1 --init_scale 1

echo
echo "V2V: fine-tuning that ViT on pairs"
DATA_PATH="$WORK/sample/v2v_dataset" MODEL_PATH="$vce/checkpoint-best.pth" OUTPUT_DIR="$v2v" \
    NUM_PROCESSES="$processes" TOTAL_BATCH="$total_batch" \
    bash "$REPO_PATH/scripts/finetune_v2v.sh" "${small[@]}" \
    --opt adamw --lr 5e-4 --weight_decay 0.05 --warmup_epochs 1 --num_epochs 8

PYTHONPATH="$REPO_PATH" "$PYTHON" -m VideoMAE.reporting.show_results "$vce" "$v2v"

videos=("$WORK"/sample/vce_dataset/videos/*.mp4)
show_uses "${videos[-1]}" "$vce" "$v2v"

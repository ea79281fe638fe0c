"""Writes real DeepSpeed checkpoints of a small ViT, of ZeRO 0, 1 and 2, with the weights that they hold: two
processes that test_convert.py starts. Usage: deepspeed_worker.py OUTPUT_FOLDER RANK"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch

from VideoMAE.modeling_finetune import VisionTransformer

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
os.environ["LOCAL_RANK"] = str(rank)
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
for stage in (0, 1, 2):
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, embed_dim=48, depth=2, num_heads=4, all_frames=8, num_classes=5)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
        },
        dist_init_required=False,
    )
    engine.backward(engine(torch.randn(1, 3, 8, 32, 32)).square().sum())
    engine.step()
    engine.save_checkpoint(str(folder / f"zero{stage}"), client_state={"epoch": 7})
    if rank == 0:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        torch.save({"model": weights}, folder / f"zero{stage}.pth")
torch.distributed.barrier()
torch.distributed.destroy_process_group()

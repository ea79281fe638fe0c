"""Augmentation on the training device: what fused augmentation makes, from planned clips."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fused_augment import FRAME, NAMES, SCENE, SIZE, drawn, make_scene, of_255, operation
from vce_files import make_vce_folder

from VideoMAE.augment.device_augment import PlannedClips, PlanTransform, concatenate
from VideoMAE.augment.fused_augment import FusedTransform
from VideoMAE.augment.random_erasing import ErasedBox
from VideoMAE.augment.video_transforms import CropBox, TrainDraw
from VideoMAE.data.clips import EvenClips, TrainClips
from VideoMAE.data.v2v import ComparisonDataset, collate_comparisons
from VideoMAE.data.vce import SampleKey
from VideoMAE.engine_for_finetuning import to_device
from VideoMAE.run_class_finetuning import main

CPU = torch.device("cpu")
FUSED = FusedTransform(SIZE)
PLANNED = PlanTransform(FUSED)


class OneDraw(FusedTransform):
    """Draws what it was given."""

    def __init__(self, draw: TrainDraw) -> None:
        super().__init__(SIZE)
        self.only = draw

    def draw(self, height: int, width: int, rng: np.random.Generator) -> TrainDraw:
        return self.only


def of_both(draw: TrainDraw) -> tuple[torch.Tensor, torch.Tensor]:
    (clip,) = PlanTransform(OneDraw(draw))(SCENE, np.random.default_rng(0)).to(CPU)
    return clip, FUSED.apply(SCENE, draw)


@pytest.mark.parametrize("size", [FRAME, (61, 45), (3, 200), (1, 1)])
def test_on_the_cpu_whole_draws_are_the_fused_ones(size: tuple[int, int]) -> None:
    frames = make_scene(200, 300)[:, : size[0], : size[1]]
    differences = []
    for seed in range(30):
        (clip,) = PLANNED(frames, np.random.default_rng(seed)).to(CPU)
        fused = FUSED(frames, np.random.default_rng(seed))
        assert clip.shape == fused.shape
        differences.append((of_255(clip) - of_255(fused)).abs().mean().item())
    assert np.mean(differences) < 0.3
    assert max(differences) < 1


@pytest.mark.parametrize("name", NAMES)
def test_each_operation_is_the_fused_one(name: str) -> None:
    for flip in (False, True):
        one, other = of_both(drawn(operation(name), crop=CropBox(9, 14, 60, 70), flip=flip))
        assert (of_255(one) - of_255(other)).abs().mean() < 0.5


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_erasing_is_the_fused_one_to_the_bit(mode: str) -> None:
    box = ErasedBox(3, 5, 20, 30, noise_seed=1)
    transform = OneDraw(drawn(operation("Rotate"))._replace(erased=[box]))
    transform.random_erasing.mode = mode
    (clip,) = PlanTransform(transform)(SCENE, np.random.default_rng(0)).to(CPU)
    part = np.s_[..., 3:23, 5:35]
    assert torch.equal(clip[part], transform.apply(SCENE, transform.only)[part])


def test_clips_of_frames_of_several_sizes_make_one_batch_that_travels() -> None:
    sizes = [FRAME, (50, 70), (33, 31)]
    single = [PLANNED(make_scene(*size), np.random.default_rng(n)) for n, size in enumerate(sizes)]
    batch = concatenate([concatenate(single[:2]), single[2]])
    batch.share_memory_()
    arrived = pickle.loads(pickle.dumps(batch))
    assert isinstance(arrived, PlannedClips)
    assert len(arrived) == 3
    assert arrived.pixels.dtype == torch.uint8
    clips = arrived.to(CPU)
    assert clips.shape == (3, 3, 2, SIZE, SIZE)
    for clip, alone in zip(clips, single, strict=True):
        assert torch.equal(clip, alone.to(CPU)[0])


def test_only_the_bytes_that_are_read_are_shipped_and_frames_stay_as_they_are() -> None:
    frames = SCENE.copy()
    frames.setflags(write=False)
    shipped = PlanTransform(OneDraw(drawn(operation("Rotate", 1.0), crop=CropBox(40, 60, 12, 12))))
    assert shipped(frames, np.random.default_rng(0)).pixels.numel() < 2 * 24 * 24 * 3
    for seed in range(10):
        PLANNED(frames, np.random.default_rng(seed)).to(CPU)
    np.testing.assert_array_equal(frames, SCENE)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_folder(tmp_path_factory.mktemp("vce") / "vce_dataset", 10, 2)


def test_training_takes_the_clips_of_the_fused_transform(dataset: Path) -> None:
    path = dataset / "videos/00000.mp4"
    made = [
        TrainClips(8, 4, 4.0, 2, transform)(path, np.random.default_rng(3))
        for transform in (PLANNED, FusedTransform(SIZE))
    ]
    assert len(made[0]) == 2
    assert (of_255(made[0].to(CPU)[0]) - of_255(made[1][0])).abs().mean() < 0.5
    assert (of_255(made[0].to(CPU)[1]) - of_255(made[1][1])).abs().mean() < 0.5


def test_a_lost_comparison_of_v2v_has_weight_0_and_the_others_their_clips(dataset: Path) -> None:
    (dataset / "videos/empty.mp4").write_bytes(b"")
    comparisons = [("00000", "empty"), ("00001", "00002"), ("empty", "empty")]
    made = ComparisonDataset(comparisons, dataset, make_clips=EvenClips(2, PLANNED), blank=PLANNED.blank(2), seed=0)
    batch = to_device(collate_comparisons([made[SampleKey(position, 0)] for position in range(3)]), CPU)
    assert batch.clips.shape == (6, 3, 2, SIZE, SIZE)
    assert batch.weights.tolist() == [0, 1, 0]
    fused = EvenClips(2, FUSED)(dataset / "videos/00002.mp4", np.random.default_rng((0, 0, 1, 1)))
    assert (of_255(batch.clips[3]) - of_255(fused[0])).abs().mean() < 1
    assert torch.isfinite(batch.clips).all()


def test_a_run_gives_the_same_losses_with_and_without_workers(dataset: Path, tmp_path: Path) -> None:
    def losses(num_workers: int) -> list[float]:
        folder = tmp_path / str(num_workers)
        main([
            "--data_path", str(dataset), "--output_dir", str(folder), "--model", "vit_micro_patch16_224",
            "--num_frames", "8", "--input_size", "32", "--short_side_size", "32", "--epochs", "1",
            "--warmup_epochs", "0", "--batch_size", "2", "--num_sample", "2", "--mixup", "0.8", "--device", "cpu",
            "--num_workers", str(num_workers), "--device_augment", "--no_save_ckpt", "--test_num_segment", "1",
            "--test_num_crop", "1", "--disable_eval_during_finetuning",
        ])  # fmt: skip
        assert json.loads((folder / "config.json").read_text())["augment"]["device_augment"]
        return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]

    assert losses(0) == losses(2)

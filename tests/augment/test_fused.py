"""Fused augmentation: the draws of the exact one, and nearly its pixels. Differences are in units of 255."""

import pickle
from itertools import product

import cv2
import numpy as np
import pytest
import torch
from augmentation import default_transform

from VideoMAE.augment.fused import ClipPlan, FusedTransform
from VideoMAE.augment.rand_augment import AppliedOperation, apply_operations
from VideoMAE.augment.video_transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CropBox,
    ErasedBox,
    TrainDraw,
    TrainTransform,
)
from VideoMAE.config import AugmentConfig, V2VAugmentConfig
from VideoMAE.training.setup import train_transform

SIZE = 64
EXACT, FUSED = (default_transform(kind, SIZE, erase_probability=0.0) for kind in (TrainTransform, FusedTransform))
NAMES = FUSED.rand_augment.names
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
COLORS = tuple(name for name in NAMES if name not in MOVING)
FRAME = (96, 128)  # height, width
WHOLE = CropBox(0, 0, *FRAME)


def make_scene(height: int, width: int, *, num_frames: int = 2) -> np.ndarray:
    """A panning texture of several scales, with discs and noise -> (T, H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    shape = (width * 2, height * 2)
    grains = [
        cv2.resize(rng.normal(0, 26, (height * 2 // grain + 1, width * 2 // grain + 1, 3)), shape)
        for grain in (4, 16, 64)
    ]
    scene = sum(grains) + 120
    for _ in range(6):
        place, color = rng.integers(0, shape), rng.integers(0, 256, 3).tolist()
        cv2.circle(scene, place.tolist(), height // 9, color, -1, cv2.LINE_AA)
    frames = [scene[4 * t : 4 * t + height, 5 * t : 5 * t + width] for t in range(num_frames)]
    return np.clip(frames + rng.normal(0, 3, (num_frames, height, width, 3)), 0, 255).astype(np.uint8)


SCENE = make_scene(*FRAME)


def operation(name: str, magnitude: float = 7.0, sign: float = 1.0, interpolation: str = "bicubic") -> AppliedOperation:
    return AppliedOperation(name, FUSED.rand_augment.level_args(name, magnitude, sign), interpolation)


def drawn(*operations: AppliedOperation, crop: CropBox = WHOLE, flip: bool = False) -> TrainDraw:
    return TrainDraw(list(operations), crop, flip, [])


def of_255(clip: torch.Tensor) -> torch.Tensor:
    """Normalized clips back to the scale of bytes."""
    std, mean = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_STD, IMAGENET_MEAN))
    return (clip * std + mean) * 255


def difference(draw: TrainDraw, frames: np.ndarray = SCENE) -> float:
    """Mean absolute difference of both transforms."""
    return (of_255(EXACT.apply(frames, draw)) - of_255(FUSED.apply(frames, draw))).abs().mean().item()


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_is_close_to_the_exact_one(name):
    crops = (WHOLE, CropBox(10, 20, 40, 50), CropBox(5, 3, 80, 100))
    differences = [difference(drawn(operation(name, sign=sign), crop=crop)) for sign in (1, -1) for crop in crops]
    assert np.mean(differences) < (1.5 if name in MOVING else 0.6)
    assert difference(drawn(operation(name, interpolation="bilinear"))) < 1.6


@pytest.mark.parametrize("name", COLORS)
def test_color_operations_equal_the_exact_ones_up_to_rounding(name):
    frames, draw = SCENE[:, :SIZE, :SIZE], drawn(operation(name), crop=CropBox(0, 0, SIZE, SIZE))
    expected = apply_operations(np.ascontiguousarray(frames), draw.operations).transpose(3, 0, 1, 2).astype(float)
    inner = np.s_[..., 1:-1, 1:-1]  # sharpness treats the border differently
    unequal = np.abs(of_255(FUSED.apply(frames, draw)).numpy() - expected)[inner]
    assert unequal.max() < 1.01
    if name not in ("ColorIncreasing", "SharpnessIncreasing", "ContrastIncreasing"):
        assert unequal.max() < 0.01


def test_two_operations_in_either_order_are_close():
    crop = CropBox(8, 10, 80, 100)
    differences = {
        (first, second): difference(drawn(operation(first), operation(second, 6.0, -1.0), crop=crop))
        for first, second in product(NAMES, NAMES)
    }
    assert np.mean(list(differences.values())) < 1.2
    assert max(differences.values()) < 4.5, max(differences, key=differences.__getitem__)


@pytest.mark.parametrize("size", [FRAME, (61, 45), (180, 135)])
def test_random_draws_are_close_on_average(size):
    frames = make_scene(*size)
    differences = [difference(FUSED.draw(*size, np.random.default_rng(seed)), frames) for seed in range(30)]
    assert np.mean(differences) < 1.6
    assert max(differences) < 8


def test_other_policies_are_close():
    for config in ("rand-m10-n2-p1", "rand-m3-n3-mstd101", "none"):
        exact, fused = (
            default_transform(kind, SIZE, auto_augment=config, interpolation="random", erase_probability=0.0)
            for kind in (TrainTransform, FusedTransform)
        )
        draws = [fused.draw(*FRAME, np.random.default_rng(seed)) for seed in range(12)]
        pairs = [(exact.apply(SCENE, draw), fused.apply(SCENE, draw)) for draw in draws]
        assert np.mean([(of_255(one) - of_255(other)).abs().mean() for one, other in pairs]) < 3


def test_draws_equal_those_of_exact():
    exact, fused = default_transform(TrainTransform, SIZE), default_transform(FusedTransform, SIZE)
    for seed in range(50):
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        assert exact.draw(*FRAME, rngs[0]) == fused.draw(*FRAME, rngs[1])
        assert rngs[0].bit_generator.state == rngs[1].bit_generator.state


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("sign", [1, -1])
def test_pixels_from_outside_the_frame_are_gray_as_in_exact(name, sign):
    white = np.full((1, *FRAME, 3), 250, dtype=np.uint8)
    gray = [of_255(kind.apply(white, drawn(operation(name, 10.0, sign))))[0, 0] < 189 for kind in (EXACT, FUSED)]
    assert 0.02 < gray[0].float().mean() < 0.9
    assert (gray[0] != gray[1]).float().mean() < 0.02


def test_later_color_operations_change_filled_areas():
    shift, later = AppliedOperation("TranslateXRel", (40 / FRAME[1],), "bicubic"), operation("SolarizeAdd")
    middle, right = SIZE // 2, SIZE - 3
    for operations, level in (
        ([shift], 128),
        ([shift, operation("Invert")], 127),
        ([operation("Invert"), shift], 128),
        ([shift, operation("PosterizeIncreasing", 9.0), later], 128),
        ([shift, operation("BrightnessIncreasing", 5.0, -1.0)], 70),
    ):
        clip = of_255(FUSED.apply(SCENE, drawn(*operations)))
        assert torch.all((clip[..., right] - level).abs() < 1), operations
        assert clip[..., middle].std() > 5


def test_pixels_shifted_out_and_back_stay_gray():
    there, back = (AppliedOperation("TranslateXRel", (shift / FRAME[1],), "bicubic") for shift in (40, -40))
    clip = of_255(FUSED.apply(SCENE, drawn(there, operation("Invert"), back)))
    width = round(SIZE * 40 / FRAME[1])
    assert torch.all((clip[..., : width - 1] - 128).abs() < 1)
    assert clip[..., width + 1 :].std() > 5
    assert difference(drawn(there, operation("Invert"), back)) < 1.5


def test_a_flipped_draw_is_the_mirrored_one():
    for operations in ([], [operation("Rotate"), operation("Equalize")]):
        draw = drawn(*operations, crop=CropBox(7, 21, 80, 70))
        plain, flipped = FUSED.apply(SCENE, draw), FUSED.apply(SCENE, draw._replace(flip=True))
        assert (of_255(plain.flip(-1)) - of_255(flipped)).abs().mean() < 0.3


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_erasing_equals_that_of_exact_bitwise(mode):
    boxes = [ErasedBox(3, 5, 20, 30, noise_seed=1), ErasedBox(40, 0, 9, 11, noise_seed=2)]
    draw = TrainDraw([], WHOLE, True, boxes)
    exact, fused = (
        default_transform(kind, SIZE, erase_mode=mode).apply(SCENE, draw) for kind in (TrainTransform, FusedTransform)
    )
    for box in boxes:
        part = np.s_[..., box.top : box.top + box.height, box.left : box.left + box.width]
        assert torch.equal(exact[part], fused[part])
    assert (of_255(exact) - of_255(fused)).abs().mean() < 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (3, 300), (33, 31), (65, 63)])
def test_frames_of_any_size_are_close(size):
    frames = make_scene(200, 300)[:, : size[0], : size[1]]
    differences = []
    for seed in range(20):
        draw = FUSED.draw(*size, np.random.default_rng(seed))
        clip = FUSED.apply(frames, draw)
        assert clip.shape == (3, 2, SIZE, SIZE)
        assert clip.is_contiguous()
        differences.append(difference(draw, frames))
    # The exact transform shifts by whole pixels, so that the border of a filled area may differ by half a pixel.
    assert np.mean(differences) < 4 + 20 / min(size)


def test_frames_are_not_written_to_and_the_result_is_reproducible():
    fused, frames = default_transform(FusedTransform, SIZE), SCENE.copy()
    frames.setflags(write=False)
    clips = [fused(frames, np.random.default_rng(seed)) for seed in range(20)]
    copy = pickle.loads(pickle.dumps(fused))
    assert all(torch.equal(clip, copy(SCENE, np.random.default_rng(seed))) for seed, clip in enumerate(clips))
    assert len({float(clip.sum()) for clip in clips}) == 20
    np.testing.assert_array_equal(frames, SCENE)


def test_only_the_region_of_the_plan_is_read():
    small = drawn(operation("Rotate", 3.0), operation("ColorIncreasing"), crop=CropBox(40, 60, 12, 12))
    top, left, height, width = ClipPlan(SCENE, small, SIZE).region
    assert height * width < 24 * 24
    masked = np.zeros_like(SCENE)
    part = np.s_[:, top : top + height, left : left + width]
    masked[part] = SCENE[part]
    assert torch.equal(FUSED.apply(masked, small), FUSED.apply(SCENE, small))


def test_the_flag_selects_the_transform():
    assert type(train_transform(AugmentConfig(), input_size=SIZE)) is FusedTransform
    assert type(train_transform(AugmentConfig(augment="exact"), input_size=SIZE)) is TrainTransform
    assert type(train_transform(V2VAugmentConfig(augment="fused"), input_size=SIZE)) is FusedTransform
    assert V2VAugmentConfig().augment == "none"

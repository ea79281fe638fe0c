"""Transforms: golden values, agreement with torchvision on the same box, any frame size, one draw per clip."""

import math
import pickle
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from augmentation import default_transform
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as TF

from VideoMAE.augment.rand_augment import apply_operations
from VideoMAE.augment.video_transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CropBox,
    ErasedBox,
    RandomErasing,
    SquashTransform,
    TrainDraw,
    TrainTransform,
    ValidationTransform,
    center_start,
    crop_views,
    draw_crop,
    erase,
    normalize,
    resize_short_side,
)

train_transform = partial(default_transform, TrainTransform)
GOLDEN = Path(__file__).parents[1] / "golden" / "validation_transform_0.npz"
SCALE, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
UNUSUAL_SIZES = [(1, 1), (1, 9), (9, 1), (3, 400), (33, 31), (225, 223)]
TRANSFORMS = {
    "train": lambda frames: train_transform(48)(frames, np.random.default_rng(0)),
    "train without augmentation": lambda frames: train_transform(48, auto_augment="none")(
        frames, np.random.default_rng(0)
    ),
    "validation": ValidationTransform(56, 48),
    "squash": SquashTransform(48),
}


def make_frames(num_frames=4, height=60, width=81, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def normalize_by_formula(frames):
    """(T, H, W, 3) uint8 -> (3, T, H, W)"""
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2).double() / 255
    mean, std = (torch.tensor(values).double().view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((clip - mean) / std).float()


@pytest.mark.parametrize("case", range(3))
def test_validation_pixels_are_the_original_programs(case):
    golden = np.load(GOLDEN)
    clip = ValidationTransform(32, 32)(golden[f"{case}/frames"])
    np.testing.assert_allclose(clip.numpy(), golden[f"{case}/tensor"], atol=1e-5)


@pytest.mark.parametrize("size", UNUSUAL_SIZES)
def test_normalize_follows_the_formula_for_every_byte(size):
    for frames in (make_frames(3, *size), np.arange(256, dtype=np.uint8).repeat(6).reshape(2, 16, 16, 3)):
        clip = normalize(frames)
        assert clip.dtype == torch.float32
        assert clip.is_contiguous()
        torch.testing.assert_close(clip, normalize_by_formula(frames), atol=1e-6, rtol=0)


def test_normalize_takes_crops_and_writes_where_it_is_told():
    frames = make_frames()
    out = torch.full((2, 3, 4, 20, 30), -9.0)
    assert normalize(frames[:, 7:27, 5:35], out=out[1]).data_ptr() == out[1].data_ptr()
    torch.testing.assert_close(out[1], normalize_by_formula(frames)[:, :, 7:27, 5:35], atol=1e-6, rtol=0)
    assert torch.all(out[0] == -9)
    mirrored = frames[:, :, ::-1]
    torch.testing.assert_close(normalize(mirrored), normalize_by_formula(frames).flip(-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((40, 71), 32, (32, 56)), ((71, 40), 32, (56, 32)), ((320, 426), 224, (224, 298)), ((5, 5), 7, (7, 7))],
)
def test_short_side_gets_its_size_and_the_long_side_is_rounded_down(size, short_side, expected):
    frames = make_frames(2, *size)
    resized = resize_short_side(frames, short_side)
    assert resized.shape == (2, *expected, 3)
    for frame, result in zip(frames, resized, strict=True):
        np.testing.assert_array_equal(result, cv2.resize(frame, expected[::-1], interpolation=cv2.INTER_LINEAR))


def test_center_crops_are_where_torchvision_puts_them():
    for length in range(32, 60):
        columns = torch.arange(length).expand(1, 32, length)
        assert TF.center_crop(columns, [32, 32])[0, 0, 0] == center_start(length, 32)


def test_crop_views_are_crops_of_the_normalised_clip():
    for axis, frames in (("width", make_frames(3, 32, 50)), ("height", make_frames(3, 50, 32))):
        views = crop_views(frames, 32, [0, 9, 18], axis=axis)
        assert views.shape == (3, 3, 3, 32, 32)
        assert views.is_contiguous()
        dim = 3 if axis == "width" else 2
        for view, start in zip(views, [0, 9, 18], strict=True):
            torch.testing.assert_close(view, normalize_by_formula(frames).narrow(dim, start, 32), atol=1e-6, rtol=0)


def test_crop_views_center_the_other_side_and_fill_a_given_tensor():
    frames = make_frames(2, 40, 50)
    out = torch.empty(4, 3, 2, 32, 32)
    crop_views(frames, 32, [0, 18], axis="width", out=out[2:])
    expected = normalize_by_formula(frames)[:, :, 4:36]
    torch.testing.assert_close(out[2], expected[..., :32], atol=1e-6, rtol=0)
    torch.testing.assert_close(out[3], expected[..., 18:], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("starts", "crop_size"), [([0, 19], 32), ([-1], 32), ([0], 33)])
def test_crop_views_outside_the_frames_are_refused(starts, crop_size):
    with pytest.raises(ValueError, match=f"--input_size {crop_size}.*32 x 50"):
        crop_views(make_frames(1, 32, 50), crop_size, starts, axis="width")


def test_a_crop_larger_than_the_short_side_is_refused():
    with pytest.raises(ValueError, match="--short_side_size 200 .* --input_size 224"):
        ValidationTransform(200, 224)


def test_squash_keeps_the_whole_frame():
    frames = make_frames()
    expected = np.stack([cv2.resize(frame, (32, 32), interpolation=cv2.INTER_LINEAR) for frame in frames])
    torch.testing.assert_close(SquashTransform(32)(frames), normalize_by_formula(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("box", [CropBox(0, 0, 60, 81), CropBox(11, 30, 40, 33), CropBox(5, 2, 48, 48)])
@pytest.mark.parametrize("flip", [False, True])
def test_training_crop_agrees_with_torchvision_on_the_same_box(box, flip):
    frames = make_frames()
    clip = train_transform(48).apply(frames, TrainDraw([], box, flip, []))
    whole = normalize_by_formula(frames)
    expected = TF.resized_crop(whole, *box, [48, 48], interpolation=TF.InterpolationMode.BILINEAR, antialias=False)
    torch.testing.assert_close(clip, expected.flip(-1) if flip else expected, atol=1e-4, rtol=0)


def test_training_operations_have_the_order_of_the_original():
    frames = make_frames()
    transform = train_transform(48, erase_probability=1.0)
    for seed in range(10):
        draw = transform.draw(60, 81, np.random.default_rng(seed))
        augmented = apply_operations(frames, transform.rand_augment.draw(np.random.default_rng(seed)))
        expected = TF.resized_crop(normalize_by_formula(augmented), *draw.crop, [48, 48], antialias=False)
        if draw.flip:
            expected = expected.flip(-1)
        (box,) = draw.erased
        clip = transform(frames, np.random.default_rng(seed))
        kept = torch.ones(48, 48, dtype=torch.bool)
        kept[box.top : box.top + box.height, box.left : box.left + box.width] = False
        torch.testing.assert_close(clip[..., kept], expected[..., kept], atol=1e-4, rtol=0)
        assert abs(clip[..., ~kept].std() - 1) < 0.2


def test_erasing_comes_after_the_flip():
    box = ErasedBox(0, 0, 10, 10, noise_seed=0)
    clip = train_transform(48, erase_mode="const").apply(
        make_frames(), TrainDraw([], CropBox(0, 0, 60, 81), True, [box])
    )
    assert torch.all(clip[..., :10, :10] == 0)


def test_crop_boxes_are_distributed_as_in_torchvision():
    rng = np.random.default_rng(0)
    boxes = np.array([draw_crop(320, 426, rng, scale=SCALE, aspect=ASPECT) for _ in range(3000)])
    picture = torch.empty(1, 320, 426)
    torch.manual_seed(0)
    expected = np.array([RandomResizedCrop.get_params(picture, list(SCALE), list(ASPECT)) for _ in range(3000)])
    np.testing.assert_allclose(boxes.mean(axis=0), expected.mean(axis=0), rtol=0.06)
    np.testing.assert_allclose(boxes.std(axis=0), expected.std(axis=0), rtol=0.08)
    areas, aspects = boxes[:, 2] * boxes[:, 3] / (320 * 426), boxes[:, 3] / boxes[:, 2]
    assert 0.079 < areas.min() < 0.1 < 0.9 < areas.max() <= 1
    assert 0.74 < aspects.min() < 0.77 < 1.3 < aspects.max() < 1.35
    assert np.all(boxes[:, 0] + boxes[:, 2] <= 320)
    assert np.all(boxes[:, 1] + boxes[:, 3] <= 426)


@pytest.mark.parametrize("size", [(8, 400), (400, 8), (1, 30), (30, 1), (7, 50)])
def test_the_fallback_box_equals_that_of_torchvision(size):
    box = draw_crop(*size, np.random.default_rng(0), scale=(0.9, 1.0), aspect=ASPECT)
    assert tuple(box) == tuple(RandomResizedCrop.get_params(torch.empty(1, *size), [0.9, 1.0], list(ASPECT)))


@pytest.mark.parametrize("side", ["top", "left"])
def test_a_crop_box_as_high_or_as_wide_as_the_frame_is_placed_at_random(side):
    rng, frame = np.random.default_rng(0), {"top": (64, 32), "left": (32, 64)}[side]
    boxes = [draw_crop(*frame, rng, scale=(0.5, 0.5), aspect=(1.0, 1.0)) for _ in range(50)]
    assert {box[2:] for box in boxes} == {(32, 32)}
    assert len({getattr(box, side) for box in boxes}) > 15


@pytest.mark.parametrize(("probability", "flips"), [(0.0, 0), (1.0, 400), (0.5, 200)])
def test_clips_are_flipped_with_the_given_probability(probability, flips):
    rng = np.random.default_rng(1)
    transform = train_transform(32, flip_probability=probability)
    assert abs(sum(transform.draw(40, 40, rng).flip for _ in range(400)) - flips) < 45


def test_every_frame_of_a_clip_gets_the_same_draw():
    frames = np.repeat(make_frames(1), 3, axis=0)
    transform = train_transform(32, erase_mode="const")
    rng = np.random.default_rng(2)
    for _ in range(30):
        clip = transform(frames, rng)
        assert torch.equal(clip, clip[:, :1].expand_as(clip))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", UNUSUAL_SIZES)
def test_frames_of_any_size_become_square_clips_and_are_not_written_to(name, size):
    frames = make_frames(2, *size)
    frames.flags.writeable = False
    before = frames.copy()
    clip = TRANSFORMS[name](frames)
    assert clip.shape == (3, 2, 48, 48)
    assert clip.dtype == torch.float32
    assert clip.is_contiguous()
    assert torch.isfinite(clip).all()
    np.testing.assert_array_equal(frames, before)


def test_equal_generators_give_equal_clips_and_later_draws_differ():
    frames, transform = make_frames(), train_transform(32)
    rngs = [np.random.default_rng(3) for _ in range(2)]
    clips = [[transform(frames, rng) for _ in range(5)] for rng in rngs]
    assert all(torch.equal(*pair) for pair in zip(*clips, strict=True))
    assert not torch.equal(clips[0][0], clips[0][1])


def test_pickled_transforms_give_the_same_results():
    frames = make_frames()
    for transform in (ValidationTransform(40, 32), SquashTransform(32)):
        assert torch.equal(pickle.loads(pickle.dumps(transform))(frames), transform(frames))
    train = train_transform(32)
    copy = pickle.loads(pickle.dumps(train))
    assert torch.equal(copy(frames, np.random.default_rng(4)), train(frames, np.random.default_rng(4)))


def test_settings_reach_their_operations():
    with pytest.raises(ValueError, match="--aa"):
        train_transform(32, auto_augment="rand-x9")
    with pytest.raises(ValueError, match="--train_interpolation"):
        train_transform(32, interpolation="nearest")
    with pytest.raises(ValueError, match="--remode"):
        train_transform(32, erase_mode="noise")
    transform = train_transform(32, erase_probability=1.0, erase_count=4)
    assert max(len(transform.draw(40, 40, rng).erased) for rng in map(np.random.default_rng, range(50))) == 4
    assert train_transform(32, erase_probability=0.0).draw(40, 40, np.random.default_rng(0)).erased == []


HEIGHT, WIDTH = 224, 224
BOX = ErasedBox(top=5, left=10, height=12, width=7, noise_seed=3)


def make_erasing(probability=1.0, *, mode="pixel", max_count=1):
    return RandomErasing(probability, mode=mode, max_count=max_count)


def erased(clip, boxes, *, mode="pixel"):
    copy = clip.clone()
    erase(copy, boxes, mode=mode)
    return copy


def draw_and_erase(erasing, clip, rng):
    return erased(clip, erasing.draw(*clip.shape[-2:], rng), mode=erasing.mode)


def make_clip(num_frames=6, height=32, width=40):
    return torch.full((3, num_frames, height, width), 7.0)


def inside(box):
    return ..., slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)


def test_boxes_keep_area_aspect_and_frame_limits():
    rng = np.random.default_rng(0)
    boxes = [box for _ in range(3000) for box in make_erasing(1.0).draw(HEIGHT, WIDTH, rng)]
    assert len(boxes) > 2990
    for box in boxes:
        rounding = (box.height + box.width + 1) / 2
        area = box.height * box.width
        assert 0.02 * HEIGHT * WIDTH - rounding <= area <= HEIGHT * WIDTH / 3 + rounding
        assert (box.height - 0.5) / (box.width + 0.5) <= 1 / 0.3
        assert (box.height + 0.5) / (box.width - 0.5) >= 0.3
        assert 0 <= box.top <= HEIGHT - box.height
        assert 0 <= box.left <= WIDTH - box.width


def test_area_is_uniform_and_aspect_log_uniform():
    rng = np.random.default_rng(1)
    boxes = [box for _ in range(4000) for box in make_erasing(1.0).draw(HEIGHT, WIDTH, rng)]
    areas = np.array([box.height * box.width / (HEIGHT * WIDTH) for box in boxes])
    log_aspects = np.array([math.log(box.height / box.width) for box in boxes])
    assert abs(areas.mean() - (0.02 + 1 / 3) / 2) < 0.01
    assert abs(np.mean(areas < 0.1) - 0.08 / (1 / 3 - 0.02)) < 0.03
    assert abs(log_aspects.mean()) < 0.05
    assert abs(np.mean(log_aspects > 0.6) - 0.25) < 0.03


def test_boxes_reach_every_corner():
    rng = np.random.default_rng(2)
    covered = np.zeros((8, 8), dtype=bool)
    for _ in range(600):
        for box in make_erasing(1.0).draw(8, 8, rng):
            covered[inside(box)] = True
    assert covered.all()


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_a_clip_is_erased_with_the_given_probability(probability):
    rng = np.random.default_rng(3)
    is_erased = [bool(make_erasing(probability).draw(HEIGHT, WIDTH, rng)) for _ in range(4000)]
    assert abs(np.mean(is_erased) - probability) < 0.025


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_the_same_box_is_erased_in_every_frame_and_nothing_else(mode):
    clip = make_clip()
    changed = erased(clip, [BOX], mode=mode) != clip
    expected = torch.zeros_like(changed)
    expected[inside(BOX)] = True
    assert torch.equal(changed, expected)


def test_pixel_noise_is_normal_and_independent_in_every_frame_and_channel():
    box = ErasedBox(0, 0, 100, 100, noise_seed=0)
    noise = erased(make_clip(8, 128, 128), [box], mode="pixel")[inside(box)].reshape(24, -1).numpy()
    assert np.all(np.abs(noise.mean(axis=1)) < 0.05)
    assert np.all(np.abs(noise.std(axis=1) - 1) < 0.05)
    correlations = np.corrcoef(noise) - np.eye(24)
    assert np.abs(correlations).max() < 0.06


def test_rand_is_one_normal_color_per_box():
    other = BOX._replace(left=20, noise_seed=4)
    clip = erased(make_clip(), [BOX, other], mode="rand")
    colors = [clip[inside(box)].flatten(1) for box in (BOX, other)]
    for color in colors:
        assert torch.equal(color, color[:, :1].expand_as(color))
    assert not torch.equal(colors[0], colors[1])


def test_const_is_zero():
    assert torch.all(erased(make_clip(), [BOX], mode="const")[inside(BOX)] == 0)


def test_count_is_uniform_up_to_its_maximum_and_the_boxes_share_the_area():
    rng = np.random.default_rng(5)
    draws = [make_erasing(1.0, max_count=3).draw(HEIGHT, WIDTH, rng) for _ in range(3000)]
    lengths = [len(draw) for draw in draws]
    for count in (1, 2, 3):
        assert abs(lengths.count(count) / 3000 - 1 / 3) < 0.04
    largest = max(box.height * box.width for draw in draws if len(draw) == 3 for box in draw)
    assert largest <= HEIGHT * WIDTH / 9 + HEIGHT


def test_equal_generators_erase_alike():
    clip = make_clip()
    for seed in range(10):
        results = [draw_and_erase(make_erasing(1.0, max_count=3), clip, np.random.default_rng(seed)) for _ in range(2)]
        assert torch.equal(*results)
        assert not torch.equal(results[0], clip)


def test_the_global_generator_is_not_used():
    clip, state = make_clip(), torch.get_rng_state()
    for mode in ("pixel", "rand", "const"):
        draw_and_erase(make_erasing(1.0, mode=mode), clip, np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny_clips_are_accepted(size):
    rng = np.random.default_rng(6)
    for _ in range(50):
        assert draw_and_erase(make_erasing(1.0), make_clip(2, *size), rng).shape == (3, 2, *size)


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ({"probability": 1.5}, "--reprob 1.5"),
        ({"mode": "noise"}, "--remode 'noise'"),
        ({"max_count": 0}, "--recount 0"),
    ],
)
def test_invalid_settings_are_refused_by_flag(arguments, flag):
    with pytest.raises(ValueError, match=flag):
        make_erasing(**arguments)

"""RandAugment of clips: timm's pixels, the same draw for every frame, no global random numbers."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import AugmentOp, rand_augment_transform

from VideoMAE.augment.rand_augment import (
    FILL,
    AppliedOperation,
    RandAugment,
    RandAugmentSettings,
    apply_operations,
    parse_rand_augment,
)

CONFIG = "rand-m7-n4-mstd0.5-inc1"
INCREASING = RandAugment(CONFIG, interpolation="bicubic")
PLAIN = RandAugment("rand-m7-n4", interpolation="bicubic")
ALL_NAMES = sorted({*INCREASING.names, *PLAIN.names})


@pytest.fixture
def global_random():
    state = random.getstate()
    yield random
    random.setstate(state)


def make_frames(num_frames=3, height=37, width=52, seed=0):
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, None, :, None] + rng.uniform(0, 55, (num_frames, height, width, 3))
    return ramp.astype(np.uint8)


def timm_picture(frame, name, magnitude, seed, *, interpolation):
    """What timm's AugmentOp makes of a frame after `random.seed(seed)`."""
    hparams = {"img_mean": FILL, "magnitude_max": 30}
    hparams["interpolation"] = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[interpolation]
    operation = AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=hparams)
    random.seed(seed)
    return np.asarray(operation(Image.fromarray(frame)))


def sign_after(seed):
    """The sign that timm's level functions draw after `random.seed(seed)`."""
    return -1.0 if random.Random(seed).random() > 0.5 else 1.0


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_operation_equals_timms_at_every_magnitude_and_sign(name, global_random):
    frames = make_frames()
    signs = set()
    for seed, magnitude in enumerate([0, 0.3, 1, 2.5, 4, 5.4999, 6.3, 7, 7.7, 9, 9.99, 10, 13]):
        for interpolation in ("bilinear", "bicubic"):
            args = INCREASING.level_args(name, magnitude, sign := sign_after(seed))
            signs.add(sign)
            if name.startswith("Posterize") and args[0] < 1:
                continue
            expected = timm_picture(frames[0], name, magnitude, seed, interpolation=interpolation)
            result = apply_operations(frames, [AppliedOperation(name, args, interpolation)])
            np.testing.assert_array_equal(result[0], expected, err_msg=f"{name} at {magnitude}, sign {sign}")
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize(("config", "magnitude"), [("rand-inc1", 10), ("rand-mmax15-inc1", 13), ("rand", 2)])
def test_posterizing_to_0_bits_is_black(config, magnitude):
    augment = RandAugment(config, interpolation="bicubic")
    name = next(name for name in augment.names if name.startswith("Posterize"))
    operation = AppliedOperation(name, augment.level_args(name, magnitude, 1.0), "bicubic")
    assert operation.args[0] < 1
    assert np.all(apply_operations(make_frames(), [operation]) == 0)


def test_operations_are_timms_increasing_set():
    timms = [operation.name for operation in rand_augment_transform(CONFIG).ops]
    assert len(timms) == 15
    assert INCREASING.names == tuple(timms)


def test_translation_reaches_45_percent_of_each_frames_own_width_and_height():
    frames = make_frames(height=40, width=200)
    for name, magnitude, sign, axis, num_pixels in [
        ("TranslateXRel", 10, -1.0, 2, -90),
        ("TranslateYRel", 5, 1.0, 1, 9),
    ]:
        operation = AppliedOperation(name, INCREASING.level_args(name, magnitude, sign), "bilinear")
        source = np.arange(frames.shape[axis]) + num_pixels
        outside = (source < 0) | (source >= len(source))
        expected = frames.take(source, axis, mode="clip")
        expected[(slice(None),) * axis + (outside,)] = 128
        np.testing.assert_array_equal(apply_operations(frames, [operation]), expected)


def test_mean_translations_of_the_papers_recipe_are_those_of_the_original():
    rng, height, width = np.random.default_rng(12), 256, 320
    draws = [operation for _ in range(20000) for operation in INCREASING.draw(rng)]
    for name, side, mean_pixels in [("TranslateXRel", width, 100.8), ("TranslateYRel", height, 80.64)]:
        pixels = [abs(operation.args[0]) * side for operation in draws if operation.name == name]
        assert abs(np.mean(pixels) - mean_pixels) < 1


def test_equal_frames_stay_equal():
    frames = np.repeat(make_frames(1), 4, axis=0)
    rng = np.random.default_rng(0)
    for _ in range(100):
        result = apply_operations(frames, INCREASING.draw(rng))
        assert (result.shape, result.dtype) == (frames.shape, np.uint8)
        assert np.all(result == result[:1])


def test_a_clip_is_augmented_frame_by_frame():
    frames = make_frames(4)
    rng = np.random.default_rng(1)
    for _ in range(50):
        operations = INCREASING.draw(rng)
        one_by_one = [apply_operations(frames[t : t + 1], operations)[0] for t in range(4)]
        np.testing.assert_array_equal(apply_operations(frames, operations), np.stack(one_by_one))


def test_operations_are_drawn_uniformly_with_replacement():
    rng = np.random.default_rng(2)
    draws = [RandAugment("rand-m7-n4-p1-inc1", interpolation="bicubic").draw(rng) for _ in range(3000)]
    counts = Counter(operation.name for draw in draws for operation in draw)
    assert len(counts) == 15
    assert all(abs(count - 800) < 4.5 * 800**0.5 for count in counts.values())
    assert any(len({operation.name for operation in draw}) < len(draw) == 4 for draw in draws)


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_each_operation_is_applied_with_its_probability(probability):
    rng = np.random.default_rng(3)
    augment = RandAugment(f"rand-m7-n4-p{probability}-inc1", interpolation="bicubic")
    lengths = Counter(len(augment.draw(rng)) for _ in range(4000))
    mean = sum(length * count for length, count in lengths.items()) / 4000
    assert abs(mean - 4 * probability) < 0.06
    assert abs(lengths[0] / 4000 - (1 - probability) ** 4) < 0.03


def test_signs_are_balanced_and_magnitudes_have_the_given_mean_and_deviation():
    rng = np.random.default_rng(4)
    draws = [operation for _ in range(20000) for operation in INCREASING.draw(rng)]
    for name, unit in [("Rotate", 3.0), ("ShearX", 0.03), ("TranslateYRel", 0.045)]:
        levels = np.array([operation.args[0] for operation in draws if operation.name == name]) / unit
        assert abs(np.mean(levels > 0) - 0.5) < 0.05
        assert abs(np.mean(np.abs(levels)) - 7) < 0.05
        assert abs(np.std(np.abs(levels)) - 0.5) < 0.03
    factors = np.array([operation.args[0] for operation in draws if operation.name == "ColorIncreasing"])
    assert abs(np.mean(factors > 1) - 0.5) < 0.05


def test_magnitudes_stay_between_zero_and_the_maximum():
    rng = np.random.default_rng(5)
    for config, limit in [("rand-m9-n4-mstd5-inc1", 10), ("rand-m9-n4-mstd5-mmax12-inc1", 12)]:
        augment = RandAugment(config, interpolation="bicubic")
        draws = [operation for _ in range(2000) for operation in augment.draw(rng)]
        degrees = [abs(operation.args[0]) for operation in draws if operation.name == "Rotate"]
        assert (min(degrees) >= 0, max(degrees)) == (True, 3.0 * limit)


def test_a_deviation_above_100_means_a_uniform_magnitude():
    rng = np.random.default_rng(6)
    augment = RandAugment("rand-m8-n4-mstd101-inc1", interpolation="bicubic")
    draws = [operation for _ in range(4000) for operation in augment.draw(rng)]
    levels = np.array([abs(operation.args[0]) / 3 for operation in draws if operation.name == "Rotate"])
    assert levels.max() <= 8
    assert abs(levels.mean() - 4) < 0.4
    assert abs(np.mean(levels < 2) - 0.25) < 0.07


def test_equal_generators_draw_equal_operations_and_different_ones_differ():
    draws = [[INCREASING.draw(rng) for _ in range(20)] for rng in map(np.random.default_rng, (7, 7, 8))]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_global_random_state_is_not_used(global_random):
    frames = make_frames()
    augment = RandAugment(CONFIG, interpolation="random")
    results = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        rng = np.random.default_rng(9)
        results.append([apply_operations(frames, augment.draw(rng)) for _ in range(40)])
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    np.testing.assert_array_equal(results[0], results[1])


def test_interpolation_is_the_given_one_and_random_uses_both():
    rng = np.random.default_rng(10)
    for interpolation in ("bilinear", "bicubic", "random"):
        augment = RandAugment(CONFIG, interpolation=interpolation)
        used = {operation.interpolation for _ in range(50) for operation in augment.draw(rng)}
        assert used == ({"bilinear", "bicubic"} if interpolation == "random" else {interpolation})


def test_input_frames_are_not_written_to():
    frames = make_frames()
    frames.flags.writeable = False
    before, rng = frames.copy(), np.random.default_rng(11)
    for _ in range(50):
        apply_operations(frames, INCREASING.draw(rng))
    np.testing.assert_array_equal(frames, before)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 90)])
@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_operation_accepts_tiny_frames(name, size):
    frames = make_frames(2, *size)
    operation = AppliedOperation(name, INCREASING.level_args(name, 7.0, -1.0), "bicubic")
    assert apply_operations(frames, [operation]).shape == frames.shape


def test_config_strings_are_parsed_as_in_timm():
    assert parse_rand_augment(CONFIG) == RandAugmentSettings(7, 4, 0.5, 10, 0.5, True)
    for config in ["rand", "rand-m9", "rand-n3-m5-inc0", "rand-m9-mstd0.5-mmax15-p0.7", CONFIG, "rand-mstd200"]:
        settings, timms = parse_rand_augment(config), rand_augment_transform(config)
        operation = timms.ops[4]
        assert settings.num_operations == timms.num_layers
        assert settings.magnitude == operation.magnitude
        assert settings.magnitude_std == operation.magnitude_std
        assert settings.max_magnitude == (operation.magnitude_max or 10)
        assert settings.probability == operation.prob
        assert settings.increasing == operation.name.endswith("Increasing")


@pytest.mark.parametrize("config", ["", "none"])
def test_none_draws_nothing_and_returns_the_frames(config):
    frames = make_frames()
    augment, rng = RandAugment(config, interpolation="bicubic"), np.random.default_rng(0)
    assert augment.draw(rng) == []
    np.testing.assert_array_equal(apply_operations(frames, augment.draw(rng)), frames)


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ("augmix-m5", "augmix"),
        ("rand-m7-w0", "w0"),
        ("rand-tweights", "tweights"),
        ("rand-m7.5-n", "m7.5"),
        ("rand-q3", "q3"),
        ("rand-m7-", "''"),
        ("rand-mstd0.5.5", "mstd0.5.5"),
        ("rand-p2", "2.0"),
    ],
)
def test_an_unknown_part_is_refused(config, part):
    with pytest.raises(ValueError, match="--aa") as error:
        parse_rand_augment(config)
    assert part in str(error.value)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="--train_interpolation 'lanczos'"):
        RandAugment(CONFIG, interpolation="lanczos")

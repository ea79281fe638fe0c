"""Random erasing of clips: sizes and positions of the boxes, their fill, and the probability."""

import math

import numpy as np
import pytest
import torch

from VideoMAE.augment.random_erasing import ErasedBox, RandomErasing, erase

HEIGHT, WIDTH = 224, 224
BOX = ErasedBox(top=5, left=10, height=12, width=7, noise_seed=3)


def make_erasing(probability=1.0, *, mode="pixel", max_count=1):
    return RandomErasing(probability, mode=mode, max_count=max_count)


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
def test_a_clip_is_erased_with_the_probability_asked_for(probability):
    rng = np.random.default_rng(3)
    erased = [bool(make_erasing(probability).draw(HEIGHT, WIDTH, rng)) for _ in range(4000)]
    assert abs(np.mean(erased) - probability) < 0.025


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_the_same_box_is_erased_in_every_frame_and_nothing_else(mode):
    clip = make_clip()
    changed = erase(clip, [BOX], mode=mode) != clip
    expected = torch.zeros_like(changed)
    expected[inside(BOX)] = True
    assert torch.equal(changed, expected)


def test_pixel_noise_is_normal_and_independent_in_every_frame_and_channel():
    box = ErasedBox(0, 0, 100, 100, noise_seed=0)
    noise = erase(make_clip(8, 128, 128), [box], mode="pixel")[inside(box)].reshape(24, -1).numpy()
    assert np.all(np.abs(noise.mean(axis=1)) < 0.05)
    assert np.all(np.abs(noise.std(axis=1) - 1) < 0.05)
    correlations = np.corrcoef(noise) - np.eye(24)
    assert np.abs(correlations).max() < 0.06


def test_rand_is_one_normal_colour_per_box():
    other = BOX._replace(left=20, noise_seed=4)
    erased = erase(make_clip(), [BOX, other], mode="rand")
    colours = [erased[inside(box)].flatten(1) for box in (BOX, other)]
    for colour in colours:
        assert torch.equal(colour, colour[:, :1].expand_as(colour))
    assert not torch.equal(colours[0], colours[1])


def test_const_is_zero():
    assert torch.all(erase(make_clip(), [BOX], mode="const")[inside(BOX)] == 0)


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
        results = [make_erasing(1.0, max_count=3)(clip, np.random.default_rng(seed)) for _ in range(2)]
        assert torch.equal(*results)
        assert not torch.equal(results[0], clip)


def test_input_clip_and_global_generator_are_unchanged():
    clip, state = make_clip(), torch.get_rng_state()
    for mode in ("pixel", "rand", "const"):
        make_erasing(1.0, mode=mode)(clip, np.random.default_rng(0))
    assert torch.equal(clip, make_clip())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny_clips_are_accepted(size):
    rng = np.random.default_rng(6)
    for _ in range(50):
        assert make_erasing(1.0)(make_clip(2, *size), rng).shape == (3, 2, *size)


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

"""Light, colour and sharpness vary as the recipe says; the label's place does not."""

import dataclasses

import numpy as np
import pytest

from main import RECIPE
from roadseg.data.light import LIGHT_NUMBERS, change_light, draw_lights, light_of

PLAIN = dict.fromkeys(("gamma", "exposure", "colour_cast", "contrast", "saturation"), (1, 1))
STEADY = dataclasses.replace(
    RECIPE, varied_share=1, shadow=(1, 1), blur_pixels=0, noise=0, jpeg_quality=(100, 101), **PLAIN
)


def vary_light(picture, random, recipe):
    lights = draw_lights(random.random((1, LIGHT_NUMBERS)), recipe)
    return change_light(picture, light_of(lights, 0))


def varied(picture, random, **fields):
    return vary_light(picture, random, dataclasses.replace(STEADY, **fields)).astype(int)


def flat(red, green, blue):
    return np.tile(np.array((red, green, blue), np.uint8), (40, 60, 1))


def test_the_share_of_varied_pictures(random):
    picture = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for share, expected in ((0, {0}), (0.5, range(25, 76)), (1, {100})):
        recipe = dataclasses.replace(RECIPE, varied_share=share)
        seen = [vary_light(picture, random, recipe) for _ in range(100)]
        assert sum(not np.array_equal(one, picture) for one in seen) in expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (40, 80, 160)),
        ({"gamma": (2, 2)}, (6, 25, 100)),  # 255 (v / 255)^2
        ({"exposure": (2, 2)}, (80, 160, 255)),
        ({"exposure": (0.5, 0.5)}, (20, 40, 80)),
        ({"saturation": (0, 0)}, (77, 77, 77)),  # .299 40 + .587 80 + .114 160
        ({"shadow": (0.5, 0.5)}, None),
    ],
)
def test_a_flat_colour_by_hand(fields, expected, random):
    result = varied(flat(40, 80, 160), random, **fields)
    assert result.shape == (40, 60, 3)
    if expected:
        assert np.abs(result - expected).max() <= 2  # JPEG rounds
    else:  # one side is halved, the other left, softly
        assert np.abs(result.max(axis=(0, 1)) - (40, 80, 160)).max() <= 20
        assert result[..., 2].min() >= 76


def test_contrast_moves_values_from_or_to_a_middle(random):
    values = np.tile(np.array((60, 180), np.uint8), (40, 30))[..., None].repeat(3, axis=-1)
    result = varied(values, random, contrast=(0.5, 0.5))
    assert abs((result.max() - result.min()) - 60) <= 6


def test_colours_are_cast_apart(random):
    seen = [varied(flat(100, 100, 100), random, colour_cast=(0.8, 1.25))[0, 0] for _ in range(30)]
    assert 78 <= np.min(seen) < 90 and 110 < np.max(seen) <= 127
    assert np.mean([np.ptp(colour) > 5 for colour in seen]) > 0.8


def test_blur_and_noise(random):
    edge = np.repeat(np.array((0, 200), np.uint8), 30)[None, :, None].repeat(40, 0).repeat(3, -1)
    slopes = [np.diff(varied(edge, random, blur_pixels=3)[20, :, 0]).max() for _ in range(20)]
    assert min(slopes) < 60 and max(slopes) >= 190  # half of the pictures stay sharp
    spreads = [varied(flat(90, 90, 90), random, noise=20).std() for _ in range(40)]
    assert 8 < max(spreads) < 22 and min(spreads) < 1


def test_the_same_random_numbers_give_the_same_picture():
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    first, again = (vary_light(picture, np.random.default_rng(5), RECIPE) for _ in range(2))
    np.testing.assert_array_equal(first, again)

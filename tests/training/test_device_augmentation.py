"""A GPU augments as a processor does: the same maps, the same light, JPEG's own artefacts."""

import dataclasses

import numpy as np
import pytest

from main import RECIPE
from roadseg.data import light
from roadseg.data.augmentation import MAP_NUMBERS, draw_maps, warp
from roadseg.data.pictures import VOID, read_image
from roadseg.engine import keras
from roadseg.training import device_augmentation as device
from tests.small import HERE

SHAPE = (96, 160)
STREET = read_image(HERE / "tests" / "street.jpg", SHAPE)
ALWAYS = dataclasses.replace(RECIPE, varied_share=1.0)


def on_device(lights, pictures):
    """Change pictures on the device. Returns int64 [N, H, W, 3]."""
    stacked = light.Light(*(np.float32(each) for each in zip(*lights, strict=True)))
    stacked = stacked._replace(noise_place=np.int32(stacked.noise_place))
    changed = device.change_light(
        np.float32(pictures),
        keras.tree.map_structure(keras.ops.convert_to_tensor, stacked),
        keras.ops.convert_to_tensor(light.standard_noise()),
    )
    return keras.ops.convert_to_numpy(changed).astype(int)


def test_pictures_and_labels_are_moved_as_on_a_processor(random):
    """But for what rounds differently: a few pixels by one, and labels between two pixels."""
    label = random.integers(0, 3, SHAPE, dtype=np.uint8)
    label[:9] = VOID
    pictures, labels = np.stack([STREET, STREET[:, ::-1]]), np.stack([label, label[::-1]])
    places = np.array([1, 0, 1, 1], np.int32)
    maps = draw_maps(SHAPE, random.random((4, MAP_NUMBERS)), RECIPE, is_mirrored=True)
    matrices, offsets = map(np.float32, maps)
    moved = map(
        keras.ops.convert_to_numpy, device.warp(pictures, labels, places, matrices, offsets)
    )
    for place, *drawn, picture, moved_label in zip(places, *maps, *moved, strict=True):
        expected, expected_label = warp(pictures[place], labels[place], *drawn)
        assert (moved_label == expected_label).mean() > 0.999
        assert (np.abs(picture - expected) <= 1).mean() > 0.999


def test_light_is_changed_as_on_a_processor(random):
    """Within rounding, blocks of JPEG apart; what is left, to the bit."""
    lights = light.draw_lights(random.random((16, light.LIGHT_NUMBERS)), ALWAYS)
    drawn = [light.light_of(lights, place) for place in range(16)]
    lights = [light.UNCHANGED, *(each._replace(jpeg_quality=0) for each in drawn), *drawn]
    changed = on_device(lights, np.stack([STREET] * len(lights)))
    np.testing.assert_array_equal(changed[0], STREET)
    for each, result in zip(lights, changed, strict=True):
        expected = light.change_light(STREET, each).astype(int)
        limit = 2.5 if each.jpeg_quality else 1.0  # what rounds otherwise falls into other steps
        assert np.abs(result - expected).mean() < limit, each


@pytest.mark.parametrize("quality", [20, 50, 80, 95])
def test_jpeg_takes_from_a_picture_what_jpeg_takes(quality):
    """The artefacts themselves are compared, so that doing nothing would fail."""
    (changed,) = on_device([light.UNCHANGED._replace(jpeg_quality=quality)], STREET[None])
    here, there = changed - STREET, light.compress(STREET, quality).astype(int) - STREET
    assert np.abs(here - there).mean() < 0.35 * np.abs(there).mean() + 0.35
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.8

"""Picture and label are moved together, as the recipe says."""

import dataclasses

import numpy as np
import pytest

from main import RECIPE
from roadseg.data.augmentation import VGG_MEAN_RGB
from roadseg.data.pictures import VOID
from tests.small import augment

STILL = dataclasses.replace(
    RECIPE, zoom=(1, 1), stretch=(1, 1), lean=(0, 0), shift=(0, 0), rotation_degrees=(0, 0)
)


def test_augmented_picture_and_label_move_together(random):
    """A picture painted in its classes' colours still is after augmentation."""
    label = np.zeros((60, 200), np.uint8)
    label[20:50, 30:90] = 1
    label[5:12, 100:180] = VOID
    colours = np.zeros((256, 3), np.uint8)
    mean = tuple(map(round, VGG_MEAN_RGB))
    colours[[0, 1, VOID]] = (200, 30, 10), (10, 220, 60), mean
    moved = 0
    for _ in range(20):
        picture, changed = augment(colours[label], label, random, RECIPE)
        assert picture.shape == (60, 200, 3) and picture.dtype == changed.dtype == np.uint8
        assert set(np.unique(changed)) <= {0, 1, VOID}
        # Only the pixels at borders mix two colours.
        equal = np.abs(picture.astype(int) - colours[changed]).max(axis=-1) <= 1
        assert equal.mean() > 0.9
        moved += np.mean(changed != label) > 0.05
    assert moved >= 15


@pytest.mark.parametrize(("mirrored", "expected"), [(True, {0, 1}), (False, {1})])
def test_only_what_may_be_mirrored_is(mirrored, expected, random):
    label = np.zeros((8, 20), np.uint8)
    label[:, :5] = 1
    picture = np.repeat(label[..., None], 3, axis=-1)
    recipe = dataclasses.replace(STILL, mirrored=mirrored)
    labels = [augment(picture, label, random, recipe)[1] for _ in range(20)]
    assert {int(changed[4, 1]) for changed in labels} == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("zoom", 2.0, [(5, 60), (44, 139)]),
        ("stretch", 4.0, [(20, 60), (29, 139)]),  # twice as wide, half as high
        ("stretch", 0.25, [(5, 90), (44, 109)]),
        ("lean", 0.5, [(15, 85), (34, 114)]),  # 4.75 columns to the right at the top
        ("shift", 0.1, [(10, 60), (29, 99)]),  # a tenth of 50 rows and of 200 columns
        ("rotation_degrees", 90.0, [(5, 90), (44, 109)]),
    ],
)
def test_a_square_moves_as_worked_out_by_hand(name, value, expected, random):
    """About the middle of the picture; expected: first and last (row, column)."""
    label = np.zeros((50, 200), np.uint8)
    label[15:35, 80:120] = 1
    picture = np.repeat(label[..., None], 3, axis=-1)
    recipe = dataclasses.replace(STILL, **{name: (value, value)})
    _, changed = augment(picture, label, random, recipe)
    np.testing.assert_array_equal(np.argwhere(changed == 1)[[0, -1]], expected)

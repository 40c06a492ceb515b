"""What is made of probabilities: classes, painted pictures, PNG files."""

import io

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from roadseg.answering.painting import choose_classes, encode_png, paint_classes, shrink


def test_the_most_likely_class_is_chosen_and_of_equal_ones_the_last(random):
    probabilities = random.integers(0, 4, (20, 30, 5)).astype(np.float32)  # with many ties
    classes = choose_classes(np.moveaxis(probabilities, -1, 0))
    assert classes.dtype == np.uint8
    for place in np.ndindex(20, 30):
        chances = probabilities[place].tolist()
        assert classes[place] == max(i for i in range(5) if chances[i] == max(chances))


def test_painting_tints_classes_and_draws_their_contours():
    """A tie is road; other places stay as they are; the picture's border is no contour."""
    picture = np.full((9, 9, 3), 100, np.uint8)
    road = np.full((9, 9), 0.49, np.float32)
    road[2:, 2:7] = 0.5
    painted = paint_classes(picture, choose_classes([1 - road, road]), {1: (0, 200, 255)})
    expected = np.full((9, 9, 3), 100)
    expected[2:, 2:7] = 0, 200, 255
    expected[3:, 3:6] = 60, 140, 162
    np.testing.assert_array_equal(painted, expected)


@pytest.mark.parametrize("reach", [1, 3, 50])
def test_shrinking_is_the_minimum_of_each_window(reach, random):
    place = random.random((30, 41)) > 0.02
    expected = scipy.ndimage.minimum_filter(place, 2 * reach + 1)
    np.testing.assert_array_equal(shrink(place, reach), expected)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 33, 3)], ids=str)
def test_png_files_hold_the_picture_for_every_reader(shape, random):
    picture = random.integers(0, 256, shape, dtype=np.uint8)
    opened = Image.open(io.BytesIO(encode_png(picture)))
    assert (opened.format, opened.mode) == ("PNG", "RGB" if len(shape) == 3 else "L")
    np.testing.assert_array_equal(opened, picture)

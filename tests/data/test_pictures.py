"""Pictures of every kind are read as a person sees them, labels as numbers."""

import numpy as np
import pytest
from PIL import Image

from roadseg.data.datasets import DATASETS
from roadseg.data.pictures import VOID, read_image, read_label
from roadseg.errors import UserError
from tests.small import KITTI, rotated


def test_pictures_of_every_kind_are_read(tmp_path, random):
    """Grey, 16 bits, transparency, palette, CMYK, rotated: what a person would see."""
    array = random.integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    picture, grey = Image.fromarray(array), np.array(array[..., 0])
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    see_through = picture.convert("RGBA")
    see_through.putalpha(7)
    cases = {
        "grey.png": (Image.fromarray(grey), np.dstack([grey] * 3)),
        "sixteen.png": (wide, np.dstack([grey] * 3)),
        "sixteen.tif": (wide, np.dstack([grey] * 3)),
        "transparent.png": (see_through, array),
        "palette.png": (picture.quantize(24), array),
        "cmyk.jpg": (picture.convert("CMYK"), array),
        "ein Bild für später.webp": (picture, array),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name, quality=100, lossless=True)
        found = read_image(tmp_path / name)
        assert found.dtype == np.uint8 and found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 3, name
    picture.save(tmp_path / "rotated.png", exif=rotated())
    found = read_image(tmp_path / "rotated.png")
    np.testing.assert_array_equal(found, np.rot90(array, -1))


def test_labels_are_resized_to_nearest_neighbours(drawn):
    """Each pixel is the one at the same share of height and width of the whole label."""
    samples, _ = KITTI.find(drawn / "data_road")
    whole = read_label(samples[0], KITTI)
    label = read_label(samples[0], KITTI, (37, 111))
    for row, column in np.ndindex(37, 111):
        place = int((row + 0.5) / 37 * whole.shape[0]), int((column + 0.5) / 111 * whole.shape[1])
        assert label[row, column] == whole[place]
    assert set(np.unique(label)) == {0, 1, VOID}


def test_number_labels_are_read_as_numbers(camvid):
    """Also those with a palette; 11 and 255 are void; colours are refused."""
    data_set = DATASETS["camvid"]
    (sample, *_), _ = data_set.find(camvid / "camvid")
    numbers = np.asarray(Image.open(sample.label))
    expected = np.where(numbers == 11, VOID, numbers)
    np.testing.assert_array_equal(read_label(sample, data_set), expected)
    with_palette = Image.fromarray(numbers)
    with_palette.putpalette([7, 8, 9] * 256)
    with_palette.save(sample.label)
    np.testing.assert_array_equal(read_label(sample, data_set), expected)
    with_palette.convert("RGB").save(sample.label)
    with pytest.raises(UserError, match="RGB"):
        read_label(sample, data_set)

"""Pictures of every kind are read as a person sees them, labels as numbers."""

import numpy as np
import pytest
from PIL import Image

from roadseg.data import pictures
from roadseg.data.datasets import DATASETS
from roadseg.data.pictures import VOID, read_image, read_label
from roadseg.errors import UserError
from tests.small import KITTI, PNG_GREY, PNG_RGB, rotated, write_png


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
    """Also those with a palette; 11 and 255 are void; colours are refused by their values."""
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
    with pytest.raises(UserError, match="no class has 7 8 9; expected one of 0, 1,"):
        read_label(sample, data_set)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_few_bits_hold_their_numbers(bits, tmp_path):
    """As tools write them that save room: grey PNG of 1, 2 and 4 bits a pixel."""
    numbers = (np.arange(16).reshape(2, 8) % 2**bits).astype(np.uint8)
    rows = np.packbits(numbers[..., None] >> np.arange(bits)[::-1] & 1).reshape(2, -1)
    content = b"".join(b"\0" + row.tobytes() for row in rows)
    write_png(tmp_path / "a.png", (8, 2), bits, PNG_GREY, content)
    np.testing.assert_array_equal(pictures.read_numbers(tmp_path / "a.png"), numbers)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_grey_mask_stored_as_colours_holds_its_numbers(mode, tmp_path):
    numbers = np.arange(16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(numbers).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pictures.read_numbers(tmp_path / "a.png"), numbers)
    Image.new(mode, (4, 4), "red").save(tmp_path / "a.png")
    assert (pictures.read_numbers(tmp_path / "a.png") == (255, 0, 0)).all()


def test_a_picture_of_a_large_camera_is_no_attack(tmp_path):
    """Of 200 million pixels; one of 600 million may be."""
    write_png(tmp_path / "a.png", (20_000, 10_000), 8, PNG_RGB, b"")
    assert pictures.picture_shape(tmp_path / "a.png") == (10_000, 20_000)
    write_png(tmp_path / "a.png", (20_000, 30_000), 8, PNG_RGB, b"")
    with pytest.raises(UserError, match="decompression bomb"):
        pictures.picture_shape(tmp_path / "a.png")


def test_the_memory_of_a_container_is_what_is_free(tmp_path, monkeypatch):
    """Its limit less what is used, of which a cache of files is given back; not the machine's."""
    monkeypatch.setattr(pictures, "Path", lambda text: tmp_path / text.lstrip("/"))
    group = tmp_path / "sys" / "fs" / "cgroup"
    for folder in (group, tmp_path / "proc"):
        folder.mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    assert pictures.free_memory_bytes() == 8000 << 10
    (group / "memory.stat").write_text("anon 1\ninactive_file 1000\n")
    (group / "memory.current").write_text("5000\n")
    for limit, expected in (("7000", 3000), ("max", 8000 << 10), ("900", 0)):
        (group / "memory.max").write_text(f"{limit}\n")
        assert pictures.free_memory_bytes() == expected


@pytest.mark.parametrize(("fitting", "ahead"), [(1000, 6), (3, 3), (0, 1)])
def test_of_large_results_fewer_are_computed_in_advance(fitting, ahead, monkeypatch):
    """In order, all of them; never more at once than fit, but always one."""
    monkeypatch.setattr(pictures, "BYTES_AHEAD", 800 * fitting)
    begun = []

    def compute(number):
        begun.append(number)
        return np.full(100, number, float)  # 800 bytes

    for place, result in enumerate(pictures.map_ahead(compute, range(20), ahead=6)):
        assert result[0] == place
        assert len(begun) <= place + 1 + ahead
    assert sorted(begun) == list(range(20))

"""A submission is what KITTI's server takes."""

import itertools
import zipfile

import numpy as np
import pytest
from PIL import Image

from roadseg.data.layouts import Sample
from roadseg.errors import UserError
from roadseg.scoring.submission import pack_submission
from tests.by_hand import cell_by_hand, ground_projection
from tests.small import KITTI, SMALL

TESTING = {"um": 96, "umm": 94, "uu": 100}  # pictures that KITTI has of each category


def as_many_as_kitti(drawn):
    """As many as KITTI has, of the drawn pictures in turn."""
    _, testing = KITTI.find(drawn / "data_road")
    return [
        Sample(f"{category}_{number:06d}", original.picture, None, category, original.calibration)
        for category, count in TESTING.items()
        for number, original in zip(range(count), itertools.cycle(testing))
    ]


def test_a_submission_is_what_kittis_server_takes(drawn, tmp_path, random):
    """290 grey pictures of 800x400 in the root, each the warped 8-bit probability."""
    samples, path = as_many_as_kitti(drawn), tmp_path / "submission.zip"
    road = random.uniform(size=(SMALL[0] // 3, SMALL[1] // 4)).astype(np.float32)
    road = road.repeat(3, axis=0).repeat(4, axis=1)  # quick to compress

    def predict(pictures):
        return np.stack([np.stack([1 - road, road], axis=-1)] * len(pictures))

    pack_submission(path, predict, samples, SMALL)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        image = Image.open(archive.open("umm_road_000093.png"))
        assert image.mode == "L" and image.size == (400, 800)
        pixels = np.asarray(image)
    assert names == {
        f"{category}_road_{number:06d}.png"
        for category, count in TESTING.items()
        for number in range(count)
    }
    projection = ground_projection(samples[96 + 93].calibration.read_text())
    for row, column in random.integers(0, (800, 400), (200, 2)).tolist():
        place = cell_by_hand(projection, row, column, *SMALL)
        assert pixels[row, column] == (0 if place < 0 else np.rint(255 * road.ravel()[place]))


def test_a_picture_too_few_is_no_submission(drawn, tmp_path):
    with pytest.raises(UserError, match="289 testing pictures"):
        pack_submission(tmp_path / "a.zip", None, as_many_as_kitti(drawn)[1:], SMALL)
    assert not list(tmp_path.iterdir())

"""Streets that training has not seen: which of their pixels count."""

import numpy as np
from PIL import Image

from experiments.strangers import STRANGERS
from roadseg.data.datasets import DATASETS
from roadseg.data.layouts import Sample
from roadseg.data.pictures import VOID


def test_the_lowest_rows_of_a_label_can_be_left_out(tmp_path):
    """3 of 188 rows, and 6 of 375; nothing where a stranger does not ask for it."""
    for height, left_out in ((188, 3), (375, 6)):
        path = tmp_path / f"{height}.png"
        Image.new("RGB", (4, height), (255, 0, 255)).save(path)
        sample = Sample("um_000200", path, path, "um")
        expected = np.ones((height, 4), np.uint8)
        for name in ("KITTI, own labels", "KITTI, own labels, less the lowest 3 of 188 rows"):
            label = STRANGERS[name].read_label(sample, DATASETS["kitti"])
            np.testing.assert_array_equal(label, expected)
            expected[height - left_out :] = VOID

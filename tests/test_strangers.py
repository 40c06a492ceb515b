"""Streets that training has not seen: which of their pixels count, and what is left out."""

import csv

import numpy as np
from PIL import Image

from experiments import strangers
from experiments.strangers import STRANGERS
from roadseg.data.datasets import DATASETS
from roadseg.data.layouts import Sample
from roadseg.data.pictures import VOID
from roadseg.files import read_json


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


def test_what_is_missing_is_left_out_and_the_rest_scored_as_the_run_was(
    trained, drawn, tmp_path, capsys
):
    """Of the run's own data set, what validated; none of its pictures has a number from 200 on."""
    names, table = ("campus", "KITTI, own labels", "KITTI, the rest"), tmp_path / "table.csv"
    words = [trained, "--data-dir", drawn, "--only", *names, "--csv", table]
    assert strangers.main(list(map(str, words))) == 0
    said = "".join(capsys.readouterr())
    assert "lums: not found" in said and "none of the 3 pictures counts here" in said
    with table.open() as file:
        (row,) = csv.DictReader(file)
    assert (row["pictures"], row["change"]) == ("KITTI, the rest", "unchanged")
    expected = read_json(trained / "metrics.json")["calibration"]
    for name in ("f1_at_half", "f1_at_best", "best_threshold", "expected_calibration_error"):
        np.testing.assert_allclose(float(row[name]), expected[name], rtol=1e-4)

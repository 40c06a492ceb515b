"""Pictures are scored in their own size, with calibrated probabilities."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import main
from roadseg.answering.predictor import UNCALIBRATED, Calibration
from roadseg.data.datasets import DATASETS
from roadseg.data.pictures import VOID, read_label
from roadseg.files import read_json
from roadseg.scoring.evaluation import calibrate, score_pictures, score_table
from roadseg.scoring.tally import Tally


def test_a_run_keeps_what_makes_its_probabilities_true(trained, tmp_path):
    """With it the loss on the validation part is lower than without."""
    plain = tmp_path / "run"
    shutil.copytree(trained, plain)
    (plain / "calibration.json").unlink()
    losses = []
    for folder in (trained, plain):
        predict, data_set, settings = main.load_run(folder)
        labelled, _ = data_set.find(Path(settings["data_dir"]) / "data_road")
        _, validation = data_set.split(labelled, 0)
        tally = score_pictures(predict, validation, data_set, settings["image_shape"])
        losses.append(tally.loss)
    assert losses[0] < losses[1] - 1e-3


def test_a_run_answers_with_the_share_of_road_that_it_was_calibrated_on(trained):
    fit = read_json(trained / "calibration.json")
    _, calibration, data_set, settings = main.load_network(trained)
    labelled, _ = data_set.find(Path(settings["data_dir"]) / "data_road")
    labels = [read_label(sample, data_set) for sample in data_set.split(labelled, 0)[1]]
    road, other = (sum((label == index).sum() for label in labels) for index in (1, 0))
    assert fit["share"] == pytest.approx(road / (road + other)) and 0 < fit["share"] < 1
    height, width = labels[0].shape
    rows, columns = (axis + 0.5 for axis in np.mgrid[:height, :width])
    is_front = (rows > 0.75 * height) & (abs(columns - width / 2) < width / 10)
    front = np.concatenate([label[is_front] for label in labels])
    assert fit["front"] == pytest.approx((front == 1).mean())
    assert calibration == Calibration(**fit)


def test_a_bonnet_that_is_not_valid_counts_as_no_road_in_front():
    label = np.ones((8, 10), np.uint8)
    label[7] = VOID
    tally = Tally(("other", "road"))
    tally.add(label, np.full((8, 10, 2), 0.5), "city")
    assert tally.front.tolist() == [2, 2]  # the lowest two rows, the middle two columns


def test_many_classes_are_not_calibrated_and_nothing_is_predicted_for_it(tmp_path):
    assert calibrate(None, None, DATASETS["camvid"], None, tmp_path) == UNCALIBRATED
    assert read_json(tmp_path / "calibration.json") == UNCALIBRATED._asdict()


def test_the_terminal_shows_every_class_where_there_are_many():
    tally = Tally(("sky", "road", "pole"))
    probabilities = np.eye(3)[[[0, 1, 1, 1]]]
    tally.add(np.array([[0, 1, 0, VOID]], np.uint8), probabilities, "city")
    result = tally.scores() | {"split": "validation", "labels": "drawn"}
    lines = [line.split() for line in score_table(result).splitlines()]
    assert ["sky", "50.00", "100.00", "50.00", "66.67"] in lines  # 1 of 2 found, none invented
    assert ["road", "50.00", "50.00", "100.00", "33.33"] in lines  # 1 found, 1 invented
    assert ["pole", "none", "none", "none", "0.00"] in lines  # neither there nor found
    assert lines[-1] == ["accuracy", "66.67,", "mean", "IoU", "50.00"]

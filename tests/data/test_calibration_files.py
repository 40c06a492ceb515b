"""Calibration files that are broken or missing are named."""

import re

import pytest
from PIL import Image

from roadseg.data.calibration_files import read_calibrations
from tests.small import KITTI


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "P2 has 0 numbers"),
        (lambda text: text.replace("R0_rect", "R1_rect"), "R0_rect has 0 numbers"),
        (lambda text: text.replace("P2: ", "P2: 1.0 "), "P2 has 13 numbers"),
        (lambda text: text.replace("P2: ", "P2: x"), "could not convert"),
        (lambda text: re.sub(r"(Tr_cam_to_road: ).*", r"\g<1>" + "0 " * 12, text), "no rotation"),
        (lambda text: re.sub(r"(Tr_cam_to_road: ).*", r"\g<1>" + "nan " * 12, text), "12 numbers"),
    ],
    ids=["empty", "missing", "long", "word", "zero", "nan"],
)
def test_a_broken_calibration_is_named_and_left_out(damage, reason, spoilt):
    labelled, _ = KITTI.find(spoilt / "data_road")
    path = labelled[0].calibration
    path.write_text(damage(path.read_text()))
    labelled[1].calibration.unlink()
    calibrations, faults = read_calibrations(labelled[::-1])
    assert set(calibrations) == {sample.name for sample in labelled[2:]}
    assert list(faults) == [labelled[0].name, labelled[1].name]  # broken before missing
    broken, missing = faults.values()
    assert str(path) in broken and reason in broken
    assert str(labelled[1].calibration) in missing and "No such file" in missing


@pytest.mark.parametrize("scale", [1 / 2, 2])
def test_the_calibration_of_another_picture_size_is_named_and_left_out(scale, spoilt):
    """Seen from above there would be no road, and no score."""
    labelled, _ = KITTI.find(spoilt / "data_road")
    path = labelled[0].picture
    picture = Image.open(path)
    picture.resize([round(scale * size) for size in picture.size]).save(path)
    calibrations, faults = read_calibrations(labelled)
    assert list(faults) == [labelled[0].name] and len(calibrations) == len(labelled) - 1
    (line,) = faults.values()
    assert str(labelled[0].calibration) in line and "off the middle of a picture of" in line

"""What a class weighs follows from the training labels."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roadseg.data.class_weights import weigh_classes
from roadseg.data.datasets import DATASETS, classes_of_own
from roadseg.data.layouts import Sample
from roadseg.data.pictures import VOID

ROW = dataclasses.replace(
    DATASETS["folder"],
    **classes_of_own(("wall", "road", "pole", "moon")),
    label_values={0: 0, 1: 1, 2: 2, 3: 3, VOID: VOID},
)


@pytest.fixture
def samples(tmp_path):
    """Two labels: 60 wall, 30 road, 10 void; 80 wall, 16 road, 4 pole."""
    labels = {"a": [60, 30, 0, 0, 10], "b": [80, 16, 4, 0, 0]}
    for name, counts in labels.items():
        label = np.repeat(np.array([0, 1, 2, 3, VOID], np.uint8), counts).reshape(10, 10)
        Image.fromarray(label).save(tmp_path / f"{name}.png")
    return [Sample(name, Path(), tmp_path / f"{name}.png", "train") for name in labels]


def test_a_class_weighs_the_median_share_by_its_own(samples):
    """Wall 140/190, road 46/190, pole 4/100, of the valid pixels of the pictures that hold it."""
    assert weigh_classes("none", samples, ROW) == {}
    # The median is road's: 46/140, 1, (46/190) / (4/100); there is no moon.
    expected = {"wall": 0.3286, "road": 1.0, "pole": 6.053, "moon": 1.0}
    assert weigh_classes("median", samples, ROW) == expected
    expected = {"wall": 0.8462, "road": 1.0, "pole": 1.31, "moon": 1.0}
    assert weigh_classes("weak", samples, ROW) == expected
    expected = {"wall": 0.5732, "road": 1.0, "pole": 2.460, "moon": 1.0}
    assert weigh_classes("sqrt", samples, ROW) == expected

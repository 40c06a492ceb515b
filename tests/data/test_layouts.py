"""Which pictures a data set has, and which of them validate."""

from pathlib import Path

import pytest

from roadseg.data.layouts import Sample, split_last_frames, subsample
from tests.small import KITTI


@pytest.mark.parametrize("counts", [(95, 96, 98), (80, 78, 84)])
def test_validation_is_the_last_16_of_each_category(counts):
    samples = [
        Sample(f"{category}_{number:06d}", Path(), None, category)
        for category, count in zip(("um", "umm", "uu"), counts, strict=True)
        for number in range(count)
    ]
    training, validation = split_last_frames(samples, seed=0)
    assert len(training) == sum(counts) - 48
    assert {sample.name for sample in validation} == {
        f"{category}_{number:06d}"
        for category, count in zip(("um", "umm", "uu"), counts, strict=True)
        for number in range(count - 16, count)
    }


def test_limit_leaves_no_category_out(drawn):
    labelled, _ = KITTI.find(drawn / "data_road")
    assert {sample.category for sample in subsample(labelled, 3)} == {"um", "umm", "uu"}

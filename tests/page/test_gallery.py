"""The gallery keeps the worst pictures, with their errors painted."""

from pathlib import Path

import numpy as np
import pytest

from roadseg.data.layouts import Sample
from roadseg.data.pictures import VOID
from roadseg.page import gallery

LABEL = np.zeros((40, 120), np.uint8)
LABEL[20:, 30:90] = 1
LABEL[:, :5] = VOID
PICTURE = np.full((40, 120, 3), 128, np.uint8)


def answer_with_errors(index):
    """Probabilities of road: 20 pixels times index missed, 10 times half of it invented."""
    road = (LABEL == 1).astype(np.float32)
    road[:, :5] = 1  # void: no error
    road[20:, 30 : 30 + index] = 0
    road[:10, 100 : 100 + index // 2] = 1
    return road


def test_the_worst_pictures_come_first(tmp_path):
    """Pictures that are right do not push these out."""
    worst = gallery.WorstPictures()
    for index in [*range(0, 20, 2), *range(19, 0, -2)]:
        road = answer_with_errors(index)
        sample = Sample(f"um_{index:06d}", Path(), None, "um")
        worst.add(sample, PICTURE, LABEL, np.stack([1 - road, road], axis=-1), None)
    rows = worst.save(tmp_path)
    assert [row["name"] for row in rows] == [f"um_{index:06d}" for index in range(19, 7, -1)]
    hits, missed, invented = 20 * (60 - 19), 20 * 19, 10 * 9
    assert rows[0]["score"] == pytest.approx(200 * hits / (2 * hits + missed + invented))
    assert (tmp_path / "report" / "validation" / "um_000019_errors.jpg").is_file()


@pytest.mark.parametrize(("count", "shown"), [(60, 60), (61, 31), (290, 58)])
def test_a_report_shows_evenly_spaced_testing_pictures_60_at_most(count, shown, tmp_path):
    samples = [Sample(f"{number}", Path(), None, "test") for number in range(count)]
    step = -(-count // 60)
    names = gallery.TestingGallery(tmp_path, samples).names
    assert names == [f"{step * number}" for number in range(shown)]


def test_missed_road_is_red_and_invented_road_blue():
    road = answer_with_errors(19)
    painted = gallery.paint_errors(PICTURE, LABEL, (road > 0.5).astype(int), 2).astype(int)
    red, blue = painted[..., 0] > painted[..., 2] + 50, painted[..., 2] > painted[..., 0] + 50
    np.testing.assert_array_equal(red, (LABEL == 1) & (road == 0))
    np.testing.assert_array_equal(blue, (LABEL == 0) & (road == 1))


def test_of_many_classes_every_error_is_red():
    """Also in a picture whose answer has the first two of them alone."""
    answer = (answer_with_errors(19) > 0.5).astype(int)
    painted = gallery.paint_errors(PICTURE, LABEL, answer, 11).astype(int)
    red = painted[..., 0] > painted[..., 2] + 50
    np.testing.assert_array_equal(red, (LABEL != VOID) & (answer != LABEL))

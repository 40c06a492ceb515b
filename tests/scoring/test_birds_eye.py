"""Seen from above, each cell of the ground shows the pixel that KITTI's rule says."""

import numpy as np
import pytest

from roadseg.data.calibration_files import read_calibration
from roadseg.data.pictures import VOID, decode_label
from roadseg.drawn import scenes
from roadseg.scoring import birds_eye
from roadseg.scoring.tally import Tally
from tests.by_hand import brute_force_kitti_scores, cell_by_hand, ground_projection
from tests.small import KITTI, REAL_SAMPLES, SMALL

KITTI_UM_000000 = (  # training/calib/um_000000.txt, what the ground needs of it
    "P2: 7.215377000000e+02 0 6.095593000000e+02 4.485728000000e+01 "
    "0 7.215377000000e+02 1.728540000000e+02 2.163791000000e-01 0 0 1 2.745884000000e-03\n"
    "R0_rect: 9.999239000000e-01 9.837760000000e-03 -7.445048000000e-03 -9.869795000000e-03 "
    "9.999421000000e-01 -4.278459000000e-03 7.402527000000e-03 4.351614000000e-03 "
    "9.999631000000e-01\n"
    "Tr_cam_to_road: 9.999570839814e-01 -5.508724949246e-03 -7.452906591504e-03 "
    "9.610489538319e-03 5.425697507328e-03 9.999234779341e-01 -1.111504746388e-02 "
    "-1.597134401910e+00 7.513565886504e-03 1.107413060494e-02 9.999104059534e-01 "
    "2.788606298060e-01\n"
)
# Row and column of a cell -> those of its pixel in 375x1242, both from 0; in exact fractions.
KITTI_CELLS = {
    (0, 0): (204, 452),
    (0, 200): (201, 610),
    (400, 0): (225, 330),
    (400, 200): (221, 611),
    (600, 399): (243, 1070),
    (700, 100): (289, 277),
    (750, 250): (314, 837),
    (780, 199): (349, 614),
    (779, 0): None,  # beside the picture
    (799, 200): None,  # below it
}


def calibration_of(text, folder):
    path = folder / "calibration.txt"
    path.write_text(text)
    return read_calibration(path)


@pytest.mark.parametrize(
    "rotation",
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]],  # looks up and is rectified down
        [[0.8, 0, 0.6], [0, 1, 0], [-0.6, 0, 0.8]],  # looks aside and is rectified back
    ],
    ids=["ahead", "up", "aside"],
)
def test_all_cells_of_a_simple_camera_are_those_worked_out_on_paper(rotation):
    """In whole numbers: all lengths in fortieths of a metre, in which cells are 2 wide.

    The rectification undoes the rotation. What is left is a camera of 400 pixels' focal length
    that looks straight ahead from 1.5 m above the ground, 0.25 m to the right, 0.25 m before the
    origin; its principal point lies at (300.5, 150.5), its other camera 0.05 m beside it.
    """
    calibration = {
        "P2": np.array([[400, 0, 300.5, 20], [0, 400, 150.5, 0], [0, 0, 1, 0]]),
        "R0_rect": np.array(rotation),
        "Tr_cam_to_road": np.column_stack((rotation, (0.25, -1.5, 0.25))),
    }
    row, column = np.ogrid[:800, :400]
    depth, right, down = 1840 - 1 - 2 * row - 10, 2 * column + 1 - 400 - 10, 60
    u, v = ((400 * far + 800 * is_u) * 2 for far, is_u in ((right, 1), (down, 0)))
    u, v = (u + 601 * depth) // (2 * depth), (v + 301 * depth) // (2 * depth)
    inside = (u >= 1) & (u < 600) & (v < 249)  # no cell lies on a border: depth is odd
    expected = np.where(inside, (v - 1) * 600 + u - 1, -1)
    found = birds_eye.find_places(calibration, 249, 600)
    np.testing.assert_array_equal(found, expected)
    assert 0.5 < inside.mean() < 0.95


def test_cells_of_kittis_own_camera_fall_on_their_pixels(tmp_path):
    places = birds_eye.find_places(calibration_of(KITTI_UM_000000, tmp_path), 375, 1242)
    for cell, pixel in KITTI_CELLS.items():
        assert places[cell] == (-1 if pixel is None else 1242 * pixel[0] + pixel[1])


def calibration_cases():
    """Texts of calibration files with the size of their pictures: drawn ones, and KITTI's own."""
    for category in scenes.CATEGORIES:
        scene = scenes.draw_scene(category, 1, shape=SMALL)
        yield scenes.calibration_text(scene.calibration), SMALL
    for path in sorted(REAL_SAMPLES.glob("*/calib/*.txt")):
        if path.stem != "umm_000013":  # as it came from KITTI: a list of names and dates
            yield path.read_text(), (375, 1242)


def test_cells_fall_on_the_pixels_of_kittis_rule(tmp_path, random):
    """Some of them, more where the picture's borders are near."""
    for text, shape in calibration_cases():
        places = birds_eye.find_places(calibration_of(text, tmp_path), *shape)
        assert places.shape == (800, 400) and np.mean(places >= 0) > 0.3
        projection = ground_projection(text)
        sample = np.vstack(
            [
                random.integers(0, (800, 400), (100, 2)),
                random.integers((690, 0), (800, 400), (300, 2)),
            ]
        )
        for row, column in sample.tolist():
            expected = cell_by_hand(projection, row, column, *shape)
            assert places[row, column] == expected


def test_metres_keep_their_length_from_above():
    """A bar of 10 m ahead, 2 m across, drawn into a picture, is 200 cells long and 40 wide."""
    scene = scenes.draw_scene("umm", 2, shape=(375, 1242))
    projection = np.array(ground_projection(scenes.calibration_text(scene.calibration)), float)
    x, z = np.meshgrid(np.arange(-1, 1, 0.005), np.arange(7.5, 17.5, 0.005))
    u, v, depth = projection @ np.stack([x.ravel(), z.ravel(), np.ones(x.size)])
    picture = np.zeros((375, 1242), np.uint8)
    picture[(v / depth).astype(int) - 1, (u / depth).astype(int) - 1] = 1
    seen = birds_eye.look_down(picture, birds_eye.find_places(scene.calibration, 375, 1242)) == 1
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert np.ptp(rows) + 1 == pytest.approx(200, abs=6)  # a pixel covers some cells there
    assert np.ptp(columns) + 1 == pytest.approx(40, abs=3)
    assert rows.mean() == pytest.approx((46 - 12.5) / 0.05, abs=3)
    assert columns.mean() == pytest.approx(199.5, abs=1)


def test_scores_from_above_are_those_of_what_is_seen_from_above(random):
    """And a picture without calibration is left out of them alone."""
    tally, labels, roads = Tally(KITTI.classes), [], []
    for index in range(2):
        scene = scenes.draw_scene("um", index, shape=SMALL)
        label = decode_label(scene.label, KITTI.label_values, "drawn")
        label[random.uniform(size=label.shape) > 0.03] = VOID  # few enough to count one by one
        road = random.uniform(size=label.shape).astype(np.float32)
        probabilities = np.stack([1 - road, road], axis=-1)
        tally.add(label, probabilities, "um", scene.calibration)
        tally.add(label, probabilities, "uu")
        places = birds_eye.find_places(scene.calibration, *SMALL)
        seen = places.ravel()[places.ravel() >= 0]
        labels.append(label.ravel()[seen])
        roads.append(np.rint(255 * road.ravel()[seen]).astype(np.uint8))
    expected = brute_force_kitti_scores(np.concatenate(labels), np.concatenate(roads))
    found = tally.scores()["birds_eye"]
    assert set(found) == {"all", "um"} and found["all"] == found["um"]
    assert found["all"] == pytest.approx({**expected, "pictures": 2}, abs=1e-9)
    assert tally.scores()["perspective"]["all"]["pictures"] == 4

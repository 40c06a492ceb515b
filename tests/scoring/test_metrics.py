"""Scores are those of KITTI's rules, counted one pixel and one threshold at a time."""

import numpy as np
import pytest

from roadseg.data.pictures import VOID
from roadseg.scoring import metrics
from roadseg.scoring.tally import Tally
from tests.by_hand import brute_force_kitti_scores
from tests.small import KITTI

HAND_MADE = {
    "ties": ([0, 1, 0, 1], [7, 7, 7, 7]),
    "perfect": ([0, 0, 1, 1], [0, 10, 200, 255]),
    "all road": ([1, 1, 1, 1], [0, 10, 200, 255]),
    "no road": ([0, 0, 0, 0], [0, 10, 200, 255]),
    "all void": ([VOID] * 4, [0, 10, 200, 255]),
    "void counts nowhere": ([0, VOID, 1, VOID], [255, 255, 0, 0]),
}


@pytest.mark.parametrize("case", [*HAND_MADE, "random 1", "random 2", "random 3"])
def test_kitti_scores_equal_brute_force(case):
    if case in HAND_MADE:
        label, confidence = (np.array(values, np.uint8) for values in HAND_MADE[case])
    else:
        random = np.random.default_rng(int(case[-1]))
        label = random.choice([0, 1, VOID], (20, 30)).astype(np.uint8)
        noise = random.normal(0, 60, label.shape)
        confidence = np.clip(np.where(label == 1, 150, 100) + noise, 0, 255).astype(np.uint8)
    found = metrics.kitti_scores(metrics.confidence_counts(label, confidence))
    assert found == pytest.approx(brute_force_kitti_scores(label, confidence), abs=1e-9)


def test_kitti_scores_by_hand():
    """Of 4 road pixels 3 are found at confidence 200, together with 1 of 6 others."""
    label = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.uint8)
    confidence = np.array([200, 200, 200, 10, 200, 5, 5, 5, 5, 5], np.uint8)
    found = metrics.kitti_scores(metrics.confidence_counts(label, confidence))
    # Above confidence 5 all road is found with one false alarm: precision 4/5, recall 1.
    expected = {"MaxF": 800 / 9, "PRE": 80, "REC": 100, "FPR": 100 / 6, "FNR": 0, "IoU": 80}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["AP"] == pytest.approx(80) and found["threshold"] == pytest.approx(6 / 255)


def test_confusion_and_iou_equal_brute_force(random):
    label = random.choice([0, 1, 2, VOID], (20, 30)).astype(np.uint8)
    prediction = random.integers(0, 3, label.shape)
    scores = metrics.class_scores(metrics.confusion_matrix(label, prediction, 4), "abcd")
    for index, name in enumerate("abc"):
        truth, called = (label == index), (prediction == index) & (label != VOID)
        expected = 100 * (truth & called).sum() / (truth | called).sum()
        assert scores["classes"][name] == pytest.approx(expected)
    assert scores["classes"]["d"] is None
    assert list(scores["per_class"]["d"].values()) == [None, None, None, 0]
    valid = label != VOID
    assert scores["accuracy"] == pytest.approx(100 * np.mean((label == prediction)[valid]))
    assert scores["mean_iou"] == pytest.approx(np.mean([scores["classes"][n] for n in "abc"]))


def test_class_scores_by_hand():
    """Of 100 building, 100 pole and 50 sky pixels."""
    confusion = np.array([[80, 0, 20], [31, 60, 9], [0, 0, 50]])
    scores = metrics.class_scores(confusion, ("building", "pole", "sky"))
    expected = {
        "building": [8000 / 131, 8000 / 111, 80, 40],
        "pole": [60, 100, 60, 40],
        "sky": [5000 / 79, 5000 / 79, 100, 20],
    }
    for name, values in expected.items():
        by_name = dict(zip(metrics.CLASS_SCORES, values, strict=True))
        assert scores["per_class"][name] == pytest.approx(by_name)
    assert scores["accuracy"] == pytest.approx(76) and scores["confusion"] == confusion.tolist()


def test_confusions_are_shares_of_the_ground_truth():
    """Seldom answers count as nothing, classes without pixels have no confusion."""
    confusion = [[792, 0, 8, 0], [62, 120, 18, 0], [1, 0, 499, 0], [0, 0, 0, 0]]
    expected = [[99, 0, 1, 0], [31, 60, 9, 0], [0.2, 0, 99.8, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(metrics.row_shares(confusion), expected)
    largest = [(31, "b", "a"), (9, "b", "c"), (1, "a", "c")]
    assert metrics.largest_confusions(confusion, "abcd") == largest
    assert metrics.largest_confusions(confusion, "abcd", 1) == largest[:1]


def test_tally_sums_over_pictures_before_it_scores(random):
    """Two pictures of different size and category score as their pixels put together."""
    tally, labels, roads = Tally(KITTI.classes), [], []
    for category, shape in (("um", (10, 12)), ("uu", (7, 9))):
        labels.append(random.choice([0, 1, VOID], shape).astype(np.uint8))
        roads.append(random.uniform(size=shape).astype(np.float32))
        tally.add(labels[-1], np.stack([1 - roads[-1], roads[-1]], axis=-1), category)
    label, road = (np.concatenate([part.ravel() for part in parts]) for parts in (labels, roads))
    expected = brute_force_kitti_scores(label, np.rint(255 * road).astype(np.uint8))
    scores = tally.scores()
    assert scores["perspective"]["all"] == pytest.approx({**expected, "pictures": 2}, abs=1e-9)
    assert set(scores["perspective"]) == {"all", "um", "uu"}
    chosen = np.where(label == 1, road, 1 - road)[label != VOID]
    assert tally.loss == pytest.approx(-np.log(chosen).mean(), rel=1e-4)

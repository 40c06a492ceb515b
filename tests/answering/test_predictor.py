"""Probabilities are the network's, whatever the batch, the tiles or the size they were asked in."""

import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.special

import helper
import main
from roadseg.answering.layers import RaiseRoad
from roadseg.answering.network import Predictor
from roadseg.answering.painting import choose_classes
from roadseg.answering.predictor import (
    UNCALIBRATED,
    Calibration,
    Enlarged,
    in_tiles,
    nearest_shape,
    predict_ahead,
    thoroughly,
)
from roadseg.data.datasets import row_of
from roadseg.data.pictures import resample
from roadseg.scoring.evaluation import score_pictures
from tests.small import NARROW_BLOCKS, set_small_scores, small_network


def test_the_predictor_applies_the_calibration(random):
    network = small_network()
    set_small_scores(network, random, 0.01)
    picture = random.integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    plain, fitted = (
        Predictor(network, fit)(picture) for fit in (UNCALIBRATED, Calibration(0.4, 0.7))
    )
    odds = scipy.special.logit(plain[..., 1].astype(np.float64))
    inner = np.abs(odds) < 8
    assert inner.mean() > 0.5 and np.ptp(odds[inner]) > 0.1
    expected = scipy.special.expit(0.4 * odds + 0.7)
    np.testing.assert_allclose(fitted[..., 1][inner], expected[inner], atol=1e-3)


def test_road_is_likelier_where_a_picture_has_more_of_it_than_the_calibration(random):
    """Expected by the paper's two formulas, shares of the classes and Bayes' rule, in turn."""
    logits = random.normal(0, 2, (2, 16, 24, 2)).astype(np.float32)
    logits[1, ..., 1] -= 2
    shares = scipy.special.softmax(logits, axis=-1)[..., 1].mean(axis=(1, 2))
    assert shares[0] > 0.45 and shares[1] < 0.35
    more, less = scipy.special.softmax(RaiseRoad(0.4)(logits), axis=-1)
    np.testing.assert_allclose(less, scipy.special.softmax(logits[1], axis=-1), atol=1e-6)
    plain = expected = scipy.special.softmax(logits[0].astype(np.float64), axis=-1)
    for _ in range(3):
        weighted = plain * expected.mean(axis=(0, 1)) / (0.6, 0.4)
        expected = weighted / weighted.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(more, expected, atol=1e-5)
    assert (more - plain)[..., 1].max() > 0.05


def test_road_is_likelier_where_the_network_is_not_sure_of_the_place_in_front(random):
    """Up to .9 in front, by 1.5 log-odds at most; elsewhere by as much; never less likely."""
    front = np.zeros((16, 20), bool)
    front[12:, 8:12] = True
    for log_odds, raised in ((1.0, np.log(9) - 1), (-3.0, 1.5), (4.0, 0.0)):
        logits = random.normal(-2, 1, (1, 16, 20, 2)).astype(np.float32)
        logits[0, front] = 0, log_odds
        for share, expected in ((0.95, raised), (0.85, 0.0)):
            found = np.asarray(RaiseRoad(0.98, share)(logits)) - logits
            np.testing.assert_allclose(found[..., 1], expected, atol=1e-5)
            assert not found[..., 0].any()


def test_a_picture_has_the_same_probabilities_alone_in_a_batch_and_in_validation(trained):
    road, data_set, settings = main.load_run(trained)
    labelled, _ = data_set.find(Path(settings["data_dir"]) / "data_road")
    samples, shape = labelled[:4], settings["image_shape"]
    together = [seen[2] for seen in helper.gen_test_output(road, samples, shape, 4)]
    alone = [seen[2] for seen in helper.gen_test_output(road, samples, shape, 1)]
    validated = []
    score_pictures(
        road, samples, data_set, shape, after_each=lambda *seen: validated.append(seen[3])
    )
    for one, two, three in zip(together, alone, validated, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
        np.testing.assert_allclose(one, three, atol=1e-4)


def test_batches_that_are_answered_at_the_same_time_come_in_order(random, monkeypatch):
    """The second and the third wait for each other; a picture's answer is its mean."""
    pictures = random.integers(0, 256, (12, 8, 16, 3), dtype=np.uint8)
    both_are_here = threading.Barrier(2, timeout=20)
    monkeypatch.setattr("roadseg.data.pictures.WORKERS", 2)

    def predict(batch):
        if any(np.array_equal(batch[0], pictures[number]) for number in (3, 6)):
            both_are_here.wait()
        return np.broadcast_to(batch.mean(axis=(1, 2, 3))[:, None, None, None], (3, 8, 16, 2))

    seen = list(
        predict_ahead(predict, range(12), pictures.__getitem__, lambda shape: shape, 3, at_once=2)
    )
    assert [number for number, _, _ in seen] == list(range(12))
    for number, picture, answered in seen:
        np.testing.assert_array_equal(picture, pictures[number])
        np.testing.assert_allclose(answered.plane(1), pictures[number].mean(), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_enlarged_masks_are_those_of_enlarged_probabilities(classes, random):
    """Of two classes only one is enlarged."""
    small = scipy.special.softmax(random.normal(0, 2, (20, 30, classes)), axis=-1)
    small = small.astype(np.float32)
    mask = choose_classes(Enlarged(small, (77, 101)))
    np.testing.assert_array_equal(mask, resample(small, (77, 101)).argmax(axis=-1))


def test_tiles_change_no_answer(random):
    """What a pixel's answer depends on, by way of all skips, lies in its tile; half would not."""
    network = small_network(skips=tuple(main.SKIPS), blocks=NARROW_BLOCKS)
    set_small_scores(network, random)
    sizes = []

    def whole(pictures):
        return np.asarray(network(pictures))

    def watched(pictures):
        sizes.append(pictures.shape[:3])
        return whole(pictures)

    for count, *shape in ((1, 750, 801), (2, 33, 1290), (2, 640, 400)):
        pictures = random.uniform(0, 255, (count, *shape, 3)).astype(np.float32)
        expected = whole(pictures)
        spread = np.ptp(expected)
        found = in_tiles(watched, tile=704)(pictures)
        assert np.abs(found - expected).max() < 1e-5 * spread
        if max(shape) > 704:
            near = in_tiles(whole, tile=704, reach=128)(pictures)
            assert np.abs(near - expected).max() > 1e-4 * spread
    assert all(n * height * width <= 704**2 for n, height, width in sizes)
    assert all(max(height, width) <= 704 for _, height, width in sizes)


def test_light_and_share_of_road_are_those_of_the_whole_picture_also_in_tiles(random):
    network = small_network(blocks=NARROW_BLOCKS)
    set_small_scores(network, random, 0.01)
    dark = random.uniform(0, 60, (1, 96, 1300, 3)).astype(np.float32)
    dark[:, :, 900:] *= 4  # a tile of its own would be brightened less
    mean = float(Predictor(network)(dark)[..., 1].mean())
    for calibration in (UNCALIBRATED, Calibration(share=0.9 * mean), Calibration(1, 0, 0.98, 1)):
        whole = Predictor(network, calibration)
        found, expected = whole.in_tiles(tile=704)(dark), whole(dark)
        assert np.abs(found - expected).max() < 1e-4
    assert np.abs(in_tiles(whole, tile=704)(dark) - expected).max() > 1e-2


def test_mirror_images_are_turned_back_and_averaged():
    """By a network that answers with the column alone: 0, .1, .2 … from the left."""

    def column(pictures):
        columns = np.arange(pictures.shape[2]) / 10 + pictures[..., 0]
        return np.stack([columns, 1 - columns], axis=-1).astype(np.float32)

    pictures = np.zeros((2, 32, 32, 3), np.float32)
    pictures[1, :, 8] = 1
    assert np.ptp(thoroughly(column)(pictures)[0, 0, :, 0]) > 2.5
    found = thoroughly(column, mirrored=True)(pictures)
    np.testing.assert_allclose(found[0, ..., 0], 1.55, atol=1e-5)  # the mean of 0 to 3.1
    np.testing.assert_allclose(found[1, ..., 0] - 1.55, pictures[1, ..., 0], atol=1e-5)


def test_what_is_joined_is_mirrored_where_all_of_it_is():
    def mirrored(names):
        return row_of({"dataset": names, "classes": ["other", "road"]}).mirrored

    assert [mirrored(names) for names in ("kitti", "camvid", "folder")] == [False, True, True]
    assert mirrored("camvid+folder:own") and not mirrored("kitti+camvid")
    for word in (True, False):  # the recipe's own word, of a trial, comes before the rows'
        settings = {"classes": ["other", "road"], "recipe": {"mirrored": word}}
        for names in ("kitti", "camvid", "kitti+camvid"):
            assert row_of(settings | {"dataset": names}).mirrored is word


def test_a_picture_gets_the_trained_shape_of_its_proportions():
    choose_shape = nearest_shape([(160, 544), (256, 352)])
    assert choose_shape((375, 1242)) == [160, 544]
    assert choose_shape((480, 640)) == choose_shape((640, 480)) == [256, 352]
    # 1920x1080 is 1.78 wide: 1.29 times 256x352's 1.375, and 1/1.91 of 160x544's 3.4.
    assert choose_shape((1080, 1920)) == [256, 352]
    assert nearest_shape((96, 320))((5, 5)) == [96, 320]

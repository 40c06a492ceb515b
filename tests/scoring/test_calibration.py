"""Calibrated probabilities are true: of the pixels with 0.8, four in five are road."""

import numpy as np
import pytest
import scipy.special

from roadseg.answering.predictor import UNCALIBRATED
from roadseg.data.pictures import VOID
from roadseg.scoring.calibration import calibration_scores, fit_calibration, log_odds_counts


def test_calibration_makes_probabilities_true(random):
    """Odds that were stretched and shifted come back; the reliability figure is that of a loop."""
    true_odds = random.normal(0, 2, (400, 500))
    label = (random.uniform(size=true_odds.shape) < scipy.special.expit(true_odds)).astype(np.uint8)
    label[:50] = VOID
    stretched = scipy.special.expit((true_odds - 0.7) / 0.4)
    counts = log_odds_counts(label, stretched)
    assert counts.sum() == 350 * 500
    fit = fit_calibration(counts, (30, 70))
    assert fit.front == 0.7 and fit[:2] == pytest.approx((0.4, 0.7), abs=0.02)
    assert fit.share == pytest.approx((label[50:] == 1).mean())
    found = calibration_scores(counts)
    probability, truth = stretched[50:].ravel(), label[50:].ravel()
    error = 0
    for lower in np.arange(15) / 15:
        inside = (probability >= lower) & (probability < lower + 1 / 15)
        error += abs(truth[inside].sum() - probability[inside].sum()) / truth.size
    assert found["expected_calibration_error"] == pytest.approx(100 * error, abs=0.3)
    called = probability >= 0.5
    hits = (called & (truth == 1)).sum()
    expected = 200 * hits / (called.sum() + truth.sum()), 100 * hits / (called | (truth == 1)).sum()
    assert (found["f1_at_half"], found["iou_at_half"]) == pytest.approx(expected)
    assert found["f1_at_best"] > found["f1_at_half"] + 1
    calibrated = log_odds_counts(label, scipy.special.expit(true_odds))
    assert calibration_scores(calibrated)["expected_calibration_error"] < 0.5


@pytest.mark.parametrize("label", [0, 1, VOID])
def test_probabilities_of_one_class_alone_stay_as_they_are(label, random):
    counts = log_odds_counts(np.full((3, 4), label), random.uniform(size=(3, 4)))
    assert fit_calibration(counts) == UNCALIBRATED
    assert all(np.isfinite(value) for value in calibration_scores(counts).values())


@pytest.mark.parametrize("sign", [1, -1], ids=["separable", "inverted"])
def test_calibration_of_odd_data_stays_within_bounds(sign):
    """Data without an error, or all wrong, are few pixels: a class never becomes the other."""
    label = np.repeat(np.array([[0], [1]], np.uint8), 50, axis=1)
    odds = sign * np.where(label == 1, 0.3, -0.3)
    slope, offset, *_ = fit_calibration(log_odds_counts(label, scipy.special.expit(odds)))
    assert 0.1 <= slope <= 10 and -10 <= offset <= 10
    assert (slope > 1) == (sign == 1)

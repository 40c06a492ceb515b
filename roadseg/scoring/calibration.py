"""Calibration: of pixels with probability 0.8, 80 % should be road."""

import numpy as np
import scipy.optimize
import scipy.special

from roadseg.answering.predictor import UNCALIBRATED, Calibration
from roadseg.scoring.metrics import count_from, count_pairs

LARGEST_LOG_ODDS = 16.0
LOG_ODDS_BINS = 1024  # from -LARGEST_LOG_ODDS to +LARGEST_LOG_ODDS
RELIABILITY_BINS = 15
BOUNDS = ((0.1, 10.0), (-10.0, 10.0))  # of slope and offset: a class never becomes the other


def log_odds_counts(label, probability):
    """Count valid pixels by class (0 other, 1 road) and log-odds of road.

    label: uint8 [H, W]; probability: float [H, W], 0..1. Returns int64 [2, LOG_ODDS_BINS].
    """
    probability = np.clip(np.asarray(probability, np.float64), 1e-8, 1 - 1e-8)
    log_odds = np.log(probability / (1 - probability))
    places = (log_odds / LARGEST_LOG_ODDS + 1) * LOG_ODDS_BINS / 2
    places = np.clip(places.astype(np.int64), 0, LOG_ODDS_BINS - 1)
    return count_pairs(label, places, (2, LOG_ODDS_BINS))


def bin_log_odds():
    """Return the log-odds at the centres of the bins of `log_odds_counts`: float64."""
    return ((np.arange(LOG_ODDS_BINS) + 0.5) / LOG_ODDS_BINS * 2 - 1) * LARGEST_LOG_ODDS


def reliability(counts):
    """Compare probabilities with the ground truth in bins of equal width.

    counts: int64 of `log_odds_counts`, summed. Returns a dict for each bin that is not empty:
    "probability" (mean) and "road" (share), both 0..1, and "pixels".
    """
    chance = 1 / (1 + np.exp(-bin_log_odds()))
    bins = np.minimum((chance * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    total = counts.sum(axis=0)
    sums = (
        np.bincount(bins, weights, RELIABILITY_BINS).tolist()
        for weights in (total * chance, counts[1], total)
    )
    return [
        {"probability": chances / pixels, "road": road / pixels, "pixels": int(pixels)}
        for chances, road, pixels in zip(*sums, strict=True)
        if pixels
    ]


def calibration_scores(counts):
    """Return F1, IoU and the expected calibration error.

    counts: int64 of `log_odds_counts`, summed. F1 and IoU are at probability 0.5 and at the best
    threshold, in percent; the threshold is 0..1; the error is the mean of |probability - share of
    road| over pixels, in percent, in 15 bins of equal width (M. P. Naeini et al.: Obtaining Well
    Calibrated Probabilities Using Bayesian Binning, AAAI 2015).
    """
    chance = 1 / (1 + np.exp(-bin_log_odds()))
    alarms, hits = count_from(counts)
    road, total = max(int(counts[1].sum()), 1), max(int(counts.sum()), 1)
    f_measure, iou = 2 * hits / (hits + alarms + road), hits / (road + alarms)
    half, best = LOG_ODDS_BINS // 2, int(np.argmax(f_measure))
    surplus = sum(
        row["pixels"] * abs(row["probability"] - row["road"]) for row in reliability(counts)
    )
    return {
        "f1_at_half": 100.0 * float(f_measure[half]),
        "iou_at_half": 100.0 * float(iou[half]),
        "f1_at_best": 100.0 * float(f_measure[best]),
        "iou_at_best": 100.0 * float(iou[best]),
        "best_threshold": float(chance[best]),
        "expected_calibration_error": 100.0 * surplus / total,
    }


def fit_calibration(counts, front=(1, 0)):
    """Fit the slope and offset that calibrate log-odds, by maximum likelihood (Platt scaling).

    counts: int64 of `log_odds_counts`, summed; front: pixels of other and road that are `in_front`.
    Returns a Calibration with slope and offset within BOUNDS, UNCALIBRATED if a class is missing.
    Targets are Platt's, a little off 0 and 1, so that data without any error do not ask for an
    infinite slope. (J. Platt: Probabilistic Outputs for Support Vector Machines, 1999; C. Guo et
    al.: On Calibration of Modern Neural Networks, arXiv:1706.04599)
    """
    others, roads = counts.sum(axis=1).tolist()
    if not others or not roads:
        return UNCALIBRATED
    targets = np.array([[1 / (others + 2)], [(roads + 1) / (roads + 2)]])
    road = (counts * targets).sum(axis=0) / counts.sum()
    other, log_odds = counts.sum(axis=0) / counts.sum() - road, bin_log_odds()

    def loss(answer):
        calibrated = answer[0] * log_odds + answer[1]
        hits, rejections = (scipy.special.log_expit(sign * calibrated) for sign in (1, -1))
        return -(road @ hits + other @ rejections)

    slope, offset = scipy.optimize.minimize(loss, (1.0, 0.0), bounds=BOUNDS).x.tolist()
    roads_in_front = float(front[1] / max(1, sum(front)))
    return Calibration(slope, offset, roads / (others + roads), roads_in_front)

"""Numbers from labels and probabilities: intersection over union, KITTI's MaxF and AP, calibration.

Everything is counted in int64 and summed over pictures first; scores are derived from the sums.
NumPy only.
"""

import numpy as np

from roadseg.data.pictures import VOID
from roadseg.scoring import birds_eye

ROAD = 1  # the class index of road in two-class road sets
CONFIDENCES = 256  # KITTI scores 8-bit confidences
LARGEST_LOG_ODDS = 16.0
LOG_ODDS_BINS = 1024  # between minus and plus that
RELIABILITY_BINS = 15


def confusion_matrix(label, prediction, classes):
    """Count valid pixels by true and predicted class.

    label, prediction: integer arrays of one shape, class indices; VOID in label does not count.
    Returns int64 [classes, classes], rows true, columns predicted.
    """
    return _count_pairs(label, prediction, (classes, classes))


def _count_pairs(label, values, shape):
    """Count valid pixels by label and value: int64 of that shape."""
    valid = label != VOID
    pairs = label[valid].astype(np.int64) * shape[1] + values[valid]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def class_scores(confusion, names):
    """Derive accuracy and intersection over union from a confusion matrix.

    confusion: int64 [C, C], rows true; names: the C class names.
    Returns {"accuracy", "mean_iou", "classes": {name: iou}}, percentages 0..100. A class that is
    in neither label nor prediction has iou None and does not enter the mean; nor does anything
    where there is no valid pixel.
    """
    hits = np.diag(confusion)
    unions = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    ious = {
        name: 100.0 * hit / union if union else None
        for name, hit, union in zip(names, hits.tolist(), unions.tolist(), strict=True)
    }
    present = [iou for iou in ious.values() if iou is not None]
    return {
        "accuracy": 100.0 * int(hits.sum()) / max(int(confusion.sum()), 1),
        "mean_iou": sum(present) / max(len(present), 1),
        "classes": ious,
    }


def to_confidence(probability):
    """Turn probabilities 0..1 into KITTI's 8-bit confidences: uint8, round(255 p)."""
    return np.rint(255.0 * np.asarray(probability)).astype(np.uint8)


def confidence_counts(label, confidence):
    """Count valid pixels by class (0 other, 1 road) and 8-bit confidence.

    label: uint8 [H, W]; confidence: uint8 [H, W]. Returns int64 [2, 256].
    """
    return _count_pairs(label, confidence, (2, CONFIDENCES))


def count_from(counts):
    """Sum counts [2, N] by threshold: how many of each class lie in bin k or above."""
    return counts[:, ::-1].cumsum(axis=1)[:, ::-1]


def precision_and_recall(counts):
    """Return precision and recall, 0..1, at each of the 256 thresholds: two float64 [256].

    counts: int64 [2, 256] of `confidence_counts`.
    """
    false_positive, true_positive = count_from(counts)
    precision = true_positive / (true_positive + false_positive + 1e-10)
    return precision, true_positive / max(int(counts[1].sum()), 1)


def kitti_scores(counts):
    """Score summed confidence counts as the KITTI Road benchmark does.

    A pixel is called road at threshold k where its confidence is at least k, k = 0..255. MaxF is
    the best F1 over k (the first k on ties) and PRE, REC, FPR, FNR and IoU are taken there; AP is
    the mean over recalls 0, 0.1 .. 1 of the best precision at that recall or more.
    (J. Fritsch, T. Kuehnl, A. Geiger: A New Performance Measure and Evaluation Benchmark for Road
    Detection Algorithms, ITSC 2013; cvlibs.net/datasets/kitti/eval_road.php)

    counts: int64 [2, 256] of `confidence_counts`, summed over pictures.
    Returns percentages 0..100 and "threshold", the probability k / 255.
    """
    false_positive, true_positive = count_from(counts)
    negatives, positives = (max(int(total), 1) for total in counts.sum(axis=1))
    precision, recall = precision_and_recall(counts)
    f_measure = 2 * precision * recall / (precision + recall + 1e-10)
    best = int(np.argmax(f_measure))
    # Whole numbers decide which recalls are reached: 0.3 is not exact in floating point.
    reached = [precision[10 * true_positive >= tenth * positives] for tenth in range(11)]
    scores = {
        "MaxF": f_measure[best],
        "AP": np.mean([values.max(initial=0.0) for values in reached]),
        "PRE": precision[best],
        "REC": recall[best],
        "FPR": false_positive[best] / negatives,
        "FNR": 1.0 - recall[best],
        "IoU": true_positive[best] / max(positives + int(false_positive[best]), 1),
    }
    percentages = {name: 100.0 * float(value) for name, value in scores.items()}
    return percentages | {"threshold": best / (CONFIDENCES - 1)}


def log_odds_counts(label, probability):
    """Count valid pixels by class (0 other, 1 road) and log-odds of road.

    label: uint8 [H, W]; probability: float [H, W], 0..1. Returns int64 [2, LOG_ODDS_BINS].
    """
    probability = np.clip(np.asarray(probability, np.float64), 1e-8, 1 - 1e-8)
    log_odds = np.log(probability / (1 - probability))
    places = (log_odds / LARGEST_LOG_ODDS + 1) * LOG_ODDS_BINS / 2
    places = np.clip(places.astype(np.int64), 0, LOG_ODDS_BINS - 1)
    return _count_pairs(label, places, (2, LOG_ODDS_BINS))


def bin_log_odds():
    """Return the log-odds at the middle of each bin of `log_odds_counts`: float64."""
    return ((np.arange(LOG_ODDS_BINS) + 0.5) / LOG_ODDS_BINS * 2 - 1) * LARGEST_LOG_ODDS


def reliability(counts):
    """Compare probabilities with what was there, in bins of equal width.

    counts: int64 of `log_odds_counts`, summed. Returns a dict a bin that has pixels: "probability",
    their mean one, "road", the share of road among them, both 0..1, and "pixels".
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
    """Say how true the probabilities are.

    counts: int64 of `log_odds_counts`, summed. Returns percentages 0..100 of F1 and IoU at
    probability 0.5 and at the best threshold, that threshold (0..1), and the expected calibration
    error: by how much a probability differs from the share of road among the pixels that have it,
    on average, in percent (M. P. Naeini et al.: Obtaining Well Calibrated Probabilities Using
    Bayesian Binning, AAAI 2015; 15 bins of equal width).
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


class Tally:
    """Sums what pictures contribute to the scores; its size does not depend on their number."""

    def __init__(self, class_names):
        self.class_names = tuple(class_names)
        self.confusion = np.zeros((len(self.class_names),) * 2, np.int64)
        self.pictures = {}  # category -> pictures counted
        # View -> category -> (int64 [2, 256], pictures)
        self.views = {"perspective": {}, "birds_eye": {}}
        self.log_odds = np.zeros((2, LOG_ODDS_BINS), np.int64)
        self.loss_sum = 0.0

    def add(self, label, probabilities, category, calibration=None):
        """Count one picture.

        label: uint8 [H, W] class indices or VOID; probabilities: float32 [H, W, C] that sum to 1;
        category: a word such as "um", scored by itself too; calibration: of
        `calibration_files.read_calibration`, for the scores as seen from above.
        """
        valid = label != VOID
        self.confusion += confusion_matrix(
            label, probabilities.argmax(axis=-1), len(self.class_names)
        )
        true_class = np.where(valid, label, 0)[..., None]
        chosen = np.take_along_axis(probabilities, true_class, axis=-1)[..., 0]
        self.loss_sum += float(-np.log(np.maximum(chosen[valid], 1e-7)).sum())
        self.pictures[category] = self.pictures.get(category, 0) + 1
        if len(self.class_names) == 2:
            self.log_odds += log_odds_counts(label, probabilities[..., ROAD])
            confidence = to_confidence(probabilities[..., ROAD])
            self._count("perspective", category, label, confidence)
            if calibration is not None:
                places = birds_eye.find_places(calibration, *label.shape)
                label = birds_eye.look_down(label, places, VOID)
                self._count("birds_eye", category, label, birds_eye.look_down(confidence, places))

    def _count(self, view, category, label, confidence):
        counts, pictures = self.views[view].get(category, (0, 0))
        self.views[view][category] = (counts + confidence_counts(label, confidence), pictures + 1)

    @property
    def loss(self):
        """Mean cross-entropy over all valid pixels, in nats."""
        return self.loss_sum / max(int(self.confusion.sum()), 1)

    def scores(self):
        """Return the scores in the layout of metrics.json, without "dataset" and "split"."""
        scores = {"pictures": sum(self.pictures.values())}
        scores |= class_scores(self.confusion, self.class_names)
        for view, categories in self.views.items():
            if categories:
                total = tuple(sum(parts) for parts in zip(*categories.values(), strict=True))
                scores[view] = {
                    name: kitti_scores(counts) | {"pictures": number}
                    for name, (counts, number) in [("all", total), *sorted(categories.items())]
                }
        if self.views["perspective"]:
            scores["calibration"] = calibration_scores(self.log_odds)
        return scores


def row_confidence(height, width):
    """Call everything below the horizon road: confidence grows with the row alone.

    The best threshold then is the best horizon. Returns uint8 [height, width].
    """
    rows = np.rint(255.0 * (np.arange(height) + 0.5) / height).astype(np.uint8)
    return np.broadcast_to(rows[:, None], (height, width))


def colour_confidence(picture, road_colour):
    """Call everything road whose colour is near the mean colour of roads.

    picture: uint8 [H, W, 3]; road_colour: [3], 0..255. Returns uint8 [H, W].
    """
    distance = np.linalg.norm(picture.astype(np.float32) - road_colour, axis=-1)
    return (255.0 - np.minimum(distance, 255.0)).astype(np.uint8)


def score_table(result):
    """Lay out the content of metrics.json as a short table for the terminal."""
    lines = [
        f"Scores on the {result['pictures']} pictures of the {result['split']} part, in percent",
        f"({result['labels']})",
    ]
    columns = ("MaxF", "AP", "PRE", "REC", "IoU")
    for view, title in (("perspective", "in the picture"), ("birds_eye", "seen from above")):
        if view in result:
            lines.append(f"{title:32}" + "".join(f"{column:>8}" for column in columns))
        for name, scores in result.get(view, {}).items():
            name = f"{name} ({scores['pictures']})"
            lines.append(f"{name:32}" + "".join(f"{scores[column]:8.2f}" for column in columns))
    if "perspective" not in result:
        lines.append(f"{'each class':32}{'IoU':>8}")
        for name, iou in result["classes"].items():
            lines.append(f"{name:32}" + (f"{'none':>8}" if iou is None else f"{iou:8.2f}"))
    for rule, max_f in result.get("simple_rules", {}).items():
        lines.append(f"{'rule: ' + rule:32}{max_f:8.2f}")
    if "calibration" in result:
        scores = result["calibration"]
        lines.append(
            f"F1 {scores['f1_at_half']:.2f} at probability 0.5, {scores['f1_at_best']:.2f} at "
            f"{scores['best_threshold']:.2f}; calibration error "
            f"{scores['expected_calibration_error']:.2f}"
        )
    lines.append(f"accuracy {result['accuracy']:.2f}, mean IoU {result['mean_iou']:.2f}")
    return "\n".join(lines)

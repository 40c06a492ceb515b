"""Intersection over union and KITTI's scores from labels and probabilities.

Pixels are counted in int64 and summed over pictures; scores derive from the sums. NumPy only.
"""

import numpy as np

from roadseg.data.pictures import VOID

ROAD = 1  # class index of road where there are two classes
CONFIDENCES = 256  # KITTI scores 8-bit confidences
CLASS_SCORES = ("IoU", "precision", "recall", "share")


def confusion_matrix(label, prediction, classes):
    """Count valid pixels by class in the ground truth and in the prediction.

    label, prediction: integer arrays of one shape, class indices; VOID in label does not count.
    Returns int64 [classes, classes], rows: ground truth, columns: prediction.
    """
    return count_pairs(label, prediction, (classes, classes))


def count_pairs(label, values, shape):
    """Count valid pixels by label and value: int64 of that shape."""
    valid = label != VOID
    pairs = label[valid].astype(np.int64) * shape[1] + values[valid]
    return np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)


def class_scores(confusion, names):
    """Compute the scores of a confusion matrix and of each of its classes.

    confusion: int64 [C, C], of `confusion_matrix`; names: the C class names.
    Returns {"accuracy", "mean_iou", "classes": {name: IoU}, "per_class": {name: {"IoU",
    "precision", "recall", "share"}}, "confusion": lists of pixels}, percentages 0..100; share: of
    the ground truth's pixels. A score of no pixels is None, and in no mean. Without any valid
    pixel accuracy and mean are 0.
    """
    counts = (np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0))
    hits, truths, answers = (each.tolist() for each in counts)
    per_class = {
        name: {
            "IoU": _percent(hit, truth + answer - hit),
            "precision": _percent(hit, answer),
            "recall": _percent(hit, truth),
            "share": _percent(truth, sum(truths)),
        }
        for name, hit, truth, answer in zip(names, hits, truths, answers, strict=True)
    }
    ious = {name: scores["IoU"] for name, scores in per_class.items()}
    present = [iou for iou in ious.values() if iou is not None]
    return {
        "accuracy": _percent(sum(hits), sum(truths)) or 0.0,
        "mean_iou": sum(present) / max(len(present), 1),
        "classes": ious,
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def _percent(part, whole):
    return 100.0 * part / whole if whole else None


def row_shares(confusion):
    """Return how each class is answered, in percent of its pixels: float64 [C, C].

    confusion: pixels [C, C]; rows: ground truth. A row sums to 100, or to 0 without pixels.
    """
    confusion = np.asarray(confusion)
    return 100.0 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)


def largest_confusions(confusion, names, number=5):
    """Return the wrong answers with the largest share of their row, if that rounds to 1 % or more.

    confusion: pixels [C, C]. Returns [(percent, true class, answered class)], the largest first.
    """
    found = [
        (share, truth, answer)
        for truth, shares in zip(names, row_shares(confusion).tolist(), strict=True)
        for answer, share in zip(names, shares, strict=True)
        if answer != truth and share >= 0.5
    ]
    return sorted(found, key=lambda each: -each[0])[:number]


def confidence_counts(label, confidence):
    """Count valid pixels by class (0 other, 1 road) and 8-bit confidence.

    label: uint8 [H, W]; confidence: uint8 [H, W]. Returns int64 [2, 256].
    """
    return count_pairs(label, confidence, (2, CONFIDENCES))


def count_from(counts):
    """Return how many pixels of each class are in bin k or above: [2, N] of [2, N]."""
    return counts[:, ::-1].cumsum(axis=1)[:, ::-1]


def precision_and_recall(counts):
    """Return precision and recall, 0..1, at each of the 256 thresholds: two float64 [256].

    counts: int64 [2, 256] of `confidence_counts`.
    """
    false_positive, true_positive = count_from(counts)
    precision = true_positive / (true_positive + false_positive + 1e-10)
    return precision, true_positive / max(int(counts[1].sum()), 1)


def kitti_scores(counts):
    """Compute the scores of the KITTI Road benchmark.

    A pixel is road at threshold k = 0..255 if its confidence is at least k. MaxF is the best F1
    over k (the first k on ties); PRE, REC, FPR, FNR and IoU are taken there. AP is the mean over
    recalls 0, 0.1 .. 1 of the best precision at that recall or more.
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
    # Recalls are compared as integers: 0.3 is not exact in floating point.
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

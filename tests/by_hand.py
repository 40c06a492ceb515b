"""What the program is compared with: the same numbers, reckoned one by one."""

from fractions import Fraction

import numpy as np
import scipy.special

from roadseg.data.pictures import VOID


def patchwork_labels(height, width):
    """Three classes, with an even part, a thin line, a corner, and something void; two pictures."""
    labels = np.zeros((2, height, width), np.uint8)
    labels[0, :, -9:], labels[0, 5:8, 2:4], labels[1, 2, 3:], labels[1, -1, 0] = 1, VOID, 2, 1
    labels[1, : height // 3, -2:] = VOID
    return labels


def weights_by_hand(labels):
    """Pixels with another class at most 4 rows and columns away count 5 times, void ones never."""
    weights = np.zeros(labels.shape)
    for number, row, column in zip(*np.nonzero(labels != VOID), strict=True):
        rows, columns = (slice(max(0, place - 4), place + 5) for place in (row, column))
        around = set(labels[number, rows, columns].flat) - {VOID}
        weights[number, row, column] = 5 if len(around) > 1 else 1
    assert set(np.unique(weights)) == {0, 1, 5}
    return weights


def losses_by_hand(weights, labels, logits):
    """The weighted mean of the cross-entropy, for each picture."""
    losses = []
    for picture in zip(weights, labels, logits, strict=True):
        pixels = [
            (weight, scipy.special.logsumexp(logit) - logit[label])
            for weight, label, logit in zip(
                picture[0].flat, picture[1].flat, picture[2].reshape(-1, 3), strict=True
            )
            if weight
        ]
        losses.append(sum(w * loss for w, loss in pixels) / sum(w for w, _ in pixels))
    return np.array(losses)


def brute_force_kitti_scores(label, confidence):
    """KITTI's rules, one pixel and one threshold at a time."""
    best, points = None, []
    pairs = zip(label.ravel().tolist(), confidence.ravel().tolist(), strict=True)
    pairs = [(truth, value) for truth, value in pairs if truth != VOID]
    positives = sum(truth for truth, _ in pairs)
    for threshold in range(256):
        hits = sum(1 for truth, value in pairs if truth == 1 and value >= threshold)
        alarms = sum(1 for truth, value in pairs if truth == 0 and value >= threshold)
        recall, precision = hits / max(positives, 1), hits / (hits + alarms + 1e-10)
        measure = 2 * precision * recall / (precision + recall + 1e-10)
        points.append((hits, precision))
        if best is None or measure > best["MaxF"]:
            best = {
                "MaxF": measure,
                "PRE": precision,
                "REC": recall,
                "FNR": 1 - recall,
                "FPR": alarms / max(len(pairs) - positives, 1),
                "IoU": hits / max(positives + alarms, 1),
                "k": threshold,
            }
    best["AP"] = (
        sum(
            max((p for hits, p in points if 10 * hits >= tenth * positives), default=0)
            for tenth in range(11)
        )
        / 11
    )
    threshold = best.pop("k") / 255
    return {name: 100 * value for name, value in best.items()} | {"threshold": threshold}


def cell_by_hand(projection, row, column, height, width):
    """KITTI's rule for one cell, in 1-based pixels. Returns its place in the flattened picture."""
    x, z = Fraction(2 * column - 399, 40), Fraction(1839 - 2 * row, 40)  # metres
    u, v, depth = (dot(line, (x, z, 1)) for line in projection)
    u, v = u / depth, v / depth
    if 1 <= u <= width and 1 <= v <= height:
        return (int(v) - 1) * width + int(u) - 1
    return -1


def ground_projection(calibration_text):
    """How a camera sees the ground, in fractions without rounding.

    Returns three lines of three, which make (u, v, 1) times depth of (x, z, 1). The camera's point
    that Tr_cam_to_road takes to a point of the road is found by Cramer's rule.
    """
    matrices = {}
    for name, text in (line.split(":") for line in calibration_text.splitlines() if line):
        numbers = [Fraction(number) for number in text.split()]
        step = len(numbers) // 3
        matrices[name] = [numbers[start : start + step] for start in range(0, 3 * step, step)]
    *axes, (right, down, ahead) = zip(*matrices["Tr_cam_to_road"], strict=True)

    def look_at(x, z, one):
        road = (x - one * right, -one * down, z - one * ahead)
        replaced = [[*axes[:axis], road, *axes[axis + 1 :]] for axis in range(3)]
        camera = [determinant(*columns) / determinant(*axes) for columns in replaced]
        rectified = [dot(line, camera) for line in matrices["R0_rect"]]
        return [dot(line, (*rectified, one)) for line in matrices["P2"]]

    return list(zip(look_at(1, 0, 0), look_at(0, 1, 0), look_at(0, 0, 1), strict=True))


def determinant(first, second, third):
    """Of three columns: the volume that they span."""
    (a, b, c), (d, e, f) = second, third
    return dot(first, (b * f - c * e, c * d - a * f, a * e - b * d))


def dot(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))

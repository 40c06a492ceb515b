"""What the program is compared with: the same numbers, reckoned one by one."""

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
    z, x = 46 - 0.025 - 0.05 * row, -10 + 0.025 + 0.05 * column
    u, v, depth = projection @ (x, 0, z, 1)
    u, v = u / depth, v / depth
    if 1 <= u <= width and 1 <= v <= height:
        return (int(v) - 1) * width + int(u) - 1
    return -1


def ground_projection(calibration_text):
    """KITTI's rule: (u, v, 1) ~ P2 R0_rect inv(Tr_cam_to_road) (x, y, z, 1)."""
    matrices = {
        name: np.array(values.split(), float).reshape(3, -1)
        for name, values in (line.split(": ") for line in calibration_text.splitlines())
    }
    rectify, to_road = np.eye(4), np.eye(4)
    rectify[:3, :3], to_road[:3] = matrices["R0_rect"], matrices["Tr_cam_to_road"]
    return matrices["P2"] @ rectify @ np.linalg.inv(to_road)

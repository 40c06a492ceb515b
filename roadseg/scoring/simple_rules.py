"""Two baselines without a network: the horizon and the road's mean colour."""

import numpy as np

from roadseg.data.pictures import read_image, read_label
from roadseg.scoring import metrics
from roadseg.scoring.metrics import ROAD


def row_confidence(height, width):
    """Return confidence that grows with the row alone, so that a threshold is a horizon.

    Returns uint8 [height, width].
    """
    rows = np.rint(255.0 * (np.arange(height) + 0.5) / height).astype(np.uint8)
    return np.broadcast_to(rows[:, None], (height, width))


def colour_confidence(picture, road_colour):
    """Return confidence that falls with the distance from the road's mean colour.

    picture: uint8 [H, W, 3]; road_colour: [3], 0..255. Returns uint8 [H, W].
    """
    distance = np.linalg.norm(picture.astype(np.float32) - road_colour, axis=-1)
    return (255.0 - np.minimum(distance, 255.0)).astype(np.uint8)


def score_simple_rules(training, validation, data_set):
    """Score both rules on the validation part, each at its best threshold.

    The mean colour is that of road in the training part. Returns {rule: MaxF in percent}.
    """
    colour_sum, pixels = np.zeros(3), 0
    for sample in training:
        road = read_image(sample.picture)[read_label(sample, data_set) == ROAD]
        colour_sum, pixels = colour_sum + road.sum(axis=0), pixels + len(road)
    road_colour = colour_sum / max(pixels, 1)
    rules = {
        "all below the horizon": lambda picture: row_confidence(*picture.shape[:2]),
        "near the road's mean colour": lambda picture: colour_confidence(picture, road_colour),
    }
    counts = dict.fromkeys(rules, 0)
    for sample in validation:
        picture, label = read_image(sample.picture), read_label(sample, data_set)
        for rule, confidence in rules.items():
            counts[rule] = counts[rule] + metrics.confidence_counts(label, confidence(picture))
    return {rule: metrics.kitti_scores(count)["MaxF"] for rule, count in counts.items()}

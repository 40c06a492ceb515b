"""Weights of classes, from how much of the training labels each class fills. No Keras here."""

import numpy as np

from roadseg.data.pictures import VOID, map_ahead, read_label

# Kind -> power of (median frequency / frequency of the class).
WEIGHT_KINDS = {"none": 0.0, "weak": 0.15, "sqrt": 0.5, "median": 1.0}


def weigh_classes(kind, samples, data_set):
    """Weigh rare classes more, by median frequency balancing.

    kind: of WEIGHT_KINDS; samples: of training; data_set: their row. A class's frequency is its
    share of the valid pixels of those labels that hold it (V. Badrinarayanan et al.: SegNet,
    arXiv:1511.00561; D. Eigen, R. Fergus: arXiv:1411.4734).
    Returns {name of the class: weight, four digits}, 1 where no label holds it; {} for "none".
    """
    if not WEIGHT_KINDS[kind]:
        return {}

    def count(sample):
        label = read_label(sample, data_set)
        return np.bincount(label[label != VOID], minlength=len(data_set.classes))

    pixels = np.array(list(map_ahead(count, samples)))  # [pictures, classes]
    beside = pixels.sum(axis=1, keepdims=True) * (pixels > 0)
    is_there = pixels.any(axis=0)
    share = pixels.sum(axis=0)[is_there] / beside.sum(axis=0)[is_there]
    weights = np.ones(len(data_set.classes))
    weights[is_there] = (np.median(share) / share) ** WEIGHT_KINDS[kind]
    return {
        name: float(f"{weight:.4g}") for name, weight in zip(data_set.classes, weights, strict=True)
    }

"""Trains with the recipe of the student exercise, to compare ours with.

    .venv/bin/python docs/classic.py --dataset kitti --epochs 20     and main.py's other flags

The exercise: every layer at once from the first step on, Adam at a constant rate, nothing
augmented, skips as they come from VGG16, labels shrunk with smoothing, and road wherever they are
not red then, black included. Network, precision, checkpoints and scores are main.py's. Unlike the
exercise's, fc6 and fc7 are new and have 512 channels, which is less work.
"""

import functools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import head
import helper
import main
import optimizer
from engine import keras

BACKGROUND = (255, 0, 0)
NO_CLIPPING = 1e9  # no gradient is as long


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that stays, made with the arguments of a cosine that warms up."""

    def __init__(self, *_, warmup_target, **__):
        self.rate = warmup_target

    def __call__(self, step):
        return self.rate


def read_label(true_read, sample, data_set, shape=None):
    """Read a label as the exercise does for training; as it is, by true_read, to be scored."""
    if shape is None:
        return true_read(sample, data_set)
    label = helper.read_image(sample.label, shape)
    return np.any(label != BACKGROUND, axis=-1).astype(np.uint8)


def be_classic():
    """Put the exercise's recipe in the place of ours."""
    helper.augment = lambda picture, label, *_: (picture, label)
    helper.read_label = functools.partial(read_label, helper.read_label)
    head.affordable_batches = lambda *_: 0
    optimizer.RATE_FACTORS.clear()
    main.CosineOfSteps = Constant
    main.LEARNING_RATE, main.CLIP_NORM = 1e-4, NO_CLIPPING
    main.FROZEN, main.WEIGHT_DECAY = (), 0.0
    main.SKIP_SCALES = dict.fromkeys(main.SKIP_SCALES, 1.0)
    main.SCORE_DEVIATION = 0.01
    main.DROPOUT |= dict.fromkeys(("pool3", "pool4", "pool5"), 0.0)
    main.AVERAGED_SHARE = 0.0


if __name__ == "__main__":
    be_classic()
    sys.exit(main.main())

"""Trains with one thing of the recipe changed, to measure what that thing is worth.

    .venv/bin/python experiments/trials.py NAME [NAME ...] --dataset kitti     and main.py's other flags

NAME is one of TRIALS, the table at the end; several are made together, and where two put something
in the same place, the last one counts. What came out: experiments/log.md.
"""

import argparse
import functools
import importlib
import sys
from pathlib import Path

import numpy as np

from roadseg.data import augmentation
from roadseg.data.pictures import VOID, read_image, read_label, resample
from roadseg.training import optimizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import helper
import main
from roadseg.engine import keras

BACKGROUND = (255, 0, 0)
NO_CLIPPING = 1e9  # no gradient is as long
CONVOLUTION = main.convolution
LEAST_SHARE = 0.01  # of a picture, that a class counts as having
MOST_CLASSES = 32
HOLES, HOLE_SHARES = 3, (0.1, 0.4)  # rectangles; of the picture's height and width
BRIGHTNESS, CONTRAST, SATURATION = (-30.0, 30.0), (0.7, 1.4), (0.6, 1.4)  # added; factors
MOMENTUM = 0.9


# --- optimizer ------------------------------------------------------------------------------------


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that stays, made with the arguments of a cosine that warms up."""

    def __init__(self, *_, warmup_target, **__):
        self.rate = warmup_target

    def __call__(self, step):
        return self.rate


class Nesterov(optimizer.LayerwiseAdam):
    """Gradient descent with Nesterov's momentum in Adam's place (Y. Nesterov, 1983)."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        step = -learning_rate * self.rate_factors[index] * gradient
        velocity = self._momentums[index]
        self.assign(velocity, MOMENTUM * velocity + step)
        self.assign_add(variable, MOMENTUM * velocity + step)


# --- network --------------------------------------------------------------------------------------


def replace_fc6(fc6, x, channels, size, name, **options):
    """Convolve as `main.convolution`, but fc6 with what is other in the dictionary fc6."""
    other = fc6 if name == "fc6" else {}
    return CONVOLUTION(x, channels, name=name, **{"size": size} | options | other)


# --- pictures and labels --------------------------------------------------------------------------


def as_they_are(picture, label, *_):
    """Augment nothing."""
    return picture, label


def half_mirrored(augment, picture, label, random, _):
    """Augment by augment, half of the pictures mirrored, whatever the data set says."""
    return augment(picture, label, random, mirrored=True)


def changed_after(augment, change, picture, label, random, mirrored):
    """Augment by augment, then change the picture, by a function (picture, random) -> picture."""
    picture, label = augment(picture, label, random, mirrored)
    return change(picture, random), label


def hide_pieces(picture, random):
    """Hide rectangles, as T. DeVries, G. Taylor: arXiv:1708.04552. Changes the picture.

    Their label stays: what is hidden has to be told from what lies around it.
    """
    shape = picture.shape[:2]
    for _ in range(HOLES):
        size = random.uniform(*HOLE_SHARES, size=2) * shape
        top, left = (random.uniform(size=2) * (shape - size)).astype(int)
        height, width = size.astype(int)
        picture[top : top + height, left : left + width] = augmentation.VGG_MEAN_RGB
    return picture


def change_light(picture, random):
    """Change brightness, contrast and saturation of the whole picture."""
    grey = picture.mean(axis=-1, keepdims=True)
    coloured = grey + random.uniform(*SATURATION) * (picture - grey)
    lit = 128 + random.uniform(*CONTRAST) * (coloured - 128) + random.uniform(*BRIGHTNESS)
    return lit.clip(0, 255).astype(np.uint8)


def read_as_exercise(true_read, sample, data_set, shape=None):
    """Read a label as the exercise does for training; as it is, by true_read, to be scored."""
    if shape is None:
        return true_read(sample, data_set)
    label = read_image(sample.label, shape)
    return np.any(label != BACKGROUND, axis=-1).astype(np.uint8)


def read_largest_share(true_read, sample, data_set, shape=None):
    """Shrink a label to the class that has the largest share of each pixel."""
    label = true_read(sample, data_set)
    if shape is None:
        return label
    classes = np.array([*range(len(data_set.classes)), VOID], np.uint8)
    shares = resample(label[..., None] == classes, shape)
    return classes[shares.argmax(axis=-1)]


# --- losses ---------------------------------------------------------------------------------------


def with_dice(true_loss, labels, logits):
    """Add to true_loss, of `main.picture_loss`, what the classes' mean Dice coefficient lacks to 1.

    F. Milletari, N. Navab, S. Ahmadi: V-Net, arXiv:1606.04797.
    """
    truth = keras.ops.one_hot(labels, logits.shape[-1])  # nothing where VOID
    is_valid = keras.ops.cast(labels != VOID, "float32")[..., None]
    answer = keras.ops.softmax(logits) * is_valid
    shared = keras.ops.sum(truth * answer, axis=(1, 2))
    sizes = keras.ops.sum(truth + answer, axis=(1, 2))
    dice = keras.ops.mean((2 * shared + 1) / (sizes + 1), axis=-1)
    return true_loss(labels, logits) + 1 - dice


def pixels_alike(labels):
    """Weigh, as `main.pixel_weights`, all pixels that are not VOID the same."""
    return keras.ops.cast(labels != VOID, "float32")


def classes_alike(labels):
    """Weigh, as `main.pixel_weights`, each class of a picture as much as any other."""
    truth = keras.ops.one_hot(labels, MOST_CLASSES)  # nothing where VOID
    shares = keras.ops.mean(truth, axis=(1, 2), keepdims=True)
    return keras.ops.sum(truth / keras.ops.maximum(shares, LEAST_SHARE), axis=-1)


# --- trials ---------------------------------------------------------------------------------------

POOLS = ("pool3", "pool4", "pool5")
VGG_LAYERS = [
    f"block{block}_conv{number}"
    for block, (convolutions, _) in enumerate(main.VGG_BLOCKS, start=1)
    for number in range(1, convolutions + 1)
]
NO_POOL_DROPOUT = {"main.DROPOUT": main.DROPOUT | dict.fromkeys(POOLS, 0.0)}

# What each puts in the place of what.
TRIALS = {
    "unchanged": {},
    # The student exercise: every layer at once from the first step on, Adam at a constant rate,
    # nothing augmented, skips as they come from VGG16, labels shrunk with smoothing, and road
    # wherever they are not red then, black included. Network, precision, checkpoints and scores
    # are main.py's. Unlike the exercise's, fc6 and fc7 are new and have 512 channels, which is
    # less work.
    "classic": NO_POOL_DROPOUT
    | {
        "helper.augment": as_they_are,
        "read_label": functools.partial(read_as_exercise, read_label),
        "optimizer.RATE_FACTORS": {},
        "main.pixel_weights": pixels_alike,
        "main.CosineOfSteps": Constant,
        "main.LEARNING_RATE": 1e-4,
        "main.CLIP_NORM": NO_CLIPPING,
        "main.FROZEN": (),
        "main.SKIP_SCALES": dict.fromkeys(main.SKIP_SCALES, 1.0),
        "main.SCORE_DEVIATION": 0.01,
        "main.AVERAGED_SHARE": 0.0,
    },
    "all-trained": {"main.FROZEN": ()},
    "block-1-frozen": {"main.FROZEN": ("block1",)},
    "slow-vgg": {"optimizer.RATE_FACTORS": optimizer.RATE_FACTORS | dict.fromkeys(VGG_LAYERS, 0.3)},
    "one-rate": {"optimizer.RATE_FACTORS": {}},
    "constant-rate": {"main.CosineOfSteps": Constant},
    # Its steps are as long as what a layer reads is large, so that the scales of the skips need no
    # rates of their own. To be used with other learning rates than Adam's.
    "nesterov": {"main.LayerwiseAdam": Nesterov, "optimizer.RATE_FACTORS": {}},
    "last-weights": {"main.AVERAGED_SHARE": 0.0},
    "fcn-32s": {"main.SKIP_SCALES": {"pool3": 0.0, "pool4": 0.0}},
    "fcn-16s": {"main.SKIP_SCALES": main.SKIP_SCALES | {"pool3": 0.0}},
    "head-of-128": {"main.load_vgg": functools.partial(main.load_vgg, head_channels=128)},
    "head-of-1024": {"main.load_vgg": functools.partial(main.load_vgg, head_channels=1024)},
    # fc6 sees as far by 9 places as by 49 (F. Yu, V. Koltun: arXiv:1511.07122).
    "dilated": {
        "main.convolution": functools.partial(replace_fc6, {"size": 3, "dilation_rate": 3})
    },
    # fc6 sees 13 columns instead of 7, most of a street's width.
    "wide": {"main.convolution": functools.partial(replace_fc6, {"dilation_rate": (1, 2)})},
    "no-pool-dropout": NO_POOL_DROPOUT,
    "no-augmentation": {"helper.augment": as_they_are},
    "gentle": {
        "augmentation.ZOOM": (0.8, 1.3),
        "augmentation.STRETCH": (1 / 1.2, 1.2),
        "augmentation.LEAN": (-0.07, 0.07),
        "augmentation.SHIFT": (-0.05, 0.05),
        "augmentation.ROTATION_DEGREES": (-2.5, 2.5),
    },
    "strong": {
        "augmentation.ZOOM": (0.4, 2.5),
        "augmentation.STRETCH": (1 / 2, 2.0),
        "augmentation.LEAN": (-0.3, 0.3),
        "augmentation.SHIFT": (-0.2, 0.2),
        "augmentation.ROTATION_DEGREES": (-10.0, 10.0),
    },
    "light": {"helper.augment": functools.partial(changed_after, helper.augment, change_light)},
    "mirrored": {"helper.augment": functools.partial(half_mirrored, helper.augment)},
    "holes": {"helper.augment": functools.partial(changed_after, helper.augment, hide_pieces)},
    "labels-by-share": {"read_label": functools.partial(read_largest_share, read_label)},
    "dice": {"main.picture_loss": functools.partial(with_dice, main.picture_loss)},
    "no-boundaries": {"main.pixel_weights": pixels_alike},
    "balanced": {"main.pixel_weights": classes_alike},
}


def change(trial):
    """Put what a trial changes in its place. Raises AttributeError where there is no such place."""
    for place, value in TRIALS[trial].items():
        module, name = place.split(".")
        module = importlib.import_module(module)
        getattr(module, name)
        setattr(module, name, value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trials", choices=TRIALS, nargs="+", metavar="NAME", help=", ".join(TRIALS))
    given, flags = parser.parse_known_args()
    for trial in given.trials:
        change(trial)
    sys.exit(main.main(flags))

"""Teaches the new layers before all others, on features of the pretrained ones."""

import itertools
import math

import numpy as np

import helper
from datasets import VOID
from engine import keras
from scoring import on_own_devices
from training import reseed_dropout, take_step

# The head learns at first from the features of this many pixels of augmented pictures, which takes
# some minutes and about a gigabyte; their numbers are those of epochs that training does not reach:
# it must not begin on what the head knows by heart.
VIEWS = 4  # of each picture at most
PIXELS = 100_000_000
FIRST_VIEW = 1 << 20
EPOCHS = 3  # over these
RATE = 3.0  # times the learning rate


def train_head(
    network, own, optimize, get_batches_fn, batch_size, batches, learning_rate, seed=0
):
    """Teach the new layers first, on features of the pretrained ones that are computed once.

    An untrained head sends back noise, which would undo what ImageNet taught before it is of use
    (A. Kumar et al.: Fine-Tuning can Distort Pretrained Features, arXiv:2202.10054).
    network: of `main.layers`, pretrained; own: the same on this process's own devices; optimize: as
    `main.optimize`; get_batches_fn: of `helper.gen_batch_function`; batches: how many of these to
    learn from.
    """
    pools = pools_of(network)
    padded_logits, _ = network.get_layer("logits").input
    head = keras.Model(pools, padded_logits, name="head")
    chosen = itertools.islice(batches_without_end(get_batches_fn, batch_size), batches)
    extract = feature_extractor(own)
    stored = [
        (extract(pictures), pad_with_void(labels), count)
        for pictures, labels, count in helper.progress(
            chosen, total=batches, desc="features", unit="batch"
        )
    ]
    trainer = optimize(head, RATE * learning_rate, EPOCHS * len(stored))
    reseed_dropout(network, seed)
    orders = [
        np.random.default_rng([seed, epoch]).permutation(len(stored))
        for epoch in range(EPOCHS)
    ]
    for index in helper.progress(np.concatenate(orders), desc="head", unit="step"):
        take_step(trainer, *stored[index])


def affordable_batches(batches, batch_size, image_shape):
    """How many batches to learn from, of a data set of so many."""
    return min(VIEWS * batches, max(1, PIXELS // (batch_size * math.prod(image_shape))))


def batches_without_end(get_batches_fn, batch_size):
    """Yield (pictures, labels, number of pictures in all processes' share) without end."""
    for view in itertools.count(FIRST_VIEW):
        for number, (pictures, labels) in enumerate(get_batches_fn(batch_size, view)):
            yield pictures, labels, len(get_batches_fn.names(batch_size, view, number))


def feature_extractor(network):
    """Make the function pictures [N, H, W, 3] -> its three pools, list of float16 [N, h, w, C]."""
    predict = on_own_devices(keras.Model(network.input, pools_of(network)))
    return lambda pictures: [np.asarray(pool, np.float16) for pool in predict(pictures)]


def pools_of(network):
    """Return what the head reads: the outputs of blocks 3, 4 and 5."""
    return [network.get_layer(f"block{block}_pool").output for block in (3, 4, 5)]


def pad_with_void(labels):
    """Pad labels [N, H, W] below and to the right as Preprocess pads pictures."""
    height, width = labels.shape[1:]
    padding = ((0, 0), (0, -height % 32), (0, -width % 32))
    return np.pad(labels, padding, constant_values=VOID)

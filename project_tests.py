"""Every promise of the other files, checked against something independent.

    python project_tests.py                 all but the long ones
    python project_tests.py -m slow         the long ones: the main job; runs that are killed
    python project_tests.py -m jax          those on JAX, where it is installed
    python project_tests.py -m browser      those in Chromium, with selenium, where it is installed
    python project_tests.py -m export       those of exported networks, with requirements-export.txt
    python project_tests.py -k layers       those with "layers" in their name
"""

import contextlib
import csv
import dataclasses
import errno
import fractions
import functools
import hashlib
import html.parser
import http.server
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import zipfile
import zlib
from pathlib import Path

import av
import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
import scipy.special
from PIL import Image

import augmentation
import bench
import birds_eye
import checkpoint
import data_check
import datasets
import devices as module_devices
import download
import engine
import evaluate
import export
import gallery
import helper
import main
import metrics
import predict
import report
import run_folder
import scenes
import scoring
import stopping
import trained_run
import training
import vgg_weights
import video
from datasets import DATASETS, VOID
from main import keras

HERE = Path(__file__).parent
REAL_SAMPLES = HERE.parent / "shared" / "data" / "kitti_samples"
SMALL = (96, 320)  # height, width of drawn test pictures
SMALL_BLOCKS = ((1, 4), (1, 4), (1, 8), (1, 8), (1, 8))
NARROW_BLOCKS = tuple((count, 4) for count, _ in main.VGG_BLOCKS)
KITTI = DATASETS["kitti"]


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A data folder whose data_road holds small drawn scenes."""
    folder = tmp_path_factory.mktemp("data")
    scenes.draw_data_set(folder / "data_road", (5, 5, 5), (1, 1, 1), shape=SMALL)
    return folder


@pytest.fixture
def spoilt(drawn, tmp_path):
    """A copy of the drawn data that a test may spoil."""
    shutil.copytree(drawn, tmp_path / "data")
    return tmp_path / "data"


def small_network(num_classes=2):
    keras.utils.set_random_seed(0)
    return main.layers(main.load_vgg({}, SMALL_BLOCKS, head_channels=8), num_classes)


def set_small_scores(network, random):
    """Give every score layer weights that matter, so that tests see through the network."""
    for name in ("score_fc7", "score_pool4", "score_pool3"):
        layer = network.get_layer(name)
        layer.set_weights([random.normal(size=w.shape) for w in layer.get_weights()])


def run_main(*arguments):
    return main.main([str(argument) for argument in arguments])


def error_line(capsys):
    """Return the one line, beside progress bars, that a person's mistake is to give."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    (line,) = [
        line for line in lines
        if line.strip() and not line.startswith(("checking: ", "unpacking ", "scoring: "))
    ]  # fmt: skip
    return line


# --- VGG16 ----------------------------------------------------------------------------------------


@functools.cache
def imagenet_vgg():
    return main.load_vgg(vgg_weights.read("conv", HERE / "data"))


def test_load_vgg(random):
    """Every pooling layer gives what keras.applications.VGG16 gives on the same weights."""
    vgg = imagenet_vgg()
    reference = keras.applications.VGG16(weights=None, include_top=False)
    for name, pair in vgg_weights.read("conv", HERE / "data").items():
        reference.get_layer(name).set_weights(pair)
    picture = random.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    names = [f"block{block}_pool" for block in range(1, 6)]
    expected, found = (
        keras.Model(model.inputs, [model.get_layer(name).output for name in names])
        for model in (reference, vgg)
    )
    blue_green_red = picture[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    for ours, theirs in zip(
        found.predict_on_batch(picture), expected.predict_on_batch(blue_green_red), strict=True
    ):
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("shape", [(64, 96), (75, 61), (1, 1), (375, 1242)])
def test_load_vgg_gives_three_scales_of_any_size(shape):
    vgg = main.load_vgg({}, SMALL_BLOCKS, head_channels=8)
    outputs = vgg.predict_on_batch(np.zeros((1, *shape, 3), np.uint8))
    for output, scale in zip(outputs, (8, 16, 32), strict=True):
        assert output.shape[1:3] == tuple(-(-size // 32) * 32 // scale for size in shape)


def test_load_vgg_reads_bytes_and_floats_alike(random):
    vgg = main.load_vgg({}, SMALL_BLOCKS, head_channels=8)
    picture = random.integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)
    for ours, theirs in zip(
        vgg.predict_on_batch(picture), vgg.predict_on_batch(picture.astype(np.float32)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def write_keras_vgg_file(path, random, channels=4, units=6):
    """Write a file with the layout of Keras' own: layer/layer_W_1:0, layer/layer_b_1:0."""
    shapes = {}
    inputs = 3
    for name in vgg_weights.CONVOLUTION_NAMES:
        shapes[name] = (3, 3, inputs, channels)
        inputs = channels
    shapes |= {
        "fc1": (7 * 7 * channels, units), "fc2": (units, units), "predictions": (units, 10),
    }  # fmt: skip
    weights = {}
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            kernel, bias = random.normal(size=shape), random.normal(size=shape[-1:])
            weights[name] = (kernel.astype(np.float32), bias.astype(np.float32))
            for letter, array in zip("Wb", weights[name], strict=True):
                file[f"{name}/{name}_{letter}_1:0"] = array
        file.create_group("block1_pool")
    return weights


def test_full_vgg_turns_fully_connected_layers_into_convolutions(tmp_path, random):
    """fc6 and fc7 at the middle of a 7x7 map equal the dense layers on the flattened map."""
    path = tmp_path / "vgg16.h5"
    written = write_keras_vgg_file(path, random)
    weights = vgg_weights.read(str(path), tmp_path)
    vgg = main.load_vgg(weights, NARROW_BLOCKS)
    last_pool = keras.Model(vgg.input, [vgg.get_layer("block5_pool").output, vgg.outputs[2]])
    features, found = last_pool.predict_on_batch(
        random.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    )
    dense = features.reshape(-1)
    for name in ("fc1", "fc2"):
        kernel, bias = written[name]
        dense = np.maximum(dense @ kernel + bias, 0)
    np.testing.assert_allclose(found[0, 3, 3], dense, rtol=1e-3, atol=1e-3 * np.abs(dense).max())


def test_weights_of_an_earlier_run_are_taken(tmp_path):
    """Its convolutions, fc6 and fc7 come along, whatever its classes; its scores do not."""
    earlier = main.layers(main.load_vgg({}, NARROW_BLOCKS, head_channels=8), num_classes=3)
    earlier.save_weights(tmp_path / "best.weights.h5")
    weights = vgg_weights.read(str(tmp_path / "best.weights.h5"), tmp_path)
    assert set(weights) == {*vgg_weights.CONVOLUTION_NAMES, "fc6", "fc7"}
    vgg = main.load_vgg(weights, NARROW_BLOCKS)
    for name in weights:
        for ours, theirs in zip(
            vgg.get_layer(name).get_weights(), earlier.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("content", [None, b"no weights", b""])
def test_wrong_weights_are_named(tmp_path, content):
    path = tmp_path / "wrong.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(datasets.UserError, match=r"wrong\.h5"):
        vgg_weights.read(str(path), tmp_path)


def needs_jax(test):
    """Mark a test that runs the program on JAX, in a process of its own."""
    missing = importlib.util.find_spec("jax") is None
    return pytest.mark.jax(pytest.mark.skipif(missing, reason="jax is not installed")(test))


@needs_jax
def test_jax_gives_the_same_features(tmp_path, random):
    """The same network gives the same on JAX, within float32 rounding."""
    picture = random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    np.save(tmp_path / "picture.npy", picture)
    code = (
        "import main, numpy, pathlib, sys, vgg_weights\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "assert main.keras.backend.backend() == 'jax'\n"
        "vgg = main.load_vgg(vgg_weights.read('conv', folder))\n"
        "pools = main.keras.Model(vgg.input, [vgg.outputs[0], vgg.outputs[1],"
        " vgg.get_layer('block5_pool').output])\n"
        "numpy.savez(folder / 'features.npz',"
        " *pools.predict_on_batch(numpy.load(folder / 'picture.npy')))\n"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=HERE, env=environment)
    vgg = imagenet_vgg()
    outputs = [*vgg.outputs[:2], vgg.get_layer("block5_pool").output]
    ours = keras.Model(vgg.input, outputs).predict_on_batch(picture)
    with np.load(tmp_path / "features.npz") as features:
        for one, other in zip(ours, features.values(), strict=True):
            assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()


@pytest.fixture
def bfloat16():
    engine.keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    engine.keras.config.set_dtype_policy("float32")


def test_what_fc6_never_sees_of_a_small_picture_stays_as_it_is_in_bfloat16(bfloat16, random):
    deep = ((1, 4), (1, 4), (1, 4), (1, 4), (1, 512))
    network = main.layers(main.load_vgg({}, deep, head_channels=512), 2)
    kernel = network.get_layer("fc6").kernel
    before = np.array(kernel)
    network.compile(engine.keras.optimizers.SGD(1.0), main.picture_loss)
    pictures = random.integers(0, 256, (2, 64, 128, 3)).astype(np.uint8)  # 2x4 places at pool5
    for _ in range(3):
        network.train_on_batch(pictures, pictures[..., 0] % 2)
    changed = np.any(np.array(kernel) != before, axis=(1, 2, 3))
    assert changed.tolist() == [False, False, True, True, True, False, False]


# --- skip layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3, 11])
@pytest.mark.parametrize("shape", [(32, 64), (75, 61), (1, 1)])
def test_layers(num_classes, shape):
    """Logits have the size of the picture, whatever it is, for any number of classes."""
    logits = small_network(num_classes).predict_on_batch(np.zeros((2, *shape, 3), np.uint8))
    assert logits.shape == (2, *shape, num_classes) and logits.dtype == np.float32


def test_layers_start_near_even_chances(random):
    picture = random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    probabilities = scoring.predictor(main.layers(imagenet_vgg(), 2))(picture)
    assert np.abs(probabilities - 0.5).max() < 0.4


@pytest.mark.parametrize("factor", [2, 8])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 1)])
def test_upsampling_starts_bilinear(factor, shape, random):
    """Equal to Pillow's bilinear enlargement everywhere, the borders too."""
    scores = random.normal(size=(1, *shape, 3)).astype(np.float32)
    inputs = keras.Input((None, None, 3))
    found = keras.Model(inputs, main.upsample(inputs, factor, "up")).predict_on_batch(scores)
    for channel in range(3):
        plane = Image.fromarray(scores[0, ..., channel])
        size = (shape[1] * factor, shape[0] * factor)
        expected = np.asarray(plane.resize(size, Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found[0, ..., channel], expected, atol=1e-5)


def test_skips_are_scaled_as_in_the_paper(random):
    """Logits equal the sum of the three scores, each scaled, enlarged and added by hand."""
    network = small_network(3)
    set_small_scores(network, random)
    picture = random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    names = ["block3_pool", "block4_pool", "fc7"]
    features = keras.Model(network.input, [network.get_layer(name).output for name in names])
    expected = 0
    for feature, name, scale, factor in zip(
        features.predict_on_batch(picture), ["score_pool3", "score_pool4", "score_fc7"],
        (1e-4, 1e-2, 1), ((8,), (2, 8), (2, 2, 8)), strict=True,
    ):  # fmt: skip
        kernel, bias = network.get_layer(name).get_weights()
        score = (feature[0] * scale) @ kernel[0, 0] + bias
        for step in factor:
            planes = [Image.fromarray(score[..., c].astype(np.float32)) for c in range(3)]
            size = (score.shape[1] * step, score.shape[0] * step)
            larger = [plane.resize(size, Image.Resampling.BILINEAR) for plane in planes]
            score = np.stack(larger, axis=-1)
        expected = expected + score
    found = network.predict_on_batch(picture)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


# --- loss -----------------------------------------------------------------------------------------


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


def test_optimize(random):
    """The loss is the mean of the pictures' weighted mean cross-entropy."""
    network = small_network(3)
    set_small_scores(network, random)
    pictures = random.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    labels = patchwork_labels(32, 64)
    logits = network.predict_on_batch(pictures).astype(np.float64)
    trainer = main.optimize(network, 1e-9, 10)
    found = float(trainer.test_on_batch(pictures, labels))
    expected = np.mean(losses_by_hand(weights_by_hand(labels), labels, logits))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_void_changes_neither_loss_nor_gradient(random):
    """The gradient at a pixel is (probability - truth) times its share of the picture's weight."""
    tensorflow = pytest.importorskip("tensorflow")
    logits = tensorflow.constant(random.normal(size=(2, 12, 16, 3)), "float32")
    labels = patchwork_labels(12, 16)
    with tensorflow.GradientTape() as tape:
        tape.watch(logits)
        loss = main.picture_loss(labels, logits)
    weights = weights_by_hand(labels)[..., None]
    truth = np.eye(3)[np.where(labels == VOID, 0, labels)]
    expected = weights * (scipy.special.softmax(logits.numpy(), axis=-1) - truth)
    expected /= weights.sum(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(tape.gradient(loss, logits).numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(main.picture_loss(np.full_like(labels, VOID), logits), 0)


def test_nothing_is_learnt_where_all_is_void(random):
    network = small_network()
    before = network.get_weights()
    trainer = main.optimize(network, 1.0, 1)
    pictures = random.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    trainer.train_on_batch(pictures, np.full((1, 32, 32), VOID, np.uint8))
    for weights, kept in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, kept)


def test_operations_are_counted_as_by_hand():
    """Two for each weight of a convolution at each of its places, in a padded picture."""
    network = main.layers(main.load_vgg({}, SMALL_BLOCKS, head_channels=8), 3)
    by_hand = 0
    for size, channels_in, channels, scale in (
        (3, 3, 4, 1), (3, 4, 4, 2), (3, 4, 8, 4), (3, 8, 8, 8), (3, 8, 8, 16),
        (7, 8, 8, 32), (1, 8, 8, 32), (1, 8, 3, 32), (1, 8, 3, 16), (1, 8, 3, 8),
    ):  # fmt: skip
        by_hand += 2 * size**2 * channels_in * channels * (64 // scale) * (96 // scale)
    assert engine.operations(network, (50, 70)) == by_hand
    first = 2 * 9 * 3 * 4 * 64 * 96
    assert engine.operations(network, (50, 70), training=True) == 3 * by_hand - first
    network.get_layer("block1_conv1").trainable = False
    second = 2 * 9 * 4 * 4 * 32 * 48
    assert engine.operations(network, (50, 70), training=True) == 3 * by_hand - 2 * first - second


def test_a_gradient_reaches_the_first_convolution(random):
    """The very first step moves the first kernel by about the learning rate."""
    network = small_network()
    kernel = network.get_layer("block1_conv1").kernel
    before = kernel.numpy()
    trainer = main.optimize(network, 1e-2, 10)
    pictures = random.integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    trainer.train_on_batch(pictures, random.integers(0, 2, (1, 32, 64), dtype=np.uint8))
    rate = 1e-2
    assert np.median(np.abs(kernel.numpy() - before)) > 0.5 * rate


def test_each_layer_learns_at_its_rate_and_the_rate_rises_and_falls():
    """With one gradient for ever, each Adam step is as long as the layer's learning rate."""
    network = small_network()
    optimizer = main.optimize(network, 1e-3, 100).optimizer
    variables = network.trainable_variables
    rates, steps = [], {"block5_conv1/bias": [], "score_pool3/bias": []}
    watched = {v.path: v for v in variables if v.path in steps}
    for _ in range(100):
        rates.append(float(optimizer.learning_rate))
        before = {path: variable.numpy()[0] for path, variable in watched.items()}
        optimizer.apply([keras.ops.ones_like(variable) for variable in variables], variables)
        for path, variable in watched.items():
            steps[path].append(before[path] - variable.numpy()[0])
    for path, factor in (("block5_conv1/bias", 1), ("score_pool3/bias", 600)):
        np.testing.assert_allclose(steps[path], np.array(rates) * factor, rtol=0.01, atol=1e-5)
    top = int(np.argmax(rates))
    assert max(rates) == pytest.approx(1e-3, rel=0.01) and rates[-1] < 1e-5
    assert np.all(np.diff(rates[: top + 1]) > 0) and np.all(np.diff(rates[top:]) < 0)


# --- training -------------------------------------------------------------------------------------


def one_batch(shape):
    """Two pictures of noise and labels that only memory can tell."""
    height, width = shape
    pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    labels = np.zeros((2, height, width), np.uint8)
    labels[0, height // 2 :, width // 4 : width // 2] = 1
    labels[1, height // 4 : height // 2] = 1
    labels[:, -3:] = VOID
    return pictures, labels


def train_one_batch(folder, network, batch, epochs, total_epochs, rate, stopping=None):
    """Train on one batch, 20 times an epoch, as `main.run` would. Returns its validate."""
    make_trainer = functools.partial(main.optimize, network, rate, 20 * total_epochs)
    pictures, labels = batch

    def validate():
        tally = metrics.Tally(KITTI.classes)
        for label, chances in zip(labels, scoring.predictor(network)(pictures), strict=True):
            tally.add(label, chances, "um")
            if stopping:
                stopping.check()
        return tally

    state = main.Training(network, make_trainer, folder)
    main.train_nn(state, repeat(batch, 20), epochs, 2, validate, stopping)
    return validate


def even_tally():
    """What a validation gives whose score does not matter."""
    tally = metrics.Tally(KITTI.classes)
    tally.add(np.eye(2, dtype=np.uint8), np.full((2, 2, 2), 0.5, np.float32), "um")
    return tally


def repeat(batch, times):
    """Make a get_batches_fn that gives one batch again and again."""

    def get_batches_fn(batch_size, epoch=0, first=0):
        return [batch] * (times - first)

    get_batches_fn.names = lambda *_: ["one", "two"]
    return get_batches_fn


def test_train_nn(tmp_path):
    """A single batch is learnt by heart; the log has every epoch; the best epoch is kept."""
    weights = vgg_weights.read("conv", HERE / "data")
    keras.utils.set_random_seed(0)
    network = main.layers(main.load_vgg(weights), 2)
    validate = train_one_batch(tmp_path, network, one_batch((64, 96)), 3, 3, 2e-4)
    assert validate().scores()["accuracy"] > 98
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert tuple(rows[0]) == checkpoint.LOG_FIELDS
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    network.get_layer("score_fc7").set_weights([np.zeros((1, 1, 512, 2)), np.zeros(2)])
    network.load_weights(tmp_path / "best.weights.h5")
    best = max(float(row["val_max_f"]) for row in rows)
    assert validate().scores()["perspective"]["all"]["MaxF"] == pytest.approx(best, abs=1e-6)


def test_averaged_weights_are_validated_and_kept(tmp_path, monkeypatch):
    """And training goes on from the weights that are not averaged."""
    network = small_network()
    taken, losses, take_step = [], [], training.take_step

    def recorded_step(*arguments):
        losses.append(take_step(*arguments))
        taken.append(network.get_weights())
        return losses[-1]

    def compare_with_average():
        average = taken[0]
        for step, weights in enumerate(taken[1:], start=2):
            new = 1 / max(1, step / 2)
            average = [(1 - new) * a + new * b for a, b in zip(average, weights, strict=True)]
        for here, expected in zip(network.get_weights(), average, strict=True):
            np.testing.assert_allclose(here, expected, atol=1e-6)
        return even_tally()

    monkeypatch.setattr(training, "take_step", recorded_step)
    monkeypatch.setattr(main, "AVERAGED_SHARE", 0.5)
    make_trainer = functools.partial(main.optimize, network, 1e-2, 40)
    main.train_nn(
        main.Training(network, make_trainer, tmp_path), repeat(one_batch((32, 64)), 3), 2, 2,
        compare_with_average,
    )  # fmt: skip
    assert len(taken) == 6
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    means = [np.mean(losses[:3]), np.mean(losses[3:])]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], means)
    for here, expected in zip(network.get_weights(), taken[-1], strict=True):
        np.testing.assert_array_equal(here, expected)
    network.load_weights(tmp_path / "best.weights.h5")
    taken = taken[:3]  # a tie: the first epoch remains the best
    compare_with_average()


def test_pretrained_edges_stay_as_they_are_and_outlive_a_kill(tmp_path, random):
    """A checkpoint holds them, wherever they came from; the same layers, new, are trained."""
    weights = {
        name: (random.normal(size=(3, 3, *channels)), random.normal(size=channels[1]))
        for name, channels in (("block1_conv1", (3, 4)), ("block3_conv1", (4, 8)))
    }
    network = main.layers(main.load_vgg(weights, SMALL_BLOCKS, head_channels=8), 2)
    before = {v.path: v.numpy() for v in network.weights}
    train_one_batch(tmp_path, network, one_batch((32, 64)), 1, 1, 1e-2)
    moved = {v.path for v in network.weights if not np.array_equal(v.numpy(), before[v.path])}
    assert set(before) - moved == {"block1_conv1/kernel", "block1_conv1/bias"}
    last = small_network()
    training.Training(last, functools.partial(main.optimize, last, 1e-2, 20), tmp_path)
    np.testing.assert_array_equal(
        last.get_layer("block1_conv1").kernel.numpy(), before["block1_conv1/kernel"]
    )


def set_rates(monkeypatch, float32, bfloat16):
    rates = {"float32": float32, "mixed_bfloat16": bfloat16}
    monkeypatch.setattr(engine, "matrix_product_rate", lambda precision, **_: rates[precision])


@pytest.mark.parametrize(("bfloat16", "chosen"), [(2e9, "mixed_bfloat16"), (1.1e9, "float32")])
def test_training_rounds_where_that_is_much_faster(bfloat16, chosen, monkeypatch):
    set_rates(monkeypatch, 1e9, bfloat16)
    assert engine.faster_precision() == chosen


def test_a_moment_of_other_work_does_not_change_the_precision(monkeypatch):
    """Two of three rounds disturbed, one in each precision."""
    rates = {"mixed_bfloat16": iter([1e8, 2e9, 2e9]), "float32": iter([1e9, 1e8, 1e9])}
    monkeypatch.setattr(
        engine, "matrix_product_rate", lambda precision, **_: next(rates[precision])
    )
    assert engine.faster_precision() == "mixed_bfloat16"


def test_a_run_goes_on_in_the_precision_it_began_with(drawn, tmp_path, monkeypatch):
    """It trains in it, on whatever machine, and answers in float32, in each epoch and later."""
    seen = []

    def watched(network, own, *others):
        seen.append([each.get_layer("block5_conv1").compute_dtype for each in (network, own)])
        return train(network, own, *others)

    train = main.train
    monkeypatch.setattr(main, "train", watched)
    for epochs, rate in ((1, 2e9), (2, 1e8)):
        set_rates(monkeypatch, 1e9, rate)
        assert run_main(
            "--dataset", "kitti", "--data-dir", drawn, "--runs-dir", tmp_path, "--run", "first",
            "--image-shape", 32, 96, "--vgg", "none", "--epochs", epochs,
        ) == 0  # fmt: skip
    assert seen == [["bfloat16", "float32"]] * 2
    network, _, data_set, settings = trained_run.load_network(tmp_path / "first")
    assert network.get_layer("fc6").compute_dtype == "float32"
    _, validation = data_set.split(data_set.find(drawn / "data_road")[0], 0)
    predict = scoring.predictor(network)
    loss = scoring.score_pictures(predict, validation, data_set, settings["image_shape"]).loss
    best = checkpoint.load(tmp_path / "first", print)[1].best
    assert loss == pytest.approx(best["val_loss"], rel=1e-5)


class StopAt(stopping.Stopping):
    """Wants to stop at the check of this number."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def check(self):
        self.left -= 1
        self.wish = signal.SIGTERM if self.left == 0 else None
        super().check()


def train_with_stops(folder, stops):
    """Train two epochs, started again after each stop. Returns all that is saved."""
    for stop in (*stops, None):
        network = small_network()
        with pytest.raises(stopping.StopRequest) if stop else contextlib.nullcontext():
            train_one_batch(
                folder, network, one_batch((32, 64)), 2, 2, 1e-3, StopAt(stop) if stop else None
            )
    arrays, progress = checkpoint.load(folder, print)
    assert len((folder / "log.csv").read_text().splitlines()) == 1 + 2
    rows = [row | {"seconds": None} for row in progress.history]
    return [*arrays.values(), *network.get_weights()], rows


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    return train_with_stops(tmp_path_factory.mktemp("undisturbed"), [])


@pytest.mark.parametrize("stops", [[3], [20], [21], [22], [30], [5, 9, 30]], ids=str)
def test_a_stopped_run_ends_as_an_undisturbed_one(stops, undisturbed, tmp_path):
    """Bit by bit, whether stopped at a step or in the validation (checks 21 and 22)."""
    (whole, rows), (resumed, other_rows) = undisturbed, train_with_stops(tmp_path, stops)
    assert rows == other_rows
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def state_files(folder):
    return {path.name for path in (folder / "checkpoint").glob("state_*")}


def test_nan_goes_back_three_times_and_then_gives_up(tmp_path, capsys):
    """Each time with half the rate; the pictures are named; nothing bad is saved."""
    network, (pictures, labels) = small_network(), one_batch((32, 64))
    broken = np.full(pictures.shape, np.nan, np.float32), labels
    rates = []

    def make_trainer(slowdown, parts):
        trainer = main.optimize(network, 1e-3, 10, slowdown, parts)
        rates.append(float(trainer.optimizer.learning_rate))
        return trainer

    state = main.Training(network, make_trainer, tmp_path)
    with pytest.raises(main.TrainingError, match=r"nan at epoch 1, step 2, on one two.*--learning"):
        main.train_nn(state, repeat(broken, 2), 1, 2, validate=None)
    assert np.allclose(np.array(rates) / rates[0], [1, 1 / 2, 1 / 4, 1 / 8])
    assert capsys.readouterr().out.count("back to epoch 1, step 0") == 3
    arrays, progress = checkpoint.load(tmp_path, print)
    assert progress.returns == 3 and all(np.isfinite(array).all() for array in arrays.values())
    assert json.loads((tmp_path / "settings.json").read_text()) == {"returns": 3}


def test_a_weight_that_is_no_number_is_never_saved(tmp_path):
    network = small_network()
    state = main.Training(network, functools.partial(main.optimize, network, 1e-3, 10), tmp_path)
    saved = state_files(tmp_path)
    network.get_layer("fc6").bias.assign(np.full(8, np.nan))
    with pytest.raises(training.LossError):
        state.save()
    assert state_files(tmp_path) == saved


def test_a_batch_that_does_not_fit_is_cut_and_its_gradients_added(tmp_path, monkeypatch, capsys):
    """Two steps end where those on the whole batch end; it is said once, and noted."""
    monkeypatch.setattr(main, "DROPOUT", dict.fromkeys(main.DROPOUT, 1e-9))
    pictures, labels = one_batch((32, 64))
    labels[0, :20] = VOID  # not as many valid pixels in each part
    weights, train_on_batch = {}, keras.Model.train_on_batch
    for name, limit in (("whole", 2), ("parts", 1)):

        def train_within(self, x, y, weights, limit=limit):
            if len(x) > limit:
                raise MemoryError
            return train_on_batch(self, x, y, weights)

        monkeypatch.setattr(keras.Model, "train_on_batch", train_within)
        (tmp_path / name).mkdir()
        network = small_network()
        make_trainer = functools.partial(main.optimize, network, 1e-3, 2)
        state = main.Training(network, make_trainer, tmp_path / name)
        main.train_nn(state, repeat((pictures, labels), 2), 1, 2, even_tally)
        weights[name] = network.get_weights()
        arrays, progress = checkpoint.load(tmp_path / name, print)
        assert arrays["optimizer/0/iteration"] == 2 and progress.parts == 2 // limit
    for whole, parts in zip(*weights.values(), strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert capsys.readouterr().out.count("cut into 2 parts") == 1
    assert json.loads((tmp_path / "parts" / "settings.json").read_text()) == {"parts": 2}
    resumed = main.Training(network, make_trainer, tmp_path / "parts")
    assert int(resumed.trainer.optimizer.iterations) == 2
    with pytest.raises(main.TrainingError, match="smaller --image-shape"):
        state.cut_batches("no memory", batch_size=2)


@pytest.fixture
def trials(monkeypatch):
    monkeypatch.syspath_prepend(HERE / "docs")
    return importlib.import_module("trials")


def test_each_trial_changes_what_is_there_and_trains(trials, random):
    pictures = random.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    labels = random.choice([0, 1, VOID], (2, 32, 64)).astype(np.uint8)
    for name, changes in trials.TRIALS.items():
        with pytest.MonkeyPatch.context() as patch:
            for place, value in changes.items():
                patch.setattr(place, value)  # fails where there is no such place
            trainer = main.optimize(small_network(), 1e-3, 10)
            losses = [float(trainer.train_on_batch(pictures, labels)) for _ in range(2)]
        assert np.isfinite(losses).all(), name


def test_the_losses_on_trial_weigh_what_they_say(trials, random):
    """Against sums over pixels; Dice adds 1 everywhere."""
    labels = patchwork_labels(12, 16)[:1]
    logits = random.normal(size=(1, 12, 16, 3)).astype(np.float32)
    shares = np.array([(labels == label).mean() for label in labels.flat]).reshape(labels.shape)
    is_valid = labels != VOID
    for name, weights in (("no-boundaries", is_valid), ("balanced", is_valid / shares)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("main.pixel_weights", trials.TRIALS[name]["main.pixel_weights"])
            found = main.picture_loss(labels, logits)
        np.testing.assert_allclose(found, losses_by_hand(weights, labels, logits), rtol=1e-5)
    answer = scipy.special.softmax(logits, axis=-1)
    dices = [
        (2 * answer[labels == index][:, index].sum() + 1)
        / (answer[is_valid][:, index].sum() + (labels == index).sum() + 1)
        for index in range(3)
    ]
    (found,) = trials.TRIALS["dice"].values()
    expected = losses_by_hand(weights_by_hand(labels), labels, logits) + 1 - np.mean(dices)
    np.testing.assert_allclose(found(labels, logits), expected, rtol=1e-5)


@pytest.mark.slow
def test_the_classic_recipe_trains_all_layers_at_a_constant_rate(drawn, tmp_path):
    subprocess.run(
        [sys.executable, "docs/trials.py", "classic", "--dataset", "kitti", "--data-dir",
         drawn, "--runs-dir", tmp_path, "--run", "classic", "--image-shape", "32", "96",
         "--limit", "4", "--epochs", "2"], check=True, cwd=HERE, capture_output=True,
    )  # fmt: skip
    rows = csv.DictReader((tmp_path / "classic" / "log.csv").open())
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-4, 1e-4])
    weights = vgg_weights.read(str(tmp_path / "classic" / checkpoint.BEST), tmp_path)
    for name, (kernel, _) in vgg_weights.read("conv", HERE / "data").items():
        assert not np.array_equal(weights[name][0], kernel), name


# --- checkpoints ----------------------------------------------------------------------------------


def small_state(saves):
    """Arrays and Progress whose content tells which save they are of."""
    progress = checkpoint.Progress(step=saves + 1, saves=saves)
    return {"weights": np.full(1000, saves + 1.0), "optimizer/0/iteration": np.int64(7)}, progress


@pytest.fixture
def saved(tmp_path):
    """The folder of a run with three states saved."""
    for saves in range(3):
        arrays, progress = small_state(saves)
        checkpoint.save_best(tmp_path, lambda path: path.write_text("best"), saves, progress)
        checkpoint.save(tmp_path, arrays, progress)
    return tmp_path


def test_the_newest_two_states_and_the_best_are_kept(saved):
    names = {path.name for path in (saved / "checkpoint").iterdir()}
    assert names == {
        "manifest.json", "state_000002.npz", "state_000003.npz",
        "best_0001.weights.h5", "best_0002.weights.h5",
    }  # fmt: skip
    manifest = json.loads((saved / "checkpoint" / "manifest.json").read_text())
    for state in manifest["states"]:
        for name, digest in state["files"].items():
            content = (saved / "checkpoint" / name).read_bytes()
            assert digest == hashlib.sha256(content).hexdigest()
    arrays, progress = checkpoint.load(saved, print)
    np.testing.assert_array_equal(arrays["weights"], 3.0)
    assert progress.step == 3 and (saved / "best.weights.h5").read_text() == "best"
    checkpoint.publish(saved, progress)
    assert {path.name for path in saved.iterdir()} == {"checkpoint", "log.csv", "best.weights.h5"}


@pytest.mark.parametrize("name", ["state_000003.npz", "best_0002.weights.h5"])
@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(),
    lambda path: path.write_bytes(path.read_bytes()[:-1]),
    lambda path: path.write_bytes(b"?" + path.read_bytes()[1:]),
], ids=["missing", "cut", "changed"])  # fmt: skip
def test_a_damaged_state_is_said_and_the_one_before_it_used(saved, name, damage):
    damage(saved / "checkpoint" / name)
    lines = []
    arrays, progress = checkpoint.load(saved, lines.append)
    assert progress.step == 2 and arrays["weights"][0] == 2.0
    assert len(lines) == 1 and name in lines[0]
    checkpoint.save(saved, *small_state(7))
    (saved / "checkpoint" / "state_000008.npz").unlink()
    assert checkpoint.load(saved, lines.append)[1].step == 2


def test_without_a_whole_state_or_with_a_foreign_one_one_line_says_so(saved):
    for path in (saved / "checkpoint").glob("state_*"):
        path.write_bytes(b"")
    with pytest.raises(datasets.UserError, match="every other state"):
        checkpoint.load(saved, print)
    manifest = saved / "checkpoint" / "manifest.json"
    manifest.write_text('{"format": 1, "files": {}}')
    with pytest.raises(datasets.UserError, match="another version"):
        checkpoint.load(saved, print)
    manifest.write_text('{"format": 2, ')
    with pytest.raises(datasets.UserError, match=r"manifest\.json: damaged"):
        checkpoint.load(saved, print)


@pytest.mark.parametrize("step", range(1, 8))
def test_a_save_that_is_cut_off_anywhere_leaves_a_whole_state(saved, step, monkeypatch):
    """Every system call that changes the disk is tried as the last one."""
    calls = []

    def last_at(function):
        def call(*arguments, **options):
            calls.append(function)
            if len(calls) > step:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    arrays, progress = small_state(3)
    with monkeypatch.context() as patched:
        for name in ("replace", "fsync", "unlink", "link"):
            patched.setattr(os, name, last_at(getattr(os, name)))
        patched.setattr(np, "savez", last_at(np.savez))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(saved, arrays, progress)
    arrays, progress = checkpoint.load(saved, print)
    assert progress.step in (3, 4) and arrays["weights"][0] == progress.step


def test_a_full_disk_ends_training_and_keeps_what_was_saved(tmp_path, monkeypatch):
    network = small_network()
    make_trainer = functools.partial(main.optimize, network, 1e-3, 10)
    state = main.Training(network, make_trainer, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def write_half(path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(np, "savez", write_half)
    with pytest.raises(main.TrainingError, match="No space left on device; what was saved"):
        main.train_nn(state, repeat(one_batch((32, 64)), 1), 1, 2, even_tally)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {path.name for path in before} | {"best_0001.weights.h5"}
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_folder_that_vanished_ends_training_with_one_line(tmp_path):
    network, folder = small_network(), tmp_path / "run"
    folder.mkdir()
    state = main.Training(network, functools.partial(main.optimize, network, 1e-3, 10), folder)

    def vanish():
        shutil.rmtree(folder)
        return even_tally()

    with pytest.raises(main.TrainingError, match="No such file or directory"):
        main.train_nn(state, repeat(one_batch((32, 64)), 1), 1, 2, vanish)


def test_a_run_has_one_process_at_a_time(tmp_path):
    with run_folder.lock_run(tmp_path):
        code = (
            "import pathlib, run_folder, sys\n"
            "with run_folder.lock_run(pathlib.Path(sys.argv[1])): pass\n"
        )
        command = [sys.executable, "-c", code, tmp_path]
        second = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        assert f"process {os.getpid()} on" in second.stderr
    assert subprocess.run(command, cwd=HERE).returncode == 0


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    """Also when the clock goes backwards."""
    monkeypatch.setattr(time, "strftime", lambda _: "2026-11-23_1437")
    names = [run_folder.open_run(tmp_path / "runs", None).name for _ in range(3)]
    assert names == ["2026-11-23_1437", "2026-11-23_1437_2", "2026-11-23_1437_3"]


def test_changed_settings_are_refused_by_name(tmp_path):
    """And those that do no harm are taken."""
    earlier = dict.fromkeys(run_folder.FIXED_SETTINGS, 1) | {"epochs": 3, "git_commit": "a"}
    run_folder.note_settings(tmp_path, earlier)
    for name in run_folder.FIXED_SETTINGS:
        with pytest.raises(datasets.UserError, match=f"has {name} 1, not 2"):
            run_folder.is_finished(tmp_path, earlier | {name: 2})
    assert not run_folder.is_finished(tmp_path, earlier | {"epochs": 4, "git_commit": "b"})
    (tmp_path / "metrics.json").write_text("{}")
    assert run_folder.is_finished(tmp_path, earlier)
    assert not run_folder.is_finished(tmp_path, earlier | {"epochs": 4})


def test_the_readme_names_tests_that_exist():
    section = (HERE / "README.md").read_text().split("## Nothing is lost")[1].split("\n## ")[0]
    rows = [row.split("|")[3] for row in section.splitlines() if row.startswith("| ")][2:]
    names = re.findall(r"`([a-z_]+)`", " ".join(rows))
    tests = [name for name in globals() if name.startswith("test_")]
    assert len(names) > 15 and all(any(name in test for test in tests) for name in names)


def test_a_place_where_nothing_can_be_written_gives_one_line(drawn, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = ("--dataset", "kitti", "--data-dir", drawn, "--limit", 3)
    for folder in (tmp_path / "file" / "runs", Path("/proc/runs")):
        assert run_main(*arguments, "--runs-dir", folder, "--run", "first") == 2
        assert str(folder) in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(datasets.UserError, match="is no run folder"):
        run_folder.open_run(tmp_path / "runs", "mine")
    assert [path.name for path in (tmp_path / "runs").rglob("*.*")] == ["thesis.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_program_at_once(number):
    """The first is a wish, while a step of a minute is under way; the second does not wait."""
    code = (
        "import stopping, time\n"
        "with stopping.Stopping() as stop, stop.granted():\n"
        "    print('ready', flush=True)\n"
        "    deadline = time.monotonic() + 60\n"
        "    while time.monotonic() < deadline: time.sleep(1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=HERE, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(number)
    while "after this step" not in process.stderr.readline():
        pass
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number


def run_process(arguments, folder, save_seconds, environment=()):
    """Start the program in a process of its own, with its output in folder/log."""
    code = (
        f"import training, main, sys\ntraining.SAVE_SECONDS = {save_seconds}\n"
        f"sys.exit(main.main({[str(argument) for argument in arguments]}))"
    )
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code], cwd=HERE, stdout=log, stderr=log,
            env=os.environ | dict(environment),
        )  # fmt: skip


def disturb(process, checkpoints, random, number, in_a_save):
    """Send a signal at a random moment of the training, or in the middle of a save."""
    manifest = checkpoints / "manifest.json"
    before = manifest.stat().st_mtime_ns if manifest.exists() else 0
    while process.poll() is None and not (
        manifest.exists() and manifest.stat().st_mtime_ns > before
    ):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1))
    while in_a_save and process.poll() is None and not list(checkpoints.glob("partial.*")):
        time.sleep(0.001)
    process.send_signal(number)
    process.wait()
    return bool(list(checkpoints.glob("partial.*")))


def results_of(folder):
    """Everything that has to be equal: arrays of weights, scores, log but for its seconds."""
    rows = list(csv.DictReader((folder / "log.csv").open()))
    arrays, _ = checkpoint.load(folder, print)
    with h5py.File(folder / checkpoint.BEST) as file:
        file.visititems(lambda name, item: arrays.update({name: np.asarray(item)})
                        if isinstance(item, h5py.Dataset) else None)  # fmt: skip
    texts = [{name: row[name] for name in row if name != "seconds"} for row in rows]
    pictures = {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}
    return arrays, [texts, (folder / "metrics.json").read_text(), pictures]


def compare_disturbed_with_undisturbed(drawn, folder, number, times, epochs, environment=()):
    arguments = (
        "--dataset", "kitti", "--data-dir", drawn, "--runs-dir", folder, "--image-shape", 32, 96,
        "--batch-size", 2, "--epochs", epochs,
    )  # fmt: skip
    start = functools.partial(run_process, folder=folder, environment=environment)
    assert start([*arguments, "--run", "whole"], save_seconds=1e9).wait() == 0
    random, statuses, in_saves = np.random.default_rng(0), [], 0
    while not statuses or statuses[-1] != 0:
        is_disturbed = len(statuses) < times
        process = start(
            [*arguments, "--run", "disturbed"], save_seconds=0.3 if is_disturbed else 1e9
        )
        if is_disturbed:
            in_a_save = len(statuses) % 3 == 0 and number == signal.SIGKILL
            in_saves += disturb(
                process, folder / "disturbed" / "checkpoint", random, number, in_a_save
            )
        statuses.append(process.wait())
    disturbances = sum(status != 0 for status in statuses)
    print(f"{disturbances} times disturbed, {in_saves} times in a save: {statuses}")
    whole, texts = results_of(folder / "whole")
    disturbed, other_texts = results_of(folder / "disturbed")
    assert whole.keys() == disturbed.keys() and texts == other_texts
    for name in whole:
        np.testing.assert_array_equal(whole[name], disturbed[name], name)
    return statuses, in_saves


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_if_undisturbed(drawn, tmp_path):
    statuses, in_saves = compare_disturbed_with_undisturbed(
        drawn, tmp_path, signal.SIGKILL, times=20, epochs=12
    )
    assert statuses.count(-signal.SIGKILL) == 20 and statuses[-1] == 0 and in_saves >= 3


@pytest.mark.slow
def test_a_run_terminated_five_times_ends_as_if_undisturbed(drawn, tmp_path):
    statuses, _ = compare_disturbed_with_undisturbed(
        drawn, tmp_path, signal.SIGTERM, times=5, epochs=4
    )
    assert statuses == [143] * 5 + [0]


@needs_jax
@pytest.mark.slow
def test_a_run_on_jax_killed_five_times_ends_as_if_undisturbed(drawn, tmp_path):
    statuses, _ = compare_disturbed_with_undisturbed(
        drawn, tmp_path, signal.SIGKILL, times=5, epochs=4, environment={"KERAS_BACKEND": "jax"}
    )
    assert statuses == [-signal.SIGKILL] * 5 + [0]


# --- metrics --------------------------------------------------------------------------------------


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
                "MaxF": measure, "PRE": precision, "REC": recall, "FNR": 1 - recall,
                "FPR": alarms / max(len(pairs) - positives, 1),
                "IoU": hits / max(positives + alarms, 1), "k": threshold,
            }  # fmt: skip
    best["AP"] = sum(
        max((p for hits, p in points if 10 * hits >= tenth * positives), default=0)
        for tenth in range(11)
    ) / 11  # fmt: skip
    threshold = best.pop("k") / 255
    return {name: 100 * value for name, value in best.items()} | {"threshold": threshold}


HAND_MADE = {
    "ties": ([0, 1, 0, 1], [7, 7, 7, 7]),
    "perfect": ([0, 0, 1, 1], [0, 10, 200, 255]),
    "all road": ([1, 1, 1, 1], [0, 10, 200, 255]),
    "no road": ([0, 0, 0, 0], [0, 10, 200, 255]),
    "all void": ([VOID] * 4, [0, 10, 200, 255]),
    "void counts nowhere": ([0, VOID, 1, VOID], [255, 255, 0, 0]),
}


@pytest.mark.parametrize("case", [*HAND_MADE, "random 1", "random 2", "random 3"])
def test_kitti_scores_equal_brute_force(case):
    if case in HAND_MADE:
        label, confidence = (np.array(values, np.uint8) for values in HAND_MADE[case])
    else:
        random = np.random.default_rng(int(case[-1]))
        label = random.choice([0, 1, VOID], (20, 30)).astype(np.uint8)
        noise = random.normal(0, 60, label.shape)
        confidence = np.clip(np.where(label == 1, 150, 100) + noise, 0, 255).astype(np.uint8)
    found = metrics.kitti_scores(metrics.confidence_counts(label, confidence))
    assert found == pytest.approx(brute_force_kitti_scores(label, confidence), abs=1e-9)


def test_kitti_scores_by_hand():
    """Of 4 road pixels 3 are found at confidence 200, together with 1 of 6 others."""
    label = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.uint8)
    confidence = np.array([200, 200, 200, 10, 200, 5, 5, 5, 5, 5], np.uint8)
    found = metrics.kitti_scores(metrics.confidence_counts(label, confidence))
    # Above confidence 5 all road is found with one false alarm: precision 4/5, recall 1.
    expected = {"MaxF": 800 / 9, "PRE": 80, "REC": 100, "FPR": 100 / 6, "FNR": 0, "IoU": 80}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["AP"] == pytest.approx(80) and found["threshold"] == pytest.approx(6 / 255)


def test_confusion_and_iou_equal_brute_force(random):
    label = random.choice([0, 1, 2, VOID], (20, 30)).astype(np.uint8)
    prediction = random.integers(0, 3, label.shape)
    scores = metrics.class_scores(metrics.confusion_matrix(label, prediction, 4), "abcd")
    for index, name in enumerate("abc"):
        truth, called = (label == index), (prediction == index) & (label != VOID)
        expected = 100 * (truth & called).sum() / (truth | called).sum()
        assert scores["classes"][name] == pytest.approx(expected)
    assert scores["classes"]["d"] is None
    valid = label != VOID
    assert scores["accuracy"] == pytest.approx(100 * np.mean((label == prediction)[valid]))
    assert scores["mean_iou"] == pytest.approx(np.mean([scores["classes"][n] for n in "abc"]))


def test_tally_sums_over_pictures_before_it_scores(random):
    """Two pictures of different size and category score as their pixels put together."""
    tally, labels, roads = metrics.Tally(KITTI.classes), [], []
    for category, shape in (("um", (10, 12)), ("uu", (7, 9))):
        labels.append(random.choice([0, 1, VOID], shape).astype(np.uint8))
        roads.append(random.uniform(size=shape).astype(np.float32))
        tally.add(labels[-1], np.stack([1 - roads[-1], roads[-1]], axis=-1), category)
    label, road = (np.concatenate([part.ravel() for part in parts]) for parts in (labels, roads))
    expected = brute_force_kitti_scores(label, np.rint(255 * road).astype(np.uint8))
    scores = tally.scores()
    assert scores["perspective"]["all"] == pytest.approx({**expected, "pictures": 2}, abs=1e-9)
    assert set(scores["perspective"]) == {"all", "um", "uu"}
    chosen = np.where(label == 1, road, 1 - road)[label != VOID]
    assert tally.loss == pytest.approx(-np.log(chosen).mean(), rel=1e-4)


def test_calibration_makes_probabilities_true(random):
    """Odds that were stretched and shifted come back; the reliability figure is that of a loop."""
    true_odds = random.normal(0, 2, (400, 500))
    label = (random.uniform(size=true_odds.shape) < scipy.special.expit(true_odds)).astype(np.uint8)
    label[:50] = VOID
    stretched = scipy.special.expit((true_odds - 0.7) / 0.4)
    counts = metrics.log_odds_counts(label, stretched)
    assert counts.sum() == 350 * 500
    assert scoring.fit_calibration(counts) == pytest.approx((0.4, 0.7), abs=0.02)
    found = metrics.calibration_scores(counts)
    probability, truth = stretched[50:].ravel(), label[50:].ravel()
    error = 0
    for lower in np.arange(15) / 15:
        inside = (probability >= lower) & (probability < lower + 1 / 15)
        error += abs(truth[inside].sum() - probability[inside].sum()) / truth.size
    assert found["expected_calibration_error"] == pytest.approx(100 * error, abs=0.3)
    called = probability >= 0.5
    hits = (called & (truth == 1)).sum()
    expected = 200 * hits / (called.sum() + truth.sum()), 100 * hits / (called | (truth == 1)).sum()
    assert (found["f1_at_half"], found["iou_at_half"]) == pytest.approx(expected)
    assert found["f1_at_best"] > found["f1_at_half"] + 1
    calibrated = metrics.log_odds_counts(label, scipy.special.expit(true_odds))
    assert metrics.calibration_scores(calibrated)["expected_calibration_error"] < 0.5


@pytest.mark.parametrize("label", [0, 1, VOID])
def test_probabilities_of_one_class_alone_stay_as_they_are(label, random):
    counts = metrics.log_odds_counts(np.full((3, 4), label), random.uniform(size=(3, 4)))
    assert scoring.fit_calibration(counts) == (1.0, 0.0)
    assert all(np.isfinite(value) for value in metrics.calibration_scores(counts).values())


def test_the_predictor_applies_the_calibration(random):
    network = small_network()
    for name in ("score_fc7", "score_pool4", "score_pool3"):
        layer = network.get_layer(name)
        layer.set_weights([random.normal(0, 0.01, size=w.shape) for w in layer.get_weights()])
    picture = random.integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    plain, fitted = (scoring.predictor(network, fit)(picture) for fit in ((1, 0), (0.4, 0.7)))
    odds = scipy.special.logit(plain[..., 1].astype(np.float64))
    inner = np.abs(odds) < 8
    assert inner.mean() > 0.5 and np.ptp(odds[inner]) > 0.1
    expected = scipy.special.expit(0.4 * odds + 0.7)
    np.testing.assert_allclose(fitted[..., 1][inner], expected[inner], atol=1e-3)


# --- from above -----------------------------------------------------------------------------------


def cell_by_hand(projection, row, column, height, width):
    """KITTI's rule for one cell, in 1-based pixels. Returns its place in the flattened picture."""
    z, x = 46 - 0.025 - 0.05 * row, -10 + 0.025 + 0.05 * column
    u, v, depth = projection @ (x, 0, z, 1)
    u, v = u / depth, v / depth
    if 1 <= u <= width and 1 <= v <= height:
        return (int(v) - 1) * width + int(u) - 1
    return -1


def calibration_cases():
    """Texts of calibration files with the size of their pictures: drawn ones, and KITTI's own."""
    for category in scenes.CATEGORIES:
        scene = scenes.draw_scene(category, 1, shape=SMALL)
        yield scenes.calibration_text(scene.calibration), SMALL
    for path in sorted(REAL_SAMPLES.glob("*/calib/*.txt")):
        if path.stem != "umm_000013":  # as it came from KITTI: a list of names and dates
            yield path.read_text(), (375, 1242)


def test_cells_fall_on_the_pixels_of_kittis_rule(tmp_path, random):
    for text, (height, width) in calibration_cases():
        (tmp_path / "calibration.txt").write_text(text)
        calibration = birds_eye.read_calibration(tmp_path / "calibration.txt")
        places = birds_eye.find_places(calibration, height, width)
        assert places.shape == (800, 400)
        projection = ground_projection(text)
        for row in [*random.integers(0, 800, 10).tolist(), *range(690, 800, 4)]:  # borders are near
            expected = [cell_by_hand(projection, row, column, height, width)
                        for column in range(400)]  # fmt: skip
            np.testing.assert_array_equal(places[row], expected)
        assert np.mean(places >= 0) > 0.3


def test_metres_keep_their_length_from_above():
    """A bar of 10 m ahead, 2 m across, drawn into a picture, is 200 cells long and 40 wide."""
    scene = scenes.draw_scene("umm", 2, shape=(375, 1242))
    x, z = np.meshgrid(np.arange(-1, 1, 0.002), np.arange(7.5, 17.5, 0.002))
    points = np.stack([x.ravel(), np.zeros(x.size), z.ravel(), np.ones(x.size)])
    u, v, depth = birds_eye.project_road(scene.calibration) @ points
    picture = np.zeros((375, 1242), np.uint8)
    picture[(v / depth).astype(int) - 1, (u / depth).astype(int) - 1] = 1
    seen = birds_eye.look_down(picture, birds_eye.find_places(scene.calibration, 375, 1242)) == 1
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert np.ptp(rows) + 1 == pytest.approx(200, abs=6)  # a pixel covers some cells there
    assert np.ptp(columns) + 1 == pytest.approx(40, abs=3)
    assert rows.mean() == pytest.approx((46 - 12.5) / 0.05, abs=3)
    assert columns.mean() == pytest.approx(199.5, abs=1)


def test_scores_from_above_are_those_of_what_is_seen_from_above(random):
    """And a picture without calibration is left out of them alone."""
    tally, labels, roads = metrics.Tally(KITTI.classes), [], []
    for index in range(2):
        scene = scenes.draw_scene("um", index, shape=SMALL)
        label = datasets.decode_label(scene.label, KITTI.label_values, "drawn")
        road = random.uniform(size=label.shape).astype(np.float32)
        probabilities = np.stack([1 - road, road], axis=-1)
        tally.add(label, probabilities, "um", scene.calibration)
        tally.add(label, probabilities, "uu")
        places = birds_eye.find_places(scene.calibration, *SMALL)
        seen = places.ravel()[places.ravel() >= 0]
        labels.append(label.ravel()[seen])
        roads.append(np.rint(255 * road.ravel()[seen]).astype(np.uint8))
    expected = brute_force_kitti_scores(np.concatenate(labels), np.concatenate(roads))
    found = tally.scores()["birds_eye"]
    assert set(found) == {"all", "um"} and found["all"] == found["um"]
    assert found["all"] == pytest.approx({**expected, "pictures": 2}, abs=1e-9)
    assert tally.scores()["perspective"]["all"]["pictures"] == 4


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda text: "", "P2 has 0 numbers"),
    (lambda text: text.replace("R0_rect", "R1_rect"), "R0_rect has 0 numbers"),
    (lambda text: text.replace("P2: ", "P2: 1.0 "), "P2 has 13 numbers"),
    (lambda text: text.replace("P2: ", "P2: x"), "could not convert"),
    (lambda text: re.sub(r"(Tr_cam_to_road: ).*", r"\g<1>" + "0 " * 12, text), "no rotation"),
    (lambda text: re.sub(r"(Tr_cam_to_road: ).*", r"\g<1>" + "nan " * 12, text), "12 numbers"),
], ids=["empty", "missing", "long", "word", "zero", "nan"])  # fmt: skip
def test_a_broken_calibration_is_named_and_left_out(damage, reason, spoilt):
    labelled, _ = KITTI.find(spoilt / "data_road")
    path = labelled[0].calibration
    path.write_text(damage(path.read_text()))
    labelled[1].calibration.unlink()
    calibrations, faults = helper.read_calibrations(labelled[::-1])
    assert set(calibrations) == {sample.name for sample in labelled[2:]}
    assert list(faults) == [labelled[0].name, labelled[1].name]  # broken before missing
    broken, missing = faults.values()
    assert str(path) in broken and reason in broken
    assert str(labelled[1].calibration) in missing and "No such file" in missing


# --- evaluation -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def trained(drawn, tmp_path_factory):
    """The folder of a small run on the drawn data."""
    runs = tmp_path_factory.mktemp("runs")
    assert run_main(
        "--dataset", "kitti", "--data-dir", drawn, "--runs-dir", runs, "--run", "first",
        "--image-shape", 32, 96, "--epochs", 1, "--vgg", "none",
    ) == 0  # fmt: skip
    return runs / "first"


def test_evaluating_a_run_gives_the_scores_of_its_training(trained, capsys, tmp_path):
    """From above too; and those of the training part on the terminal alone."""
    shutil.copytree(trained, tmp_path / "run")
    before = json.loads((trained / "metrics.json").read_text())
    assert set(before["birds_eye"]) == {"all", "um", "umm", "uu"}
    assert before["birds_eye"]["all"]["pictures"] == before["pictures"] == 3
    metrics_path = tmp_path / "run" / "metrics.json"
    metrics_path.write_text(json.dumps(before | {"accuracy": 1.0}))
    assert evaluate.run([str(tmp_path / "run")]) == 0
    assert (after := json.loads(metrics_path.read_text())) == before
    capsys.readouterr()
    assert evaluate.run([str(tmp_path / "run"), "--part", "training"]) == 0
    assert "12 pictures of the training part" in capsys.readouterr().out
    assert json.loads(metrics_path.read_text()) == after


def test_a_run_keeps_what_makes_its_probabilities_true(trained, tmp_path):
    """With it the loss on the validation part is lower than without."""
    plain = tmp_path / "run"
    shutil.copytree(trained, plain)
    (plain / "calibration.json").unlink()
    losses = []
    for folder in (trained, plain):
        predict, data_set, settings = trained_run.load_run(folder)
        labelled, _ = data_set.find(Path(settings["data_dir"]) / "data_road")
        _, validation = data_set.split(labelled, 0)
        tally = scoring.score_pictures(predict, validation, data_set, settings["image_shape"])
        losses.append(tally.loss)
    assert losses[0] < losses[1] - 1e-3


def test_a_run_that_is_not_there_gives_one_line(trained, tmp_path, capsys):
    assert evaluate.run([str(tmp_path / "nothing")]) == 2
    assert "no run found" in error_line(capsys)
    shutil.copytree(trained, tmp_path / "run")
    weights = tmp_path / "run" / "best.weights.h5"
    for content in (b"", weights.read_bytes()[:5000]):
        weights.write_bytes(content)
        assert evaluate.run([str(tmp_path / "run")]) == 2
        assert "best.weights.h5" in error_line(capsys)


def test_a_submission_is_what_kittis_server_takes(drawn, tmp_path, random):
    """290 grey pictures of 800x400 in the root, each the warped 8-bit probability."""
    _, testing = KITTI.find(drawn / "data_road")
    samples = [
        datasets.Sample(f"{category}_{number:06d}", original.picture, None, category,
                        original.calibration)
        for category, count in (("um", 96), ("umm", 94), ("uu", 100))
        for number, original in zip(range(count), itertools.cycle(testing))
    ]  # fmt: skip
    road = random.uniform(size=SMALL).astype(np.float32)

    def predict(pictures):
        return np.stack([np.stack([1 - road, road], axis=-1)] * len(pictures))

    path = tmp_path / "submission.zip"
    evaluate.pack_submission(path, predict, samples, SMALL)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        image = Image.open(archive.open("umm_road_000093.png"))
        assert image.mode == "L" and image.size == (400, 800)
        pixels = np.asarray(image)
    assert names == {
        f"{category}_road_{number:06d}.png"
        for category, count in (("um", 96), ("umm", 94), ("uu", 100)) for number in range(count)
    }  # fmt: skip
    sample = samples[96 + 93]
    projection = ground_projection(sample.calibration.read_text())
    for row, column in random.integers(0, (800, 400), (200, 2)).tolist():
        place = cell_by_hand(projection, row, column, *SMALL)
        assert pixels[row, column] == (0 if place < 0 else np.rint(255 * road.ravel()[place]))
    assert len(evaluate.read_submission(path)) == 290
    with pytest.raises(datasets.UserError, match="289 testing pictures"):
        evaluate.pack_submission(path, predict, samples[1:], SMALL)


def test_no_submission_without_kittis_testing_pictures(trained, tmp_path, capsys):
    path = tmp_path / "submission.zip"
    assert evaluate.run([str(trained), "--submission", str(path)]) == 2
    assert "3 testing pictures" in error_line(capsys) and not path.exists()


# --- prediction -----------------------------------------------------------------------------------


def run_predict(trained, *arguments):
    return predict.run([str(argument) for argument in (trained, *arguments)])


@pytest.fixture
def album(tmp_path, random):
    """A folder of pictures of several kinds and sizes, two of one name, one below."""
    folder = tmp_path / "album"
    (folder / "below").mkdir(parents=True)
    for name, shape in {
        "wide.png": (20, 300, 3), "tall.jpg": (200, 11, 3), "dot.png": (1, 1, 3),
        "grey.png": (40, 50), "see-through.webp": (30, 40, 4), "twin.png": (8, 9, 3),
        "twin.bmp": (8, 9, 3), "below/wide.png": (21, 30, 3), "still.gif": (12, 14),
    }.items():  # fmt: skip
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    deep = random.integers(0, 65536, (10, 12), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    Image.new("RGB", (4000, 3000), (90, 120, 60)).save(folder / "large.jpg")
    turned = Image.new("RGB", (30, 20))
    turned.save(folder / "turned.jpg", exif=rotated())
    (folder / "notes.txt").write_text("no picture")
    return folder


ALBUM_SIZES = {  # name of what is made of it: (width, height)
    "wide": (300, 20), "tall": (11, 200), "dot": (1, 1), "grey": (50, 40), "see-through": (40, 30),
    "twin.png": (9, 8), "twin.bmp": (9, 8), "below/wide": (30, 21), "still": (14, 12),
    "deep": (12, 10), "large": (4000, 3000), "turned": (20, 30),
}  # fmt: skip


def test_every_picture_of_a_folder_is_predicted_in_its_own_size(trained, album, tmp_path):
    kinds = ("overlay", "mask", "probability")
    assert run_predict(trained, album, "--output", tmp_path / "out", "--save", *kinds) == 0
    written = {path.relative_to(tmp_path / "out").as_posix()
               for path in (tmp_path / "out").rglob("*.*")}  # fmt: skip
    assert written == {f"{stem}_{kind}.png" for stem in ALBUM_SIZES for kind in kinds}
    for stem, size in ALBUM_SIZES.items():
        images = [Image.open(tmp_path / "out" / f"{stem}_{kind}.png") for kind in kinds]
        assert {image.size for image in images} == {size}
        assert [image.mode for image in images] == ["RGB", "L", "L"]
        mask, probability = (np.asarray(image) for image in images[1:])
        certain = np.abs(probability.astype(int) - 127.5) > 1
        np.testing.assert_array_equal(mask[certain], (probability >= 128)[certain])


def test_a_corrupt_picture_among_good_ones_is_named_at_the_end(trained, album, tmp_path, capsys):
    (album / "torn.png").write_bytes((album / "wide.png").read_bytes()[:100])
    (album / "below" / "empty.jpg").write_bytes(b"")
    (album / "words.mp4").write_text("no video")
    assert run_predict(trained, album, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert all(name in error for name in ("torn.png", "empty.jpg", "words.mp4"))
    assert len(list((tmp_path / "out").rglob("*_overlay.*"))) == len(ALBUM_SIZES)


def test_globs_and_files_go_to_the_runs_folder_and_nothing_is_overwritten(
    trained, album, tmp_path, capsys
):
    shutil.copytree(trained, tmp_path / "run")
    assert run_predict(tmp_path / "run", album / "tw*.*", album / "dot.png") == 0
    names = {path.name for path in (tmp_path / "run" / "predictions").iterdir()}
    assert names == {"twin.png_overlay.png", "twin.bmp_overlay.png", "dot_overlay.png"}
    shutil.copy(album / "wide.png", album / "wide_overlay.png")
    before = (album / "wide_overlay.png").read_bytes()
    capsys.readouterr()
    assert run_predict(trained, album, "--output", album) == 2
    assert "wide_overlay.png" in error_line(capsys)
    assert (album / "wide_overlay.png").read_bytes() == before
    assert run_predict(trained, album / "none*") == 2
    assert "nothing found" in error_line(capsys)
    twins = (album / "wide.png", album / "below" / "wide.png")
    assert run_predict(trained, *twins, "--output", tmp_path / "out") == 2
    assert "would be written there" in error_line(capsys) and not (tmp_path / "out").exists()


def test_a_picture_has_the_same_probabilities_alone_in_a_batch_and_in_validation(trained):
    road, data_set, settings = trained_run.load_run(trained)
    labelled, _ = data_set.find(Path(settings["data_dir"]) / "data_road")
    samples, shape = labelled[:4], settings["image_shape"]
    together = [seen[2] for seen in helper.gen_test_output(road, samples, shape, 4)]
    alone = [seen[2] for seen in helper.gen_test_output(road, samples, shape, 1)]
    validated = []
    scoring.score_pictures(road, samples, data_set, shape,
                           after_each=lambda *seen: validated.append(seen[3]))  # fmt: skip
    for one, two, three in zip(together, alone, validated, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
        np.testing.assert_allclose(one, three, atol=1e-4)


def triangle_weights(given, wanted):
    """The share of each given pixel in each wanted one, by the definition, one by one."""
    step = given / wanted
    weights = np.zeros((wanted, given))
    for i, j in np.ndindex(weights.shape):
        distance = abs(j + 0.5 - (i + 0.5) * step)
        weights[i, j] = max(0.0, 1 - distance / max(step, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("given", "wanted"), [
    ((1, 1), (3, 5)), ((7, 9), (1, 1)), ((40, 31), (13, 64)), ((13, 64), (40, 31)),
    ((5, 6), (5, 6)), ((3, 1000), (2, 3)), ((2, 3), (3, 1000)),
], ids=str)  # fmt: skip
def test_resampling_is_the_same_outside_and_inside_of_a_network(given, wanted, random):
    """Both are the triangle filter; on whole numbers and on floats."""
    array = random.integers(0, 256, (*given, 3), dtype=np.uint8)
    rows, columns = map(triangle_weights, given, wanted)
    expected = np.einsum("ih,hwc,jw->ijc", rows, array, columns)
    np.testing.assert_allclose(helper.resample(array, wanted), expected, atol=1e-3)
    reference = np.zeros((1, *wanted, 1), np.uint8)
    for layer in (export.Resample(wanted), lambda x: export.Resample()(x, reference)):
        np.testing.assert_allclose(layer(array[None])[0], expected, atol=1e-3)


def test_tiles_change_no_answer(random):
    """What a pixel's answer depends on lies in its tile; half as far would not be enough."""
    keras.utils.set_random_seed(0)
    network = main.layers(main.load_vgg({}, NARROW_BLOCKS, head_channels=4), 2)
    set_small_scores(network, random)
    whole = network.predict_on_batch
    sizes = []

    def watched(pictures):
        sizes.append(pictures.shape[:3])
        return whole(pictures)

    for shape in ((750, 801), (33, 1290), (640, 200)):
        pictures = random.uniform(0, 255, (2, *shape, 3)).astype(np.float32)
        expected = whole(pictures)
        spread = np.ptp(expected)
        found = predict.in_tiles(watched, tile=704)(pictures)
        assert np.abs(found - expected).max() < 1e-5 * spread
        near = predict.in_tiles(whole, tile=704, reach=128)(pictures)
        assert max(shape) <= 704 or np.abs(near - expected).max() > 1e-4 * spread
    assert all(n * height * width <= 704**2 for n, height, width in sizes)
    assert all(max(height, width) <= 704 for _, height, width in sizes)


def test_a_scale_is_that_of_the_picture(trained, tmp_path, random):
    """At 1 and at a half: the probabilities of the network at that size."""
    picture = random.integers(0, 256, (64, 100, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[:30, :40]).save(tmp_path / "of another size.png")
    network, _ = trained_run.load_run(trained)[:2]
    for scale, shape in ((1, (64, 100)), (0.5, (32, 50))):
        assert run_predict(trained, tmp_path / "*[ae].png", "--output", tmp_path, "--scale", scale,
                           "--save", "probability") == 0  # fmt: skip
        assert Image.open(tmp_path / "of another size_probability.png").size == (40, 30)
        road = helper.resample(network(helper.resample(picture, shape)[None])[0], (64, 100))[..., 1]
        np.testing.assert_allclose(
            helper.read_numbers(tmp_path / "a_probability.png"), 255 * road, atol=0.6
        )


def write_video(
    path, frames, rate=10, codec="ffv1", times=None, rotation=None, shape=None, pixel_shape=0
):
    """Write uint8 [H, W, 3] frames with PyAV; times in milliseconds; shape: where none tells it."""
    forms = {"ffv1": "bgr0", "libx264": "yuv420p", "mpeg4": "yuv420p"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate)
        stream.height, stream.width = shape or frames[0].shape[:2]
        stream.pix_fmt = forms[codec]
        stream.codec_context.gop_size = 5
        stream.codec_context.sample_aspect_ratio = pixel_shape
        if rotation:
            stream.set_display_rotation(rotation)
        if times:
            milliseconds = fractions.Fraction(1, 1000)
            stream.time_base = stream.codec_context.time_base = milliseconds
        container.start_encoding()
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            if times:
                frame.pts, frame.time_base = times[number], milliseconds
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_video(path):
    """Return (times in seconds, frames, average rate) with PyAV."""
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        frames = list(container.decode(video=0))
    grey = frames[0].format.name == "gray"
    pictures = [frame.to_ndarray(format="gray" if grey else "rgb24") for frame in frames]
    return [frame.time for frame in frames], pictures, float(rate)


@pytest.fixture
def frames(random):
    """Twelve frames of 31x45, none like another."""
    coarse = random.integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(small).resize((45, 31))) for small in coarse]


def test_a_frame_of_a_video_is_predicted_as_the_same_picture(trained, frames, tmp_path):
    """All frames, in their order, size and rate; masks and probabilities without any loss."""
    kinds, out = ("overlay", "mask", "probability"), tmp_path / "out"
    write_video(tmp_path / "film.mkv", frames, rate=10)
    for number, picture in enumerate(frames):
        Image.fromarray(picture).save(tmp_path / f"p{number:02d}.png")
    assert run_predict(trained, tmp_path, "--output", out, "--save", *kinds) == 0
    endings = {"overlay": "mp4", "mask": "mkv", "probability": "mkv"}
    for kind, ending in endings.items():
        times, pictures, rate = read_video(out / f"film_{kind}.{ending}")
        np.testing.assert_allclose(times, np.arange(12) / 10, atol=1e-3)
        assert rate == pytest.approx(10, rel=0.01) and len(pictures) == 12
        for number, picture in enumerate(pictures):
            still = np.asarray(Image.open(out / f"p{number:02d}_{kind}.png"))
            if kind == "overlay":  # compressed; other frames are some 60 away
                assert picture.shape == still.shape == (31, 45, 3)
                assert np.abs(picture.astype(int) - still).mean() < 10
            else:
                np.testing.assert_array_equal(picture, still)


def test_frames_of_another_size_get_the_size_of_the_first(frames, tmp_path):
    """Without mixing classes."""
    film = video.Video(write_video(tmp_path / "film.mkv", frames))
    decoded = list(film)[:2]
    with video.LOSSLESS_GREY.writing(tmp_path / "mask.mkv", film) as write:
        for frame, shape in zip(decoded, ((30, 40), (60, 80)), strict=True):
            mask = np.zeros(shape, np.uint8)
            mask[:, shape[1] // 2 :] = 9
            write(video.LOSSLESS_GREY.encode(mask), frame)
    _, pictures, _ = read_video(tmp_path / "mask.mkv")
    np.testing.assert_array_equal(pictures[0], pictures[1])


def test_an_overlay_keeps_pixels_that_are_not_square(trained, frames, tmp_path):
    """As players stretch the film, so they stretch what is made of it."""
    ratio = fractions.Fraction(4, 3)
    write_video(tmp_path / "film.mp4", frames, codec="mpeg4", pixel_shape=ratio)
    assert run_predict(trained, tmp_path / "film.mp4", "--output", tmp_path) == 0
    for name in ("film.mp4", "film_overlay.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].sample_aspect_ratio == ratio


def test_players_learn_which_colours_an_overlay_has(trained, frames, tmp_path):
    """Those of BT.709, which FFmpeg numbers 1, in the limited range; or red would be off."""
    write_video(tmp_path / "film.mkv", frames)
    assert run_predict(trained, tmp_path / "film.mkv", "--output", tmp_path) == 0
    with av.open(str(tmp_path / "film_overlay.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_primaries, frame.color_range) == (1, 1, 1)


def test_frames_keep_their_times_where_these_are_uneven(trained, frames, tmp_path):
    times = [0, 40, 80, 700, 720, 760, 1500, 1501, 1600, 1700, 1800, 2500]
    even = [np.ascontiguousarray(frame[:30, :44]) for frame in frames]
    write_video(tmp_path / "film.mp4", even, codec="libx264", times=times)
    assert run_predict(trained, tmp_path, "--output", tmp_path / "out") == 0
    found, pictures, _ = read_video(tmp_path / "out" / "film_overlay.mp4")
    np.testing.assert_allclose(found, np.array(times) / 1000, atol=1e-3)
    assert pictures[0].shape == (30, 44, 3)


@pytest.mark.parametrize(("rotation", "corner"), [(90, "lower left"), (-90, "upper right"),
                                                  (180, "lower right")])  # fmt: skip
def test_a_video_is_turned_as_the_camera_was_held(rotation, corner, tmp_path):
    """Its bright upper left corner comes where FFmpeg's counter-clockwise angle brings it."""
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:8, :8] = 255
    path = write_video(tmp_path / "a.mp4", [frame] * 3, codec="libx264", rotation=rotation)
    picture = video.Video.read(next(iter(video.Video(path))))
    assert picture.shape == ((32, 48, 3) if rotation == 180 else (48, 32, 3))
    rows, columns = corner.split()
    row = {"upper": 2, "lower": -3}[rows]
    column = {"left": 2, "right": -3}[columns]
    assert picture[row, column].min() > 200 and np.median(picture) < 20


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("avi", "mpeg4")])
def test_of_a_video_that_was_cut_off_all_that_is_there_is_done(
    suffix, codec, trained, random, tmp_path, capsys
):
    frames = [random.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(40)]
    path = write_video(tmp_path / f"cut.{suffix}", frames, codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Image.fromarray(frames[0]).save(tmp_path / "good.png")
    assert run_predict(trained, tmp_path, "--output", tmp_path / "out") == 1
    assert re.search(rf"cut.{suffix}: cut off after .* of [24].0 seconds", capsys.readouterr().err)
    assert 5 < len(read_video(tmp_path / "out" / "cut_overlay.mp4")[1]) < 40
    assert (tmp_path / "out" / "good_overlay.png").is_file()


def test_a_damaged_place_costs_some_frames(random, tmp_path):
    frames = [random.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(40)]
    path = write_video(tmp_path / "a.mkv", frames, codec="libx264")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 900] = bytes(900)
    path.write_bytes(content)
    seen = []
    with pytest.raises(datasets.UserError, match="damaged in"):
        for frame in video.Video(path):
            seen.append(frame.pts)
    assert 20 < len(seen) <= 40 and seen == sorted(set(seen))


WHITE = [np.full((32, 32, 3), 255, np.uint8)] * 3


def blank_frames(whole, path):
    """Write a video whose head is good and whose frames are all zeros."""
    content = bytearray(whole.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    whole.unlink()


@pytest.mark.parametrize("make", [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("no video at all"),
    lambda path: write_video(path, [], shape=(32, 32)),
    lambda path: write_video(path, [np.zeros((8, 8, 3), np.uint8)]).write_bytes(
        path.read_bytes()[:200]),
    lambda path: blank_frames(write_video(path.with_suffix(".mp4"), WHITE, codec="libx264"), path),
], ids=["empty", "words", "no frames", "header alone", "blank"])  # fmt: skip
def test_a_video_without_a_frame_is_named_and_leaves_nothing(make, trained, tmp_path, capsys):
    make(tmp_path / "a.mkv")
    assert run_predict(trained, tmp_path / "a.mkv", "--output", tmp_path / "out") == 1
    assert "a.mkv: " in capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*"))


def test_a_moving_gif_is_a_video(trained, frames, tmp_path):
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=200)
    assert run_predict(trained, tmp_path / "a.gif", "--output", tmp_path) == 0
    times, _, _ = read_video(tmp_path / "a_overlay.mp4")
    np.testing.assert_allclose(times, 0.2 * np.arange(12), atol=1e-3)


def test_a_camera_is_read_and_one_that_is_not_there_gives_one_line(
    trained, tmp_path, monkeypatch, capsys
):
    picture = "testsrc=size=64x48:rate=10:duration={}"
    monkeypatch.setattr(video, "CAMERAS", {"Linux": ("lavfi", picture)})
    monkeypatch.setattr(video.platform, "system", lambda: "Linux")
    assert run_predict(trained, "camera:2", "--output", tmp_path) == 0
    assert len(read_video(tmp_path / "camera_2_overlay.mp4")[1]) == 20
    monkeypatch.undo()
    assert run_predict(trained, "camera:98", "--output", tmp_path / "out") == 1
    assert "camera:98" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_leaves_a_video_that_can_be_played(trained, random, tmp_path):
    frames = [random.integers(0, 256, (32, 48, 3), dtype=np.uint8)] * 3000
    film = write_video(tmp_path / "film.mkv", frames)
    command = [sys.executable, HERE / "predict.py", trained, film, "--output", tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        partial = tmp_path / "out" / "partial.film_overlay.mp4"
        while process.poll() is None and not (partial.is_file() and partial.stat().st_size):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output = process.stdout.read().decode()
    assert process.returncode == 130 and "Traceback" not in output
    assert 0 < len(read_video(tmp_path / "out" / "film_overlay.mp4")[1]) < 3000
    assert not partial.exists()


@pytest.mark.slow
def test_a_long_video_takes_no_more_memory_than_a_short_one(trained, tmp_path):
    """20 seconds of 1080p beside two of it: every frame is there, the peak is the same."""
    scene = scenes.draw_scene("um", 0, shape=(1200, 2040)).picture
    places = [round(60 + 60 * np.sin(number / 50)) for number in range(500)]
    peaks = []
    for count in (50, 500):
        path = write_video(
            tmp_path / f"{count}.mp4",
            (scene[place : place + 1080, place : place + 1920] for place in places[:count]),
            rate=25, codec="libx264", shape=(1080, 1920),
        )  # fmt: skip
        script = (
            "import predict, resource, sys; status = predict.run(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
        )
        command = [sys.executable, "-c", script, trained, path, "--output", tmp_path]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) * 1024)
        with av.open(str(tmp_path / f"{count}_overlay.mp4")) as container:
            stream = container.streams.video[0]
            assert (stream.frames, stream.width, stream.height) == (count, 1920, 1080)
    assert peaks[1] < peaks[0] + 100e6, peaks


# --- export ---------------------------------------------------------------------------------------


def run_export(*arguments):
    return export.run([str(argument) for argument in arguments])


def needs_packages(form):
    found = all(importlib.util.find_spec(name) for name in export.FORMATS[form].modules)
    skip = pytest.mark.skipif(not found, reason="needs requirements-export.txt")
    return pytest.param(form, marks=[skip, pytest.mark.export])


@pytest.mark.parametrize("form", [needs_packages(form) for form in export.FORMATS])
def test_an_exported_network_answers_as_predict_does(form, trained, random, tmp_path, capsys):
    """Pictures of several sizes, also several at once, opened in a process without Keras."""
    output = tmp_path / export.FORMATS[form].file_name
    assert run_export(trained, "--format", form, "--output", output) == 0
    assert "checked on 3 pictures: largest difference" in capsys.readouterr().out
    assert not list(tmp_path.glob("partial*"))
    answer = export.FORMATS[form].open(output)
    for shape in ((50, 70), (1, 1), (200, 33), (96, 320)):
        pictures = random.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / f"{number}.png")
        assert run_predict(trained, tmp_path / "[01].png", "--output", tmp_path, "--save",
                           "probability") == 0  # fmt: skip
        for number, found in enumerate(answer(pictures)):
            expected = np.asarray(Image.open(tmp_path / f"{number}_probability.png"))
            np.testing.assert_allclose(255 * found[..., 1], expected, atol=0.5 + 255e-4)
            np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)


def test_an_export_that_cannot_be_done_gives_one_line_and_leaves_nothing(
    trained, tmp_path, capsys, monkeypatch
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("words")
    for form, output, status, message in (
        ("onnx", "road.pb", 2, "expected a name that ends with .onnx"),
        ("saved_model", "folder", 2, "holds something else"),
        ("saved_model", "file", 2, "is a file"),
    ):
        assert run_export(trained, "--format", form, "--output", tmp_path / output) == status
        assert message in error_line(capsys)
    with monkeypatch.context() as patch:
        patch.setattr(export.importlib.util, "find_spec", lambda name: None)
        assert run_export(trained, "--format", "litert", "--output", tmp_path / "a.tflite") == 2
        assert "pip install ai-edge-litert" in error_line(capsys)
    monkeypatch.setattr(export, "LARGEST_DIFFERENCE", 0.0)
    monkeypatch.setattr(export.Resample, "_weights", staticmethod(lambda given, wanted: (
        keras.ops.ones((wanted, given)) / keras.ops.cast(given, "float32"))))  # fmt: skip
    assert run_export(trained, "--format", "saved_model", "--output", tmp_path / "model") == 1
    assert "nothing was written" in error_line(capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}


@pytest.mark.export
@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime")
def test_the_readmes_example_needs_no_keras(trained, frames, tmp_path):
    """It prints, for each frame, how far right of the middle the road is."""
    assert run_export(trained, "--format", "onnx", "--output", tmp_path / "model.onnx") == 0
    write_video(tmp_path / "drive.mp4", frames[:3], codec="ffv1")
    (example,) = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    assert len(example.splitlines()) <= 20
    example += "\nimport sys; assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert len(done.stdout.splitlines()) == 3


# --- speed ----------------------------------------------------------------------------------------


def test_the_bench_measures_all_it_names_and_writes_it_down(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "CASES", (((20, 30), (32, 64), 5),))
    monkeypatch.setattr(bench, "NETWORK_SHAPE", (32, 64))
    monkeypatch.setattr(bench, "KITTI_SHAPE", SMALL)
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "DRAWN", 4)
    saved_model = {"saved_model": export.FORMATS["saved_model"]}
    monkeypatch.setattr(export, "FORMATS", saved_model)
    assert bench.run(["--json", str(tmp_path / "bench.json")]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    printed = capsys.readouterr().out
    for part, count in {"training": 4, "prediction": 5}.items():
        assert len(written[part]) == count
        for row in written[part]:
            assert row["pictures a second"] > 0 and f"| {row['what']} |" in printed
    limit, alone = written["prediction"][:2]
    assert alone["of the network alone"] == limit["of a matrix product"] == 1


def test_a_rate_is_pictures_over_seconds(monkeypatch):
    """By a clock that goes on by a second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    calls = []
    assert bench.rate_of(calls.append, [1, 2, 3]) == 3 * (len(calls) - 1) / len(calls)


# --- several devices and machines -----------------------------------------------------------------

AS_SEVERAL = """
import os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    (cpu,), one = tf.config.list_physical_devices("CPU"), tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * int(os.environ["DEVICES"]))
import main, training
# The devices of TensorFlow drop the same places of different pictures.
main.DROPOUT |= dict.fromkeys(main.DROPOUT, 1e-9)
training.SAVE_SECONDS = 2
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture
def start_team(drawn, tmp_path):
    """Make a function that starts the processes of one training: they train on seven pictures."""
    started = []

    def start(name, backend, devices=1, processes=1, batch_size=4, epochs=2, data_dir=drawn):
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = server.getsockname()[1]
        # So small, because Adam's first steps make much of the rounding of small gradients. It
        # grows with the root of how often the batch of a device is in a step of four pictures.
        rate = 1e-9 * np.sqrt(batch_size / 4)
        command = [
            sys.executable, "-c", AS_SEVERAL, "--dataset", "kitti", "--data-dir", data_dir,
            "--runs-dir", tmp_path, "--run", name, "--image-shape", 32, 96, "--limit", 7,
            "--epochs", epochs, "--batch-size", batch_size, "--learning-rate", rate,
            "--precision", "float32",
        ]  # fmt: skip
        environment = os.environ | {
            "KERAS_BACKEND": backend, "DEVICES": str(devices),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }  # fmt: skip
        several = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)
        }  # fmt: skip
        team = [
            subprocess.Popen(
                list(map(str, command)), cwd=HERE, text=True, stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL, env=environment
                | (several | {"JAX_PROCESS_ID": str(process)} if processes > 1 else {}),
            )
            for process in range(processes)
        ]  # fmt: skip
        started.extend(team)
        return team

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish_team(team, status=0):
    """Wait for the processes of a training. Returns the last line that each wrote."""
    written = [process.communicate(timeout=300)[1] for process in team]
    assert [process.returncode for process in team] == [status] * len(team), written
    assert not any("Traceback" in text or "Check failure" in text for text in written), written
    return [text.replace("\r", "\n").splitlines()[-1] if text else "" for text in written]


def read_numbers_of_run(folder):
    """Return the numbers in log.csv (but seconds) and metrics.json, and the newest state."""
    state, progress = checkpoint.load(folder, pytest.fail)
    numbers = [row[name] for row in progress.history for name in row if name != "seconds"]
    result = json.loads((folder / "metrics.json").read_text())["perspective"]["all"]
    return numbers + [result[name] for name in sorted(result)], state


def assert_runs_are_alike(one, other):
    """Also in the optimizer's running means of gradients, which tell more than small steps do."""
    (numbers, state), (other_numbers, other_state) = map(read_numbers_of_run, (one, other))
    np.testing.assert_allclose(numbers, other_numbers, rtol=5e-3)
    assert state.keys() == other_state.keys()
    for name, array in state.items():
        means = name.endswith(("momentum", "velocity"))
        tolerance = 5e-3 * np.abs(array).max() if means else 2e-5
        np.testing.assert_allclose(array, other_state[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("devices", "processes"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (4, 3)])
def test_every_picture_of_a_batch_counts_once_on_some_device(devices, processes):
    teams = []
    for process in range(processes):
        team = module_devices.Team()
        team.devices, team.process, team.processes = devices * processes, process, processes
        teams.append(team)
    for count in range(1, 20):
        shares = [team.share(list(range(count))) for team in teams]
        assert len({len(share) for share in shares}) == 1 and len(shares[0]) % devices == 0
        counted = [
            row for team, share in zip(teams, shares, strict=True)
            for row, real in zip(share, team.real_rows(count, len(share)), strict=True) if real
        ]  # fmt: skip
        assert counted == list(range(count))


def test_two_devices_of_tensorflow_train_as_one(start_team, tmp_path):
    """MirroredStrategy on two halves of the processor; the last batch is an odd one."""
    finish_team(start_team("one", "tensorflow"))
    finish_team(start_team("two", "tensorflow", devices=2, batch_size=2))
    assert_runs_are_alike(tmp_path / "one", tmp_path / "two")
    settings = json.loads((tmp_path / "two" / "settings.json").read_text())
    assert settings["pictures_a_step"] == 4


@pytest.mark.slow
def test_pictures_that_do_not_fit_are_streamed_in_flat_memory(drawn, monkeypatch):
    """Twenty thousand pictures, of which less than a thousand fit."""
    labelled, _ = KITTI.find(drawn / "data_road")
    samples = [labelled[number % len(labelled)] for number in range(20_000)]
    monkeypatch.setattr(helper, "_free_memory_bytes", lambda: 200 << 20)
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (96, 320))
    used, count = {}, 0
    # The process' own memory would tell of the tests before this one, too.
    tracemalloc.start()
    try:
        for pictures, _ in get_batches_fn(20):
            count += len(pictures)
            used[count], _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(samples)
    assert max(used.values()) < used[2000] + 20e6, used


@needs_jax
def test_two_devices_and_two_processes_of_jax_train_as_one(start_team, tmp_path):
    finish_team(start_team("one", "jax"))
    finish_team(start_team("devices", "jax", devices=2, batch_size=2))
    finish_team(start_team("processes", "jax", processes=2, batch_size=2))
    for name in ("devices", "processes"):
        assert_runs_are_alike(tmp_path / "one", tmp_path / name)


def wait_for_rows(folder, count):
    """Wait until a run's log has so many epochs."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if len((folder / "log.csv").read_text().splitlines()) > count:
                return
        time.sleep(0.1)
    raise TimeoutError(folder)


@needs_jax
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_and_one_alone_goes_on(lost, start_team, tmp_path):
    finish_team(start_team("one", "jax", epochs=6))
    team = start_team("two", "jax", processes=2, batch_size=2, epochs=6)
    wait_for_rows(tmp_path / "two", 2)
    team[lost].kill()
    started = time.monotonic()
    (line,) = finish_team([team[1 - lost]], status=1)
    assert time.monotonic() - started < 30
    assert f"process {1 - lost}: another process of this training is lost" in line
    assert not (tmp_path / "two" / "metrics.json").exists()
    finish_team(start_team("two", "jax", processes=1, batch_size=2, epochs=6))
    assert_runs_are_alike(tmp_path / "one", tmp_path / "two")


@needs_jax
def test_a_stop_and_a_mistake_end_all_processes_alike(start_team, spoilt, tmp_path):
    """Also where only one of them is told to stop: all end at the same step, which is saved."""
    team = start_team("two", "jax", processes=2, batch_size=2, epochs=50)
    wait_for_rows(tmp_path / "two", 1)
    team[1].terminate()
    assert all("stopped by SIGTERM" in line for line in finish_team(team, status=143))
    checkpoint.load(tmp_path / "two", pytest.fail)
    label = min((spoilt / "data_road" / "training" / "gt_image_2").iterdir())
    label.write_bytes(b"no picture")  # which the first process alone looks at
    team = start_team("none", "jax", processes=2, data_dir=spoilt)
    assert all(label.name in line for line in finish_team(team, status=2))


def test_devices_that_are_not_there_give_one_line(start_team, drawn, tmp_path, capsys, monkeypatch):
    arguments = ("--dataset", "kitti", "--data-dir", drawn, "--runs-dir", tmp_path)
    assert run_main(*arguments, "--devices", 5) == 2
    assert "--devices 5: tensorflow finds only 1 here" in error_line(capsys)
    with monkeypatch.context() as patch:
        patch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1", "gpu:2"])
        assert module_devices._form(1).devices == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert run_main(*arguments) == 2
    assert "KERAS_BACKEND=jax" in error_line(capsys)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "two")
    assert run_main(*arguments) == 2
    assert "SLURM_STEP_NUM_TASKS=two: expected a whole number" in error_line(capsys)


# --- report ---------------------------------------------------------------------------------------


class PageReader(html.parser.HTMLParser):
    """Collects what a page refers to, and sees that its tags are balanced."""

    EMPTY = ("meta", "link", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.sources, self.texts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes["href"]] if tag == "a" else []
        self.sources += [attributes["src"]] if "src" in attributes else []
        assert tag != "img" or attributes["alt"]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_the_report_stands_alone_and_links_to_the_pictures(trained):
    text = (trained / "report.html").read_text()
    page = PageReader(text)
    assert len(text) < 5_000_000 and "http" not in re.sub(r"base64,[\w+/=]*", "", text)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert len(page.sources) == 3 * 3 + 3 * 2  # testing layers; the worst and these from above
    assert page.links and all((trained / link).is_file() for link in page.links)
    assert any("Agreement with the labels" in text for text in page.texts)
    scores = json.loads((trained / "metrics.json").read_text())
    for view in ("perspective", "birds_eye"):
        assert f"{scores[view]['umm']['MaxF']:.2f}" in page.texts


def test_a_run_that_goes_on_has_a_report_too(trained, tmp_path, capsys):
    """Before its first epoch, and without pictures; names can't break the page."""
    folder = tmp_path / "<i>Straße & Co"
    folder.mkdir()
    settings = json.loads((trained / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings))
    assert report.main([str(folder)]) == 0
    shutil.copy(trained / "log.csv", folder)
    shutil.copytree(trained / "report", folder / "report")  # of fewer epochs, its scores are gone
    assert report.main([str(folder)]) == 0
    page = PageReader((folder / "report.html").read_text())
    assert any("<i>Straße & Co" in text for text in page.texts)
    assert any("not finished" in text for text in page.texts)
    assert report.main([str(tmp_path / "nothing")]) == 2
    assert "no run found" in error_line(capsys)


def test_a_report_of_more_classes_has_a_row_and_a_colour_for_each(camvid):
    assert run_camvid(camvid) == 0
    page = PageReader((camvid / "runs" / "city" / "report.html").read_text())
    assert all(page.texts.count(name) >= 2 for name in DATASETS["camvid"].classes)


def test_the_report_warns_of_drawn_scenes(tmp_path):
    (tmp_path / "settings.json").write_text('{"dataset": "synthetic", "labels": "drawn"}')
    assert "never seen a real street" in report.write(tmp_path).read_text()


def test_the_worst_pictures_come_first_with_their_errors(tmp_path):
    """Missed road is red, invented road blue; pictures that are right do not push these out."""
    worst = gallery.WorstPictures()
    label = np.zeros((40, 120), np.uint8)
    label[20:, 30:90] = 1
    label[:, :5] = VOID
    picture = np.full((40, 120, 3), 128, np.uint8)

    def answer(index):
        road = (label == 1).astype(np.float32)
        road[:, :5] = 1  # void: no error
        road[20:, 30 : 30 + index] = 0  # missed
        road[:10, 100 : 100 + index // 2] = 1  # invented
        return road

    for index in [*range(0, 20, 2), *range(19, 0, -2)]:
        road = answer(index)
        sample = datasets.Sample(f"um_{index:06d}", Path(), None, "um")
        worst.add(sample, picture, label, np.stack([1 - road, road], axis=-1), None)
    rows = worst.save(tmp_path)
    assert [row["name"] for row in rows] == [f"um_{index:06d}" for index in range(19, 7, -1)]
    hits, missed, invented = 20 * (60 - 19), 20 * 19, 10 * 9
    assert rows[0]["score"] == pytest.approx(200 * hits / (2 * hits + missed + invented))
    road = answer(19)
    painted = gallery.paint_errors(picture, label, (road > 0.5).astype(int)).astype(int)
    red, blue = painted[..., 0] > painted[..., 2] + 50, painted[..., 2] > painted[..., 0] + 50
    np.testing.assert_array_equal(red, (label == 1) & (road == 0))
    np.testing.assert_array_equal(blue, (label == 0) & (road == 1))
    assert (tmp_path / "report" / "validation" / "um_000019_errors.jpg").is_file()


@pytest.fixture(scope="session")
def browser():
    if not (shutil.which("chromium") and importlib.util.find_spec("selenium")):
        pytest.skip("Chromium, its driver or selenium is not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync",
                     "disable-background-networking", "disable-component-update"):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1440])
def test_the_report_works_in_a_browser(width, browser, trained):
    """No error, every picture loads, nothing sticks out, slider and keys fade the layers."""
    from selenium.webdriver.common.keys import Keys

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500,
    })  # fmt: skip
    browser.get((trained / "report.html").as_uri())
    assert browser.get_log("browser") == []
    run = browser.execute_script
    assert run("return [...document.images].every(image => image.naturalWidth > 0)")
    assert run("return document.documentElement.scrollWidth") <= width

    def opacities():
        style = "return getComputedStyle(document.querySelector('.layers .{}')).opacity"
        return [float(run(style.format(layer))) for layer in ("probability", "mask")]

    body, fader = browser.find_element("tag name", "body"), browser.find_element("id", "fader")
    for key, expected in (("1", [0, 0]), ("2", [1, 0]), ("3", [0, 1])):
        body.send_keys(key)
        assert opacities() == expected
    fader.send_keys(Keys.HOME)
    assert opacities() == [0, 0]
    fader.send_keys(*[Keys.ARROW_RIGHT] * 10)
    assert opacities() == pytest.approx([0.5, 0])


# --- data -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL_SAMPLES.is_dir(), reason="KITTI's own files are not here")
def test_for_kitti_dataset():
    """KITTI's real labels read to the right classes, by the benchmark's own rule."""
    pictures = sorted((REAL_SAMPLES / "training" / "image_2").glob("*.png"))
    assert pictures
    for picture in pictures:
        label = picture.parents[1] / "gt_image_2" / picture.name.replace("_", "_road_")
        sample = datasets.Sample(picture.stem, picture, label, "um")
        colours = np.asarray(Image.open(label))
        found = helper.read_label(sample, KITTI)
        assert helper.read_image(picture).shape == (*found.shape, 3)
        np.testing.assert_array_equal(found == 1, (colours[..., 2] > 0) & (colours[..., 0] > 0))
        np.testing.assert_array_equal(found == VOID, colours[..., 0] == 0)
        assert 0.05 < np.mean(found == 1) < 0.4


@pytest.mark.parametrize("counts", [(95, 96, 98), (80, 78, 84)])
def test_validation_is_the_last_16_of_each_category(counts):
    samples = [
        datasets.Sample(f"{category}_{number:06d}", Path(), None, category)
        for category, count in zip(("um", "umm", "uu"), counts, strict=True)
        for number in range(count)
    ]
    training, validation = datasets.split_last_frames(samples, seed=0)
    assert len(training) == sum(counts) - 48
    assert {sample.name for sample in validation} == {
        f"{category}_{number:06d}"
        for category, count in zip(("um", "umm", "uu"), counts, strict=True)
        for number in range(count - 16, count)
    }


def test_limit_leaves_no_category_out(drawn):
    labelled, _ = KITTI.find(drawn / "data_road")
    assert {sample.category for sample in datasets.spread(labelled, 3)} == {"um", "umm", "uu"}


def test_augmented_picture_and_label_move_together(random):
    """A picture painted in its classes' colours still is after augmentation."""
    label = np.zeros((60, 200), np.uint8)
    label[20:50, 30:90] = 1
    label[5:12, 100:180] = VOID
    colours = np.zeros((256, 3), np.uint8)
    mean = tuple(map(round, augmentation.VGG_MEAN_RGB))
    colours[[0, 1, VOID]] = (200, 30, 10), (10, 220, 60), mean
    moved = 0
    for _ in range(20):
        picture, changed = augmentation.augment(colours[label], label, random)
        assert picture.shape == (60, 200, 3) and picture.dtype == changed.dtype == np.uint8
        assert set(np.unique(changed)) <= {0, 1, VOID}
        # Only the pixels at borders mix two colours.
        equal = np.abs(picture.astype(int) - colours[changed]).max(axis=-1) <= 1
        assert equal.mean() > 0.9
        moved += np.mean(changed != label) > 0.05
    assert moved >= 15


def keep_still(monkeypatch):
    """Switch off all that moves a picture, but for mirroring."""
    for name in ("ZOOM", "STRETCH", "LEAN", "SHIFT", "ROTATION_DEGREES"):
        nothing = 1.0 if name in ("ZOOM", "STRETCH") else 0.0
        monkeypatch.setattr(augmentation, name, (nothing, nothing))


def test_only_what_may_be_mirrored_is(monkeypatch, random):
    keep_still(monkeypatch)
    label = np.zeros((8, 20), np.uint8)
    label[:, :5] = 1
    picture = np.repeat(label[..., None], 3, axis=-1)
    for mirrored, expected in ((True, {0, 1}), (False, {1})):
        labels = [augmentation.augment(picture, label, random, mirrored)[1] for _ in range(20)]
        assert {int(changed[4, 1]) for changed in labels} == expected


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("STRETCH", 4.0, [(20, 60), (29, 139)]),  # twice as wide, half as high
    ("STRETCH", 0.25, [(5, 90), (44, 109)]),
    ("LEAN", 0.5, [(15, 85), (34, 114)]),  # 4.75 columns to the right at the top
])  # fmt: skip
def test_a_square_is_stretched_and_leans(name, value, expected, monkeypatch, random):
    """About the middle of the picture; expected: corners (row, column), reckoned by hand."""
    keep_still(monkeypatch)
    monkeypatch.setattr(augmentation, name, (value, value))
    label = np.zeros((50, 200), np.uint8)
    label[15:35, 80:120] = 1
    picture = np.repeat(label[..., None], 3, axis=-1)
    _, changed = augmentation.augment(picture, label, random, mirrored=False)
    np.testing.assert_array_equal(np.argwhere(changed == 1)[[0, -1]], expected)


def test_batches_hold_every_picture_once(drawn):
    samples, _ = KITTI.find(drawn / "data_road")
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), augmented=False)
    batches = list(get_batches_fn(4))
    assert [len(pictures) for pictures, _ in batches] == [4, 4, 4, 3]
    pictures, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    assert pictures.shape == (15, 32, 64, 3) and labels.shape == (15, 32, 64)
    expected = sorted(helper.read_image(s.picture, (32, 64)).tobytes() for s in samples)
    assert sorted(picture.tobytes() for picture in pictures) == expected


def test_batches_depend_on_seed_epoch_and_index_alone(drawn):
    samples, _ = KITTI.find(drawn / "data_road")

    def epoch_pictures(batch_size, epoch, seed=1):
        get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), seed)
        return np.concatenate([pictures for pictures, _ in get_batches_fn(batch_size, epoch)])

    first = epoch_pictures(4, 0)
    np.testing.assert_array_equal(first, epoch_pictures(5, 0))
    assert not np.array_equal(first, epoch_pictures(4, 1))
    assert not np.array_equal(first, epoch_pictures(4, 0, seed=2))
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), 1)
    rest = np.concatenate([pictures for pictures, _ in get_batches_fn(4, 0, first=2)])
    np.testing.assert_array_equal(first[2 * 4 :], rest)


def test_batches_know_the_names_of_their_pictures(drawn):
    samples, _ = KITTI.find(drawn / "data_road")
    named = {sample.name: helper.read_image(sample.picture, (32, 64)) for sample in samples}
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), 1, augmented=False)
    for number, (pictures, _) in enumerate(get_batches_fn(4, 7)):
        names = get_batches_fn.names(4, 7, number)
        np.testing.assert_array_equal(pictures, [named[name] for name in names])


def test_each_picture_is_decoded_once(drawn, monkeypatch):
    samples, _ = KITTI.find(drawn / "data_road")
    opened, read = [], Image.open

    def count_and_read(path):
        opened.append(path)
        return read(path)

    monkeypatch.setattr(helper.Image, "open", count_and_read)
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64))
    for epoch in range(3):
        list(get_batches_fn(4, epoch))
    assert len(opened) == len(set(opened)) == 2 * len(samples)


def test_labels_are_resized_to_nearest_neighbours(drawn):
    samples, _ = KITTI.find(drawn / "data_road")
    label = helper.read_label(samples[0], KITTI, (37, 111))
    assert label.shape == (37, 111) and set(np.unique(label)) <= {0, 1, VOID}


# --- drawn scenes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("category", scenes.CATEGORIES)
def test_scenes_are_deterministic_and_kitti_coloured(category):
    first, again = (scenes.draw_scene(category, 3, seed=7, shape=SMALL) for _ in range(2))
    np.testing.assert_array_equal(first.picture, again.picture)
    np.testing.assert_array_equal(first.label, again.label)
    other = scenes.draw_scene(category, 4, seed=7, shape=SMALL)
    assert not np.array_equal(first.picture, other.picture)
    label = datasets.decode_label(first.label, KITTI.label_values, "drawn")
    assert 0.02 < np.mean(label == 1) < 0.5
    assert first.picture.shape == (*SMALL, 3) == first.label.shape


def ground_projection(calibration_text):
    """KITTI's rule: (u, v, 1) ~ P2 R0_rect inv(Tr_cam_to_road) (x, y, z, 1)."""
    matrices = {
        name: np.array(values.split(), float).reshape(3, -1)
        for name, values in (line.split(": ") for line in calibration_text.splitlines())
    }
    rectify, to_road = np.eye(4), np.eye(4)
    rectify[:3, :3], to_road[:3] = matrices["R0_rect"], matrices["Tr_cam_to_road"]
    return matrices["P2"] @ rectify @ np.linalg.inv(to_road)


@pytest.mark.parametrize(
    ("category", "narrowest", "widest"), [("um", 6.0, 7.6), ("umm", 8.4, 13.6), ("uu", 4.4, 6.2)]
)
def test_calibration_fits_the_drawn_road(category, narrowest, widest):
    """Seen from above, by the calibration file, the road is as wide in metres far as near.

    Vehicles hide parts of it in some scenes, so not every scene shows its whole width.
    """
    height, width = 188, 621
    x, z = np.meshgrid(np.arange(-14, 14, 0.05), np.arange(16, 30, 0.5))
    whole_scenes = 0
    for index in range(6):
        scene = scenes.draw_scene(category, index, shape=(height, width))
        projection = ground_projection(scenes.calibration_text(scene.calibration))
        u, v, depth = np.einsum("ij,jhw->ihw", projection, [x, 0 * x, z, 0 * x + 1])
        column, row = (np.trunc(place / depth).astype(int) - 1 for place in (u, v))
        seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        label = scene.label[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
        road_widths = 0.05 * (seen & (label == scenes.ROAD).all(axis=-1)).sum(axis=1)
        assert road_widths.max() < widest + 0.3
        whole_scenes += np.mean(road_widths > narrowest - 0.3) > 0.5
    assert whole_scenes >= 3


def test_simple_rules_fail_on_drawn_scenes(drawn):
    """Neither the horizon nor the road's colour is enough: the scenes have to be learnt."""
    samples, _ = KITTI.find(drawn / "data_road")
    scores = scoring.score_simple_rules(samples, samples, KITTI)
    assert len(scores) == 2 and max(scores.values()) < 85


# --- downloads ------------------------------------------------------------------------------------


CONTENT = bytes(range(256)) * 4000
# What a server may do with a request that starts at a byte: status, headers, body.
ANSWERS = {
    "whole": lambda start: (206, {}, CONTENT[start:]),
    "half": lambda start: (206, {}, CONTENT[start : (start + len(CONTENT)) // 2]),
    "from the beginning": lambda start: (200, {}, CONTENT),
    "another file": lambda start: (200, {}, b"<html>log in first</html>"),
    "another of this size": lambda start: (206, {}, bytes(len(CONTENT) - start)),
    "far too much": lambda start: (200, {}, 3 * CONTENT),
    "moved": lambda start: (302, {"Location": "/elsewhere.zip"}, b""),
    "not found": lambda start: (404, {}, b"no"),
    "broken": lambda start: (500, {}, b"no"),
    "busy": lambda start: (503, {}, b"no"),
}


class ScriptedServer(http.server.BaseHTTPRequestHandler):
    """Answers each request by the next of its script; hangs up where the script is at its end."""

    def do_GET(self):
        start = int(re.search(r"bytes=(\d+)-", self.headers["Range"])[1])
        self.starts.append(start)
        if not self.script:
            return
        status, headers, body = ANSWERS[self.script.pop(0)](start)
        self.send_response(status)
        length = len(CONTENT) - start if status == 206 else len(body)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def remote(monkeypatch):
    """A file on a local server that does what its script says."""
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    handler = type("Handler", (ScriptedServer,), {"script": [], "starts": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield types.SimpleNamespace(
            handler=handler,
            file=datasets.Remote(
                "test", f"http://127.0.0.1:{server.server_port}/f.zip", "page", "licence",
                len(CONTENT), "sha256", hashlib.sha256(CONTENT).hexdigest(),
            ),
        )  # fmt: skip
        server.shutdown()


@pytest.mark.parametrize(("script", "starts"), [
    (["whole"], [0]),
    (["half", "whole"], [0, 0.5]),
    (["half", "half", "whole"], [0, 0.5, 0.75]),
    (["half", "from the beginning"], [0, 0.5]),
    (["moved", "whole"], [0, 0]),
    (["broken", "busy", "whole"], [0, 0, 0]),
])  # fmt: skip
def test_a_download_goes_on_where_it_was_interrupted(script, starts, remote, tmp_path):
    remote.handler.script[:] = script
    download.download(remote.file, tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == CONTENT
    assert remote.handler.starts == [int(start * len(CONTENT)) for start in starts]
    assert [path.name for path in tmp_path.iterdir()] == ["f.zip"]


@pytest.mark.parametrize(("script", "message"), [
    ([], "could not be downloaded"),
    (["not found"] * 3, "404"),
    (["broken"] * 3, "500"),
    (["half"] * 3, "ended after"),
    (["another file"] * 3, "ended after"),
    (["another of this size"], "deleted"),
    (["far too much"], "deleted"),
    (["moved"] * 20, "infinite loop"),
])  # fmt: skip
def test_a_failed_download_gives_one_line_and_no_file(script, message, remote, tmp_path):
    remote.handler.script[:] = script
    with pytest.raises(download.DownloadError, match=message) as raised:
        download.download(remote.file, tmp_path / "f.zip")
    assert "by hand (page)" in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "f.zip").exists()


def test_a_download_that_failed_goes_on_the_next_time(remote, tmp_path):
    remote.handler.script[:] = ["half"]
    with pytest.raises(download.DownloadError):
        download.download(remote.file, tmp_path / "f.zip")
    remote.handler.script[:] = ["whole"]
    download.download(remote.file, tmp_path / "f.zip")
    assert remote.handler.starts[-1] == len(CONTENT) // 2
    assert (tmp_path / "f.zip").read_bytes() == CONTENT


def test_a_disk_without_room_is_named_at_once(remote, tmp_path, monkeypatch):
    remote.handler.script[:] = ["whole"] * 3

    class FullFile(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", lambda *_: FullFile())
    with pytest.raises(OSError, match="No space left"):
        download.download(remote.file, tmp_path / "f.zip")
    assert len(remote.handler.starts) == 1


def zip_of(entries, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def linked_entry():
    entry = zipfile.ZipInfo("data_road/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize("entries", [
    [("/etc/owned", "x")],
    [("data_road/../../owned", "x")],
    [("data_road/a.png", "x"), ("elsewhere/b.png", "x")],
    [("data_road\\..\\..\\owned", "x")],
    [(linked_entry(), "/etc/passwd")],
    [("data_road/bomb.png", bytes(10_000_000))],
    [],
], ids=["absolute", "parent", "stranger", "backslash", "link", "bomb", "empty"])  # fmt: skip
def test_a_hostile_zip_is_refused_and_leaves_nothing(entries, tmp_path, capsys):
    archive = zip_of(entries, tmp_path / "data_road.zip")
    assert run_main("--dataset", "kitti", "--data-dir", tmp_path, "--runs-dir", tmp_path) == 2
    assert str(archive) in error_line(capsys) and list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("damage", [
    lambda content: b"", lambda content: b"no zip", lambda content: content[: len(content) // 2],
    lambda content: content.replace(b"road, road", b"road, toad"),
], ids=["empty", "text", "cut", "changed"])  # fmt: skip
def test_a_damaged_zip_is_refused_and_leaves_nothing(damage, tmp_path, capsys):
    archive = tmp_path / "data_road.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("data_road/a.png", b"road, road, road" * 100)
    archive.write_bytes(damage(archive.read_bytes()))
    assert run_main("--dataset", "kitti", "--data-dir", tmp_path, "--runs-dir", tmp_path) == 2
    assert str(archive) in error_line(capsys)
    assert list(tmp_path.iterdir()) == [archive]


def unreachable(monkeypatch):
    """Point every download at a port where nobody listens."""
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    nowhere = dataclasses.replace(KITTI.remote, url="http://127.0.0.1:9/none.zip")
    monkeypatch.setitem(DATASETS, "kitti", dataclasses.replace(KITTI, remote=nowhere))


def test_kitti_is_unpacked_from_a_zip_fetched_by_hand(drawn, tmp_path):
    with zipfile.ZipFile(tmp_path / "data_road.zip", "w") as archive:
        for path in (drawn / "data_road").rglob("*.png"):
            archive.write(path, path.relative_to(drawn))
    _, _, folder = helper.prepare_data_set("kitti", tmp_path)
    assert len(KITTI.find(folder)[0]) == 15
    assert {path.name for path in tmp_path.iterdir()} == {"data_road", "data_road.zip"}


# --- the program ----------------------------------------------------------------------------------


def stop_at_once(*_):
    raise stopping.StopRequest(signal.SIGTERM)


def test_a_whole_run_writes_its_folder_and_goes_on(drawn, tmp_path, capsys, monkeypatch):
    """Every file of the run folder is there and right; the same command goes on, then stops."""
    arguments = (
        "--dataset", "kitti", "--data-dir", drawn, "--runs-dir", tmp_path, "--run", "first",
        "--image-shape", 32, 96, "--batch-size", 2,
    )  # fmt: skip
    assert run_main(*arguments, "--epochs", 1) == 0
    folder = tmp_path / "first"
    assert {path.name for path in folder.iterdir()} == {
        "settings.json", "log.csv", "best.weights.h5", "checkpoint", "calibration.json",
        "metrics.json", "pictures", "report", "report.html",
    }  # fmt: skip
    for picture in (drawn / "data_road" / "testing" / "image_2").iterdir():
        painted = imageio.imread(folder / "pictures" / picture.name)
        assert painted.shape == imageio.imread(picture).shape
    result = json.loads((folder / "metrics.json").read_text())
    assert result["dataset"] == "kitti" and result["split"] == "validation"
    assert set(result["perspective"]) == {"all", "um", "umm", "uu"}
    assert set(result["perspective"]["all"]) == {
        "MaxF", "AP", "PRE", "REC", "FPR", "FNR", "threshold", "IoU", "pictures",
    }  # fmt: skip
    assert "not the 289 of KITTI Road" in result["labels"]
    assert result["labels"] in capsys.readouterr().out
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["image_shape"] == [32, 96] and settings["seed"] == 0
    with monkeypatch.context() as patched:
        patched.setattr(main, "train_nn", stop_at_once)
        assert run_main(*arguments, "--epochs", 2) == 143
    assert run_main(*arguments, "--epochs", 2) == 0
    assert len((folder / "log.csv").read_text().splitlines()) == 1 + 2
    log, before = folder / "log.csv", (folder / "log.csv").stat().st_mtime_ns
    assert run_main(*arguments, "--epochs", 2) == 0
    assert "finished" in capsys.readouterr().out and log.stat().st_mtime_ns == before
    assert run_main(*arguments, "--seed", 5) == 2
    assert "seed" in capsys.readouterr().err


@pytest.fixture
def camvid(tmp_path, random):
    """A data folder with CamVid's layout: drawn pictures as WebP, numbers as labels."""
    for part, count in {"train": 4, "val": 2}.items():
        pictures, labels = (tmp_path / "camvid" / name for name in (part, f"{part}annot"))
        pictures.mkdir(parents=True)
        labels.mkdir()
        for index in range(count):
            label = np.repeat(random.integers(0, 12, 48, dtype=np.uint8)[:, None], 64, axis=1)
            picture = np.repeat(20 * label[..., None], 3, axis=-1)
            Image.fromarray(picture).save(pictures / f"{part}_{index}.webp", lossless=True)
            Image.fromarray(label).save(labels / f"{part}_{index}.png")
    return tmp_path


def run_camvid(data_dir):
    return run_main(
        "--dataset", "camvid", "--data-dir", data_dir, "--runs-dir", data_dir / "runs",
        "--run", "city", "--image-shape", 32, 64, "--epochs", 1, "--vgg", "none",
    )  # fmt: skip


def test_the_terminal_shows_every_class_where_there_are_many():
    tally = metrics.Tally(("sky", "road", "pole"))
    probabilities = np.eye(3)[[[0, 1, 1, 1]]]
    tally.add(np.array([[0, 1, 0, VOID]], np.uint8), probabilities, "city")
    result = tally.scores() | {"split": "validation", "labels": "drawn"}
    lines = [line.split() for line in metrics.score_table(result).splitlines()]
    assert ["sky", "50.00"] in lines  # 1 of 2 found, none invented
    assert ["road", "50.00"] in lines  # 1 found, 1 invented
    assert ["pole", "none"] in lines  # neither there nor found
    assert lines[-1] == ["accuracy", "66.67,", "mean", "IoU", "50.00"]


def test_a_run_with_eleven_classes(camvid):
    """CamVid: number labels, the official split, a score for each class, painted pictures."""
    assert run_camvid(camvid) == 0
    result = json.loads((camvid / "runs" / "city" / "metrics.json").read_text())
    assert list(result["classes"]) == list(DATASETS["camvid"].classes)
    assert result["pictures"] == 2 and "perspective" not in result
    painted = sorted(path.name for path in (camvid / "runs" / "city" / "pictures").iterdir())
    assert painted == ["val_0.png", "val_1.png"]


def test_number_labels_are_read_as_numbers(camvid):
    """Also those with a palette; 11 and 255 are void; colours are refused."""
    data_set = DATASETS["camvid"]
    (sample, *_), _ = data_set.find(camvid / "camvid")
    numbers = np.asarray(Image.open(sample.label))
    expected = np.where(numbers == 11, VOID, numbers)
    np.testing.assert_array_equal(helper.read_label(sample, data_set), expected)
    with_palette = Image.fromarray(numbers)
    with_palette.putpalette([7, 8, 9] * 256)
    with_palette.save(sample.label)
    np.testing.assert_array_equal(helper.read_label(sample, data_set), expected)
    with_palette.convert("RGB").save(sample.label)
    with pytest.raises(datasets.UserError, match="RGB"):
        helper.read_label(sample, data_set)


@pytest.fixture
def own(tmp_path, random):
    """A folder of somebody's own pictures with three classes; the second is the bright part."""
    for folder in ("pictures", "masks", "testing"):
        (tmp_path / folder).mkdir()
    for index in range(10):
        mask = np.repeat(random.integers(0, 3, 6, dtype=np.uint8), 16)[:, None].repeat(64, axis=1)
        picture = np.array([40, 220, 120], np.uint8)[mask][..., None].repeat(3, axis=-1)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"a {index}.jpg")
        Image.fromarray(mask).save(tmp_path / "masks" / f"a {index}.png")
    Image.fromarray(picture).save(tmp_path / "testing" / "new.png")
    (tmp_path / "classes.txt").write_text("ground\nline\n\nräume\n", encoding="utf-8")
    return tmp_path


def run_own(folder, *more):
    return run_main(
        "--dataset", "folder", "--data-dir", folder, "--runs-dir", folder / "runs", "--run", "own",
        "--image-shape", 48, 32, "--epochs", 1, "--vgg", "none", *more,
    )  # fmt: skip


def test_a_run_on_somebodys_own_pictures(own, capsys):
    """Trained, scored, painted, reported, predicted with and scored again, under their names."""
    assert run_own(own) == 0
    run = own / "runs" / "own"
    result = json.loads((run / "metrics.json").read_text())
    assert list(result["classes"]) == ["ground", "line", "räume"] and result["pictures"] == 2
    assert [path.name for path in (run / "pictures").iterdir()] == ["new.png"]
    assert "räume" in (run / "report.html").read_text()
    assert run_predict(run, own / "testing", "--save", "mask", "probability") == 0
    assert helper.read_numbers(run / "predictions" / "new_mask.png").max() <= 2
    assert evaluate.run([str(run)]) == 0
    assert json.loads((run / "metrics.json").read_text()) == result
    (own / "classes.txt").write_text("ground\nroad\nräume\n", encoding="utf-8")
    capsys.readouterr()
    assert run_own(own) == 2
    assert "classes" in error_line(capsys)


def test_own_pictures_validate_as_listed_or_the_last_of_them(own):
    row = DATASETS["folder"]
    parts = row.split(row.find(own)[0], 0)
    assert [sample.name for sample in parts[1]] == ["a 8", "a 9"]
    (own / "validation.txt").write_text("a 3.jpg\na 0\n")
    parts = row.split(row.find(own)[0], 0)
    assert [sample.name for sample in parts[1]] == ["a 0", "a 3"] and len(parts[0]) == 8
    shutil.rmtree(own / "testing")
    assert row.find(own)[1] == []


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda own: (own / "classes.txt").unlink(), "classes.txt: not found"),
    (lambda own: (own / "classes.txt").write_text("road"), "1 names; expected 2"),
    (lambda own: (own / "classes.txt").write_text("a\na\nb"), "all different"),
    (lambda own: (own / "classes.txt").write_bytes(b"\xff\xfe\n1"), "no text in UTF-8"),
    (lambda own: (own / "classes.txt").write_text("a\nb"), "the value 2 stands for no class"),
    (lambda own: (own / "masks" / "a 4.png").unlink(), "a 4.png: this label is missing"),
    (lambda own: shutil.rmtree(own / "pictures"), "no pictures found"),
    (lambda own: (own / "validation.txt").write_text("nobody"), "names nobody, which is not"),
    (lambda own: Image.new("RGB", (64, 96)).save(own / "masks" / "a 1.png"), "mode RGB"),
], ids=str)  # fmt: skip
def test_wrong_own_pictures_give_a_line_that_names_the_file(spoil, message, own, capsys):
    spoil(own)
    assert run_own(own) == 2
    assert message in capsys.readouterr().err
    assert not (own / "runs" / "own").exists()


def test_cityscapes_in_its_official_layout(tmp_path, random):
    """Its numbers become its 19 classes; what it does not count is void."""
    numbers = {"train": 3, "val": 1, "test": 1}
    for part, count in numbers.items():
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / "cityscapes" / kind / part / "bonn").mkdir(parents=True)
        for index in range(count):
            name = f"bonn_{index:06d}_000019"
            label = random.integers(0, 34, (32, 64), dtype=np.uint8)
            label[0, 0] = 255
            picture = random.integers(0, 256, (32, 64, 3), dtype=np.uint8)
            folder = tmp_path / "cityscapes"
            Image.fromarray(picture).save(
                folder / "leftImg8bit" / part / "bonn" / f"{name}_leftImg8bit.png")  # fmt: skip
            Image.fromarray(label).save(
                folder / "gtFine" / part / "bonn" / f"{name}_gtFine_labelIds.png")  # fmt: skip
    row = DATASETS["cityscapes"]
    (sample, *_), testing = row.find(folder)
    found, numbers = helper.read_label(sample, row), np.asarray(Image.open(sample.label))
    for number, name in {7: "road", 8: "sidewalk", 23: "sky", 26: "car", 33: "bicycle"}.items():
        assert (found[numbers == number] == row.classes.index(name)).all()
    assert (found[np.isin(numbers, [0, 6, 9, 18, 29, 30, 255])] == VOID).all()
    assert len(row.classes) == 19 and len(np.unique(found)) == 20 and len(testing) == 1
    assert run_main(
        "--dataset", "cityscapes", "--data-dir", tmp_path, "--runs-dir", tmp_path / "runs",
        "--image-shape", 32, 64, "--epochs", 1, "--vgg", "none",
    ) == 0  # fmt: skip


def spoil_camvid_by_another_number(folder):
    path = folder / "trainannot" / "train_1.png"
    label = np.asarray(Image.open(path)).copy()
    label[3, 4] = 12
    Image.fromarray(label).save(path)
    return "train_1.png"


def spoil_camvid_by_removing_a_label(folder):
    (folder / "valannot" / "val_0.png").unlink()
    return "val_0.png"


def spoil_camvid_by_removing_it(folder):
    shutil.rmtree(folder)
    return "trainannot"


@pytest.mark.parametrize("spoil", [
    spoil_camvid_by_another_number, spoil_camvid_by_removing_a_label, spoil_camvid_by_removing_it,
])  # fmt: skip
def test_wrong_camvid_gives_one_line_that_names_the_file(spoil, camvid, capsys):
    name = spoil(camvid / "camvid")
    assert run_camvid(camvid) == 2
    assert name in capsys.readouterr().err.splitlines()[-1]


def test_the_most_likely_class_is_chosen_and_of_equal_ones_the_last(random):
    probabilities = random.integers(0, 4, (20, 30, 5)).astype(np.float32)  # with many ties
    classes = helper.choose_classes(probabilities)
    assert classes.dtype == np.uint8
    for place in np.ndindex(20, 30):
        chances = probabilities[place].tolist()
        assert classes[place] == max(i for i in range(5) if chances[i] == max(chances))


def test_painting_tints_classes_and_draws_their_contours():
    """A tie is road; other places stay as they are; the picture's border is no contour."""
    picture = np.full((9, 9, 3), 100, np.uint8)
    road = np.full((9, 9), 0.49, np.float32)
    road[2:, 2:7] = 0.5
    painted = helper.paint_classes(picture, np.stack([1 - road, road], axis=-1), {1: (0, 200, 255)})
    expected = np.full((9, 9, 3), 100)
    expected[2:, 2:7] = 0, 200, 255
    expected[3:, 3:6] = 60, 140, 162
    np.testing.assert_array_equal(painted, expected)


@needs_jax
def test_the_program_runs_on_jax(drawn, tmp_path):
    """Training, validation, pictures and scores."""
    arguments = [
        "--dataset", "kitti", "--data-dir", str(drawn), "--runs-dir", str(tmp_path),
        "--run", "jax", "--image-shape", "32", "96", "--limit", "3", "--epochs", "1",
    ]  # fmt: skip
    code = f"import main, sys\nsys.exit(main.main({arguments}))"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE, env=environment)
    assert len(list((tmp_path / "jax" / "pictures").iterdir())) == 3
    settings = json.loads((tmp_path / "jax" / "settings.json").read_text())
    assert settings["backend"] == "jax"


def label_of(training, name="umm_000000"):
    return training / "gt_image_2" / f"{name.replace('_', '_road_')}.png"


def picture_of(training, name="uu_000003"):
    return training / "image_2" / f"{name}.png"


def change(path, function):
    """Replace a picture by function(array of it)."""
    Image.fromarray(function(np.asarray(Image.open(path)).copy())).save(path)


def with_pixel(value):
    def changed(label):
        label[3, 4] = value
        return label

    return changed


def fill_labels(training, value):
    for path in (training / "gt_image_2").iterdir():
        change(path, lambda label: np.full_like(label, value))


def claim_size(path, size):
    """Write a PNG file that claims to be size x size and holds next to nothing."""

    def chunk(kind, content):
        parts = kind + content
        return struct.pack(">I", len(content)) + parts + struct.pack(">I", zlib.crc32(parts))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_link(path, target):
    path.unlink()
    path.symlink_to(target)


# What may be wrong with a data set, by the name that the line has to hold.
SPOILERS = {
    "picture of 0 bytes": lambda t: picture_of(t).write_bytes(b""),
    "picture is text": lambda t: picture_of(t).write_text("not a picture"),
    "picture is a web page": lambda t: picture_of(t).write_text("<html>log in</html>"),
    "picture cut early": lambda t: picture_of(t).write_bytes(picture_of(t).read_bytes()[:20]),
    "picture cut late": lambda t: picture_of(t).write_bytes(picture_of(t).read_bytes()[:-40]),
    "picture with a wrong byte": lambda t: picture_of(t).write_bytes(
        picture_of(t).read_bytes()[:-2000] + b"wrong" + picture_of(t).read_bytes()[-1995:]
    ),
    "picture is a bomb": lambda t: claim_size(picture_of(t), 30_000),
    "picture claims to be large": lambda t: claim_size(picture_of(t), 9_000),
    "picture of 32 bits": lambda t: Image.new("F", (9, 9)).save(picture_of(t), format="TIFF"),
    "picture is a folder": lambda t: replace_by_folder(picture_of(t)),
    "picture is a dangling link": lambda t: replace_by_link(picture_of(t), "nowhere"),
    "picture links to itself": lambda t: replace_by_link(picture_of(t), "uu_000003.png"),
    "picture is a zip": lambda t: zip_of([("a", "b")], picture_of(t)),
    "picture of another size": lambda t: change(picture_of(t), lambda p: p[:50]),
    "picture is another's copy": lambda t: shutil.copy(picture_of(t, "um_000000"), picture_of(t)),
    "picture upside down is a copy of a link": lambda t: replace_by_link(
        picture_of(t), "um_000000.png"
    ),
    "picture is rotated by EXIF": lambda t: Image.open(picture_of(t)).save(
        picture_of(t), exif=rotated()
    ),
    "label missing": lambda t: label_of(t).unlink(),
    "label of 0 bytes": lambda t: label_of(t).write_bytes(b""),
    "label is text": lambda t: label_of(t).write_text("road"),
    "label cut": lambda t: label_of(t).write_bytes(label_of(t).read_bytes()[:300]),
    "label is a bomb": lambda t: claim_size(label_of(t), 30_000),
    "label is a folder": lambda t: replace_by_folder(label_of(t)),
    "label is a dangling link": lambda t: replace_by_link(label_of(t), "nowhere"),
    "label of another size": lambda t: change(label_of(t), lambda p: p[:9, :9]),
    "label turned": lambda t: change(label_of(t), lambda p: np.swapaxes(p, 0, 1)),
    "label with another colour": lambda t: change(label_of(t), with_pixel((255, 0, 128))),
    "label nearly magenta": lambda t: change(label_of(t), with_pixel((254, 0, 255))),
    "label with white": lambda t: change(label_of(t), with_pixel(255)),
    "label is its picture": lambda t: shutil.copy(picture_of(t, "umm_000000"), label_of(t)),
    "label smoothed": lambda t: (
        Image.open(label_of(t)).resize((160, 48)).resize((320, 96)).save(label_of(t))
    ),
    "label as JPEG": lambda t: Image.open(label_of(t)).save(label_of(t), format="JPEG"),
    "label of numbers": lambda t: change(label_of(t), lambda p: (p[..., 2] > 0).astype(np.uint8)),
    "label of 16 bits": lambda t: change(label_of(t), lambda p: p[..., 2].astype(np.uint16) * 257),
    "picture with another name": lambda t: picture_of(t).rename(t / "image_2" / "holiday.png"),
    "picture with a number too short": lambda t: picture_of(t).rename(t / "image_2" / "uu_3.png"),
    "no pictures": lambda t: shutil.rmtree(t / "image_2"),
    "pictures elsewhere": lambda t: (t / "image_2").rename(t / "pictures"),
    "no labels": lambda t: shutil.rmtree(t / "gt_image_2"),
    "no training": lambda t: shutil.rmtree(t),
    "no testing": lambda t: shutil.rmtree(t.parent / "testing"),
    "labels all void": lambda t: fill_labels(t, (0, 0, 0)),
    "labels all other": lambda t: fill_labels(t, (255, 0, 0)),
    "labels all road": lambda t: fill_labels(t, (255, 0, 255)),
}
NAMED = {
    "picture of another size": "uu_road_000003.png", "picture is rotated by EXIF": "uu_road_000003",
    "picture with another name": "holiday.png", "picture with a number too short": "uu_3.png",
    "no pictures": "image_2", "pictures elsewhere": "image_2", "no training": "image_2",
    "no testing": "testing", "labels all void": "nothing alone", "labels all other": "other alone",
    "labels all road": "road alone",
}  # fmt: skip


def rotated():
    """EXIF that says: turn a quarter to see me upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("name", [name for name in SPOILERS if name != "no labels"])
def test_wrong_data_give_one_line_that_names_the_file(name, spoilt, tmp_path, capsys):
    SPOILERS[name](spoilt / "data_road" / "training")
    arguments = ("--dataset", "kitti", "--data-dir", spoilt, "--runs-dir", tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    assert run_main(*arguments) == 2
    usual = "umm_road_000000.png" if name.startswith("label") else "uu_000003.png"
    line = error_line(capsys)
    assert NAMED.get(name, usual) in line and str(spoilt) in line
    assert sorted(tmp_path.rglob("*")) == before


def test_all_faults_are_told_at_once(spoilt, capsys):
    """A line for each of them, whatever kind it is of."""
    faults = ["picture of 0 bytes", "label with white", "label cut", "picture is a bomb"]
    names = ["um_000001", "um_000002", "umm_000003", "uu_000000"]
    training = spoilt / "data_road" / "training"
    picture_of(training, names[0]).write_bytes(b"")
    change(label_of(training, names[1]), with_pixel(255))
    label_of(training, names[2]).write_bytes(b"?")
    claim_size(picture_of(training, names[3]), 30_000)
    assert run_main("--dataset", "kitti", "--data-dir", spoilt) == 2
    error = capsys.readouterr().err
    assert all(name[-3:] in error for name in names) and error.count("\n") >= len(faults)
    shutil.rmtree(training / "gt_image_2")
    assert run_main("--dataset", "kitti", "--data-dir", spoilt) == 2
    assert capsys.readouterr().err.count("this label is missing") == 15


def test_good_data_are_looked_at_once(spoilt, tmp_path, monkeypatch):
    """Until a file changes; what was seen tells one content from another."""
    labelled, testing = KITTI.find(spoilt / "data_road")
    parts, memory = (labelled[:9], labelled[9:], testing), tmp_path / "runs" / "checked.json"
    opened, read = [], Image.open
    monkeypatch.setattr(helper.Image, "open", lambda path: opened.append(path) or read(path))
    digest = data_check.check_samples(parts, KITTI, memory)
    assert len(opened) == 2 * 15 + 3
    assert data_check.check_samples(parts, KITTI, memory) == digest and len(opened) == 33
    change(labelled[0].picture, lambda picture: 255 - picture)
    assert data_check.check_samples(parts, KITTI, memory) != digest and len(opened) > 33


def test_pictures_of_every_kind_are_read(tmp_path, random):
    """Grey, 16 bits, transparency, palette, CMYK, rotated: what a person would see."""
    array = np.repeat(np.repeat(random.integers(0, 256, (4, 6, 3), dtype=np.uint8), 8, 0), 8, 1)
    picture, grey = Image.fromarray(array), np.array(array[..., 0])
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    see_through = picture.convert("RGBA")
    see_through.putalpha(7)
    cases = {
        "grey.png": (Image.fromarray(grey), np.dstack([grey] * 3)),
        "sixteen.png": (wide, np.dstack([grey] * 3)), "sixteen.tif": (wide, np.dstack([grey] * 3)),
        "transparent.png": (see_through, array),
        "palette.png": (picture.quantize(24), array),
        "cmyk.jpg": (picture.convert("CMYK"), array),
        "ein Bild für später.webp": (picture, array),
    }  # fmt: skip
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name, quality=100, lossless=True)
        found = helper.read_image(tmp_path / name)
        assert found.dtype == np.uint8 and found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 3, name
    picture.save(tmp_path / "rotated.png", exif=rotated())
    found = helper.read_image(tmp_path / "rotated.png")
    np.testing.assert_array_equal(found, np.rot90(array, -1))


def test_data_behind_links_in_a_read_only_folder_with_an_odd_name(drawn, tmp_path):
    odd = tmp_path / "Straßen von früher 100%"
    for path in (drawn / "data_road").rglob("*.png"):
        link = odd / path.relative_to(drawn)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    for folder in (odd, *odd.rglob("*/")):
        folder.chmod(0o555)
    arguments = ("--runs-dir", tmp_path / "meine Läufe", "--run", "erster Lauf", "--epochs", 1)
    assert run_main("--dataset", "kitti", "--data-dir", odd, "--limit", 3, "--vgg", "none",
                    "--image-shape", 32, 64, *arguments) == 0  # fmt: skip
    assert (tmp_path / "meine Läufe" / "erster Lauf" / "metrics.json").is_file()
    for folder in (odd, *odd.rglob("*/")):
        folder.chmod(0o755)


def test_a_data_set_asked_for_is_that_or_an_error(tmp_path, monkeypatch, capsys):
    unreachable(monkeypatch)
    assert run_main("--dataset", "kitti", "--data-dir", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "by hand" in line and "data_road.zip" in line


def test_auto_draws_scenes_and_says_so(tmp_path, monkeypatch, capsys):
    unreachable(monkeypatch)
    monkeypatch.setattr(helper, "DRAWN_TRAINING", (1, 1, 1))
    monkeypatch.setattr(helper, "DRAWN_TESTING", (1, 0, 0))
    name, row, folder = helper.prepare_data_set("auto", tmp_path)
    assert (name, row.title) == ("synthetic", "drawn road scenes")
    assert folder == tmp_path / "synthetic"
    assert "DRAWN" in capsys.readouterr().out
    labelled, testing = DATASETS["synthetic"].find(tmp_path / "synthetic")
    assert len(labelled) == 3 and len(testing) == 1
    assert all(
        helper.read_image(sample.picture).shape[:2] in scenes.KITTI_SIZES for sample in labelled
    )


@pytest.mark.parametrize("arguments", [
    ["--epochs", "0"], ["--seed", "-1"], ["--image-shape", "10"], ["--learning-rate", "nan"],
    ["--dataset", "moon"],
])  # fmt: skip
def test_wrong_usage_ends_with_status_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        run_main(*arguments)
    assert stopped.value.code == 2


@pytest.mark.slow
def test_the_main_job_learns_the_drawn_scenes(tmp_path):
    """What the README's first command does where KITTI Road is not to be had."""
    command = [sys.executable, "main.py", "--dataset", "synthetic", "--runs-dir", tmp_path,
               "--data-dir", tmp_path, "--run", "main_job"]  # fmt: skip
    subprocess.run(command, check=True, cwd=HERE)
    result = json.loads((tmp_path / "main_job" / "metrics.json").read_text())
    assert result["perspective"]["all"]["MaxF"] > 95
    assert max(result["simple_rules"].values()) < 85
    assert len(list((tmp_path / "main_job" / "pictures").iterdir())) == sum(helper.DRAWN_TESTING)


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, "-m", "not slow", *sys.argv[1:]]))

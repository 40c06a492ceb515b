"""Every promise of the other files, checked against something independent.

    python project_tests.py                 all but the long one
    python project_tests.py -m slow         the long one: the main job, from start to end
    python project_tests.py -m jax          those on JAX, where it is installed
    python project_tests.py -k layers       those with "layers" in their name
"""

import csv
import functools
import hashlib
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import types
import zipfile
from pathlib import Path

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
import scipy.special
from PIL import Image

import datasets
import download
import helper
import main
import metrics
import run_folder
import scenes
import vgg_weights
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


# --- skip layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3, 11])
@pytest.mark.parametrize("shape", [(32, 64), (75, 61), (1, 1)])
def test_layers(num_classes, shape):
    """Logits have the size of the picture, whatever it is, for any number of classes."""
    logits = small_network(num_classes).predict_on_batch(np.zeros((2, *shape, 3), np.uint8))
    assert logits.shape == (2, *shape, num_classes) and logits.dtype == np.float32


def test_layers_start_near_even_chances(random):
    picture = random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    probabilities = main.predictor(main.layers(imagenet_vgg(), 2))(picture)
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


def test_optimize(random):
    """The loss is the mean cross-entropy over the pixels that are not void."""
    network = small_network(3)
    set_small_scores(network, random)
    pictures = random.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    labels = random.choice([0, 1, 2, VOID], (2, 32, 64)).astype(np.uint8)
    logits = network.predict_on_batch(pictures).astype(np.float64)
    losses = [
        scipy.special.logsumexp(logit) - logit[label]
        for logit, label in zip(logits.reshape(-1, 3), labels.reshape(-1), strict=True)
        if label != VOID
    ]
    trainer = main.optimize(network, 1e-9, 10)
    found = float(trainer.test_on_batch(pictures, labels))
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)


def test_void_changes_neither_loss_nor_gradient(random):
    """The gradient at each pixel is (probability - truth) / valid pixels, and 0 where void."""
    tensorflow = pytest.importorskip("tensorflow")
    trainer = main.optimize(small_network(3), 1e-4, 10)
    logits = tensorflow.constant(random.normal(size=(2, 4, 5, 3)), "float32")
    labels = random.choice([0, 1, 2, VOID], (2, 4, 5)).astype(np.uint8)
    with tensorflow.GradientTape() as tape:
        tape.watch(logits)
        loss = trainer.loss(labels, logits)
    exponentials = np.exp(logits.numpy())
    probability = exponentials / exponentials.sum(axis=-1, keepdims=True)
    valid = labels != VOID
    truth = np.eye(3)[np.where(valid, labels, 0)]
    expected = np.where(valid[..., None], probability - truth, 0) / valid.sum()
    np.testing.assert_allclose(tape.gradient(loss, logits).numpy(), expected, atol=1e-6)


def test_weight_decay_is_for_convolution_kernels_only(random):
    """With nothing but void there is no gradient: what moves, moves by weight decay."""
    network = small_network()
    for layer in network.layers:
        layer.set_weights([w + 0.5 for w in layer.get_weights()])
    before = {v.path: v.numpy() for v in network.trainable_variables}
    trainer = main.optimize(network, 1.0, 1)
    pictures = random.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    trainer.train_on_batch(pictures, np.full((1, 32, 32), VOID, np.uint8))
    for variable in network.trainable_variables:
        moved = np.abs(variable.numpy() - before[variable.path]).max() > 0
        decays = "kernel" in variable.path and "upsample" not in variable.path
        assert moved == decays, variable.path


def test_a_gradient_reaches_the_first_convolution(random):
    """The very first step moves the first kernel by more than weight decay could."""
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


def train_one_batch(folder, network, batch, epochs, total_epochs, rate):
    """Train on one batch, 20 times an epoch, as `main.run` would. Returns its validate."""
    trainer = main.optimize(network, rate, 20 * total_epochs)
    pictures, labels = batch

    def validate():
        tally = metrics.Tally(KITTI.classes)
        for label, chances in zip(labels, main.predictor(network)(pictures), strict=True):
            tally.add(label, chances, "um")
        return tally

    main.train_nn(
        network, trainer, lambda *_: [(pictures, labels)] * 20, epochs, 2, folder, validate
    )
    return validate


def test_train_nn(tmp_path):
    """A single batch is learnt by heart; the log has every epoch; the best epoch is kept."""
    weights = vgg_weights.read("conv", HERE / "data")
    keras.utils.set_random_seed(0)
    network = main.layers(main.load_vgg(weights), 2)
    validate = train_one_batch(tmp_path, network, one_batch((64, 96)), 3, 3, 2e-4)
    assert validate().scores()["accuracy"] > 98
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert tuple(rows[0]) == run_folder.LOG_FIELDS
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    network.get_layer("score_fc7").set_weights([np.zeros((1, 1, 512, 2)), np.zeros(2)])
    network.load_weights(tmp_path / "best.weights.h5")
    best = max(float(row["val_max_f"]) for row in rows)
    assert validate().scores()["perspective"]["all"]["MaxF"] == pytest.approx(best, abs=1e-6)


def test_averaged_weights_are_validated_and_kept(tmp_path, monkeypatch):
    """And training goes on from the weights that are not averaged."""
    network = small_network()
    taken, take_step = [], main.take_step

    def recorded_step(*arguments):
        loss = take_step(*arguments)
        taken.append(network.get_weights())
        return loss

    def compare_with_average():
        average = taken[0]
        for weights in taken[1:]:
            average = [0.75 * a + 0.25 * b for a, b in zip(average, weights, strict=True)]
        for here, expected in zip(network.get_weights(), average, strict=True):
            np.testing.assert_allclose(here, expected, atol=1e-6)
        tally = metrics.Tally(KITTI.classes)
        tally.add(np.eye(2, dtype=np.uint8), np.full((2, 2, 2), 0.5, np.float32), "um")
        return tally

    monkeypatch.setattr(main, "take_step", recorded_step)
    trainer = main.optimize(network, 1e-2, round(4 / main.AVERAGED_SHARE))
    batches = [one_batch((32, 64))] * 3
    main.train_nn(network, trainer, lambda *_: batches, 2, 2, tmp_path, compare_with_average)
    assert len(taken) == 6
    for here, expected in zip(network.get_weights(), taken[-1], strict=True):
        np.testing.assert_allclose(here, expected, atol=1e-6)
    network.load_weights(tmp_path / "best.weights.h5")
    taken = taken[:3]  # a tie: the first epoch remains the best
    compare_with_average()


def test_the_head_learns_on_stored_features_and_nothing_else_moves():
    """Padding and float16 included, the stored features train the network's own head."""
    keras.utils.set_random_seed(0)
    # A VGG of its own: training changes fc6 and fc7, and imagenet_vgg is shared.
    network = main.layers(main.load_vgg(vgg_weights.read("conv", HERE / "data")), 2)
    pictures, labels = one_batch((50, 90))
    before = {v.path: v.numpy() for v in network.trainable_variables}
    loss_before = float(main.optimize(network, 1e-4, 1).test_on_batch(pictures, labels))
    main.train_head(network, lambda *_: [(pictures, labels)] * 3, 2, 3, 1e-4)
    loss_after = float(main.optimize(network, 1e-4, 1).test_on_batch(pictures, labels))
    assert loss_after < 0.7 * loss_before
    for variable in network.trainable_variables:
        moved = not np.array_equal(variable.numpy(), before[variable.path])
        assert moved != variable.path.startswith("block"), variable.path


def test_a_continued_run_equals_an_uninterrupted_one(tmp_path):
    weights = {}
    for name, parts in (("whole", [3]), ("parts", [1, 3])):
        (tmp_path / name).mkdir()
        for epochs in parts:
            network = small_network()
            train_one_batch(tmp_path / name, network, one_batch((32, 64)), epochs, 3, 1e-3)
        weights[name] = [variable.numpy() for variable in network.trainable_variables]
    for whole, parts in zip(*weights.values(), strict=True):
        np.testing.assert_array_equal(whole, parts)
    assert len((tmp_path / "parts" / "log.csv").read_text().splitlines()) == 1 + 3


def test_nan_stops_before_anything_is_saved(tmp_path):
    pictures, labels = one_batch((32, 64))
    broken = np.full(pictures.shape, np.nan, np.float32), labels
    with pytest.raises(main.TrainingError, match="nan"):
        train_one_batch(tmp_path, small_network(), broken, 1, 1, 1e-3)
    assert list(tmp_path.iterdir()) == []


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


def test_augmented_picture_and_label_move_together(monkeypatch, random):
    """A picture painted in its classes' colours still is after augmentation."""
    for name in ("BRIGHTNESS", "CONTRAST", "SATURATION", "COLOUR_GAIN"):
        monkeypatch.setattr(helper, name, (0.0, 0.0) if name == "BRIGHTNESS" else (1.0, 1.0))
    label = np.zeros((60, 200), np.uint8)
    label[20:50, 30:90] = 1
    label[5:12, 100:180] = VOID
    colours = np.zeros((256, 3), np.uint8)
    colours[[0, 1, VOID]] = (200, 30, 10), (10, 220, 60), tuple(map(round, helper.VGG_MEAN_RGB))
    moved = 0
    for _ in range(20):
        picture, changed = helper.augment(colours[label], label, random)
        assert picture.shape == (60, 200, 3) and picture.dtype == changed.dtype == np.uint8
        assert set(np.unique(changed)) <= {0, 1, VOID}
        # Only the pixels at borders mix two colours.
        equal = np.abs(picture.astype(int) - colours[changed]).max(axis=-1) <= 1
        assert equal.mean() > 0.9
        moved += np.mean(changed != label) > 0.05
    assert moved >= 15


def keep_still(monkeypatch):
    """Switch zooming, shifting and rotating off."""
    for name in ("ZOOM", "SHIFT", "ROTATION_DEGREES"):
        monkeypatch.setattr(helper, name, (1.0, 1.0) if name == "ZOOM" else (0.0, 0.0))


def test_only_what_may_be_mirrored_is(monkeypatch, random):
    keep_still(monkeypatch)
    label = np.zeros((8, 20), np.uint8)
    label[:, :5] = 1
    picture = np.repeat(label[..., None], 3, axis=-1)
    for mirrored, expected in ((True, {0, 1}), (False, {1})):
        labels = [helper.augment(picture, label, random, mirrored)[1] for _ in range(20)]
        assert {int(changed[4, 1]) for changed in labels} == expected


def test_augmentation_changes_the_light(monkeypatch, random):
    keep_still(monkeypatch)
    grey = np.full((20, 30, 3), 100, np.uint8)
    means = [helper.augment(grey, grey[..., 0], random)[0].mean() for _ in range(30)]
    assert max(means) - min(means) > 20


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


def test_each_picture_is_decoded_once(drawn, monkeypatch):
    samples, _ = KITTI.find(drawn / "data_road")
    opened, read = [], imageio.imread

    def count_and_read(path, **options):
        opened.append(path)
        return read(path, **options)

    monkeypatch.setattr(helper.imageio, "imread", count_and_read)
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
    scores = main.score_simple_rules(samples, samples, KITTI)
    assert len(scores) == 2 and max(scores.values()) < 85


# --- downloads ------------------------------------------------------------------------------------


class RangeServer(http.server.BaseHTTPRequestHandler):
    """Serves one file; the first answer stops in the middle."""

    content = bytes(range(256)) * 4000
    requests = ()

    def do_GET(self):
        start = int(re.search(r"bytes=(\d+)-", self.headers["Range"])[1])
        type(self).requests += (start,)
        self.send_response(206)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        cut = len(self.content) // 2 if len(self.requests) == 1 else len(self.content)
        self.wfile.write(self.content[start:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def remote(monkeypatch):
    """A file on a local server that interrupts the first download."""
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    handler = type("Handler", (RangeServer,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield types.SimpleNamespace(
            handler=handler,
            file=download.Remote(
                "test", f"http://127.0.0.1:{server.server_port}/f.zip", "page", "licence",
                len(handler.content), "sha256", hashlib.sha256(handler.content).hexdigest(),
            ),
        )  # fmt: skip
        server.shutdown()


def test_an_interrupted_download_goes_on(remote, tmp_path):
    download.download(remote.file, tmp_path / "f.zip")
    assert (tmp_path / "f.zip").read_bytes() == remote.handler.content
    assert remote.handler.requests[0] == 0 < remote.handler.requests[1]
    assert [path.name for path in tmp_path.iterdir()] == ["f.zip"]


def test_a_download_with_the_wrong_hash_is_not_kept(remote, tmp_path):
    wrong = download.dataclasses.replace(remote.file, digest="0" * 64)
    with pytest.raises(download.DownloadError, match="expected"):
        download.download(wrong, tmp_path / "f.zip")
    assert list(tmp_path.iterdir()) == []


def unreachable(monkeypatch):
    """Point every download at a port where nobody listens."""
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    nowhere = download.dataclasses.replace(download.KITTI_ROAD, url="http://127.0.0.1:9/none.zip")
    monkeypatch.setattr(download, "KITTI_ROAD", nowhere)


def test_kitti_is_unpacked_from_a_zip_fetched_by_hand(drawn, tmp_path):
    with zipfile.ZipFile(tmp_path / "data_road.zip", "w") as archive:
        for path in (drawn / "data_road").rglob("*.png"):
            archive.write(path, path.relative_to(drawn))
    folder = helper.maybe_download_kitti_road(tmp_path)
    assert len(KITTI.find(folder)[0]) == 15
    assert {path.name for path in tmp_path.iterdir()} == {"data_road", "data_road.zip"}


# --- the program ----------------------------------------------------------------------------------


def test_a_whole_run_writes_its_folder_and_goes_on(drawn, tmp_path, capsys):
    """Every file of the run folder is there and right; the same command goes on, then stops."""
    arguments = (
        "--dataset", "kitti", "--data-dir", drawn, "--runs-dir", tmp_path, "--run", "first",
        "--image-shape", 32, 96, "--batch-size", 2,
    )  # fmt: skip
    assert run_main(*arguments, "--epochs", 1) == 0
    folder = tmp_path / "first"
    assert {path.name for path in folder.iterdir()} == {
        "settings.json", "log.csv", "best.weights.h5", "checkpoint", "metrics.json", "pictures",
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


def test_painting_puts_each_class_where_it_is_most_likely():
    picture = np.full((1, 3, 3), 100, np.uint8)
    probabilities = np.array([[[0.5, 0.5], [0.51, 0.49], [0.0, 1.0]]], np.float32)
    painted = helper.paint_classes(picture, probabilities, {1: (0, 200, 255)})
    assert painted.tolist() == [[[50, 150, 177], [100, 100, 100], [50, 150, 177]]]


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


def spoil_by_removing_a_label(training):
    (training / "gt_image_2" / "um_road_000001.png").unlink()
    return "um_road_000001.png"


def spoil_by_resizing_a_label(training):
    imageio.imwrite(training / "gt_image_2" / "uu_road_000002.png", np.zeros((9, 9, 3), np.uint8))
    return "uu_road_000002.png"


def spoil_by_another_colour(training):
    path = training / "gt_image_2" / "umm_road_000000.png"
    label = imageio.imread(path)
    label[3, 4] = (255, 0, 128)
    imageio.imwrite(path, label)
    return "umm_road_000000.png"


def spoil_by_cutting_a_picture(training):
    path = training / "image_2" / "uu_000003.png"
    path.write_bytes(path.read_bytes()[:2000])
    return "uu_000003.png"


def spoil_by_writing_text(training):
    (training / "image_2" / "uu_000001.png").write_text("not a picture")
    return "uu_000001.png"


def spoil_by_renaming(training):
    (training / "image_2" / "um_000000.png").rename(training / "image_2" / "holiday.png")
    return "holiday.png"


def spoil_by_emptying(training):
    shutil.rmtree(training / "image_2")
    return "image_2"


@pytest.mark.parametrize("spoil", [
    spoil_by_removing_a_label, spoil_by_resizing_a_label, spoil_by_another_colour,
    spoil_by_cutting_a_picture, spoil_by_writing_text, spoil_by_renaming, spoil_by_emptying,
])  # fmt: skip
def test_wrong_data_give_one_line_that_names_the_file(spoil, spoilt, tmp_path, capsys):
    name = spoil(spoilt / "data_road" / "training")
    arguments = ("--dataset", "kitti", "--data-dir", spoilt, "--runs-dir", tmp_path / "runs")
    assert run_main(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("checking")]
    assert len(lines) == 1 and name in lines[0], lines
    assert not (tmp_path / "runs").exists()


def test_a_data_set_asked_for_is_that_or_an_error(tmp_path, monkeypatch, capsys):
    unreachable(monkeypatch)
    assert run_main("--dataset", "kitti", "--data-dir", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "by hand" in line and "data_road.zip" in line


def test_auto_draws_scenes_and_says_so(tmp_path, monkeypatch, capsys):
    unreachable(monkeypatch)
    monkeypatch.setattr(helper, "DRAWN_TRAINING", (1, 1, 1))
    monkeypatch.setattr(helper, "DRAWN_TESTING", (1, 0, 0))
    assert helper.prepare_data_set("auto", tmp_path) == ("synthetic", tmp_path / "synthetic")
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

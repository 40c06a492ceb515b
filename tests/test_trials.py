"""Each trial changes what it says."""

import csv
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.special

import main
from roadseg.data import vgg_weights
from roadseg.data.pictures import VOID
from roadseg.engine import keras
from roadseg.training import checkpoint
from tests.by_hand import losses_by_hand, patchwork_labels, weights_by_hand
from tests.small import HERE, small_network


@pytest.fixture
def trials(monkeypatch):
    monkeypatch.syspath_prepend(HERE / "experiments")
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


def test_nesterov_descends_as_keras_does(trials, random):
    """Weights after some steps, next to those of Keras's own optimizer."""
    start, gradients = random.normal(size=(3, 4)), random.normal(size=(5, 3, 4))
    options = {"learning_rate": 0.01, "global_clipnorm": 2.0}
    found, expected = (
        weights_after(optimizer, start, gradients)
        for optimizer in (
            trials.Nesterov(averaged_share=0.0, **options),
            keras.optimizers.SGD(momentum=trials.MOMENTUM, nesterov=True, **options),
        )
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def weights_after(optimizer, start, gradients):
    """Weights that start has become after a step along each of gradients."""
    variable = keras.Variable(start, dtype="float32", name="weights")
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.array(gradient, "float32")], [variable])
    return keras.ops.convert_to_numpy(variable)


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


def test_the_light_on_trial_changes_colour_contrast_and_brightness(trials):
    """A pixel by hand: half as far from its grey, 110, twice as far from 128, and 10 brighter."""
    drawn = SimpleNamespace(uniform=Mock(side_effect=[0.5, 2.0, 10.0]))
    pixel = np.array([[[100, 110, 120]]], np.uint8)
    np.testing.assert_array_equal(trials.change_light(pixel, drawn), [[[92, 102, 112]]])


def test_pieces_on_trial_are_hidden_by_rectangles(trials, random, monkeypatch):
    """One rectangle: what it covers has VGG's mean colour, all else stays."""
    monkeypatch.setattr(trials, "HOLES", 1)
    picture = trials.hide_pieces(np.zeros((50, 100, 3), np.uint8), random)
    rows, columns = (picture.any(axis=axes) for axes in ((1, 2), (0, 2)))
    assert 5 <= rows.sum() <= 20 and 10 <= columns.sum() <= 40
    expected = np.outer(rows, columns)[..., None] * np.array([123, 116, 103])
    np.testing.assert_array_equal(picture, expected)


def test_labels_by_share_take_the_class_of_most(trials):
    """Of each three columns; nearest neighbours would take the middle one: 1, 0, VOID."""
    label = np.tile(np.array([0, 1, 1, 1, 0, 1, VOID, VOID, 0], np.uint8), (6, 1))
    data_set = SimpleNamespace(classes=["ground", "road"])
    shrunk = trials.read_largest_share(lambda *_: label, None, data_set, (2, 3))
    np.testing.assert_array_equal(shrunk, [[1, 1, VOID]] * 2)


def test_the_table_of_trials_compares_the_same_seeds(tmp_path):
    """Means and differences by hand; flags that all command lines share are not told."""
    folders = []
    for name, seed, scores, losses in (
        ("unchanged", 0, (80, 90), (0.3, 0.1)),
        ("unchanged", 1, (92, 91), (0.2, 0.4)),
        ("dice", 1, (50, 93), (0.5, 0.04)),
        ("dice", 2, (95, 94), (0.06, 0.6)),
        ("wide", 0, (89, 88), (0.2, 0.1)),
        ("light", 3, (99, 98), (0.2, 0.1)),
        ("gentle", 1, (91.5, 9), (0.2, 0.1)),
    ):
        folders.append(tmp_path / f"{name}-{seed}")
        folders[-1].mkdir()
        command_line = [
            "experiments/trials.py",
            name,
            "--epochs",
            "2",
            "--seed",
            str(seed),
            "--run",
            folders[-1].name,
        ]
        settings = {"seed": seed, "command_line": command_line}
        (folders[-1] / "settings.json").write_text(json.dumps(settings))
        rows = [f"{loss},{score},9,45" for loss, score in zip(losses, scores, strict=True)]
        log = "\n".join(["val_loss,val_max_f,val_iou,seconds", *rows])
        (folders[-1] / "log.csv").write_text(log)
    command = [sys.executable, HERE / "experiments" / "table.py", *folders]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[2:] == [
        "| `dice` | 1: 93.0, 2: 95.0 | 94.0 | +1.0 | 0.050 | 1.5 |",
        "| `unchanged` | 0: 90.0, 1: 92.0 | 91.0 |  | 0.150 | 1.5 |",
        "| `gentle` | 1: 91.5 | 91.5 | -0.5 | 0.100 | 1.5 |",
        "| `wide` | 0: 89.0 | 89.0 | -1.0 | 0.100 | 1.5 |",
        "| `light` | 3: 99.0 | 99.0 |  | 0.100 | 1.5 |",
    ]
    wrong = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert wrong.returncode == 2 and "settings.json" in wrong.stderr


@pytest.mark.slow
def test_the_classic_recipe_trains_all_layers_at_a_constant_rate(drawn, tmp_path):
    subprocess.run(
        [
            sys.executable,
            "experiments/trials.py",
            "classic",
            "--dataset",
            "kitti",
            "--data-dir",
            drawn,
            "--runs-dir",
            tmp_path,
            "--run",
            "classic",
            "--image-shape",
            "32",
            "96",
            "--limit",
            "4",
            "--epochs",
            "2",
        ],
        check=True,
        cwd=HERE,
        capture_output=True,
    )
    rows = csv.DictReader((tmp_path / "classic" / "log.csv").open())
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-4, 1e-4])
    weights = vgg_weights.read(str(tmp_path / "classic" / checkpoint.BEST), tmp_path)
    for name, (kernel, _) in vgg_weights.read("conv", HERE / "data").items():
        assert not np.array_equal(weights[name][0], kernel), name

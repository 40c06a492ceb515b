"""Each trial changes what it says."""

import csv
import dataclasses
import json
import runpy
import subprocess
import sys

import numpy as np
import pytest

import main
from main import keras
from roadseg.data import vgg_weights
from roadseg.files import write_csv
from roadseg.training.checkpoint import LOG_FIELDS
from tests.small import HERE, KITTI, augment

EXPERIMENTS = HERE / "experiments"


@pytest.fixture(scope="module")
def trials():
    return runpy.run_path(str(EXPERIMENTS / "trials.py"))


def moved_by(recipe):
    """Return how far `augment` moves a pixel on average, in pixels, and the share it mirrors."""
    rows, columns = np.mgrid[:64, :64]
    places = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    distances, mirrored = [], []
    for seed in range(40):
        moved, label = augment(places, rows.astype(np.uint8), np.random.default_rng(seed), recipe)
        is_inside = label < 64  # what comes in from outside is VOID
        offset = np.abs(moved.astype(float) - places)[..., :2].sum(axis=-1)
        distances.append(offset[is_inside].mean())
        mirrored.append(moved[32, 40, 1] < moved[32, 24, 1])
    return np.mean(distances), np.mean(mirrored)


def what_comes_of(recipe, weights):
    """Return what a recipe makes of a network, of the loss, and of pictures."""
    network = main.layers(main.load_vgg(weights, recipe), 2, recipe)
    layers = network.layers
    label = np.zeros((1, 9, 9), np.uint8)
    label[0, 0, 0] = 1
    boundary = main.pixel_weights(label, recipe.boundary_reach, recipe.boundary_weight)
    return {
        "frozen": [x.name for x in layers if x.weights and not x.trainable],
        "scales": [x.scale for x in layers if isinstance(x, keras.layers.Rescaling)],
        "dropout": {x.name: x.rate for x in layers if isinstance(x, keras.layers.Dropout)},
        "head": network.get_layer("fc7").filters,
        "boundary": float(keras.ops.max(boundary)),
        "moved": moved_by(recipe),
        "fuse": recipe.fuse_channels,
        "varied": recipe.varied_share,
        "brightened": network.get_layer("brighten").gamma[0],
    }


FIRST, SECOND = (["block1_conv1", "block1_conv2"], ["block2_conv1", "block2_conv2"])
HEAD_DROPOUT = {"pool5": 0.3, "fc6": 0.5, "fc7": 0.5}
DROPOUT = HEAD_DROPOUT | {"pool4": 0.2, "pool3": 0.2}
NO_POOLS = {"pool5": 0.0, "pool4": 0.0, "pool3": 0.0}


def by_layer(dropout):
    return {f"{name}_dropout": rate for name, rate in dropout.items()}


UNCHANGED = {
    "frozen": FIRST + SECOND,
    "scales": [0.3, 0.06],  # of pool4, pool3
    "dropout": by_layer(DROPOUT),
    "head": 512,
    "boundary": 5.0,
    "fuse": 64,
    "varied": 0.5,
    "brightened": 0.25,
}
CHANGED = {
    "unchanged": {},
    "all-trained": {"frozen": []},
    "block-1-frozen": {"frozen": FIRST},
    "fcn-32s": {"scales": [], "dropout": by_layer(HEAD_DROPOUT)},
    "fcn-16s": {"scales": [0.3], "dropout": by_layer(HEAD_DROPOUT | {"pool4": 0.2})},
    "fcn-8s": {},
    "fcn-4s": {"scales": [0.3, 0.06, 0.02], "dropout": by_layer(DROPOUT | {"pool2": 0.2})},
    "fcn-2s": {
        "scales": [0.3, 0.06, 0.02, 0.05],
        "dropout": by_layer(DROPOUT | {"pool2": 0.2, "pool1": 0.2}),
    },
    "no-fuse": {"fuse": 0},
    "head-of-128": {"head": 128},
    "head-of-1024": {"head": 1024},
    "no-pool-dropout": {"dropout": by_layer(DROPOUT | NO_POOLS)},
    "little-dropout": {"dropout": by_layer({"fc6": 0.2, "fc7": 0.2} | NO_POOLS)},
    "main-dropout": {},
    "no-boundaries": {"boundary": 1.0},
    "light-left": {"varied": 0.0},
    "light-always-varied": {"varied": 1.0},
    "dark-left-dark": {"brightened": 1.0},
}


def test_each_trial_changes_what_it_says_and_nothing_else(trials, narrow_vgg, tmp_path):
    """As seen in the network, the weights of pixels, and how far pictures are moved."""
    weights = vgg_weights.read(str(narrow_vgg))
    weights = {name: pair for name, pair in weights.items() if name.startswith("block")}
    moved = {}
    for name in trials["TRIALS"]:
        recipe = dataclasses.replace(main.RECIPE, **trials["changes"]([name]))
        found = what_comes_of(recipe, weights)
        moved[name] = found.pop("moved")
        assert found == UNCHANGED | CHANGED.get(name, {}), name
    assert moved.keys() - CHANGED == {"no-augmentation", "gentle", "strong", "mirrored"}
    distance, _ = moved["unchanged"]
    assert all(moved[name] == moved["unchanged"] for name in CHANGED)
    assert moved.pop("no-augmentation") == (0, 0)
    assert 0.2 * distance < moved["gentle"][0] < 0.7 * distance
    assert 1.3 * distance < moved["strong"][0]
    mirrored = {name: share for name, (_, share) in moved.items()}
    assert 0.3 < mirrored.pop("mirrored") < 0.7 and not any(mirrored.values())


def test_several_trials_are_made_together_and_the_rest_goes_to_main(monkeypatch):
    """The last one counts, field by field."""
    seen = []
    monkeypatch.setattr(main, "main", lambda *arguments: seen.append(arguments))
    words = ["strong", "fcn-32s", "gentle", "--dataset", KITTI.folder, "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["trials.py", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXPERIMENTS / "trials.py"), run_name="__main__")
    ((flags, changes),) = seen
    assert flags == words[3:] and end.value.code is None
    assert changes["skips"] == () and changes["zoom"] == (0.8, 1.3) and "frozen" not in changes


def test_the_table_of_trials_compares_the_same_seeds(tmp_path):
    """Means and differences by hand; flags that all command lines share are not told."""
    folders = []
    for name, seed, scores, losses, *more in (
        ("unchanged", 0, (80, 90), (0.3, 0.1)),
        ("unchanged", 1, (92, 91), (0.2, 0.4)),
        ("dice", 1, (50, 93), (0.5, 0.04)),
        ("dice", 2, (95, 94), (0.06, 0.6)),
        ("wide", 0, (89, 88), (0.2, 0.1), "--vgg", "a--b", "--limit", "5"),
        ("light", 3, (99, 98), (0.2, 0.1)),
        ("gentle", 1, (91.5, 9), (0.2, 0.1)),
    ):
        folders.append(tmp_path / f"{name}-{seed}")
        folders[-1].mkdir()
        command_line = [
            "experiments/trials.py",
            *([] if (name, seed) == ("unchanged", 1) else [name]),  # as of main.py
            "--epochs",
            "2",
            "--seed",
            str(seed),
            "--run",
            folders[-1].name,
            *more,
        ]
        settings = {"seed": seed, "command_lines": [command_line, ["main.py", "--run", "resumed"]]}
        (folders[-1] / "settings.json").write_text(json.dumps(settings))
        known = dict.fromkeys(LOG_FIELDS, 9) | {"seconds": 45}
        rows = [
            known | {"val_loss": loss, "val_max_f": score}
            for loss, score in zip(losses, scores, strict=True)
        ]
        write_csv(folders[-1] / "log.csv", rows, LOG_FIELDS)
    command = [sys.executable, HERE / "experiments" / "table.py", *folders]
    with_csv = [*command, "--csv", tmp_path / "trials.csv"]
    printed = subprocess.run(with_csv, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[2:] == [
        "| `dice` | 1: 93.0, 2: 95.0 | 94.0 | +1.0 | 0.050 | 1.5 |",
        "| `unchanged` | 0: 90.0, 1: 92.0 | 91.0 |  | 0.150 | 1.5 |",
        "| `gentle` | 1: 91.5 | 91.5 | -0.5 | 0.100 | 1.5 |",
        "| `wide --vgg a--b --limit 5` | 0: 89.0 | 89.0 | -1.0 | 0.100 | 1.5 |",
        "| `light` | 3: 99.0 | 99.0 |  | 0.100 | 1.5 |",
    ]
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    names = ["dice", "unchanged", "gentle", "wide --vgg a--b --limit 5", "light"]
    assert [row["trial"] for row in rows] == names
    assert rows[0]["difference"] == "+1.0" and rows[3]["mean"] == "89.0"
    wrong = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert wrong.returncode == 2 and "settings.json" in wrong.stderr
    twice = subprocess.run([*command, folders[2]], capture_output=True, text=True)
    assert twice.returncode == 2 and "two runs are dice with seed 1" in twice.stderr

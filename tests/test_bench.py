"""The bench measures what it names."""

import functools
import itertools
import json
from types import SimpleNamespace

import pytest

import bench
import main
from roadseg import engine
from roadseg.data import vgg_weights
from tests.small import SMALL


@pytest.fixture
def measured(narrow_vgg, monkeypatch):
    """Rates by a clock of one's own: the n-th is n. Returns {n: what was called meanwhile}."""
    called, events, exported = {}, [], []

    def optimize_eagerly(*arguments):
        compiled = main.optimize(*arguments)
        compiled.run_eagerly = True
        return compiled

    def open_export(path):
        return lambda batch: events.append(path.name)

    settings = {
        "VGG": str(narrow_vgg),
        "CASES": (((20, 30), (32, 64), 5),),
        "NETWORK_SHAPE": (32, 64),
        "KITTI_SHAPE": SMALL,
        "ROUNDS": 1,
        "DRAWN": 2,
        "FORMATS": {"fast": SimpleNamespace(file_name="fast.bin", modules=(), open=open_export)},
        "optimize": optimize_eagerly,
        "faster_precision": lambda: "float32",
        "matrix_product_rate": lambda *_: 1e9,
    }
    for name, value in settings.items():
        monkeypatch.setattr(bench, name, value)

    def record(owner, name):
        function = getattr(owner, name)

        @functools.wraps(function)
        def call(*arguments, **options):
            events.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (bench.Training, "step"),
        (bench, "train_epoch"),
        (bench.Training, "finish_epoch"),
        (bench.Training, "save_epoch"),
    ):
        record(owner, name)

    def rate_of(function, pictures):
        events.clear()
        function()
        called[len(called) + 1] = tuple(events)
        return float(len(called))

    monkeypatch.setattr(bench, "rate_of", rate_of)
    monkeypatch.setattr(bench.export, "parse_arguments", list)
    monkeypatch.setattr(bench.export, "export", lambda words, _: exported.append(words[2:]))
    yield called
    assert exported == [["--format", "fast"]]


def limit_by_hand(weights, training):
    """Pictures a second, where the machine makes 1e9 operations a second."""
    network = main.layers(main.load_vgg(weights), len(bench.DATASETS["synthetic"].classes))
    return 1e9 / engine.operations(network, (32, 64), training)


def test_the_bench_measures_all_it_names_and_writes_it_down(
    measured, narrow_vgg, tmp_path, monkeypatch, capsys
):
    """Each row has the rate of its own measurement, and what it is next to the others."""
    monkeypatch.setattr(bench.predict, "predict_sources", lambda given, _: len(given.save[0]))
    assert bench.main(["--json", str(tmp_path / "bench.json")]) == 0
    written = json.loads((tmp_path / "bench.json").read_text())
    printed = capsys.readouterr().out
    weights = vgg_weights.read(str(narrow_vgg), tmp_path)
    training, prediction = (limit_by_hand(weights, training) for training in (True, False))
    assert {row["what"]: row["pictures a second"] for row in written["training"]} == {
        bench.LIMIT: training,
        "reading and augmenting alone": 1,
        bench.STEPS: 2,
        "whole epoch, with validation and checkpoint": 3,
    }
    assert {row["what"]: row["pictures a second"] for row in written["prediction"]} == {
        bench.LIMIT: prediction,
        bench.ALONE: 4,
        "predict.py --save mask": len("mask"),
        "predict.py --save overlay": len("overlay"),
        "export.py --format fast": 5,
    }
    assert measured == {
        1: (),
        2: ("step",),
        3: ("train_epoch", *["step"] * 5, "finish_epoch", "save_epoch"),
        4: (),
        5: ("fast.bin",),
    }
    for part, compared, reference in (
        ("training", "of training steps alone", 2),
        ("training", "of the machine's peak", training),
        ("prediction", "of the network alone", 4),
        ("prediction", "of the machine's peak", prediction),
    ):
        for row in written[part]:
            assert row[compared] == pytest.approx(row["pictures a second"] / reference)
            assert f"| {row['what']} | {row['pictures a second']:.2f} |" in printed


def test_a_rate_is_pictures_over_seconds(monkeypatch):
    """By a clock that goes on by a second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    calls = []
    assert bench.rate_of(lambda: calls.append(0), 3) == 3 * (len(calls) - 1) / len(calls)

"""Exported networks answer as the trained one does."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from PIL import Image

import export
from main import keras
from roadseg.answering import exporting
from roadseg.answering.exporting import FORMATS, Resample
from roadseg.answering.predictor import nearest_shape
from roadseg.data.datasets import DATASETS
from roadseg.data.pictures import resample
from tests.small import KITTI, error_line, run_export, run_predict


def triangle_weights(given, wanted):
    """The share of each given pixel in each wanted one, by the definition, one by one."""
    step = given / wanted
    weights = np.zeros((wanted, given))
    for i, j in np.ndindex(weights.shape):
        distance = abs(j + 0.5 - (i + 0.5) * step)
        weights[i, j] = max(0.0, 1 - distance / max(step, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((1, 1), (3, 5)),
        ((7, 9), (1, 1)),
        ((40, 31), (13, 64)),
        ((13, 64), (40, 31)),
        ((5, 6), (5, 6)),
        ((3, 1000), (2, 3)),
        ((2, 3), (3, 1000)),
    ],
    ids=str,
)
def test_resampling_is_the_same_outside_and_inside_of_a_network(given, wanted, random):
    """Both are the triangle filter; on whole numbers and on floats."""
    array = random.integers(0, 256, (*given, 3), dtype=np.uint8)
    rows, columns = map(triangle_weights, given, wanted)
    expected = np.einsum("ih,hwc,jw->ijc", rows, array, columns)
    np.testing.assert_allclose(resample(array, wanted), expected, atol=1e-3)
    reference = np.zeros((1, *wanted, 1), np.uint8)
    for layer in (Resample(wanted), lambda x: Resample()(x, reference)):
        np.testing.assert_allclose(layer(array[None])[0], expected, atol=1e-3)


@pytest.mark.parametrize("given", [(30, 80), (50, 40), (24, 33), (1, 9), (160, 150)], ids=str)
def test_an_exported_network_chooses_among_shapes_as_predict_does(given, random):
    shapes = [(32, 128), (96, 64), (64, 96)]
    array = random.integers(0, 256, (*given, 3), dtype=np.uint8)
    expected = resample(array, nearest_shape(shapes)(given))
    np.testing.assert_allclose(Resample(shapes)(array[None])[0], expected, atol=1e-3)


def needs_packages(form):
    found = all(importlib.util.find_spec(name) for name in FORMATS[form].modules)
    skip = pytest.mark.skipif(not found, reason="needs requirements-export.txt")
    return pytest.param(form, marks=[skip, pytest.mark.export])


@pytest.mark.parametrize("form", [needs_packages(form) for form in FORMATS])
def test_an_exported_network_answers_as_predict_does(form, trained, random, tmp_path, capsys):
    """Pictures of several sizes, two at once, in the format's own runtime."""
    output = tmp_path / FORMATS[form].file_name
    assert run_export(trained, "--format", form, "--output", output) == 0
    assert "checked on 3 pictures: largest difference" in capsys.readouterr().out
    assert not list(tmp_path.glob("partial*"))
    shapes = ((50, 70), (1, 1), (200, 33), (96, 320))
    batches = [random.integers(0, 256, (2, *shape, 3), dtype=np.uint8) for shape in shapes]
    for number, picture in enumerate(picture for batch in batches for picture in batch):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    arguments = ("--output", tmp_path, "--save", "probability")
    assert run_predict(trained, tmp_path / "[0-9].png", *arguments) == 0
    answer = FORMATS[form].open(output)
    answers = [found for batch in batches for found in answer(batch)]
    for number, found in enumerate(answers):
        expected = np.asarray(Image.open(tmp_path / f"{number}_probability.png"))
        np.testing.assert_allclose(255 * found[..., 1], expected, atol=0.5 + 255e-4)
        np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    assert len(answers) == 8


@pytest.mark.parametrize(
    ("form", "output", "message"),
    [
        ("onnx", "road.pb", "expected a name that ends with .onnx"),
        ("saved_model", "folder", "holds something else"),
        ("saved_model", "file", "is a file"),
    ],
)
def test_an_export_that_cannot_be_written_gives_one_line(
    form, output, message, trained, tmp_path, capsys
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("words")
    assert run_export(trained, "--format", form, "--output", tmp_path / output) == 2
    assert message in error_line(capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}


def test_the_ready_network_is_exported_into_the_current_folder(ready, tmp_path, capsys):
    """Where a file is in the way here, which is told before the network is loaded."""
    (tmp_path / "saved_model").write_text("words")
    assert export.main(["--format", "saved_model"]) == 2
    assert error_line(capsys).startswith("saved_model: is a file")


def test_a_missing_package_is_named(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    assert run_export(trained, "--format", "litert", "--output", tmp_path / "a.tflite") == 2
    assert "pip install ai-edge-litert" in error_line(capsys)
    assert not list(tmp_path.iterdir())


def test_a_network_that_answers_differently_is_not_written(trained, tmp_path, capsys, monkeypatch):
    """Here one that averages whole pictures instead of resizing them."""

    def mean_of_all(given, wanted):
        return keras.ops.ones((wanted, given)) / keras.ops.cast(given, "float32")

    monkeypatch.setattr(Resample, "_weights", staticmethod(mean_of_all))
    assert run_export(trained, "--format", "saved_model", "--output", tmp_path / "model") == 1
    assert "nothing was written" in error_line(capsys)
    assert not list(tmp_path.iterdir())


def test_an_export_without_testing_pictures_is_checked_on_labelled_ones(drawn, monkeypatch):
    row = dataclasses.replace(KITTI, find=lambda root: (KITTI.find(root)[0], []))
    monkeypatch.setitem(DATASETS, "kitti", row)
    found = export.pictures_to_check({"dataset": "kitti", "data_dir": str(drawn)})
    assert [picture.shape for picture in found] == [(96, 320, 3)] * export.PICTURES

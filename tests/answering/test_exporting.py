"""Exported networks answer as the trained one does."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import export
import predict
from main import keras
from roadseg.answering import rounding, runtimes
from roadseg.answering.exporting import FORMATS, Resample, whole_network
from roadseg.answering.predictor import UNCALIBRATED, Calibration, nearest_shape
from roadseg.data.datasets import FCN_4S
from roadseg.data.pictures import resample
from roadseg.errors import UserError
from roadseg.scoring import loss_of_rounding
from roadseg.training import run_folder
from tests.small import (
    HERE,
    WITHOUT_KERAS,
    error_line,
    run_export,
    run_predict,
    small_network,
    write_video,
)


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


def needs_export(test):
    missing = not importlib.util.find_spec("tf2onnx")
    skip = pytest.mark.skipif(missing, reason="needs requirements-export.txt")
    return pytest.mark.export(skip(test))


def copy_with_shapes(run, folder, shapes):
    """Copy a run; give it other shapes in the network, and what makes it raise the odds of road.

    Returns the copy's folder.
    """
    shutil.copytree(run, folder, ignore=lambda *_: ["checkpoint"])
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | {"image_shapes": shapes}))
    fit = json.loads((folder / "calibration.json").read_text())
    raised = {"share": 0.02} if len(shapes) == 1 else {"share": 0.98, "front": 1.0}
    (folder / "calibration.json").write_text(json.dumps(fit | raised))
    return folder


@needs_export
def test_a_network_of_several_shapes_is_no_litert(trained, tmp_path, capsys):
    run = copy_with_shapes(trained, tmp_path / "run", [[32, 96], [64, 64]])
    assert run_export(run, "--format", "litert", "--output", tmp_path / "a.tflite") == 2
    assert "export it as onnx or openvino" in error_line(capsys)


@pytest.mark.parametrize("form", [needs_packages(form) for form in FORMATS])
def test_an_exported_network_answers_as_predict_does(form, trained, random, tmp_path, capsys):
    """Pictures of several sizes, two at once, in the format's own runtime.

    The network has two shapes, as that of joined data sets, where the format can hold it.
    """
    shapes = [[32, 96]] if form == "litert" else [[32, 96], [64, 64]]
    trained = copy_with_shapes(trained, tmp_path / "run", shapes)
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
    if output.suffix in runtimes.RUNTIMES:  # and so does `predict.py --run FILE`
        (tmp_path / "own").mkdir()
        arguments = ("--output", tmp_path / "own", "--save", "probability", "mask")
        assert run_predict(output, tmp_path / "[0-9].png", *arguments) == 0
        for number, found in enumerate(answers):
            own = np.asarray(Image.open(tmp_path / "own" / f"{number}_probability.png"))
            np.testing.assert_array_equal(own, np.rint(255 * found[..., 1]))
            mask = np.asarray(Image.open(tmp_path / "own" / f"{number}_mask.png"))
            np.testing.assert_array_equal(mask, found[..., 1] >= 0.5)


FORKED = """
import os, sys, numpy, pathlib, predict
find_road = predict.load(pathlib.Path(sys.argv[1]))
picture = numpy.arange(36000, dtype=numpy.uint8).reshape(100, 120, 3)
before = find_road(picture)
if os.fork() == 0:
    os._exit(not (find_road(picture) == before).all())
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("form", [needs_packages("openvino")])
def test_a_forked_process_answers_as_well(form, trained, tmp_path):
    """As `multiprocessing` and servers fork, which load a network before."""
    output = tmp_path / FORMATS[form].file_name
    assert run_export(trained, "--format", form, "--output", output) == 0
    subprocess.run([sys.executable, "-c", FORKED, output], check=True, cwd=HERE, timeout=60)


ROUNDED = [pytest.param(*key, marks=needs_packages(key[0]).marks) for key in rounding.ROUND]


@pytest.mark.parametrize(("form", "precision"), ROUNDED)
def test_a_rounded_network_is_smaller_and_its_loss_is_told(
    form, precision, trained, tmp_path, capsys, monkeypatch
):
    if precision == "int8" and form == "openvino":
        pytest.importorskip("nncf")
    monkeypatch.setattr(rounding, "LARGE", 100)
    outputs = {name: tmp_path / name / FORMATS[form].file_name for name in ("float32", precision)}
    for name, output in outputs.items():
        words = ("--format", form, "--output", output, "--precision", name, "--accept-loss")
        assert run_export(trained, *words) == 0
    said = capsys.readouterr().out
    assert re.search(r"F1 [\d.]+ instead of [\d.]+ on 3 validation pictures", said)
    if precision == "float16":  # scales and offsets of int8 outweigh what narrow kernels save
        suffix = ".bin" if form == "openvino" else FORMATS[form].file_name.suffix
        sizes = [path.with_suffix(suffix).stat().st_size for path in outputs.values()]
        assert sizes[1] < sizes[0]
    picture = np.random.default_rng(0).integers(0, 256, (1, 96, 320, 3), dtype=np.uint8)
    exact, rounded = (FORMATS[form].open(path)(picture) for path in outputs.values())
    assert 0 < np.abs(exact - rounded).max() < 0.1
    resized_beside = predict.load(outputs[precision])(picture[0])  # to whole numbers
    assert 0 < np.abs(resized_beside - rounded[0]).max() < 0.02


def kernel_types(path):
    """Return {shape of a kernel: its type} of the convolutions in an exported file."""
    if path.suffix == ".onnx":
        import onnx

        stored = map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer)
        return {array.shape: array.dtype.name for array in stored if array.ndim == 4}
    nodes = runtimes.load_openvino(path).get_ops()
    constants = [node.output(0) for node in nodes if node.get_type_name() == "Constant"]
    return {
        tuple(value.get_shape()): value.get_element_type().to_dtype().name
        for value in constants
        if len(value.get_shape()) == 4
    }


def export_int8(form, folder, random, network=None, calibration=UNCALIBRATED):
    """Export a network, by default a small FCN-4s, and quantize it. Returns the file's path."""
    model = whole_network(network or small_network(3, skips=FCN_4S), calibration, [(64, 96)])
    pictures = list(random.integers(0, 256, (4, 50, 70, 3), dtype=np.uint8))
    model({"picture": pictures[0][None]})
    path = folder / FORMATS[form].file_name
    model.export(str(path), format=FORMATS[form].keras_name, verbose=False)
    rounding.ROUND[form, "int8"](path, pictures)
    return path


@pytest.mark.parametrize("form", [needs_packages("onnx"), needs_packages("openvino")])
def test_what_fuses_scores_and_edges_keeps_its_bits(form, tmp_path, random):
    """In an int8 file the fuse's kernel is in float32, those before it in int8; told by shape."""
    if form == "openvino":
        pytest.importorskip("nncf")
    types = kernel_types(export_int8(form, tmp_path, random))
    fuse, before = (8, 3 + 4, 3, 3), [(8, 4, 3, 3), (8, 8, 3, 3), (8, 8, 7, 7)]
    assert types[fuse] == "float32" and {types[shape] for shape in before} == {"int8"}


@needs_export
def test_an_int8_file_takes_means_of_pictures_in_float32(tmp_path, random):
    """Rounded, no picture could be darker, or have more road, than those it was quantized on."""
    pytest.importorskip("nncf")
    path = export_int8(
        "openvino", tmp_path, random, small_network(), Calibration(share=0.05, front=1)
    )
    nodes = runtimes.load_openvino(path).get_ops()
    names = {node.get_friendly_name() for node in nodes}
    assert all(any(layer in name for name in names) for layer in rounding.OF_MEANS)
    rounded = [name for name in names if "fq" in name]
    assert len(rounded) > 10
    assert not [name for name in rounded if any(layer in name for layer in rounding.OF_MEANS)]


@needs_export
def test_sums_in_an_int8_file_do_not_overflow_16_bits(tmp_path, random):
    """Two products of an activation, at most 255, and a weight; the ready network's file, too."""
    import onnx

    for path in (export_int8("onnx", tmp_path, random), run_folder.READY / predict.READY_FILE):
        stored = map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer)
        kernels = [array for array in stored if array.dtype == np.int8 and array.ndim == 4]
        largest = max(int(np.abs(kernel.astype(int)).max()) for kernel in kernels)
        assert 2 * 255 * largest < 2**15 and largest > 60


@needs_export
def test_a_rounded_network_that_loses_too_much_is_not_written(
    trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loss_of_rounding, "LARGEST_LOSS", -101)
    words = ("--format", "onnx", "--precision", "float16", "--output", tmp_path / "a.onnx")
    assert run_export(trained, *words) == 1
    assert "nothing was written; --accept-loss" in error_line(capsys)
    assert not list(tmp_path.iterdir())
    assert run_export(trained, *words, "--accept-loss") == 0


@needs_export
def test_an_exported_network_answers_without_keras(trained, tmp_path, frames):
    """Pictures and a video, with what requirements-predict.txt names alone."""
    network = tmp_path / "model.onnx"
    assert run_export(trained, "--format", "onnx", "--output", network) == 0
    (tmp_path / "in").mkdir()
    Image.fromarray(frames[0]).save(tmp_path / "in" / "a.png")
    write_video(tmp_path / "in" / "b.mkv", frames)
    code = f"{WITHOUT_KERAS}; sys.exit(predict.main())"
    words = ("--run", network, tmp_path / "in", "--output", tmp_path / "out", "--save", "mask")
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, cwd=HERE)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a_mask.png", "b_mask.mkv"}


def test_what_predict_needs_are_the_versions_that_are_tested():
    def pins(name):
        return set(re.findall(r"^[\w-]+==[\w.]+", (HERE / name).read_text(), re.MULTILINE))

    tested = pins("requirements.txt") | pins("requirements-export.txt")
    assert len(pins("requirements-predict.txt")) == 5 and pins("requirements-predict.txt") <= tested


@needs_export
def test_a_file_that_is_no_network_gives_one_line(tmp_path, capsys):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"words")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert run_predict(path, tmp_path / "a.png", "--output", tmp_path / "out") == 2
    assert "broken.onnx: cannot be opened by onnxruntime" in error_line(capsys)


@pytest.mark.parametrize(
    ("form", "output", "message"),
    [
        ("onnx", "road.pb", "expected a name that ends with .onnx"),
        ("saved_model", "folder", "holds something else"),
        ("saved_model", "file", "is a file"),
        ("saved_model", "file/below", "no file can be made there (Not a directory)"),
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
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
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


def test_an_export_is_checked_on_the_pictures_of_its_run_or_drawn_ones(trained, tmp_path):
    settings = json.loads((trained / "settings.json").read_text())
    classes = tuple(settings["classes"])
    samples = export.samples_to_check(settings, classes, is_needed=False)
    assert [len(part) for part in samples[:2]] == [12, 3]
    limited = export.samples_to_check(settings | {"limit": 2}, classes, is_needed=False)
    assert [len(part) for part in limited[:2]] == [2, 2]
    assert [p.shape for p in export.pictures_to_check(samples)] == [(96, 320, 3)] * 3
    elsewhere = settings | {"data_dir": tmp_path}
    assert export.samples_to_check(elsewhere, classes, is_needed=False) is None
    assert len(export.pictures_to_check(None)) == export.PICTURES
    with pytest.raises(UserError, match="not found"):
        export.samples_to_check(elsewhere, classes, is_needed=True)
    with pytest.raises(UserError, match="this run has road, lane"):
        export.samples_to_check(settings, ("road", "lane"), is_needed=True)

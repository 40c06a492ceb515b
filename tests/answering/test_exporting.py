"""Exported networks answer as the trained one does."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

import export
from main import keras
from tests.small import error_line, run_export, run_predict


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
        assert (
            run_predict(
                trained, tmp_path / "[01].png", "--output", tmp_path, "--save", "probability"
            )
            == 0
        )
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
    monkeypatch.setattr(
        export.Resample,
        "_weights",
        staticmethod(
            lambda given, wanted: keras.ops.ones((wanted, given)) / keras.ops.cast(given, "float32")
        ),
    )
    assert run_export(trained, "--format", "saved_model", "--output", tmp_path / "model") == 1
    assert "nothing was written" in error_line(capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}

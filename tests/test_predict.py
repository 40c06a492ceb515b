"""predict.py answers pictures of every kind in their own size."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image

import main
import predict
from roadseg import stopping
from roadseg.answering import sources
from roadseg.answering.painting import to_confidence
from roadseg.answering.predictor import Enlarged
from roadseg.data.pictures import bytes_of, read_image, read_numbers, resample
from roadseg.files import partial_path, write_json
from roadseg.scoring.metrics import ROAD
from roadseg.training import run_folder
from tests.small import HERE, KITTI, WITHOUT_KERAS, error_line, run_predict

ALBUM_SIZES = {  # name of what is made of it: (width, height)
    "wide": (300, 20),
    "tall": (11, 200),
    "dot": (1, 1),
    "grey": (50, 40),
    "see-through": (40, 30),
    "twin.png": (9, 8),
    "twin.bmp": (9, 8),
    "below/wide": (30, 21),
    "still": (14, 12),
    "deep": (12, 10),
    "large": (2000, 1500),
    "turned": (20, 30),
}


def test_every_picture_of_a_folder_is_predicted_in_its_own_size(trained, album, tmp_path):
    kinds = ("overlay", "mask", "probability")
    assert run_predict(trained, album, "--output", tmp_path / "out", "--save", *kinds) == 0
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    }
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
    (album / "empty").mkdir()
    assert run_predict(trained, album / "empty") == 2
    assert "empty: holds neither pictures nor videos" in error_line(capsys)
    shutil.copytree(album / "below", tmp_path / "below")
    twins = (tmp_path / "below" / "wide.png", album / "below" / "wide.png")
    assert run_predict(trained, *twins, "--output", tmp_path / "out") == 2
    assert "would be written there" in error_line(capsys) and not (tmp_path / "out").exists()


def test_the_ready_network_answers_where_no_run_is_named(ready, album, tmp_path, capsys):
    """Into the current folder, whatever way leads to the network."""
    for words in ([], ["--run", str(ready)], ["--run", os.path.relpath(ready)]):
        assert predict.main([str(album / "dot.png"), *words]) == 0
        assert capsys.readouterr().out.startswith("predictions: 1 picture,")
        (tmp_path / "predictions" / "dot_overlay.png").unlink()


def test_python_gets_what_the_command_line_writes(ready, album, tmp_path):
    find_road = predict.load()
    assert find_road.classes == KITTI.classes
    for name in ("wide.png", "tall.jpg"):
        assert predict.main([str(album / name), "--save", "probability"]) == 0
        written = read_numbers(tmp_path / "predictions" / f"{Path(name).stem}_probability.png")
        picture = read_image(album / name)
        for seen in (picture, np.asfortranarray(picture)):
            found = find_road(seen)
            assert found.dtype == np.float32 and found.shape == (*written.shape, 2)
            np.testing.assert_array_equal(to_confidence(found[..., ROAD]), written)


def test_a_network_that_is_loaded_leaves_keras_as_it_was(trained, float32):
    predict.RoadFinder(trained, precision="mixed_bfloat16")
    assert main.keras.config.dtype_policy().name == "float32"


def test_what_is_no_picture_is_refused_in_python(trained, random):
    find_road = predict.load(trained)
    picture = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for wrong, found in (
        (picture / 255, "float64"),
        (Image.fromarray(picture), "Image"),
        ("street.jpg", "str"),
        (None, "NoneType"),
    ):
        with pytest.raises(TypeError, match=f"^found {found}; expected a NumPy array, uint8"):
            find_road(wrong)
    for wrong in (picture[0], picture[None], picture[:0], picture[..., :2], picture[..., 0]):
        shape = re.escape(f"found the shape {list(wrong.shape)}; expected")
        with pytest.raises(ValueError, match=shape):
            find_road(wrong)


def test_a_run_in_place_of_a_picture_is_refused(tmp_path, monkeypatch, capsys):
    """Its folder, or its name where nothing else is called like it."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "holiday"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_json(tmp_path / "runs" / name / "settings.json", {})
    for run in ("runs/first", str(tmp_path / "runs" / "first"), "first"):
        assert predict.main([run, "street.jpg"]) == 2
        assert error_line(capsys) == f"{run}: is a run, not a picture; give it as --run {run}"
    (tmp_path / "holiday").mkdir()
    predict.refuse_runs(["holiday", "street.jpg", "camera:0"])


@pytest.fixture(scope="module")
def network(trained):
    """The function pictures -> probabilities of the trained run."""
    return main.load_run(trained)[0]


def predict_road(run, *arguments):
    """Let predict.py write probabilities."""
    assert run_predict(run, *arguments, "--save", "probability") == 0


@pytest.mark.parametrize("words", ["--scale 1", "--thorough", "--precision float32"])
def test_an_exported_file_has_size_and_precision_inside(words, tmp_path, capsys):
    (tmp_path / "model.onnx").touch()
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    given = ("--output", tmp_path, *words.split())
    assert run_predict(tmp_path / "model.onnx", tmp_path / "a.png", *given) == 2
    assert "need a run" in error_line(capsys)


@pytest.mark.parametrize(("scale", "shape"), [(1, (64, 96)), (0.5, (32, 64))])
def test_a_scale_is_that_of_the_picture(scale, shape, trained, network, tmp_path, random):
    """The probabilities are those of the network there, in multiples of 32."""
    picture = random.integers(0, 256, (64, 100, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[:30, :40]).save(tmp_path / "of another size.png")
    predict_road(trained, tmp_path / "*[ae].png", "--output", tmp_path, "--scale", scale)
    assert Image.open(tmp_path / "of another size_probability.png").size == (40, 30)
    assert_road(tmp_path / "a_probability.png", answer(network, picture, shape))


def test_what_no_memory_or_no_folder_holds_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 32)).save("street.jpg")
    with pytest.raises(SystemExit) as end:
        predict.main(["street.jpg", "--scale", "5"])
    assert end.value.code == 2
    assert "'5': expected a number above zero, at most 4" in capsys.readouterr().err
    for output in ("street.jpg", "street.jpg/below/more"):
        assert predict.main(["street.jpg", "--output", output]) == 2
        assert "street.jpg: no file can be made there (Not a directory)" in error_line(capsys)
    Path("itself").symlink_to("itself")
    Path("nowhere").symlink_to("missing/folder")
    for output in ("itself", "nowhere/below", "/proc/folder"):
        assert predict.main(["street.jpg", "--output", output]) == 2
        assert ": no file can be made there (" in error_line(capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"street.jpg", "itself", "nowhere"}


def test_a_thorough_answer_is_the_mean_of_those_at_three_sizes(trained, drawn, tmp_path):
    """The two others in multiples of 32."""
    street = next((drawn / "data_road" / "testing" / "image_2").iterdir())
    picture = read_image(street, (128, 192))
    Image.fromarray(picture).save(tmp_path / "a.png")
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    make_sure(run, picture)
    network, _ = main.load_run(run)[:2]
    predict_road(run, tmp_path / "a.png", "--output", tmp_path, "--scale", 1, "--thorough")
    answers = [answer(network, picture, shape) for shape in ((96, 128), (128, 192), (160, 256))]
    assert_road(tmp_path / "a_probability.png", np.mean(answers, axis=0))
    assert np.ptp(answers, axis=0).max() > 2 / 255


def make_sure(run, picture, factor=20):
    """Spread a run's probabilities of a picture, which hardly differ from one another."""
    network, _ = main.load_run(run)[:2]
    middle = scipy.special.logit(answer(network, picture, (128, 192))[..., ROAD].mean())
    fit = json.loads((run / "calibration.json").read_text())
    slope, offset = factor * fit["slope"], factor * (fit["offset"] - float(middle))
    write_json(run / "calibration.json", {"slope": slope, "offset": offset})


def answer(network, picture, shape):
    """What a network says of a picture that it sees in another shape, in the picture's own."""
    seen = network(resample(picture, shape)[None])[0]
    return resample(seen, picture.shape[:2])


def assert_road(path, probabilities):
    """A file holds the probabilities of road."""
    np.testing.assert_allclose(read_numbers(path), 255 * probabilities[..., ROAD], atol=0.6)


def test_an_output_that_cannot_be_written_does_not_end_the_others(trained, tmp_path, capsys):
    for name in "abc":
        Image.new("RGB", (30, 20)).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    (out / "b_overlay.png" / "in the way").mkdir(parents=True)
    assert run_predict(trained, tmp_path, "--output", out) == 1
    said = capsys.readouterr()
    assert "b_overlay.png" in said.err.splitlines()[-1] and f"{out}: 2 pictures" in said.out
    assert sorted(path.name for path in out.iterdir()) == [f"{n}_overlay.png" for n in "abc"]


def test_a_picture_that_is_encoded_ahead_counts_with_its_size(tmp_path, random):
    """So that few large ones are held at a time."""
    picture = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    probabilities = Enlarged(random.random((4, 6, 2), dtype=np.float32), (20, 30))
    source = sources.Picture(tmp_path / "a.png", "a")
    answer = (source, source.path), picture, probabilities
    assert bytes_of(predict.encode_answer(answer, predict.KINDS, KITTI)) == picture.nbytes


def test_an_unfinished_output_goes_even_at_a_second_signal(tmp_path):
    stop, path = stopping.Stopping(), tmp_path / "a_mask.png"
    picture = sources.Picture(tmp_path / "a.png", "a")
    with contextlib.ExitStack() as files:
        predict.open_target(files, path, picture, True, stop)(b"mask", None)
        assert stop.leftovers == {partial_path(path)} == set(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == [path] and not stop.leftovers


def test_the_ready_network_finds_the_road_of_a_street_it_has_not_seen():
    """Where it is was marked by eye; the photograph as it is, and at a quarter of its light."""
    find_road, picture = predict.load(), read_image(HERE / "tests" / "street.jpg")
    for seen in (picture, picture // 4):
        road = find_road(seen)[..., 1]
        assert road[200:, 60:380].mean() > 0.95  # the lanes ahead
        assert road[:100].mean() < 0.02  # sky and trees


def test_the_ready_network_answers_in_8_bits_and_without_keras_as_its_run_does(tmp_path):
    street = str(HERE / "tests" / "street.jpg")
    words = [street, "--save", "probability", "--output"]
    code = f"{WITHOUT_KERAS}; sys.exit(predict.main({[*words, str(tmp_path / 'file')]}))"
    (tmp_path / "home").mkdir()
    home = os.environ | {name: str(tmp_path / "home") for name in ("HOME", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True, env=home)
    assert not list((tmp_path / "home").iterdir())  # onnxruntime notes here what it reports
    assert predict.main([*words, str(tmp_path / "run"), "--precision", "float32"]) == 0
    file, run = (
        read_numbers(tmp_path / name / "street_probability.png") / 255 for name in ("file", "run")
    )
    assert 0 < np.abs(file - run).mean() < 0.005
    assert ((file > 0.5) != (run > 0.5)).mean() < 0.005


def test_what_only_a_run_can_do_is_asked_of_the_run(trained, album, tmp_path, monkeypatch, capsys):
    """The ready network's file is damaged here."""
    ready = tmp_path / "ready"
    shutil.copytree(trained, ready, ignore=lambda *_: ["checkpoint"])
    (ready / predict.READY_FILE).write_bytes(b"no network")
    monkeypatch.setattr(run_folder, "READY", ready)
    monkeypatch.chdir(tmp_path)
    picture = str(album / "dot.png")
    assert predict.main([picture]) == 2
    line = error_line(capsys)
    assert line.startswith(f"{ready / predict.READY_FILE}: cannot be opened by onnxruntime (")
    assert line.endswith("; get it again, or export it again with export.py")
    for words in (["--thorough"], ["--scale", "1"], ["--precision", "float32"]):
        assert predict.main([picture, *words]) == 0


def test_a_run_without_keras_is_told_in_one_line(trained, album, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run_predict(trained, album / "dot.png") == 2
    assert "this needs keras and tensorflow: pip install -r requ" in error_line(capsys)
    assert run_predict(trained / "none.onnx", album / "dot.png") == 2
    assert "none.onnx: not found; expected an exported file" in error_line(capsys)


@pytest.mark.parametrize("command", ["main.py", "evaluate.py", "export.py"])
def test_a_command_without_its_packages_ends_with_one_line(command):
    words = [sys.executable, command, "--help"]
    engine = os.environ | {"KERAS_BACKEND": "torch"}  # which is in no requirements
    done = subprocess.run(words, cwd=HERE, env=engine, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "this needs torch: pip install torch\n"


def test_the_ready_network_tells_no_folder_of_the_machine_it_was_trained_on():
    texts = [path.read_text() for path in (HERE / "data" / "ready").glob("*.json")]
    assert len(texts) == 3 and not any(re.search(r'"/|\\\\', text) for text in texts)

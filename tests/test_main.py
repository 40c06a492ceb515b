"""The program as a whole, on every data set."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

import evaluate
import helper
import main
from roadseg.data import download
from roadseg.data.datasets import DATASETS
from roadseg.data.pictures import VOID, read_image, read_label, read_numbers
from roadseg.drawn import scenes
from roadseg.errors import StopRequest, UserError
from roadseg.scoring.evaluation import score_table
from roadseg.scoring.tally import Tally
from tests.small import HERE, KITTI, error_line, needs_jax, run_camvid, run_main, run_predict


def stop_at_once(*_):
    raise StopRequest(signal.SIGTERM)


def test_a_whole_run_writes_its_folder_and_goes_on(drawn, tmp_path, capsys, monkeypatch):
    """Every file of the run folder is there and right; the same command goes on, then stops."""
    arguments = (
        "--dataset",
        "kitti",
        "--data-dir",
        drawn,
        "--runs-dir",
        tmp_path,
        "--run",
        "first",
        "--image-shape",
        32,
        96,
        "--batch-size",
        2,
    )
    assert run_main(*arguments, "--epochs", 1) == 0
    folder = tmp_path / "first"
    assert {path.name for path in folder.iterdir()} == {
        "settings.json",
        "log.csv",
        "best.weights.h5",
        "checkpoint",
        "calibration.json",
        "metrics.json",
        "pictures",
        "report",
        "report.html",
    }
    for picture in (drawn / "data_road" / "testing" / "image_2").iterdir():
        painted = imageio.imread(folder / "pictures" / picture.name)
        assert painted.shape == imageio.imread(picture).shape
    result = json.loads((folder / "metrics.json").read_text())
    assert result["dataset"] == "kitti" and result["split"] == "validation"
    assert set(result["perspective"]) == {"all", "um", "umm", "uu"}
    assert set(result["perspective"]["all"]) == {
        "MaxF",
        "AP",
        "PRE",
        "REC",
        "FPR",
        "FNR",
        "threshold",
        "IoU",
        "pictures",
    }
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


def test_the_terminal_shows_every_class_where_there_are_many():
    tally = Tally(("sky", "road", "pole"))
    probabilities = np.eye(3)[[[0, 1, 1, 1]]]
    tally.add(np.array([[0, 1, 0, VOID]], np.uint8), probabilities, "city")
    result = tally.scores() | {"split": "validation", "labels": "drawn"}
    lines = [line.split() for line in score_table(result).splitlines()]
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
    np.testing.assert_array_equal(read_label(sample, data_set), expected)
    with_palette = Image.fromarray(numbers)
    with_palette.putpalette([7, 8, 9] * 256)
    with_palette.save(sample.label)
    np.testing.assert_array_equal(read_label(sample, data_set), expected)
    with_palette.convert("RGB").save(sample.label)
    with pytest.raises(UserError, match="RGB"):
        read_label(sample, data_set)


@pytest.fixture
def own(narrow, tmp_path, random):
    """A folder of somebody's own pictures with three classes; the second is the bright part."""
    for folder in ("pictures", "masks", "testing"):
        (tmp_path / folder).mkdir()
    for index in range(10):
        mask = np.Repeat(random.integers(0, 3, 6, dtype=np.uint8), 16)[:, None].Repeat(64, axis=1)
        picture = np.array([40, 220, 120], np.uint8)[mask][..., None].Repeat(3, axis=-1)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"a {index}.jpg")
        Image.fromarray(mask).save(tmp_path / "masks" / f"a {index}.png")
    Image.fromarray(picture).save(tmp_path / "testing" / "new.png")
    (tmp_path / "classes.txt").write_text("ground\nline\n\nräume\n", encoding="utf-8")
    return tmp_path


def run_own(folder, *more):
    return run_main(
        "--dataset",
        "folder",
        "--data-dir",
        folder,
        "--runs-dir",
        folder / "runs",
        "--run",
        "own",
        "--image-shape",
        48,
        32,
        "--epochs",
        1,
        "--vgg",
        "none",
        *more,
    )


def test_a_run_on_somebodys_own_pictures(own, capsys):
    """Trained, scored, painted, reported, predicted with and scored again, under their names."""
    assert run_own(own) == 0
    run = own / "runs" / "own"
    result = json.loads((run / "metrics.json").read_text())
    assert list(result["classes"]) == ["ground", "line", "räume"] and result["pictures"] == 2
    assert [path.name for path in (run / "pictures").iterdir()] == ["new.png"]
    assert "räume" in (run / "report.html").read_text()
    assert run_predict(run, own / "testing", "--save", "mask", "probability") == 0
    assert read_numbers(run / "predictions" / "new_mask.png").max() <= 2
    assert evaluate.main([str(run)]) == 0
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


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda own: (own / "classes.txt").unlink(), "classes.txt: not found"),
        (lambda own: (own / "classes.txt").write_text("road"), "1 names; expected 2"),
        (lambda own: (own / "classes.txt").write_text("a\na\nb"), "all different"),
        (lambda own: (own / "classes.txt").write_bytes(b"\xff\xfe\n1"), "no text in UTF-8"),
        (lambda own: (own / "classes.txt").write_text("a\nb"), "the value 2 stands for no class"),
        (lambda own: (own / "masks" / "a 4.png").unlink(), "a 4.png: this label is missing"),
        (lambda own: shutil.rmtree(own / "pictures"), "no pictures found"),
        (lambda own: (own / "validation.txt").write_text("nobody"), "names nobody, which is not"),
        (lambda own: Image.new("RGB", (64, 96)).save(own / "masks" / "a 1.png"), "mode RGB"),
    ],
    ids=str,
)
def test_wrong_own_pictures_give_a_line_that_names_the_file(spoil, message, own, capsys):
    spoil(own)
    assert run_own(own) == 2
    assert message in capsys.readouterr().err
    assert not (own / "runs" / "own").exists()


def test_cityscapes_in_its_official_layout(narrow, tmp_path, random):
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
                folder / "leftImg8bit" / part / "bonn" / f"{name}_leftImg8bit.png"
            )
            Image.fromarray(label).save(
                folder / "gtFine" / part / "bonn" / f"{name}_gtFine_labelIds.png"
            )
    row = DATASETS["cityscapes"]
    (sample, *_), testing = row.find(folder)
    found, numbers = read_label(sample, row), np.asarray(Image.open(sample.label))
    for number, name in {7: "road", 8: "sidewalk", 23: "sky", 26: "car", 33: "bicycle"}.items():
        assert (found[numbers == number] == row.classes.index(name)).all()
    assert (found[np.isin(numbers, [0, 6, 9, 18, 29, 30, 255])] == VOID).all()
    assert len(row.classes) == 19 and len(np.unique(found)) == 20 and len(testing) == 1
    assert (
        run_main(
            "--dataset",
            "cityscapes",
            "--data-dir",
            tmp_path,
            "--runs-dir",
            tmp_path / "runs",
            "--image-shape",
            32,
            64,
            "--epochs",
            1,
            "--vgg",
            "none",
        )
        == 0
    )


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


@pytest.mark.parametrize(
    "spoil",
    [spoil_camvid_by_another_number, spoil_camvid_by_removing_a_label, spoil_camvid_by_removing_it],
)
def test_wrong_camvid_gives_one_line_that_names_the_file(spoil, camvid, capsys):
    name = spoil(camvid / "camvid")
    assert run_camvid(camvid) == 2
    assert name in capsys.readouterr().err.splitlines()[-1]


@needs_jax
def test_the_program_runs_on_jax(drawn, tmp_path):
    """Training, validation, pictures and scores."""
    arguments = [
        "--dataset",
        "kitti",
        "--data-dir",
        str(drawn),
        "--runs-dir",
        str(tmp_path),
        "--run",
        "jax",
        "--image-shape",
        "32",
        "96",
        "--limit",
        "3",
        "--epochs",
        "1",
    ]
    code = f"import main, sys\nsys.exit(main.main({arguments}))"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE, env=environment)
    assert len(list((tmp_path / "jax" / "pictures").iterdir())) == 3
    settings = json.loads((tmp_path / "jax" / "settings.json").read_text())
    assert settings["backend"] == "jax"


def unreachable(monkeypatch):
    """Point every download at a port where nobody listens."""
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    nowhere = dataclasses.replace(KITTI.remote, url="http://127.0.0.1:9/none.zip")
    monkeypatch.setitem(DATASETS, "kitti", dataclasses.replace(KITTI, remote=nowhere))


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
    assert all(read_image(sample.picture).shape[:2] in scenes.KITTI_SIZES for sample in labelled)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--seed", "-1"],
        ["--image-shape", "10"],
        ["--learning-rate", "nan"],
        ["--dataset", "moon"],
    ],
)
def test_wrong_usage_ends_with_status_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        run_main(*arguments)
    assert stopped.value.code == 2


@pytest.mark.slow
def test_the_main_job_learns_the_drawn_scenes(tmp_path):
    """What the README's first command does where KITTI Road is not to be had."""
    command = [
        sys.executable,
        "main.py",
        "--dataset",
        "synthetic",
        "--runs-dir",
        tmp_path,
        "--data-dir",
        tmp_path,
        "--run",
        "main_job",
    ]
    subprocess.run(command, check=True, cwd=HERE)
    result = json.loads((tmp_path / "main_job" / "metrics.json").read_text())
    assert result["perspective"]["all"]["MaxF"] > 95
    assert max(result["simple_rules"].values()) < 85
    assert len(list((tmp_path / "main_job" / "pictures").iterdir())) == sum(helper.DRAWN_TESTING)

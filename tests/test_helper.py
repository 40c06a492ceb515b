"""Batches hold every picture once, the same ones each time; data sets are brought as asked for."""

import dataclasses

import numpy as np
from PIL import Image

import helper
from main import RECIPE
from roadseg.data import download
from roadseg.data.datasets import DATASETS
from roadseg.data.pictures import read_image
from roadseg.drawn import scenes
from tests.small import KITTI, error_line, run_main


def test_batches_hold_every_picture_once(drawn):
    samples, _ = KITTI.find(drawn / "data_road")
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64))
    batches = list(get_batches_fn(4))
    assert [len(pictures) for pictures, _ in batches] == [4, 4, 4, 3]
    pictures, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    assert pictures.shape == (15, 32, 64, 3) and labels.shape == (15, 32, 64)
    expected = sorted(read_image(s.picture, (32, 64)).tobytes() for s in samples)
    assert sorted(picture.tobytes() for picture in pictures) == expected


def test_batches_depend_on_seed_epoch_and_index_alone(drawn):
    samples, _ = KITTI.find(drawn / "data_road")

    def epoch_pictures(batch_size, epoch, seed=1):
        get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), seed, RECIPE)
        return np.concatenate([pictures for pictures, _ in get_batches_fn(batch_size, epoch)])

    first = epoch_pictures(4, 0)
    np.testing.assert_array_equal(first, epoch_pictures(5, 0))
    assert not np.array_equal(first, epoch_pictures(4, 1))
    assert not np.array_equal(first, epoch_pictures(4, 0, seed=2))
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), 1, RECIPE)
    rest = np.concatenate([pictures for pictures, _ in get_batches_fn(4, 0, first=2)])
    np.testing.assert_array_equal(first[2 * 4 :], rest)


def test_batches_know_the_names_of_their_pictures(drawn):
    samples, _ = KITTI.find(drawn / "data_road")
    named = {sample.name: read_image(sample.picture, (32, 64)) for sample in samples}
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64), 1)
    for number, (pictures, _) in enumerate(get_batches_fn(4, 7)):
        names = get_batches_fn.names(4, 7, number)
        np.testing.assert_array_equal(pictures, [named[name] for name in names])


def test_each_picture_is_decoded_once(drawn, monkeypatch):
    samples, _ = KITTI.find(drawn / "data_road")
    opened, read = [], Image.open

    def count_and_read(path):
        opened.append(path)
        return read(path)

    monkeypatch.setattr(Image, "open", count_and_read)
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (32, 64))
    for epoch in range(3):
        list(get_batches_fn(4, epoch))
    assert len(opened) == len(set(opened)) == 2 * len(samples)


def unreachable(monkeypatch):
    """Point every download at a port where nobody listens."""
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    nowhere = dataclasses.replace(KITTI.remote, url="http://127.0.0.1:9/none.zip")
    monkeypatch.setitem(DATASETS, "kitti", dataclasses.replace(KITTI, remote=nowhere))


def test_a_data_set_asked_for_is_that_or_an_error(tmp_path, monkeypatch, capsys):
    unreachable(monkeypatch)
    assert run_main("--dataset", "kitti", "--data-dir", tmp_path, "--runs-dir", tmp_path) == 2
    line = error_line(capsys)
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

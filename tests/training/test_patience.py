"""Early stopping: where a training ends, and how it goes on."""

import shutil

import pytest

from roadseg.training import run_folder, trainer
from tests.small import run_kitti
from tests.training.test_trainer import assert_same, train_with_stops


@pytest.fixture
def no_better(monkeypatch):
    """Epoch 2 is the best of every training."""
    monkeypatch.setattr(trainer, "selection_score", lambda row: -abs(row["epoch"] - 2))


def train_for(folder, patience, stops=()):
    """Train six epochs of two steps at most. Returns all that is saved."""
    folder.mkdir(exist_ok=True)
    return train_with_stops(folder, stops, True, 6, 2, patience)


def test_a_stopped_run_with_patience_ends_as_an_undisturbed_one(no_better, tmp_path, capsys):
    """Two epochs after the best; started again at its end it stays there."""
    whole = train_for(tmp_path / "whole", 2)
    assert [row["epoch"] for row in whole[1]] == [1, 2, 3, 4]
    assert "training ends after epoch 4 of 6; epoch 2 is the best" in capsys.readouterr().out
    assert_same(train_for(tmp_path / "stopped", 2, stops=[3, 6]), whole)
    assert_same(train_for(tmp_path / "whole", 2), whole)


@pytest.mark.slow
def test_more_patience_ends_as_if_it_had_never_been_less(no_better, tmp_path):
    train_for(tmp_path / "at_first_less", 1)
    whole = train_for(tmp_path / "patient", 3)
    assert len(whole[1]) == 5
    assert_same(train_for(tmp_path / "at_first_less", 3), whole)


@pytest.mark.slow
def test_patience_ends_a_run_that_then_is_finished(
    trained, drawn, narrow_vgg, no_better, tmp_path, capsys
):
    """The same command changes nothing; more patience or more epochs go on."""
    folder = shutil.copytree(trained, tmp_path / "first")

    def epochs_after(*more):
        assert run_kitti(drawn, tmp_path, "--vgg", narrow_vgg, *more) == 0
        assert (folder / "metrics.json").is_file() and (folder / "report.html").is_file()
        return len(run_folder.read_log(folder))

    assert epochs_after("--epochs", 9, "--patience", 1) == 3
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert epochs_after("--epochs", 9, "--patience", 1) == epochs_after() == 3
    assert capsys.readouterr().out.count("give more --epochs or --patience to resume it") == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert epochs_after("--patience", 2) == 4
    assert epochs_after("--epochs", 10) == 6
    assert epochs_after("--epochs", 7, "--patience", 0) == 7

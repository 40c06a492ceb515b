"""What a run is unless the command line says otherwise."""

import dataclasses

import pytest

import main
from roadseg.data.layouts import find_kitti
from roadseg.training import plan
from tests.small import KITTI


@pytest.mark.parametrize(
    ("kind", "batch_size", "rate", "epochs"), [("cpu", 4, 2e-4, 19), ("gpu", 16, 4e-4, 57)]
)
def test_defaults_are_of_the_kind_of_device(kind, batch_size, rate, epochs, monkeypatch):
    """The learning rate is a ten thousandth times the root of the pictures a step."""
    monkeypatch.setattr(plan, "device_kind", lambda: kind)
    arguments = main.parse_arguments([])
    settings = plan.complete_settings(arguments, "kitti", KITTI)
    assert (settings["batch_size"], settings["learning_rate"]) == (batch_size, rate)
    arguments.batch_size = 9
    settings = plan.complete_settings(arguments, "kitti", KITTI)
    assert (settings["batch_size"], settings["learning_rate"]) == (9, pytest.approx(3e-4))
    arguments.learning_rate = 1e-3
    assert plan.complete_settings(arguments, "kitti", KITTI)["learning_rate"] == 1e-3
    assert plan.default_epochs(KITTI) == epochs


def test_where_nothing_is_for_testing_it_is_said_that_what_validates_is_painted(drawn, capsys):
    root = drawn / "data_road"
    assert len(plan.choose_pictures(KITTI, root, 0, None).testing) == 3
    assert "3 validation and 3 testing pictures\n" in capsys.readouterr().out
    row = dataclasses.replace(KITTI, find=lambda root: (find_kitti(root)[0], []))
    split = plan.choose_pictures(row, root, 0, None)
    assert split.testing == split.validation
    assert "3 testing pictures (those of validation again)\n" in capsys.readouterr().out

"""What a run is unless the command line says otherwise."""

import pytest

import main
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

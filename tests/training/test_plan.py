"""What a run is unless the command line says otherwise."""

import pytest

import main
from roadseg.training import plan
from tests.small import KITTI


@pytest.mark.parametrize(("kind", "batch_size", "epochs"), [("cpu", 4, 19), ("gpu", 16, 57)])
def test_defaults_are_of_the_kind_of_device(kind, batch_size, epochs, monkeypatch):
    monkeypatch.setattr(plan, "device_kind", lambda: kind)
    arguments = main.parse_arguments([])
    assert plan.complete_settings(arguments, "kitti", KITTI)["batch_size"] == batch_size
    arguments.batch_size = 3
    assert plan.complete_settings(arguments, "kitti", KITTI)["batch_size"] == 3
    assert plan.default_epochs(KITTI) == epochs

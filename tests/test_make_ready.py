"""The ready network is a run, rounded to float16, calibrated and scored as it then answers."""

import h5py
import numpy as np
import pytest

import main
from experiments import make_ready
from roadseg.files import read_json
from roadseg.scoring.evaluation import score_run
from roadseg.training import checkpoint
from roadseg.training.plan import choose_pictures


def test_the_ready_network_is_a_rounded_run_with_its_own_calibration_and_scores(
    trained, drawn, tmp_path
):
    """Made twice, the second time of itself, it is the same; paths of this machine are gone."""
    ready = tmp_path / "ready"
    make_ready.make(trained, ready, drawn)
    files = {path.name: path.read_bytes() for path in ready.iterdir() if path.suffix != ".h5"}
    assert set(files) == {"calibration.json", "log.csv", "metrics.json", "settings.json"}
    with h5py.File(ready / checkpoint.BEST) as weights:
        kinds = set()
        weights.visititems(lambda _, item: kinds.add(getattr(item, "dtype", None)))
    assert kinds == {None, np.dtype(np.float16)}
    assert not [name for name, content in files.items() if str(drawn).encode() in content]
    predict, data_set, settings = main.load_run(ready)
    split = choose_pictures(data_set, drawn / data_set.folder, settings["seed"], None)
    result, _ = score_run(predict, split.validation, data_set, settings, "validation")
    assert result["perspective"]["all"] == pytest.approx(
        read_json(ready / "metrics.json")["perspective"]["all"]
    )
    make_ready.make(ready, ready, drawn)
    assert files == {name: (ready / name).read_bytes() for name in files}

"""Training goes on after whatever may happen in a step."""

import contextlib
import csv
import functools
import json
import signal

import numpy as np
import pytest

import main
from main import keras
from roadseg import engine, stopping
from roadseg.answering.predictor import predictor
from roadseg.data.pictures import VOID
from roadseg.errors import LossError, StopRequest, TrainingError
from roadseg.scoring.evaluation import score_pictures
from roadseg.training import checkpoint, trainer
from tests.small import (
    SMALL_BLOCKS,
    Repeat,
    even_tally,
    one_batch,
    run_kitti,
    small_network,
    train_one_batch,
)


def test_averaged_weights_are_validated_and_kept(tmp_path, monkeypatch):
    """And training goes on from the weights that are not averaged."""
    network = small_network()
    taken, losses, take_step = [], [], trainer.take_step

    def recorded_step(*arguments):
        losses.append(take_step(*arguments))
        taken.append(network.get_weights())
        return losses[-1]

    def compare_with_average():
        average = taken[0]
        for step, weights in enumerate(taken[1:], start=2):
            new = 1 / max(1, step / 2)
            average = [(1 - new) * a + new * b for a, b in zip(average, weights, strict=True)]
        for here, expected in zip(network.get_weights(), average, strict=True):
            np.testing.assert_allclose(here, expected, atol=1e-6)
        return even_tally()

    monkeypatch.setattr(trainer, "take_step", recorded_step)
    monkeypatch.setattr(main, "AVERAGED_SHARE", 0.5)
    make_trainer = functools.partial(main.optimize, network, 1e-2, 40)
    main.train_nn(
        trainer.Training(network, make_trainer, tmp_path),
        Repeat(one_batch((32, 64)), 3),
        2,
        2,
        compare_with_average,
    )
    assert len(taken) == 6
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    means = [np.mean(losses[:3]), np.mean(losses[3:])]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], means)
    for here, expected in zip(network.get_weights(), taken[-1], strict=True):
        np.testing.assert_array_equal(here, expected)
    network.load_weights(tmp_path / "best.weights.h5")
    taken = taken[:3]  # a tie: the first epoch remains the best
    compare_with_average()


def test_pretrained_edges_stay_as_they_are_and_outlive_a_kill(tmp_path, random):
    """A checkpoint holds them, wherever they came from; the same layers, new, are trained."""
    weights = {
        name: (random.normal(size=(3, 3, *channels)), random.normal(size=channels[1]))
        for name, channels in (("block1_conv1", (3, 4)), ("block3_conv1", (4, 8)))
    }
    network = main.layers(main.load_vgg(weights, SMALL_BLOCKS, head_channels=8), 2)
    before = {v.path: v.numpy() for v in network.weights}
    train_one_batch(tmp_path, network, one_batch((32, 64)), 1, 1, 1e-2)
    moved = {v.path for v in network.weights if not np.array_equal(v.numpy(), before[v.path])}
    assert set(before) - moved == {"block1_conv1/kernel", "block1_conv1/bias"}
    last = small_network()
    trainer.Training(last, functools.partial(main.optimize, last, 1e-2, 20), tmp_path)
    np.testing.assert_array_equal(
        last.get_layer("block1_conv1").kernel.numpy(), before["block1_conv1/kernel"]
    )


def test_a_run_goes_on_in_the_precision_it_began_with(narrow, drawn, tmp_path, monkeypatch):
    """It trains in it, on whatever machine, and answers in float32, in each epoch and later."""
    seen = []

    def watched(network, own, *others):
        seen.append([each.get_layer("block5_conv1").compute_dtype for each in (network, own)])
        return train(network, own, *others)

    train = main.train
    monkeypatch.setattr(main, "train", watched)
    for epochs, rate in ((1, 2e9), (2, 1e8)):
        set_rates(monkeypatch, 1e9, rate)
        assert run_kitti(drawn, tmp_path, "--epochs", epochs) == 0
    assert seen == [["bfloat16", "float32"]] * 2
    network, _, data_set, settings = main.load_network(tmp_path / "first")
    assert network.get_layer("fc6").compute_dtype == "float32"
    _, validation = data_set.split(data_set.find(drawn / "data_road")[0], 0)
    predict = predictor(network)
    loss = score_pictures(predict, validation, data_set, settings["image_shape"]).loss
    best = checkpoint.load(tmp_path / "first", print)[1].best
    assert loss == pytest.approx(best["val_loss"], rel=1e-5)


class StopAt(stopping.Stopping):
    """Wants to stop at the check of this number."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def check(self):
        self.left -= 1
        self.wish = signal.SIGTERM if self.left == 0 else None
        super().check()


def train_with_stops(folder, stops):
    """Train two epochs, started again after each stop. Returns all that is saved."""
    for stop in (*stops, None):
        network = small_network()
        with pytest.raises(StopRequest) if stop else contextlib.nullcontext():
            train_one_batch(
                folder, network, one_batch((32, 64)), 2, 2, 1e-3, StopAt(stop) if stop else None
            )
    arrays, progress = checkpoint.load(folder, print)
    assert len((folder / "log.csv").read_text().splitlines()) == 1 + 2
    rows = [row | {"seconds": None} for row in progress.history]
    return [*arrays.values(), *network.get_weights()], rows


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    return train_with_stops(tmp_path_factory.mktemp("undisturbed"), [])


@pytest.mark.parametrize("stops", [[3], [20], [21], [22], [30], [5, 9, 30]], ids=str)
def test_a_stopped_run_ends_as_an_undisturbed_one(stops, undisturbed, tmp_path):
    """Bit by bit, whether stopped at a step or in the validation (checks 21 and 22)."""
    (whole, rows), (resumed, other_rows) = undisturbed, train_with_stops(tmp_path, stops)
    assert rows == other_rows
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)


def state_files(folder):
    return {path.name for path in (folder / "checkpoint").glob("state_*")}


def test_nan_goes_back_three_times_and_then_gives_up(tmp_path, capsys):
    """Each time with half the rate; the pictures are named; nothing bad is saved."""
    network, batch, rates = small_network(), one_batch((32, 64)), []
    bias = network.get_layer("score_fc7").bias

    def get_batches_fn(batch_size, epoch, first):
        yield batch
        bias.assign(np.full(2, np.nan))  # behind every ReLU, which may hide what is no number
        yield batch

    get_batches_fn.names = Repeat(batch, 2).names

    def make_trainer(slowdown, parts):
        trainer = main.optimize(network, 1e-3, 10, slowdown, parts)
        rates.append(float(trainer.optimizer.learning_rate))
        return trainer

    state = trainer.Training(network, make_trainer, tmp_path)
    with pytest.raises(TrainingError, match=r"nan at epoch 1, step 2, on one two.*--learning"):
        main.train_nn(state, get_batches_fn, 1, 2, validate=None)
    assert np.allclose(np.array(rates) / rates[0], [1, 1 / 2, 1 / 4, 1 / 8])
    assert capsys.readouterr().out.count("back to epoch 1, step 0") == 3
    arrays, progress = checkpoint.load(tmp_path, print)
    assert progress.returns == 3 and all(np.isfinite(array).all() for array in arrays.values())
    assert json.loads((tmp_path / "settings.json").read_text()) == {"returns": 3}


def test_a_weight_that_is_no_number_is_never_saved(tmp_path):
    network = small_network()
    state = trainer.Training(network, functools.partial(main.optimize, network, 1e-3, 10), tmp_path)
    saved = state_files(tmp_path)
    network.get_layer("fc6").bias.assign(np.full(8, np.nan))
    with pytest.raises(LossError):
        state.save()
    assert state_files(tmp_path) == saved


def test_a_batch_that_does_not_fit_is_cut_and_its_gradients_added(tmp_path, monkeypatch, capsys):
    """Two steps end where those on the whole batch end; it is said once, and noted."""
    monkeypatch.setattr(main, "DROPOUT", dict.fromkeys(main.DROPOUT, 1e-9))
    pictures, labels = one_batch((32, 64))
    labels[0, :20] = VOID  # not as many valid pixels in each part
    weights, train_on_batch = {}, keras.Model.train_on_batch
    for name, limit in (("whole", 2), ("parts", 1)):

        def train_within(self, x, y, weights, limit=limit):
            if len(x) > limit:
                raise MemoryError
            return train_on_batch(self, x, y, weights)

        monkeypatch.setattr(keras.Model, "train_on_batch", train_within)
        (tmp_path / name).mkdir()
        network = small_network()
        make_trainer = functools.partial(main.optimize, network, 1e-3, 2)
        state = trainer.Training(network, make_trainer, tmp_path / name)
        main.train_nn(state, Repeat((pictures, labels), 2), 1, 2, even_tally)
        weights[name] = network.get_weights()
        arrays, progress = checkpoint.load(tmp_path / name, print)
        assert arrays["optimizer/0/iteration"] == 2 and progress.parts == 2 // limit
    for whole, parts in zip(*weights.values(), strict=True):
        np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert capsys.readouterr().out.count("cut into 2 parts") == 1
    assert json.loads((tmp_path / "parts" / "settings.json").read_text()) == {"parts": 2}
    resumed = trainer.Training(network, make_trainer, tmp_path / "parts")
    assert int(resumed.trainer.optimizer.iterations) == 2
    with pytest.raises(TrainingError, match="smaller --image-shape"):
        state.cut_batches("no memory", batch_size=2)

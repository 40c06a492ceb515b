"""Training goes on after whatever may happen in a step."""

import contextlib
import csv
import dataclasses
import json
import signal

import numpy as np
import pytest

import main
from main import keras
from roadseg import engine, stopping
from roadseg.answering.network import Predictor
from roadseg.data.pictures import VOID
from roadseg.errors import LossError, StopRequest, TrainingError, UserError
from roadseg.scoring.evaluation import score_pictures
from roadseg.training import checkpoint, plan, run_folder, trainer
from tests.small import (
    SMALL_RECIPE,
    WITHOUT_DROPOUT,
    Repeat,
    compiler,
    even_tally,
    one_batch,
    run_kitti,
    small_network,
    small_vgg,
    train_one_batch,
)

AT_ONCE = dataclasses.replace(WITHOUT_DROPOUT, warm_up_share=0.0)  # at the highest rate


def test_the_log_tells_the_mean_loss_and_the_first_of_equals_is_the_best(tmp_path, monkeypatch):
    """And training goes on from the last weights, not from the best."""
    network = small_network()
    taken, losses, take_step = [], [], trainer.take_step

    def recorded_step(*arguments):
        losses.append(take_step(*arguments))
        taken.append(network.get_weights())
        return losses[-1]

    monkeypatch.setattr(trainer, "take_step", recorded_step)
    state = trainer.Training(network, compiler(network, 1e-2), tmp_path)
    main.train_nn(state, Repeat(one_batch((32, 64)), 3), 2, 2, even_tally)
    assert len(taken) == 6
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    means = [np.mean(losses[:3]), np.mean(losses[3:])]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], means)
    for here, expected in zip(network.get_weights(), taken[-1], strict=True):
        np.testing.assert_array_equal(here, expected)
    network.load_weights(tmp_path / "best.weights.h5")
    for here, expected in zip(network.get_weights(), taken[2], strict=True):
        np.testing.assert_array_equal(here, expected)


def test_pretrained_edges_stay_as_they_are_and_outlive_a_kill(tmp_path, random):
    """A checkpoint holds them, wherever they came from; the same layers, new, are trained."""
    weights = {
        name: (random.normal(size=(3, 3, *channels)), random.normal(size=channels[1]))
        for name, channels in (("block1_conv1", (3, 4)), ("block3_conv1", (4, 8)))
    }
    network = main.layers(small_vgg(weights), 2, SMALL_RECIPE)
    before = {v.path: v.numpy() for v in network.weights}
    train_one_batch(tmp_path, network, one_batch((32, 64)), 1, 1e-2, steps=3, eagerly=True)
    moved = {v.path for v in network.weights if not np.array_equal(v.numpy(), before[v.path])}
    assert set(before) - moved == {"block1_conv1/kernel", "block1_conv1/bias"}
    others = {name: [np.zeros_like(array) for array in pair] for name, pair in weights.items()}
    last = main.layers(small_vgg(others), 2, SMALL_RECIPE)
    trainer.Training(last, compiler(last), tmp_path)
    np.testing.assert_array_equal(
        last.get_layer("block1_conv1").kernel.numpy(), before["block1_conv1/kernel"]
    )


@pytest.mark.slow
def test_a_run_goes_on_in_the_precision_it_began_with(narrow_vgg, drawn, tmp_path, monkeypatch):
    """It trains and validates in it, on whatever machine, and answers in float32."""
    seen, train = [], main.train

    def watched(job, *networks):
        seen.append([each.get_layer("block5_conv1").compute_dtype for each in networks[:2]])
        return train(job, *networks)

    monkeypatch.setattr(main, "train", watched)
    monkeypatch.setattr(plan, "faster_precision", engine.faster_precision)
    for epochs, rate in ((1, 2e9), (2, 1e8)):
        rates = {"float32": 1e9, "mixed_bfloat16": rate}
        monkeypatch.setattr(
            engine, "matrix_product_rate", lambda precision, r=rates, **_: r[precision]
        )
        assert run_kitti(drawn, tmp_path, "--vgg", narrow_vgg, "--epochs", epochs) == 0
    assert seen == [["bfloat16", "float32"]] * 2
    network, _, data_set, settings = main.load_network(tmp_path / "first")
    assert network.get_layer("fc6").compute_dtype == "float32"
    _, validation = data_set.split(data_set.find(drawn / "data_road")[0], 0)
    predict = Predictor(network)
    loss = score_pictures(predict, validation, data_set, settings["image_shape"]).loss
    best = checkpoint.load(tmp_path / "first", print)[1].best
    assert loss == pytest.approx(best["val_loss"], rel=1e-2)  # bfloat16 has 8 bits


@pytest.fixture
def float16(float32):
    keras.config.set_dtype_policy("mixed_float16")


def test_float16_trains_a_step_and_resumes(float16, tmp_path):
    """A step moves the weights; the scale of the loss is saved and comes back with them."""
    network, last = small_network(), small_network()
    assert network.get_layer("block5_conv1").compute_dtype == "float16"
    state = trainer.Training(network, compiler(network), tmp_path)
    before = network.get_weights()
    main.train_nn(state, Repeat(one_batch((32, 64)), 1), 1, 2, even_tally)
    for here, old in zip(network.get_weights(), before, strict=True):
        assert np.isfinite(here).all() and not np.array_equal(here, old)
    resumed = trainer.Training(last, compiler(last), tmp_path)
    here, there = state.variables(), resumed.variables()
    assert any("dynamic_scale" in name for name in here) and here.keys() == there.keys()
    for name, variable in here.items():
        one, other = map(keras.ops.convert_to_numpy, (variable, there[name]))
        np.testing.assert_array_equal(one, other, name)


def test_float16_can_be_asked_for_on_the_command_line(float16, narrow_vgg, drawn, tmp_path):
    """One step on one picture: it moves the weights, and the row of the log has numbers."""
    words = ("--vgg", narrow_vgg, "--precision", "mixed_float16", "--limit", 1, "--epochs", 1)
    assert run_kitti(drawn, tmp_path, *words) == 0
    arrays, progress = checkpoint.load(tmp_path / "first", pytest.fail)
    assert run_folder.earlier_settings(tmp_path / "first")["training_precision"] == words[3]
    (row,) = progress.history
    assert np.isfinite([row["loss"], row["val_loss"], row["val_max_f"]]).all()
    with np.load(narrow_vgg) as before:
        moved = [not np.array_equal(before[name], arrays[name]) for name in before]
        frozen = [name.startswith(("block1", "block2")) for name in before]
    assert moved == [not is_frozen for is_frozen in frozen]


class StopAt(stopping.Stopping):
    """Wants to stop at the check of this number."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def check(self):
        self.left -= 1
        self.requested = signal.SIGTERM if self.left == 0 else None
        super().check()


def train_with_stops(folder, stops, eagerly, epochs=2, steps=5, patience=0):
    """Train, started again after each stop. Returns all that is saved."""
    for stop in (*stops, None):
        network, stopper, batch = (
            small_network(),
            StopAt(stop) if stop else None,
            one_batch((32, 64)),
        )
        with pytest.raises(StopRequest) if stop else contextlib.nullcontext():
            train_one_batch(folder, network, batch, epochs, 1e-3, stopper, steps, eagerly, patience)
    arrays, progress = checkpoint.load(folder, print)
    assert len(run_folder.read_log(folder)) == len(progress.history)
    rows = [row | {"seconds": None} for row in progress.history]
    return [*arrays.values(), *network.get_weights()], rows


def assert_same(saved, others):
    """Bit by bit; of `train_with_stops`."""
    (arrays, rows), (other_arrays, other_rows) = saved, others
    assert rows == other_rows
    for one, other in zip(arrays, other_arrays, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What an undisturbed training saves: {eagerly: all of it}."""
    folders = {eagerly: tmp_path_factory.mktemp("undisturbed") for eagerly in (True, False)}
    return {eagerly: train_with_stops(folder, [], eagerly) for eagerly, folder in folders.items()}


@pytest.mark.parametrize(
    ("stops", "eagerly"),
    [([3], True), ([5], True), ([6], True), ([7], True), ([10], True), ([2, 2, 6], False)],
    ids=str,
)
def test_a_stopped_run_ends_as_an_undisturbed_one(stops, eagerly, undisturbed, tmp_path):
    """Bit by bit, whether stopped at a step or in the validation (checks 6 and 7)."""
    assert len(undisturbed[eagerly][1]) == 2
    assert_same(train_with_stops(tmp_path, stops, eagerly), undisturbed[eagerly])


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

    def compile_network(*arguments):
        compiled = compiler(network)(*arguments)
        rates.append(float(compiled.optimizer.learning_rate))
        return compiled

    state = trainer.Training(network, compile_network, tmp_path)
    with pytest.raises(TrainingError, match=r"nan at epoch 1, step 2, on one two.*--learning"):
        main.train_nn(state, get_batches_fn, 1, 2, validate=None)
    assert np.allclose(np.array(rates) / rates[0], [1, 1 / 2, 1 / 4, 1 / 8])
    assert capsys.readouterr().out.count("back to epoch 1, step 0") == 3
    arrays, progress = checkpoint.load(tmp_path, print)
    assert progress.returns == 3 and all(np.isfinite(array).all() for array in arrays.values())
    assert json.loads((tmp_path / "settings.json").read_text()) == {"returns": 3}


def test_a_weight_that_is_no_number_is_never_saved(tmp_path):
    network = small_network()
    state = trainer.Training(network, compiler(network), tmp_path)
    saved = state_files(tmp_path)
    network.get_layer("fc6").bias.assign(np.full(8, np.nan))
    with pytest.raises(LossError):
        state.save()
    assert state_files(tmp_path) == saved


def test_a_batch_that_does_not_fit_is_cut_and_its_gradients_added(tmp_path, monkeypatch, capsys):
    """Two steps end where those on the whole batch end; it is said once, and noted."""
    pictures, labels = one_batch((32, 64))
    labels[0, :20] = VOID  # not as many valid pixels in each slice
    weights, train_on_batch = {}, keras.Model.train_on_batch
    for name, limit in (("whole", 2), ("slices", 1)):

        def train_within(self, x, y, weights, limit=limit):
            if len(x) > limit:
                raise MemoryError
            return train_on_batch(self, x, y, weights)

        monkeypatch.setattr(keras.Model, "train_on_batch", train_within)
        (tmp_path / name).mkdir()
        network = small_network(recipe=WITHOUT_DROPOUT)
        compile_network = compiler(network, 1e-3, 1000, AT_ONCE)
        state = trainer.Training(network, compile_network, tmp_path / name)
        main.train_nn(state, Repeat((pictures, labels), 2), 1, 2, even_tally)
        weights[name] = network.get_weights()
        arrays, progress = checkpoint.load(tmp_path / name, print)
        assert arrays["optimizer/0/iteration"] == 2 and progress.slices == 2 // limit
    for whole, sliced in zip(*weights.values(), strict=True):
        np.testing.assert_allclose(sliced, whole, atol=1e-5)
    assert capsys.readouterr().out.count("cut into 2 slices") == 1
    assert json.loads((tmp_path / "slices" / "settings.json").read_text()) == {"slices": 2}
    resumed = trainer.Training(network, compile_network, tmp_path / "slices")
    assert int(resumed.compiled.optimizer.iterations) == 2
    with pytest.raises(TrainingError, match="smaller --image-shape"):
        state.cut_batches("no memory", batch_size=2)


def test_the_checkpoint_of_another_network_is_refused_by_name(tmp_path):
    """Before anything of it is taken over."""
    one, other = small_network(), small_network(recipe=WITHOUT_DROPOUT)
    trainer.Training(one, compiler(one), tmp_path)
    other.get_layer("fc6").bias.assign(np.full(8, 7.0))
    with pytest.raises(
        UserError, match=r"another network \((fc6|fc7|pool.)_dropout/seed is not in"
    ):
        trainer.Training(other, compiler(other), tmp_path)
    np.testing.assert_array_equal(other.get_layer("fc6").bias.numpy(), 7.0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda array: np.pad(array, (0, 1)),
        lambda array: array.astype(np.float64),
        lambda array: array.reshape(2, 4),
    ],
    ids=["longer", "of another dtype", "of another shape"],
)
def test_a_state_with_another_shape_or_dtype_is_refused(spoil, tmp_path):
    """By the name of the array, before anything is taken over."""
    network = small_network()
    state = trainer.Training(network, compiler(network), tmp_path)
    arrays, _ = checkpoint.load(tmp_path, pytest.fail)
    before = network.get_weights()
    arrays |= {"fc6/kernel": np.zeros_like(arrays["fc6/kernel"])}
    arrays["fc7/bias"] = spoil(arrays["fc7/bias"])
    with pytest.raises(UserError, match=r"another network \(fc7/bias"):
        state.assign(arrays)
    for here, expected in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(here, expected)

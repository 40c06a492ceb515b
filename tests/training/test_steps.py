"""Steps that are not waited for are the steps that are."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

import helper
import main
from main import keras
from roadseg.data.finding import join
from roadseg.errors import LossError
from roadseg.training import device_data, trainer
from roadseg.training.steps import StepsAhead, take_step
from tests.small import (
    KITTI,
    WITHOUT_DROPOUT,
    Repeat,
    compiler,
    even_tally,
    one_batch,
    run_kitti,
    small_network,
)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(device_data, "device_kind", lambda: "gpu")


def test_steps_ahead_end_where_steps_that_are_waited_for_end():
    """The last of a batch of three is fill, whatever it shows; three steps, loss by loss."""
    pictures, labels = one_batch((32, 64))
    filled = np.concatenate([pictures, 255 - pictures[:1]]), np.concatenate([labels, labels[:1]])
    weights, losses = [], []
    for ahead in (False, True):
        network = small_network(recipe=WITHOUT_DROPOUT)
        compiled = compiler(network, 1e-3, 1000, WITHOUT_DROPOUT)()
        compiled.optimizer.build(compiled.trainable_variables)
        if ahead:
            step = StepsAhead(compiled)
            taken = [step(*map(keras.ops.convert_to_tensor, filled), 2) for _ in range(3)]
            losses.append([wait() for wait in taken])
            step.settle()
        else:
            losses.append([take_step(compiled, pictures, labels) for _ in range(3)])
        weights.append(network.get_weights())
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][0] > losses[0][2]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_loss_that_is_nan_is_told_at_its_own_step_though_later(tmp_path):
    """With the pictures of this step and of the one before."""
    network, batch = small_network(), one_batch((32, 64))
    state = trainer.Training(network, compiler(network), tmp_path, is_ahead=True)
    bias = network.get_layer("score_fc7").bias
    for number in range(4):
        if number == 2:
            bias.assign(np.full(2, np.nan))
        state.step(*map(keras.ops.convert_to_tensor, batch), [f"one_{number}", f"two_{number}"])
    assert math.isnan(state.last_loss)
    with pytest.raises(
        LossError, match=r"nan at epoch 1, step 3, on one_2 two_2 or.* one_1 two_1$"
    ):
        state.settle()


def test_the_data_that_stay_on_a_gpu_make_the_same_batches(drawn, as_on_a_gpu):
    """As on a processor, but for rounding; the last one is filled up, the names are not."""
    samples, _ = KITTI.find(drawn / "data_road")
    batches = helper.gen_batch_function(samples, KITTI, (32, 64), 3, main.RECIPE)
    assert batches.is_on_device
    there = [list(map(keras.ops.convert_to_numpy, batch)) for batch in batches(4, 2)]
    batches.is_on_device = False
    here = list(batches(4, 2))
    assert [len(labels) for _, labels in there] == [4] * 4
    assert [len(batches.names(4, 2, number)) for number in range(4)] == [4, 4, 4, 3]
    for (pictures, labels), (others, other_labels) in zip(here, there, strict=True):
        assert (labels == other_labels[: len(labels)]).mean() > 0.99
        difference = np.abs(pictures.astype(int) - others[: len(pictures)])
        assert difference.mean() < 1


@pytest.mark.parametrize(
    ("pictures", "memory", "devices", "kept"),
    [
        (10_000, {}, 1, True),  # 3.7 GB at 160x576
        (12_000, {}, 1, False),
        (10_000, {"bytes_limit": 8e9}, 1, False),
        (10_000, {"bytes_limit": 80e9}, 1, True),
        (10_000, {}, 2, False),
    ],
)
def test_data_stay_on_a_gpu_that_has_room(
    pictures, memory, devices, kept, as_on_a_gpu, monkeypatch
):
    monkeypatch.setattr(device_data, "gpu_memory", lambda: memory)
    team = SimpleNamespace(devices=devices)
    assert device_data.belongs_on_device(pictures * 160 * 576, team) == kept


def test_joined_data_sets_keep_their_shapes_on_a_gpu(drawn, as_on_a_gpu):
    root = drawn / "data_road"
    joined = join({"one": (KITTI, root), "two": (KITTI, root)})
    joined = dataclasses.replace(joined, shapes={"one": (32, 64), "two": (64, 32)})
    samples, _ = joined.find(root)
    batches = helper.gen_batch_function(samples, joined, (32, 64), 0, main.RECIPE)
    for number, (pictures, labels) in enumerate(batches(4, 1)):
        data_set = batches.names(4, 1, number)[0].split("/")[0]
        expected = {"one": (4, 32, 64), "two": (4, 64, 32)}[data_set]
        assert tuple(labels.shape) == expected and tuple(pictures.shape) == (*expected, 3)


@pytest.mark.slow
def test_a_run_whose_data_stay_on_a_gpu_and_its_resume(drawn, narrow_vgg, tmp_path, as_on_a_gpu):
    """From the command line; the log has as many finite rows as epochs."""
    words = ("--vgg", narrow_vgg, "--limit", 5)
    for epochs in (1, 3):
        assert run_kitti(drawn, tmp_path, *words, "--epochs", epochs) == 0
    rows = trainer.run_folder.read_log(tmp_path / "first")
    assert len(rows) == 3 and all(math.isfinite(float(row["loss"])) for row in rows)


def test_checkpoints_between_epochs_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    """By a clock on which a save takes 2 s and an epoch 25: the fifth is saved, and the last.

    The best weights are those of the best epoch, though later ones came before they were written.
    """
    network, now, saves = small_network(), [0.0], []
    save, finish = trainer.Training._save_finite, trainer.Training.finish_epoch

    def passing(function, seconds):
        def timed(self, *arguments):
            now[0] += seconds
            if seconds == 2:
                saves.append(len(self.progress.history))
            return function(self, *arguments)

        return timed

    monkeypatch.setattr(trainer.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(trainer.Training, "_save_finite", passing(save, 2))
    monkeypatch.setattr(trainer.Training, "finish_epoch", passing(finish, 25))
    state = trainer.Training(network, compiler(network, 1e-2), tmp_path)
    seen, scores = [], [30, 70, 90, 20, 50, 60, 10]

    def validate():
        seen.append(network.get_weights())
        return even_tally()

    monkeypatch.setattr(trainer, "selection_score", lambda row: scores[row["epoch"] - 1])
    main.train_nn(state, Repeat(one_batch((32, 64)), 1), 7, 2, validate)
    assert saves == [0, 5, 7]
    network.load_weights(tmp_path / "best.weights.h5")
    for here, expected in zip(network.get_weights(), seen[2], strict=True):
        np.testing.assert_array_equal(here, expected)

"""A time budget: what an epoch takes, how many fit, and that timing leaves no trace."""

import signal
from types import SimpleNamespace

import numpy as np
import pytest

import main
from roadseg.devices import ONE_DEVICE
from roadseg.errors import MemoryShortError, StopRequest, UserError
from roadseg.training import budget, checkpoint, run_folder, trainer
from tests.small import Repeat, compiler, error_line, one_batch, run_kitti, small_network

STEP, COMPILING, SAVE, VALIDATION = 4, 20, 3, 10  # seconds


class Clock:
    """Goes on by what is done; nobody waits."""

    def __init__(self):
        self.now = 0

    def monotonic(self):
        return self.now

    def passing(self, *seconds):
        """Make a function whose calls take these seconds, the last of them again and again."""
        left = list(seconds)

        def work(*_):
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


def job_of(folder, minutes):
    """A run of 30 training and 8 validation pictures, two a step."""
    split = SimpleNamespace(parts=(range(30), range(8), ()))
    settings = {"pictures_a_step": 2, "minutes": minutes}
    return SimpleNamespace(folder=folder, settings=settings, split=split, team=ONE_DEVICE)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)
    return clock


@pytest.fixture
def training(clock):
    return SimpleNamespace(
        save=clock.passing(SAVE),
        step=clock.passing(COMPILING, STEP),
        settle=lambda: None,
        team=ONE_DEVICE,
    )


def test_an_epoch_is_its_steps_its_validation_and_its_save(clock, training, tmp_path):
    """What compiles is paid once more, when the training begins."""
    validate = clock.passing(COMPILING, VALIDATION)
    batches = Repeat((None, None), 3)
    start, epoch = budget.measure(job_of(tmp_path, 9), training, batches, validate)
    rest = 30 / 2 * STEP + VALIDATION
    assert epoch == rest + 0.02 * rest  # where saves would take more, 4/3 of one
    steps = -(-budget.TIMED_SECONDS // STEP)
    assert start == SAVE + COMPILING + steps * STEP + COMPILING + VALIDATION + 2 * COMPILING


def test_of_a_quick_save_four_thirds_count(clock, training, tmp_path):
    """Of the state and of the best weights, a third as large; not 2 % of the time."""
    training.save = clock.passing(0.3)
    validate = clock.passing(COMPILING, VALIDATION)
    _, epoch = budget.measure(job_of(tmp_path, 9), training, Repeat((None, None), 3), validate)
    assert epoch == pytest.approx(30 / 2 * STEP + VALIDATION + 0.4)


def test_a_batch_that_does_not_fit_is_cut_before_an_epoch_is_timed(
    clock, training, tmp_path, capsys
):
    def fail(*_):
        raise MemoryShortError("no memory")

    training.step = fail
    training.cut_batches = lambda *_: setattr(training, "step", clock.passing(STEP))
    validate, batches = clock.passing(VALIDATION), Repeat((None, None), 3)
    assert budget.fit_epochs(job_of(tmp_path, 5), training, batches, validate) == 3
    assert run_folder.earlier_settings(tmp_path)["epochs"] == 3
    assert "epochs of 71.4 s: 3 fit into 5 min" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_while_steps_are_timed_is_left_to_the_training(
    tmp_path, monkeypatch
):
    """Which returns to the state before, with half the learning rate."""
    monkeypatch.setattr(budget, "TIMED_SECONDS", 0)
    network, batch = small_network(), one_batch((32, 64))
    training = trainer.Training(network, compiler(network), tmp_path)
    network.get_layer("score_fc7").bias.assign(np.full(2, np.nan))
    batches = budget.endless(Repeat(batch, 3), 2)
    assert budget.try_step(training, next(batches)) == 2
    budget.settle(training)
    assert budget.seconds_a_picture(training, batches) > 0
    assert np.isnan(network.get_layer("score_fc7").bias).all()


@pytest.mark.parametrize(("minutes", "epochs"), [(4.2, 1), (5.99, 1), (6, 2), (60, 29)])
def test_as_many_epochs_as_fit_are_trained(minutes, epochs, tmp_path):
    assert budget.decide(job_of(tmp_path, minutes), start=120, epoch=120) == epochs


def test_too_few_minutes_are_told_what_an_epoch_takes(tmp_path):
    expected = (
        "--minutes 2: one epoch takes 1.50 minutes here, and the start 0.67; give "
        f"--run {tmp_path.name} and --minutes 2.2"
    )
    with pytest.raises(UserError, match=expected):
        budget.decide(job_of(tmp_path, 2), start=40, epoch=90)
    assert not list(tmp_path.iterdir())


def saved_by(folder):
    """All weights and rows that a run saved; of the rows not the seconds."""
    arrays, progress = checkpoint.load(folder, print)
    return arrays, [row | {"seconds": None} for row in progress.history]


@pytest.mark.slow
def test_a_timed_run_ends_as_one_that_was_told_its_epochs(
    drawn, narrow_vgg, tmp_path, monkeypatch, capsys
):
    """Bit by bit: refused at first, stopped after it was timed, and after it was decided."""
    measure, train_nn, epoch_seconds = budget.measure, main.train_nn, [100, 60, 20]

    def measured(*arguments):
        measure(*arguments)
        if (seconds := epoch_seconds.pop(0)) == 60:
            raise StopRequest(signal.SIGTERM)
        return 0, seconds

    def stop_at_once(*_):
        raise StopRequest(signal.SIGTERM)

    def run(folder, *more):
        return run_kitti(drawn, tmp_path / folder, "--vgg", narrow_vgg, *more)

    monkeypatch.setattr(budget, "TIMED_SECONDS", 0)
    monkeypatch.setattr(budget, "measure", measured)
    monkeypatch.setattr(main, "train_nn", stop_at_once)
    assert run("timed", "--minutes", 1) == 2
    assert "give --run first and --minutes 1.7 or more" in error_line(capsys)
    for is_decided in (False, True):
        assert run("timed", "--minutes", 0.7) == 143
        settings = run_folder.earlier_settings(tmp_path / "timed" / "first")
        assert settings["epochs"] == (2 if is_decided else None)
    monkeypatch.setattr(main, "train_nn", train_nn)
    assert run("timed") == run("told", "--epochs", 2) == 0
    (arrays, rows), (others, other_rows) = (
        saved_by(tmp_path / name / "first") for name in ("timed", "told")
    )
    assert rows == other_rows and len(rows) == 2 and arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], name)


def test_minutes_that_come_too_late_are_refused(trained, drawn, narrow_vgg, capsys):
    words = ("--vgg", narrow_vgg, "--minutes", 5)
    assert run_kitti(drawn, trained.parent, *words) == 2
    assert "--minutes 5 comes too late, this run has --epochs 1" in error_line(capsys)

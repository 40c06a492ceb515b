"""Checkpoints are whole or not there."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import main
from roadseg.errors import TrainingError, UserError
from roadseg.stopping import Stopping
from roadseg.training import checkpoint, trainer
from tests.small import Repeat, compiler, even_tally, one_batch, small_network


def small_state(saves):
    """Arrays and Progress whose content tells which save they are of."""
    progress = checkpoint.Progress(step=saves + 1, saves=saves + 1)
    return {"weights": np.full(1000, saves + 1.0), "optimizer/0/iteration": np.int64(7)}, progress


def save_three_states(folder):
    for saves in range(3):
        arrays, progress = small_state(saves)
        checkpoint.save_best(folder, lambda path: path.write_text("best"), saves, progress)
        checkpoint.save(folder, arrays, progress)


@pytest.fixture
def saved(tmp_path):
    """The folder of a run with three states saved."""
    save_three_states(tmp_path)
    return tmp_path


def test_the_newest_two_states_and_the_best_are_kept(saved):
    names = {path.name for path in (saved / "checkpoint").iterdir()}
    assert names == {
        "manifest.json",
        "state_000002.npz",
        "state_000003.npz",
        "best_0001.weights.h5",
        "best_0002.weights.h5",
    }
    manifest = json.loads((saved / "checkpoint" / "manifest.json").read_text())
    for state in manifest["states"]:
        for name, digest in state["files"].items():
            content = (saved / "checkpoint" / name).read_bytes()
            assert digest == hashlib.sha256(content).hexdigest()
    arrays, progress = checkpoint.load(saved, print)
    np.testing.assert_array_equal(arrays["weights"], 3.0)
    assert progress.step == 3 and (saved / "best.weights.h5").read_text() == "best"
    checkpoint.publish(saved, progress)
    assert {path.name for path in saved.iterdir()} == {"checkpoint", "log.csv", "best.weights.h5"}


@pytest.mark.parametrize("name", ["state_000003.npz", "best_0002.weights.h5"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"?" + path.read_bytes()[1:]),
    ],
    ids=["missing", "cut", "changed"],
)
def test_a_damaged_state_is_said_and_the_one_before_it_used(saved, name, damage):
    damage(saved / "checkpoint" / name)
    lines = []
    arrays, progress = checkpoint.load(saved, lines.append)
    assert progress.step == 2 and arrays["weights"][0] == 2.0
    assert len(lines) == 1 and name in lines[0]
    checkpoint.save(saved, *small_state(7))
    (saved / "checkpoint" / "state_000008.npz").unlink()
    assert checkpoint.load(saved, lines.append)[1].step == 2


def test_without_a_whole_state_or_with_a_foreign_one_one_line_says_so(saved):
    for path in (saved / "checkpoint").glob("state_*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="every other state"):
        checkpoint.load(saved, print)
    manifest = saved / "checkpoint" / "manifest.json"
    for format in (1, 2, 4):
        manifest.write_text(f'{{"format": {format}, "states": []}}')
        with pytest.raises(UserError, match="another version"):
            checkpoint.load(saved, print)
    manifest.write_text('{"format": 3, ')
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        checkpoint.load(saved, print)


def save_until(folder, count):
    """Save a fourth state; cut it off at the system call after `count`. Returns the calls made."""
    calls = []

    def last_at(name, function):
        def call(*arguments, **options):
            if len(calls) == count:
                raise KeyboardInterrupt
            calls.append(name)
            return function(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        for name in ("replace", "fsync", "unlink", "link"):
            patch.setattr(os, name, last_at(name, getattr(os, name)))
        patch.setattr(np, "savez", last_at("savez", np.savez))
        arrays, progress = small_state(3)
        checkpoint.save_best(folder, lambda path: path.write_text("best"), 3, progress)
        checkpoint.save(folder, arrays, progress)
        return [*calls, "end"]
    return calls


def test_a_save_that_is_cut_off_anywhere_leaves_a_whole_state(tmp_path):
    """Every system call that changes the disk is tried as the last one, until none is left."""
    steps = []
    for count in itertools.count():
        folder = tmp_path / str(count)
        folder.mkdir()
        save_three_states(folder)
        calls = save_until(folder, count)
        arrays, progress = checkpoint.load(folder, pytest.fail)
        assert arrays["weights"][0] == progress.step
        steps.append(progress.step)
        if "end" in calls:
            break
    assert set(calls) == {"savez", "fsync", "replace", "unlink", "link", "end"}
    assert steps == sorted(steps) and set(steps) == {3, 4}


def test_a_full_disk_ends_training_and_keeps_what_was_saved(tmp_path, monkeypatch):
    network = small_network()
    state = trainer.Training(network, compiler(network), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def write_half(path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(np, "savez", write_half)
    with pytest.raises(TrainingError, match="No space left on device; what was saved"):
        main.train_nn(state, Repeat(one_batch((32, 64)), 1), 1, 2, even_tally)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {path.name for path in before} | {"best_0001.weights.h5"}
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_state_is_written_while_steps_are_taken_and_holds_none_of_them(tmp_path, monkeypatch):
    """As the weights and the counts were when it was saved; a later save waits for it."""
    network, batch, may_write = small_network(), one_batch((32, 64)), threading.Event()
    state = trainer.Training(network, compiler(network, 1e-2), tmp_path)
    before, save = network.get_weights(), checkpoint.save

    def wait_and_save(*arguments):
        assert may_write.wait(timeout=60)
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", wait_and_save)
    state.save(in_background=True)
    state.step(*batch, ["one", "two"])
    state.settle()
    assert checkpoint.load(tmp_path, pytest.fail)[1].saves == 1
    may_write.set()
    state.wait_for_writing()
    arrays, progress = checkpoint.load(tmp_path, pytest.fail)
    assert (progress.saves, progress.step) == (2, 0)
    moved = []
    for variable, expected in zip(network.weights, before, strict=True):
        np.testing.assert_array_equal(arrays[variable.path], expected)
        moved.append(not np.array_equal(variable, expected))
    assert any(moved)
    state.save(in_background=True)
    state.save()
    assert checkpoint.load(tmp_path, pytest.fail)[1].saves == 4


@pytest.mark.parametrize("signal_number", [None, signal.SIGTERM])
def test_what_fails_in_the_background_is_tried_again(signal_number, tmp_path, monkeypatch):
    """By the next save, which is waited for: if it fails, too, training ends, or its stop does."""
    network, stopping = small_network(), Stopping()
    stopping.requested = signal_number
    state = trainer.Training(network, compiler(network), tmp_path)

    def train():
        return main.train_nn(state, Repeat(one_batch((32, 64)), 1), 1, 2, even_tally, stopping)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda *_, **__: os.write(-1, b""))  # no such descriptor
        state.save(in_background=True)
        with pytest.raises(TrainingError, match="Bad file descriptor; what was saved before is"):
            train()
        state.save(in_background=True)
        assert state.writing.exception(timeout=60)
    assert checkpoint.load(tmp_path, pytest.fail)[1].saves == 1
    state.save(in_background=True)
    assert checkpoint.load(tmp_path, pytest.fail)[1].saves == 5


def test_a_folder_that_vanished_ends_training_with_one_line(tmp_path):
    network, folder = small_network(), tmp_path / "run"
    folder.mkdir()
    state = trainer.Training(network, compiler(network), folder)

    def vanish():
        shutil.rmtree(folder)
        return even_tally()

    with pytest.raises(TrainingError, match="No such file or directory"):
        main.train_nn(state, Repeat(one_batch((32, 64)), 1), 1, 2, vanish)

"""Checkpoints are whole or not there."""

import errno
import functools
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import main
from roadseg.errors import TrainingError, UserError
from roadseg.training import checkpoint, trainer
from tests.small import Repeat, even_tally, one_batch, small_network


def small_state(saves):
    """Arrays and Progress whose content tells which save they are of."""
    progress = checkpoint.Progress(step=saves + 1, saves=saves)
    return {"weights": np.full(1000, saves + 1.0), "optimizer/0/iteration": np.int64(7)}, progress


@pytest.fixture
def saved(tmp_path):
    """The folder of a run with three states saved."""
    for saves in range(3):
        arrays, progress = small_state(saves)
        checkpoint.save_best(tmp_path, lambda path: path.write_text("best"), saves, progress)
        checkpoint.save(tmp_path, arrays, progress)
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
    manifest.write_text('{"format": 1, "files": {}}')
    with pytest.raises(UserError, match="another version"):
        checkpoint.load(saved, print)
    manifest.write_text('{"format": 2, ')
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        checkpoint.load(saved, print)


@pytest.mark.parametrize("step", range(1, 8))
def test_a_save_that_is_cut_off_anywhere_leaves_a_whole_state(saved, step, monkeypatch):
    """Every system call that changes the disk is tried as the last one."""
    calls = []

    def last_at(function):
        def call(*arguments, **options):
            calls.append(function)
            if len(calls) > step:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    arrays, progress = small_state(3)
    with monkeypatch.context() as patched:
        for name in ("replace", "fsync", "unlink", "link"):
            patched.setattr(os, name, last_at(getattr(os, name)))
        patched.setattr(np, "savez", last_at(np.savez))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(saved, arrays, progress)
    arrays, progress = checkpoint.load(saved, print)
    assert progress.step in (3, 4) and arrays["weights"][0] == progress.step


def test_a_full_disk_ends_training_and_keeps_what_was_saved(tmp_path, monkeypatch):
    network = small_network()
    make_trainer = functools.partial(main.optimize, network, 1e-3, 10)
    state = trainer.Training(network, make_trainer, tmp_path)
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


def test_a_folder_that_vanished_ends_training_with_one_line(tmp_path):
    network, folder = small_network(), tmp_path / "run"
    folder.mkdir()
    state = trainer.Training(network, functools.partial(main.optimize, network, 1e-3, 10), folder)

    def vanish():
        shutil.rmtree(folder)
        return even_tally()

    with pytest.raises(TrainingError, match="No such file or directory"):
        main.train_nn(state, Repeat(one_batch((32, 64)), 1), 1, 2, vanish)

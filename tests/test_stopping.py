"""Runs that are killed and stopped end as if nothing had happened."""

import csv
import functools
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from roadseg.training import checkpoint
from tests.small import HERE, narrow_weights, needs_jax


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_program_at_once(number):
    """The first is a request, while a step of a minute is under way; the second does not wait."""
    code = (
        "import time\nfrom roadseg import stopping\n"
        "with stopping.Stopping() as stop, stop.deferred():\n"
        "    print('ready', flush=True)\n"
        "    deadline = time.monotonic() + 60\n"
        "    while time.monotonic() < deadline: time.sleep(1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=HERE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.readline()
    process.send_signal(number)
    while "what is done is kept" not in process.stderr.readline():
        pass
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number


@pytest.fixture(scope="module")
def start_run(drawn, tmp_path_factory):
    """Make a function that starts a run in a process of its own, with its output in folder/log.

    fc7 is wide, so that a state of 20 MB takes a while to be saved, and the steps do not.
    """
    vgg = tmp_path_factory.mktemp("vgg") / "wide_head.npz"
    np.savez(vgg, **narrow_weights(head_channels=1024))
    code = (
        "import main, sys\nfrom roadseg.training import trainer\n"
        "trainer.SAVE_SECONDS = float(sys.argv[1])\nsys.exit(main.main(sys.argv[2:]))"
    )

    def start(folder, name, epochs, save_seconds, environment=()):
        folders = ["--data-dir", drawn, "--runs-dir", folder, "--run", name, "--vgg", vgg]
        numbers = ["--image-shape", 32, 96, "--batch-size", 2, "--epochs", epochs]
        words = [str(word) for word in (save_seconds, "--dataset", "kitti", *folders, *numbers)]
        with (folder / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, *words],
                cwd=HERE,
                stdout=log,
                stderr=log,
                env=os.environ | dict(environment),
            )

    return start


def disturb(process, checkpoints, random, number, in_a_save):
    """Send a signal at a random moment of the training, or in the middle of a save."""
    manifest = checkpoints / "manifest.json"
    before = manifest.stat().st_mtime_ns if manifest.exists() else 0
    while process.poll() is None and not (
        manifest.exists() and manifest.stat().st_mtime_ns > before
    ):
        time.sleep(0.01)
    time.sleep(random.uniform(0, 1))
    while in_a_save and process.poll() is None and not list(checkpoints.glob("partial.*")):
        time.sleep(0.001)
    process.send_signal(number)
    process.wait()
    return bool(list(checkpoints.glob("partial.*")))


def results_of(folder):
    """Everything that has to be equal: arrays of weights, scores, log but for its seconds."""
    rows = list(csv.DictReader((folder / "log.csv").open()))
    arrays, _ = checkpoint.load(folder, print)
    with h5py.File(folder / checkpoint.BEST) as file:
        file.visititems(
            lambda name, item: (
                arrays.update({name: np.asarray(item)}) if isinstance(item, h5py.Dataset) else None
            )
        )
    texts = [{name: row[name] for name in row if name != "seconds"} for row in rows]
    pictures = {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}
    return arrays, [texts, (folder / "metrics.json").read_text(), pictures]


def compare_disturbed_with_undisturbed(start_run, folder, number, times, epochs, environment=()):
    """Send a signal to a run many times. Returns the exit statuses and the number of cut saves."""
    start = functools.partial(start_run, folder, epochs=epochs, environment=environment)
    assert start("whole", save_seconds=1e9).wait() == 0
    random, statuses, in_saves = np.random.default_rng(0), [], 0
    while not statuses or statuses[-1] != 0:
        is_disturbed = len(statuses) < times
        process = start("disturbed", save_seconds=0.3 if is_disturbed else 1e9)
        if is_disturbed:
            in_a_save = len(statuses) % 3 == 0 and number == signal.SIGKILL
            checkpoints = folder / "disturbed" / "checkpoint"
            in_saves += disturb(process, checkpoints, random, number, in_a_save)
        statuses.append(process.wait())
    print(f"{len(statuses) - 1} times disturbed, {in_saves} times in a save: {statuses}")
    whole, texts = results_of(folder / "whole")
    disturbed, other_texts = results_of(folder / "disturbed")
    assert whole.keys() == disturbed.keys() and texts == other_texts
    for name in whole:
        np.testing.assert_array_equal(whole[name], disturbed[name], name)
    return statuses, in_saves


@pytest.mark.slow
def test_a_run_killed_twelve_times_ends_as_if_undisturbed(start_run, tmp_path):
    statuses, in_saves = compare_disturbed_with_undisturbed(
        start_run, tmp_path, signal.SIGKILL, times=12, epochs=36
    )
    assert statuses == [-signal.SIGKILL] * 12 + [0] and in_saves >= 3


@pytest.mark.slow
def test_a_run_terminated_three_times_ends_as_if_undisturbed(start_run, tmp_path):
    statuses, _ = compare_disturbed_with_undisturbed(
        start_run, tmp_path, signal.SIGTERM, times=3, epochs=9
    )
    assert statuses == [143] * 3 + [0]


@needs_jax
@pytest.mark.slow
def test_a_run_on_jax_killed_three_times_ends_as_if_undisturbed(start_run, tmp_path):
    environment = {"KERAS_BACKEND": "jax"}
    statuses, _ = compare_disturbed_with_undisturbed(
        start_run, tmp_path, signal.SIGKILL, 3, 9, environment
    )
    assert statuses == [-signal.SIGKILL] * 3 + [0]


STOPPED_OUTSIDE_OF_TRAINING = """
import ctypes, pathlib, sys, tempfile, time
from roadseg.command_line import exit_status
from roadseg.files import written_whole

def wait():
    if sys.argv[2] == "deaf":  # in a library, which no signal wakes
        lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
        library.pthread_mutex_lock(lock), library.pthread_mutex_lock(lock)
    time.sleep(60)

def work(stopping):
    folder = pathlib.Path(sys.argv[1])
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix="partial.") as unfinished,
        stopping.removing(unfinished),
        written_whole(folder / "a.zip") as part,
        stopping.removing(part),
    ):
        part.write_text("half")
        pathlib.Path(unfinished, "model").write_text("half")
        print("ready", flush=True)
        wait()

sys.exit(exit_status(work))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ears", ["listening", "deaf"])
def test_a_signal_outside_of_training_removes_what_is_unfinished(ears, number, tmp_path):
    """And ends the program soon, even where a library does not give way."""
    command = [sys.executable, "-c", STOPPED_OUTSIDE_OF_TRAINING, tmp_path, ears]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=HERE, text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)  # until it waits
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []

"""Several devices and machines train as one."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from main import keras
from roadseg import devices as module_devices
from roadseg.training import checkpoint
from tests.small import HERE, error_line, needs_jax, run_main

# Several devices drop the same places of different pictures. So small a rate, because Adam's first
# steps make much of the rounding of small gradients; a run's own grows with the root of its batch.
CHANGES = {"head_channels": 8, "skip_dropout": 0.0, "pool5_dropout": 0.0, "head_dropout": 0.0}
RATE = 1e-9
ON_JAX = """
import sys
import main
from roadseg.training import trainer
from tests.test_devices import CHANGES
trainer.SAVE_SECONDS = 2
sys.exit(main.main(sys.argv[1:], CHANGES))
"""


def words_of_run(name, data_dir, runs_dir, vgg, epochs, batch_size, *more):
    """Return the command line of a run on seven pictures, so that its last batch is an odd one.

    Of its "pretrained" network a part stands still, as of the real one.
    """
    folders = ["--data-dir", data_dir, "--runs-dir", runs_dir, "--run", name, "--vgg", vgg]
    numbers = ["--image-shape", 32, 96, "--limit", 7, "--epochs", epochs]
    rate = RATE * np.sqrt(batch_size / 4)
    numbers += ["--batch-size", batch_size, "--learning-rate", rate, "--precision", "float32"]
    return [str(word) for word in ("--dataset", "kitti", *folders, *numbers, *more)]


class Teams:
    """Starts trainings on JAX, of one process or of several, which share what they compile."""

    def __init__(self, folder, data_dir, vgg):
        self.folder, self.data_dir, self.vgg = folder, data_dir, vgg
        self.started = []

    def start(self, name, devices=1, processes=1, batch_size=4, epochs=6, data_dir=None):
        """Start the processes of a training. Returns them."""
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = server.getsockname()[1]
        data_dir = data_dir or self.data_dir
        words = words_of_run(name, data_dir, self.folder, self.vgg, epochs, batch_size)
        several = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
        }
        environment = os.environ | {
            "KERAS_BACKEND": "jax",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
        for process in range(processes):
            told = several | {"JAX_PROCESS_ID": str(process)} if processes > 1 else {}
            command = [sys.executable, "-c", ON_JAX, *words]
            started = subprocess.Popen(command, cwd=HERE, env=environment | told, **pipes)
            self.started.append(started)
        return self.started[-processes:]


@pytest.fixture(scope="module")
def teams(narrow_vgg, drawn, tmp_path_factory):
    teams = Teams(tmp_path_factory.mktemp("jax"), drawn, narrow_vgg)
    yield teams
    for process in teams.started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def alone(teams):
    """The folder of a training on one device of JAX."""
    finish_team(teams.start("alone"))
    return teams.folder / "alone"


def finish_team(team, status=0):
    """Wait for the processes of a training. Returns the last line that each wrote."""
    written = [process.communicate(timeout=300)[1] for process in team]
    assert [process.returncode for process in team] == [status] * len(team), written
    assert not any("Traceback" in text or "Check failure" in text for text in written), written
    return [text.replace("\r", "\n").splitlines()[-1] if text else "" for text in written]


def read_numbers_of_run(folder):
    """Return the numbers in log.csv (but seconds) and metrics.json, and the newest state."""
    state, progress = checkpoint.load(folder, pytest.fail)
    numbers = [row[name] for row in progress.history for name in row if name != "seconds"]
    result = json.loads((folder / "metrics.json").read_text())["perspective"]["all"]
    return numbers + [result[name] for name in sorted(result)], state


def assert_runs_are_alike(one, other):
    """Also in the optimizer's running means of gradients, which tell more than small steps do."""
    (numbers, state), (other_numbers, other_state) = map(read_numbers_of_run, (one, other))
    np.testing.assert_allclose(numbers, other_numbers, rtol=5e-3)
    assert state.keys() == other_state.keys()
    for name, array in state.items():
        means = name.endswith(("momentum", "velocity"))
        tolerance = 5e-3 * np.abs(array).max() if means else 2e-5
        np.testing.assert_allclose(array, other_state[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("devices", "processes"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (4, 3)])
def test_every_picture_of_a_batch_counts_once_on_some_device(devices, processes):
    teams = []
    for process in range(processes):
        team = module_devices.Team()
        team.devices, team.process, team.processes = devices * processes, process, processes
        teams.append(team)
    for count in range(1, 20):
        shares = [team.share(list(range(count))) for team in teams]
        assert len({len(share) for share in shares}) == 1 and len(shares[0]) % devices == 0
        counted = [
            row
            for team, share in zip(teams, shares, strict=True)
            for row, real in zip(share, team.real_rows(count, len(share)), strict=True)
            if real
        ]
        assert counted == list(range(count))


ON_TENSORFLOW = """
import json, pathlib, signal, sys
import tensorflow as tf
(cpu,), one = tf.config.list_physical_devices("CPU"), tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [one] * 2)
import main
from roadseg.errors import StopRequest
from roadseg.training import checkpoint
from tests.test_devices import CHANGES
def stop(*_):
    raise StopRequest(signal.SIGTERM)
tell = main.tell
for words, is_stopped in json.loads(sys.argv[1]):
    main.tell = stop if is_stopped else tell
    assert main.main(words, CHANGES) == (143 if is_stopped else 0)
    folder = pathlib.Path(words[words.index("--runs-dir") + 1], words[words.index("--run") + 1])
    assert checkpoint.load(folder, print)[1].slices == 1  # which one device needs, two do not
"""


@pytest.fixture(scope="module")
def on_tensorflow(narrow_vgg, drawn, tmp_path_factory):
    """The folder of runs of three epochs: on one device, on two, and stopped after each epoch.

    The last one goes on on one device, and at last on two again.
    """
    folder = tmp_path_factory.mktemp("tensorflow")
    jobs = [
        (words_of_run(name, drawn, folder, narrow_vgg, 3, 4 // most, "--devices", devices), stopped)
        for name, devices, most, stopped in (
            ("one", 1, 1, False),
            ("two", 2, 2, False),
            ("moved", 2, 2, True),
            ("moved", 1, 2, True),
            ("moved", 2, 2, False),
        )
    ]
    command = [sys.executable, "-c", ON_TENSORFLOW, json.dumps(jobs)]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "moved"])
def test_two_devices_of_tensorflow_train_as_one(name, on_tensorflow):
    """On two halves of the processor; also where a run moves from two to one and to two again."""
    assert_runs_are_alike(on_tensorflow / "one", on_tensorflow / name)
    settings = json.loads((on_tensorflow / name / "settings.json").read_text())
    assert settings["pictures_a_step"] == 4 and settings["batch_size"] == 2


@needs_jax
@pytest.mark.parametrize("numbers", [{"devices": 2}, {"processes": 2}], ids=str)
def test_two_devices_and_two_processes_of_jax_train_as_one(numbers, teams, alone):
    (name,) = numbers
    finish_team(teams.start(name, batch_size=2, **numbers))
    assert_runs_are_alike(alone, teams.folder / name)


def wait_for_rows(folder, count):
    """Wait until a run's log has so many epochs."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if len((folder / "log.csv").read_text().splitlines()) > count:
                return
        time.sleep(0.1)
    raise TimeoutError(folder)


@needs_jax
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_others_and_one_alone_goes_on(lost, teams, alone):
    """JAX may end them itself; all that is promised of their exit status is that it isn't 0."""
    name, folder = f"lost {lost}", teams.folder / f"lost {lost}"
    team = teams.start(name, processes=2, batch_size=2)
    wait_for_rows(folder, 2)
    team[lost].kill()
    left = team[1 - lost]
    left.communicate(timeout=60)
    assert left.returncode != 0 and not (folder / "metrics.json").exists()
    finish_team(teams.start(name, processes=1, batch_size=2))
    assert_runs_are_alike(alone, folder)


@needs_jax
def test_a_stop_and_a_mistake_end_all_processes_alike(teams, spoilt):
    """Also where only one of them is told to stop: all end at the same step, which is saved."""
    team = teams.start("stopped", processes=2, batch_size=2, epochs=50)
    wait_for_rows(teams.folder / "stopped", 1)
    team[1].terminate()
    assert all("stopped by SIGTERM" in line for line in finish_team(team, status=143))
    checkpoint.load(teams.folder / "stopped", pytest.fail)
    label = min((spoilt / "data_road" / "training" / "gt_image_2").iterdir())
    label.write_bytes(b"no picture")  # which the first process alone looks at
    team = teams.start("none", processes=2, data_dir=spoilt)
    assert all(label.name in line for line in finish_team(team, status=2))


def test_devices_that_are_not_there_give_one_line(drawn, tmp_path, capsys, monkeypatch):
    arguments = ("--dataset", "kitti", "--data-dir", drawn, "--runs-dir", tmp_path)
    assert run_main(*arguments, "--devices", 5) == 2
    assert "--devices 5: tensorflow finds only 1 here" in error_line(capsys)
    with monkeypatch.context() as patch:
        patch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1", "gpu:2"])
        assert module_devices.form_team(1).devices == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert run_main(*arguments) == 2
    assert "KERAS_BACKEND=jax" in error_line(capsys)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "two")
    assert run_main(*arguments) == 2
    assert "SLURM_STEP_NUM_TASKS=two: expected a whole number" in error_line(capsys)

"""Several devices and machines train as one."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

import helper
import main
from main import keras
from roadseg import devices as module_devices
from roadseg.training import checkpoint
from tests.small import HERE, KITTI, error_line, needs_jax, run_main

AS_SEVERAL = """
import os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    (cpu,), one = tf.config.list_physical_devices("CPU"), tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * int(os.environ["DEVICES"]))
import main
from roadseg.training import trainer
from tests.small import NARROW_BLOCKS
main.load_vgg.__defaults__ = NARROW_BLOCKS, 8
# The devices of TensorFlow drop the same places of different pictures.
main.DROPOUT |= dict.fromkeys(main.DROPOUT, 1e-9)
trainer.SAVE_SECONDS = 2
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture
def start_team(narrow, drawn, tmp_path):
    """Make a function that starts the processes of one training: they train on seven pictures.

    Of the "pretrained" network a part stands still, as of the real one.
    """
    started, pretrained = [], tmp_path / "pretrained.weights.h5"
    keras.utils.set_random_seed(0)
    main.layers(main.load_vgg({}), 2).save_weights(pretrained)

    def start(name, backend, devices=1, processes=1, batch_size=4, epochs=2, data_dir=drawn):
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
            port = server.getsockname()[1]
        # So small, because Adam's first steps make much of the rounding of small gradients. It
        # grows with the root of how often the batch of a device is in a step of four pictures.
        rate = 1e-9 * np.sqrt(batch_size / 4)
        command = [
            sys.executable,
            "-c",
            AS_SEVERAL,
            "--dataset",
            "kitti",
            "--data-dir",
            data_dir,
            "--runs-dir",
            tmp_path,
            "--run",
            name,
            "--image-shape",
            32,
            96,
            "--limit",
            7,
            "--epochs",
            epochs,
            "--batch-size",
            batch_size,
            "--learning-rate",
            rate,
            "--precision",
            "float32",
            "--vgg",
            pretrained,
        ]
        environment = os.environ | {
            "KERAS_BACKEND": backend,
            "DEVICES": str(devices),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        }
        several = {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
        }
        team = [
            subprocess.Popen(
                list(map(str, command)),
                cwd=HERE,
                text=True,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env=environment
                | (several | {"JAX_PROCESS_ID": str(process)} if processes > 1 else {}),
            )
            for process in range(processes)
        ]
        started.extend(team)
        return team

    yield start
    for process in started:
        process.kill()
        process.communicate()


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


def test_two_devices_of_tensorflow_train_as_one(start_team, tmp_path):
    """MirroredStrategy on two halves of the processor; the last batch is an odd one."""
    finish_team(start_team("one", "tensorflow"))
    finish_team(start_team("two", "tensorflow", devices=2, batch_size=2))
    assert_runs_are_alike(tmp_path / "one", tmp_path / "two")
    settings = json.loads((tmp_path / "two" / "settings.json").read_text())
    assert settings["pictures_a_step"] == 4


@pytest.mark.slow
def test_pictures_that_do_not_fit_are_streamed_in_flat_memory(drawn, monkeypatch):
    """Twenty thousand pictures, of which less than a thousand fit."""
    labelled, _ = KITTI.find(drawn / "data_road")
    samples = [labelled[number % len(labelled)] for number in range(20_000)]
    monkeypatch.setattr(helper, "_free_memory_bytes", lambda: 200 << 20)
    get_batches_fn = helper.gen_batch_function(samples, KITTI, (96, 320))
    used, count = {}, 0
    # The process' own memory would tell of the tests before this one, too.
    tracemalloc.start()
    try:
        for pictures, _ in get_batches_fn(20):
            count += len(pictures)
            used[count], _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(samples)
    assert max(used.values()) < used[2000] + 20e6, used


@needs_jax
def test_two_devices_and_two_processes_of_jax_train_as_one(start_team, tmp_path):
    finish_team(start_team("one", "jax"))
    finish_team(start_team("devices", "jax", devices=2, batch_size=2))
    finish_team(start_team("processes", "jax", processes=2, batch_size=2))
    for name in ("devices", "processes"):
        assert_runs_are_alike(tmp_path / "one", tmp_path / name)


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
def test_a_lost_process_ends_the_others_and_one_alone_goes_on(lost, start_team, tmp_path):
    finish_team(start_team("one", "jax", epochs=6))
    team = start_team("two", "jax", processes=2, batch_size=2, epochs=6)
    wait_for_rows(tmp_path / "two", 2)
    team[lost].kill()
    started = time.monotonic()
    (line,) = finish_team([team[1 - lost]], status=1)
    assert time.monotonic() - started < 30
    assert f"process {1 - lost}: another process of this training is lost" in line
    assert not (tmp_path / "two" / "metrics.json").exists()
    finish_team(start_team("two", "jax", processes=1, batch_size=2, epochs=6))
    assert_runs_are_alike(tmp_path / "one", tmp_path / "two")


@needs_jax
def test_a_stop_and_a_mistake_end_all_processes_alike(start_team, spoilt, tmp_path):
    """Also where only one of them is told to stop: all end at the same step, which is saved."""
    team = start_team("two", "jax", processes=2, batch_size=2, epochs=50)
    wait_for_rows(tmp_path / "two", 1)
    team[1].terminate()
    assert all("stopped by SIGTERM" in line for line in finish_team(team, status=143))
    checkpoint.load(tmp_path / "two", pytest.fail)
    label = min((spoilt / "data_road" / "training" / "gt_image_2").iterdir())
    label.write_bytes(b"no picture")  # which the first process alone looks at
    team = start_team("none", "jax", processes=2, data_dir=spoilt)
    assert all(label.name in line for line in finish_team(team, status=2))


def test_devices_that_are_not_there_give_one_line(start_team, drawn, tmp_path, capsys, monkeypatch):
    arguments = ("--dataset", "kitti", "--data-dir", drawn, "--runs-dir", tmp_path)
    assert run_main(*arguments, "--devices", 5) == 2
    assert "--devices 5: tensorflow finds only 1 here" in error_line(capsys)
    with monkeypatch.context() as patch:
        patch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1", "gpu:2"])
        assert module_devices._form(1).devices == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert run_main(*arguments) == 2
    assert "KERAS_BACKEND=jax" in error_line(capsys)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "two")
    assert run_main(*arguments) == 2
    assert "SLURM_STEP_NUM_TASKS=two: expected a whole number" in error_line(capsys)

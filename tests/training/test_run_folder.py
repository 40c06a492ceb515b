"""A run's folder belongs to one run and one process."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from roadseg.data.datasets import DATASETS
from roadseg.engine import keras
from roadseg.errors import UserError
from roadseg.files import write_atomically
from roadseg.training import checkpoint, plan, run_folder
from tests.small import HERE, error_line, run_kitti, run_main, run_predict


def test_a_run_has_one_process_at_a_time(tmp_path):
    with run_folder.lock_run(tmp_path):
        code = (
            "import pathlib, sys\nfrom roadseg.training import run_folder\n"
            "with run_folder.lock_run(pathlib.Path(sys.argv[1])): pass\n"
        )
        command = [sys.executable, "-c", code, tmp_path]
        second = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        assert f"process {os.getpid()} on" in second.stderr
    assert subprocess.run(command, cwd=HERE).returncode == 0


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    """Also when the clock goes backwards."""
    monkeypatch.setattr(time, "strftime", lambda _: "2026-11-23_1437")
    names = [run_folder.open_run(tmp_path / "runs", None).name for _ in range(3)]
    assert names == ["2026-11-23_1437", "2026-11-23_1437_2", "2026-11-23_1437_3"]


def test_changed_settings_are_refused_by_name(tmp_path):
    """And those that do no harm are taken."""
    earlier = dict.fromkeys(run_folder.FIXED_SETTINGS, 1) | {"epochs": 3, "git_commit": "a"}
    run_folder.note_settings(tmp_path, earlier)
    for name in run_folder.FIXED_SETTINGS:
        with pytest.raises(UserError, match=f"has {name} 1, not 2"):
            run_folder.is_finished(tmp_path, earlier | {name: 2})
    assert not run_folder.is_finished(tmp_path, earlier | {"epochs": 4, "git_commit": "b"})
    (tmp_path / "metrics.json").write_text("{}")
    assert run_folder.is_finished(tmp_path, earlier)
    assert not run_folder.is_finished(tmp_path, earlier | {"epochs": 4})


def test_a_run_whose_checkpoint_was_removed_can_be_used_but_not_go_on(
    trained, drawn, tmp_path, capsys
):
    folder = tmp_path / "first"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("checkpoint"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run_kitti(drawn, tmp_path, "--epochs", 1) == 0  # it is finished
    capsys.readouterr()
    assert run_kitti(drawn, tmp_path, "--epochs", 2) == 2
    assert "manifest.json: not found" in error_line(capsys)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    picture = min((drawn / "data_road" / "testing" / "image_2").iterdir())
    assert run_predict(folder, picture, "--output", tmp_path / "painted") == 0


def test_a_gpu_sees_each_picture_more_often_and_a_run_keeps_its_number(tmp_path, monkeypatch):
    """Wherever the run goes on; unless somebody says another number."""
    settings = dict.fromkeys(run_folder.FIXED_SETTINGS, 1) | {
        "runs_dir": str(tmp_path),
        "precision": "float32",
        "batch_size": 4,
        "image_shape": [32, 64],
    }

    def epochs(run, device, said=None):
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: [device])
        with contextlib.ExitStack() as lock:
            here = settings | {"run": run, "epochs": said}
            _, decided = plan.open_folder(here, lock, DATASETS["camvid"])
        assert run_folder.earlier_settings(tmp_path / run)["epochs"] == decided["epochs"]
        return decided["epochs"]

    assert [epochs("first", device) for device in ("cpu:0", "gpu:0")] == [22, 22]
    assert [epochs("second", device) for device in ("gpu:0", "cpu:0")] == [66, 66]
    assert epochs("second", "cpu:0", said=70) == epochs("second", "gpu:0") == 70


def test_a_place_where_nothing_can_be_written_gives_one_line(drawn, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = ("--dataset", "kitti", "--data-dir", drawn, "--limit", 3)
    for folder in (tmp_path / "file" / "runs", Path("/proc/runs")):
        assert run_main(*arguments, "--runs-dir", folder, "--run", "first") == 2
        assert str(folder) in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_without_room_for_a_run_is_told_before_its_first_step(
    trained, drawn, tmp_path, monkeypatch, capsys
):
    """Room for what a finished run has left, and for a third state and second best weights."""
    states = [path.stat().st_size for path in (trained / "checkpoint").glob("state_*")]
    best = (trained / "best.weights.h5").stat().st_size
    needed = sum(states) + max(states) + 2 * best

    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    leave(needed - 10e6)
    assert run_kitti(drawn, tmp_path) == 2
    assert f"/first: {needed / 1e9 - 0.01:.2f} GB are free on this disk" in error_line(capsys)
    assert not list(tmp_path.rglob("state_*"))
    checkpoint.check_room(trained, best)  # it has its states already
    leave(needed + 10e6)
    checkpoint.check_room(tmp_path, best)


def test_a_disk_that_fills_up_is_told_with_the_file(tmp_path):
    def write_half(path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: .*/picture\.png'"):
        write_atomically(tmp_path / "picture.png", write_half)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(UserError, match="is no run folder"):
        run_folder.open_run(tmp_path / "runs", "mine")
    assert [path.name for path in (tmp_path / "runs").rglob("*.*")] == ["thesis.txt"]

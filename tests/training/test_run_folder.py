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

import numpy as np
import pytest

import evaluate
import export
import main
import predict
from roadseg.data.datasets import DATASETS
from roadseg.devices import ONE_DEVICE
from roadseg.engine import keras
from roadseg.errors import UserError
from roadseg.files import read_json, write_atomically, write_json
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
    fixed = ("dataset", "classes", "vgg", "image_shape", "batch_size", "learning_rate", "precision")
    fixed += ("class_weights", "seed", "limit", "backend", "data_digest")
    earlier = dict.fromkeys(fixed, 1) | {"epochs": 3, "git_commit": "a"}
    run_folder.note_settings(tmp_path, earlier)
    for name in fixed:
        says = "not the files" if name == "data_digest" else f"has {name} 1, not 2"
        with pytest.raises(UserError, match=says):
            run_folder.is_finished(tmp_path, earlier | {name: 2}, {})
    assert not run_folder.is_finished(tmp_path, earlier | {"epochs": 4, "git_commit": "b"}, {})
    (tmp_path / "metrics.json").write_text("{}")
    assert run_folder.is_finished(tmp_path, earlier, {})
    assert not run_folder.is_finished(tmp_path, earlier | {"epochs": 4}, {})


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
        "class_weights": "none",
        "batch_size": 4,
        "image_shapes": [[32, 64]],
        "minutes": None,
        "tensorboard": False,
        "git_commits": ["a"],
        "command_lines": [["main.py"]],
    }

    def epochs(run, device, said=None):
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: [device])
        with contextlib.ExitStack() as lock:
            here = settings | {"run": run, "epochs": said}
            _, decided = plan.open_folder(here, lock, DATASETS["camvid"], ONE_DEVICE, {}, [])
        assert run_folder.earlier_settings(tmp_path / run)["epochs"] == decided["epochs"]
        return decided["epochs"]

    assert [epochs("first", device) for device in ("cpu:0", "gpu:0")] == [30, 30]
    assert [epochs("second", device) for device in ("gpu:0", "cpu:0")] == [90, 90]
    assert epochs("second", "cpu:0", said=99) == epochs("second", "gpu:0") == 99


def test_a_place_where_nothing_can_be_written_gives_one_line(drawn, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    arguments = ("--dataset", "kitti", "--data-dir", drawn, "--limit", 3)
    for folder in (tmp_path / "file" / "runs", Path("/proc/runs")):
        assert run_main(*arguments, "--runs-dir", folder, "--run", "first") == 2
        assert str(folder) in error_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_recipe_is_refused_by_the_name_of_its_field(trained, drawn, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "first")
    settings = (tmp_path / "first" / "settings.json").read_bytes()
    words = ("--data-dir", drawn, "--runs-dir", tmp_path, "--run", "first", "--epochs", 2)
    assert run_main(*words, changes={"zoom": (0.5, 2.0)}) == 2
    line = error_line(capsys)
    assert "has recipe's zoom [0.6, 1.8], not [0.5, 2.0]" in line and str(tmp_path) in line
    assert (tmp_path / "first" / "settings.json").read_bytes() == settings


def test_a_run_whose_skips_stand_beside_its_recipe_has_the_same_recipe(
    trained, drawn, tmp_path, capsys
):
    """As in earlier runs: it may resume. They also noted a head that their weights did not have."""
    shutil.copytree(trained, tmp_path / "first")
    settings = read_json(tmp_path / "first" / "settings.json")
    skips = settings["recipe"]["skips"]
    recipe = settings["recipe"] | {"skips": None, "head_channels": 512}
    write_json(tmp_path / "first" / "settings.json", settings | {"recipe": recipe, "skips": skips})
    assert run_main("--data-dir", drawn, "--runs-dir", tmp_path, "--run", "first") == 0
    assert "this run is finished" in capsys.readouterr().out


def test_a_run_that_resumes_keeps_its_settings(trained):
    """But for the flags that are given; how long it trains is decided later."""
    settings = run_folder.earlier_settings(trained)
    words = ["--runs-dir", str(trained.parent), "--run", trained.name]
    given = vars(main.parse_arguments(words))
    for name in ("vgg", "image_shape", "batch_size", "learning_rate", "seed", "limit"):
        assert given[name] == settings[name], name
    assert given["dataset"] == [settings["dataset"]]
    assert given["image_shape"] == [32, 96] and given["epochs"] is None
    assert given["data_dir"] == Path(settings["data_dir"]) and given["data_dir"].is_absolute()
    assert main.parse_arguments([*words, "--seed", "5"]).seed == 5


def room_for_saves(folder, weights_bytes, monkeypatch):
    """Save five epochs, each better than the last. Returns the bytes on the disk at most."""
    sizes, fsync = [], os.fsync

    def measure(descriptor):
        files = [path.stat() for path in folder.rglob("*") if path.is_file()]
        sizes.append(sum({file.st_ino: file.st_size for file in files}.values()))
        return fsync(descriptor)

    progress = checkpoint.Progress()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", measure)
        for epoch in range(5):
            progress.saves += 1
            best = b"w" * weights_bytes
            checkpoint.save_best(
                folder, lambda path, best=best: path.write_bytes(best), epoch, progress
            )
            checkpoint.save(
                folder, {"weights, moments": np.zeros(3 * weights_bytes, np.uint8)}, progress
            )
    return max(sizes)


def test_a_disk_without_room_for_a_run_is_told_before_its_first_step(
    narrow_vgg, drawn, tmp_path, monkeypatch, capsys
):
    """Room for all that lies there while a state is saved; a run that has its states goes on."""
    weights_bytes = 1_000_000
    for name in ("saved", "new"):
        (tmp_path / name).mkdir()
    needed = room_for_saves(tmp_path / "saved", weights_bytes, monkeypatch)

    def leave(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))

    leave(0.99 * needed)
    with pytest.raises(UserError, match=f"new: {0.99 * needed / 1e9:.2f} GB are free"):
        checkpoint.check_room(tmp_path / "new", weights_bytes)
    checkpoint.check_room(tmp_path / "saved", weights_bytes)
    leave(1.01 * needed)
    checkpoint.check_room(tmp_path / "new", weights_bytes)
    leave(100_000)
    assert run_kitti(drawn, tmp_path, "--vgg", narrow_vgg) == 2
    assert "first: 0.00 GB are free on this disk" in error_line(capsys)
    assert not list((tmp_path / "first").rglob("state_*"))


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


def test_changed_files_are_named_when_a_resume_is_refused(trained, spoilt, tmp_path, capsys):
    """What was changed, added and removed, relative to the data set; nothing is written."""
    shutil.copytree(trained, tmp_path / "first")
    before = {path: path.read_bytes() for path in tmp_path.rglob("first/*.*") if path.is_file()}
    pictures = spoilt / "data_road" / "testing" / "image_2"
    first, second, third = sorted(pictures.iterdir())
    first.write_bytes(second.read_bytes() + b" ")
    shutil.copy(second, pictures / "um_000099.png")
    second.write_bytes(third.read_bytes())
    third.unlink()
    assert run_kitti(spoilt, tmp_path, "--epochs", 2) == 2
    line = error_line(capsys)
    for path in (first, second, third, pictures / "um_000099.png"):
        assert str(path.relative_to(spoilt / "data_road")) in line
    assert "um_000000.png" not in line.replace("testing/image_2/um_000000.png", "")
    assert all(path.read_bytes() == content for path, content in before.items())


def test_changed_files_are_not_guessed_where_the_list_of_them_is_gone(tmp_path):
    said = run_folder.name_changed_files(tmp_path, {"a.png": "digest"})
    assert str(run_folder.data_path(tmp_path)) in said and "a.png" not in said


@pytest.mark.parametrize(
    "command", [(predict, "a.png"), (evaluate,), (export, "--format", "onnx")], ids=str
)
def test_the_ready_network_that_is_missing_is_told(command, tmp_path, monkeypatch, capsys):
    """With the cure, and the runs that are there."""
    monkeypatch.setattr(run_folder, "READY", tmp_path / "ready")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "settings.json").write_text("{}")
    module, *words = command
    assert module.main(words) == 2
    assert error_line(capsys) == (
        f"{tmp_path / 'ready'}: the ready network was not found; give --run RUN; runs/ holds first"
    )


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", "."])
def test_a_runs_name_that_is_a_path_is_refused(name, tmp_path):
    """So that nothing is written outside of --runs-dir."""
    with pytest.raises(UserError, match="expected a name, not a path"):
        run_folder.open_run(tmp_path / "runs", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_and_used_without(number, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    with run_folder.lock_run(tmp_path):
        assert str(os.getpid()) in (tmp_path / "checkpoint" / "lock").read_text()
    said = capsys.readouterr().out
    assert str(tmp_path) in said and "knows no locks" in said


@pytest.mark.parametrize(
    "damage", [b"epoch,loss\n1\n", b"epoch\none\n", b"\xff\xfe\x00", b"epoch\n1,2"]
)
def test_a_damaged_log_is_named(damage, tmp_path):
    assert run_folder.read_log(tmp_path) == []
    (tmp_path / "log.csv").write_bytes(damage)
    with pytest.raises(UserError, match=r"log\.csv: damaged"):
        run_folder.read_log(tmp_path)

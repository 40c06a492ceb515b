"""What TensorBoard shows of a run."""

import shutil
import sys

import pytest

from roadseg.training import checkpoint, event_files, run_folder
from tests.small import error_line, run_kitti


def steps_of(folder):
    """Read all event files of a run: [(step, {name: value})], in the order of their names."""
    iterate = event_files.load_tensorflow().compat.v1.train.summary_iterator
    events = [
        event for path in sorted((folder / "tensorboard").iterdir()) for event in iterate(str(path))
    ]
    return [
        (event.step, {value.tag: value.simple_value for value in event.summary.value})
        for event in events
        if event.HasField("summary")
    ]


def epoch(number, **changes):
    return dict.fromkeys(checkpoint.LOG_FIELDS, 0.5) | {"epoch": number} | changes


@pytest.mark.slow
def test_a_run_asked_for_event_files_later_has_every_epoch_once(
    trained, drawn, narrow_vgg, tmp_path
):
    """With the numbers of its log; without the flag there are none."""
    folder = shutil.copytree(trained, tmp_path / "first")
    assert not (folder / "tensorboard").exists()
    words = ("--vgg", narrow_vgg, "--epochs")
    assert run_kitti(drawn, tmp_path, *words, 2, "--tensorboard") == 0
    assert run_kitti(drawn, tmp_path, *words, 3) == 0
    rows = [
        {name: float(text) for name, text in row.items()} for row in run_folder.read_log(folder)
    ]
    assert [step for step, _ in steps_of(folder)] == [row["epoch"] for row in rows] == [1, 2, 3]
    for (_, values), row in zip(steps_of(folder), rows, strict=True):
        assert values == {name: pytest.approx(row[name], rel=1e-6) for name in event_files.SCALARS}


def test_event_files_are_those_of_the_epochs_that_count(tmp_path):
    """Whatever a kill left: a half one, one too few, those of epochs that were lost."""
    event_files.prepare(tmp_path)
    event_files.write(tmp_path, [epoch(1), epoch(2), epoch(3)])
    first, second, third = sorted((tmp_path / "tensorboard").iterdir())
    third.rename(third.with_name(f"partial.{third.name}"))
    first.unlink()
    event_files.write(tmp_path, [epoch(1), epoch(2)])
    assert sorted((tmp_path / "tensorboard").iterdir()) == [first, second]
    assert steps_of(tmp_path) == [
        (number, dict.fromkeys(event_files.SCALARS, 0.5)) for number in (1, 2)
    ]


def test_event_files_leave_out_a_score_that_there_is_not(tmp_path):
    event_files.prepare(tmp_path)
    event_files.write(tmp_path, [epoch(1, val_max_f=None)])
    ((_, values),) = steps_of(tmp_path)
    assert set(values) == set(event_files.SCALARS) - {"val_max_f"}


def test_without_the_flag_nothing_is_imported_for_event_files(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "load_tensorflow", pytest.fail)
    event_files.write(tmp_path, [epoch(1)])
    assert not list(tmp_path.iterdir())


def test_tensorboard_without_tensorflow_gives_one_line(
    drawn, narrow_vgg, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert run_kitti(drawn, tmp_path, "--vgg", narrow_vgg, "--tensorboard") == 2
    assert error_line(capsys).endswith("which is missing: pip install tensorflow")
    assert not (tmp_path / "first").exists()

"""evaluate.py scores a run again, and refuses what it can't score."""

import json
import shutil

import pytest
from PIL import Image

import evaluate
from roadseg.data import download
from roadseg.drawn import scenes
from roadseg.errors import UserError
from roadseg.scoring.submission import pack_submission
from tests.small import error_line, run_evaluate


def test_evaluating_a_run_gives_the_scores_of_its_training(trained, capsys, tmp_path):
    """From above too; and those of the training part, or of more sizes, on the terminal alone."""
    shutil.copytree(trained, tmp_path / "run")
    before = json.loads((trained / "metrics.json").read_text())
    assert set(before["birds_eye"]) == {"all", "um", "umm", "uu"}
    assert before["birds_eye"]["all"]["pictures"] == before["pictures"] == 3
    metrics_path = tmp_path / "run" / "metrics.json"
    metrics_path.write_text(json.dumps(before | {"accuracy": 1.0}))
    assert run_evaluate(tmp_path / "run") == 0
    assert (after := json.loads(metrics_path.read_text())) == before
    capsys.readouterr()
    assert run_evaluate(tmp_path / "run", "--part", "training") == 0
    assert "12 pictures of the training part" in capsys.readouterr().out
    assert run_evaluate(tmp_path / "run", "--thorough") == 0
    assert "3 pictures of the validation part" in capsys.readouterr().out
    assert json.loads(metrics_path.read_text()) == after


def test_a_run_that_is_not_finished_is_scored_on_the_terminal_alone(trained, tmp_path, capsys):
    """With metrics.json it would seem finished, and not resume."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    assert run_evaluate(tmp_path / "run") == 0
    assert "is not finished; the scores are for the terminal alone" in capsys.readouterr().out
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_scores_of_the_ready_network_are_printed_only(ready, capsys):
    assert evaluate.main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("the ready network, of KITTI Road; --run NAME scores one of yours\n")
    assert "3 pictures of the validation part" in said
    assert evaluate.main(["--run", str(ready)]) == 0
    assert "the ready network" not in capsys.readouterr().out


def test_a_run_that_is_not_there_gives_one_line(trained, tmp_path, capsys):
    assert run_evaluate(tmp_path / "nothing") == 2
    assert "no run found" in error_line(capsys)
    shutil.copytree(trained, tmp_path / "run")
    weights = tmp_path / "run" / "best.weights.h5"
    for content in (b"", weights.read_bytes()[:5000]):
        weights.write_bytes(content)
        assert run_evaluate(tmp_path / "run") == 2
        assert "best.weights.h5" in error_line(capsys)


def test_no_submission_without_kittis_testing_pictures(trained, tmp_path, capsys):
    path = tmp_path / "submission.zip"
    assert run_evaluate(trained, "--submission", path) == 2
    assert "3 testing pictures" in error_line(capsys) and not path.exists()


def copy_run(trained, folder, **changes):
    """Copy a run and change its settings. Returns its folder."""
    shutil.copytree(trained, folder)
    settings = json.loads((folder / "settings.json").read_text()) | changes
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def test_other_files_than_those_of_the_training_are_scored_on_the_terminal_alone(
    trained, spoilt, tmp_path, capsys
):
    """They are named, metrics.json stays; the same files in another place are the same."""
    run = copy_run(trained, tmp_path / "run")
    before = (run / "metrics.json").read_bytes()
    assert run_evaluate(run, "--data-dir", spoilt) == 0
    assert "not the files" not in capsys.readouterr().out
    assert (run / "metrics.json").read_bytes() == before
    parts = spoilt / "data_road" / "training"
    for old, new in {"image_2/uu_000004": "image_2/uu_000005"}.items():
        picture = Image.open(parts / f"{old}.png")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(parts / f"{new}.png")
    label = "gt_image_2/uu_road_00000{}.png"
    shutil.copy(parts / label.format(4), parts / label.format(5))
    assert run_evaluate(run, "--data-dir", spoilt) == 0
    said = capsys.readouterr().out
    assert f"{spoilt / 'data_road'}: these are not the files of the run's training" in said
    assert "training/image_2/uu_000005.png" in said and "terminal alone" in said
    assert (run / "metrics.json").read_bytes() == before


def test_classes_in_another_order_are_not_scored(trained, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("road\nlane\n")
    run = copy_run(
        trained, tmp_path / "run", dataset="folder", classes=["lane", "road"], data_dir="nowhere"
    )
    before = (run / "metrics.json").read_bytes()
    assert run_evaluate(run, "--data-dir", tmp_path) == 2
    assert "has the classes road, lane; this run has lane, road" in error_line(capsys)
    assert (run / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("data_set", ["kitti", "synthetic", "folder"])
def test_data_that_are_not_there_are_neither_downloaded_nor_drawn(
    data_set, trained, tmp_path, monkeypatch, capsys
):
    for place, function in ((download, "download"), (scenes, "draw_data_set")):
        monkeypatch.setattr(place, function, lambda *_: pytest.fail("brought"))
    nowhere = tmp_path / "nowhere"
    run = copy_run(trained, tmp_path / "run", dataset=data_set, data_dir=str(nowhere))
    before = (run / "metrics.json").read_bytes()
    assert run_evaluate(run) == 2
    line = error_line(capsys)
    assert str(nowhere) in line and "not found" in line and "--data-dir" in line
    assert (run / "metrics.json").read_bytes() == before and not nowhere.exists()


def test_no_submission_without_any_testing_picture():
    with pytest.raises(UserError, match="no testing pictures here; expected KITTI's 290"):
        pack_submission(None, None, [], (32, 96))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("settings.json", "[]", "damaged"),
        ("settings.json", "{}", "another version"),
        ("calibration.json", "{}", "damaged"),
        ("calibration.json", '{"slope": "x", "offset": 0}', "damaged"),
        ("calibration.json", '{"slope": 1, "offset": 0, "share": NaN}', "expected 0 to 1"),
        ("calibration.json", '{"slope": 1, "offset": 0, "front": 2}', "a front of 2.0, expected"),
    ],
)
def test_files_of_a_run_that_are_damaged_are_named(name, content, line, trained, tmp_path, capsys):
    run = copy_run(trained, tmp_path / "run")
    (run / name).write_text(content)
    assert run_evaluate(run) == 2
    said = error_line(capsys)
    assert str(run) in said and line in said

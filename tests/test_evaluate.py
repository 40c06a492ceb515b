"""evaluate.py scores a run again, and refuses what it can't score."""

import json
import shutil

import evaluate
from tests.small import error_line


def test_evaluating_a_run_gives_the_scores_of_its_training(trained, capsys, tmp_path):
    """From above too; and those of the training part, or of more sizes, on the terminal alone."""
    shutil.copytree(trained, tmp_path / "run")
    before = json.loads((trained / "metrics.json").read_text())
    assert set(before["birds_eye"]) == {"all", "um", "umm", "uu"}
    assert before["birds_eye"]["all"]["pictures"] == before["pictures"] == 3
    metrics_path = tmp_path / "run" / "metrics.json"
    metrics_path.write_text(json.dumps(before | {"accuracy": 1.0}))
    assert evaluate.main([str(tmp_path / "run")]) == 0
    assert (after := json.loads(metrics_path.read_text())) == before
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run"), "--part", "training"]) == 0
    assert "12 pictures of the training part" in capsys.readouterr().out
    assert evaluate.main([str(tmp_path / "run"), "--thorough"]) == 0
    assert "3 pictures of the validation part" in capsys.readouterr().out
    assert json.loads(metrics_path.read_text()) == after


def test_a_run_that_is_not_there_gives_one_line(trained, tmp_path, capsys):
    assert evaluate.main([str(tmp_path / "nothing")]) == 2
    assert "no run found" in error_line(capsys)
    shutil.copytree(trained, tmp_path / "run")
    weights = tmp_path / "run" / "best.weights.h5"
    for content in (b"", weights.read_bytes()[:5000]):
        weights.write_bytes(content)
        assert evaluate.main([str(tmp_path / "run")]) == 2
        assert "best.weights.h5" in error_line(capsys)


def test_no_submission_without_kittis_testing_pictures(trained, tmp_path, capsys):
    path = tmp_path / "submission.zip"
    assert evaluate.main([str(trained), "--submission", str(path)]) == 2
    assert "3 testing pictures" in error_line(capsys) and not path.exists()

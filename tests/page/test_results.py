"""The precision that predict.py takes: measured when training ends, used where it is faster."""

import shutil

import pytest

import main
import predict
from roadseg import engine
from roadseg.answering.network import Predictor
from roadseg.engine import BFLOAT16, FLOAT32
from roadseg.files import read_json, write_json
from roadseg.page import results
from roadseg.scoring.loss_of_rounding import choose_precision
from roadseg.training import plan
from tests.fixtures import MEASURE_BFLOAT16
from tests.small import run_camvid, run_kitti


class Scored:
    """A tally of scores that are known."""

    def __init__(self, max_f=None, mean_iou=None):
        self.known = {"mean_iou": mean_iou}
        if mean_iou is None:
            self.known["perspective"] = {"all": {"MaxF": max_f}}

    def scores(self):
        return self.known


@pytest.mark.parametrize(
    ("exact", "rounded", "chosen"),
    [
        (Scored(97.66), Scored(97.62), BFLOAT16),
        (Scored(97.66), Scored(97.60), FLOAT32),
        (Scored(97.60), Scored(97.66), FLOAT32),  # other answers, by chance better
        (Scored(mean_iou=72.90), Scored(mean_iou=72.86), BFLOAT16),
        (Scored(mean_iou=72.90), Scored(mean_iou=72.80), FLOAT32),
    ],
)
def test_bfloat16_is_chosen_where_the_score_is_the_same(exact, rounded, chosen):
    assert choose_precision(exact, rounded)["chosen"] == chosen


@pytest.fixture
def asked(monkeypatch):
    """What each network that is asked for results computes in, on a machine that likes bfloat16."""
    dtypes = []

    def record(network, *others, **named):
        dtypes.append(network.get_layer("block1_conv1").compute_dtype)
        return Predictor(network, *others, **named)

    monkeypatch.setattr(plan, "faster_precision", lambda: BFLOAT16)
    monkeypatch.setattr(results, "measure_bfloat16", MEASURE_BFLOAT16)
    monkeypatch.setattr(results, "Predictor", record)
    return dtypes


def test_two_classes_are_measured_by_max_f(drawn, narrow_vgg, tmp_path, asked):
    assert run_kitti(drawn, tmp_path, "--vgg", narrow_vgg, "--epochs", 1) == 0
    note = read_json(tmp_path / "first" / "settings.json")["answering_precision"]
    scores = read_json(tmp_path / "first" / "metrics.json")["perspective"]["all"]
    assert note["score"] == "MaxF" and note[FLOAT32] == scores["MaxF"]
    assert note[BFLOAT16] == pytest.approx(note[FLOAT32], abs=2)
    assert asked == ["float32", "float32", "bfloat16"]  # to calibrate, to score, to compare


def test_many_classes_are_measured_by_mean_iou(camvid, narrow_vgg, asked):
    assert run_camvid(camvid, "--vgg", narrow_vgg) == 0
    note = read_json(camvid / "runs" / "city" / "settings.json")["answering_precision"]
    scores = read_json(camvid / "runs" / "city" / "metrics.json")
    assert note["score"] == "mean IoU" and note[FLOAT32] == scores["mean_iou"]
    assert note[BFLOAT16] == pytest.approx(note[FLOAT32], abs=2)


def test_nothing_is_measured_where_a_precision_was_asked_for(drawn, narrow_vgg, tmp_path, asked):
    words = ("--vgg", narrow_vgg, "--epochs", 1, "--precision", FLOAT32)
    assert run_kitti(drawn, tmp_path, *words) == 0
    assert read_json(tmp_path / "first" / "settings.json")["answering_precision"] is None
    assert asked == ["float32", "float32"]


@pytest.mark.parametrize(
    ("noted", "faster", "given", "used"),
    [
        (BFLOAT16, BFLOAT16, "auto", BFLOAT16),
        (BFLOAT16, FLOAT32, "auto", FLOAT32),  # another machine
        (BFLOAT16, BFLOAT16, FLOAT32, FLOAT32),
        (FLOAT32, BFLOAT16, "auto", FLOAT32),
        (None, BFLOAT16, "auto", FLOAT32),
        (FLOAT32, FLOAT32, BFLOAT16, BFLOAT16),
    ],
)
def test_predict_takes_what_the_run_notes(
    noted, faster, given, used, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "faster_precision", lambda **_: faster)
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    path = tmp_path / "run" / "settings.json"
    note = {"answering_precision": noted and {"chosen": noted}}
    write_json(path, read_json(path) | note)
    built, build = [], main.build_network
    monkeypatch.setattr(main, "build_network", lambda *a: built.append(a[-1]) or build(*a))
    predict.RoadFinder(tmp_path / "run", precision=given)
    assert built == [used]

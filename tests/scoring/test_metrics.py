"""Scores, in the picture and from above, are those of KITTI's rules."""

import itertools
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from PIL import Image

import evaluate
import main
from roadseg.answering.predictor import predictor
from roadseg.data import calibration_files
from roadseg.data.calibration_files import read_calibrations
from roadseg.data.layouts import Sample
from roadseg.data.pictures import VOID, decode_label
from roadseg.drawn import scenes
from roadseg.errors import UserError
from roadseg.scoring import birds_eye, metrics
from roadseg.scoring.calibration import calibration_scores, fit_calibration, log_odds_counts
from roadseg.scoring.evaluation import score_pictures
from roadseg.scoring.submission import pack_submission, read_submission
from roadseg.scoring.tally import Tally
from tests.by_hand import brute_force_kitti_scores, cell_by_hand, ground_projection
from tests.small import KITTI, REAL_SAMPLES, SMALL, error_line, small_network

# --- metrics --------------------------------------------------------------------------------------


HAND_MADE = {
    "ties": ([0, 1, 0, 1], [7, 7, 7, 7]),
    "perfect": ([0, 0, 1, 1], [0, 10, 200, 255]),
    "all road": ([1, 1, 1, 1], [0, 10, 200, 255]),
    "no road": ([0, 0, 0, 0], [0, 10, 200, 255]),
    "all void": ([VOID] * 4, [0, 10, 200, 255]),
    "void counts nowhere": ([0, VOID, 1, VOID], [255, 255, 0, 0]),
}


@pytest.mark.parametrize("case", [*HAND_MADE, "random 1", "random 2", "random 3"])
def test_kitti_scores_equal_brute_force(case):
    if case in HAND_MADE:
        label, confidence = (np.array(values, np.uint8) for values in HAND_MADE[case])
    else:
        random = np.random.default_rng(int(case[-1]))
        label = random.choice([0, 1, VOID], (20, 30)).astype(np.uint8)
        noise = random.normal(0, 60, label.shape)
        confidence = np.clip(np.where(label == 1, 150, 100) + noise, 0, 255).astype(np.uint8)
    found = metrics.kitti_scores(metrics.confidence_counts(label, confidence))
    assert found == pytest.approx(brute_force_kitti_scores(label, confidence), abs=1e-9)


def test_kitti_scores_by_hand():
    """Of 4 road pixels 3 are found at confidence 200, together with 1 of 6 others."""
    label = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], np.uint8)
    confidence = np.array([200, 200, 200, 10, 200, 5, 5, 5, 5, 5], np.uint8)
    found = metrics.kitti_scores(metrics.confidence_counts(label, confidence))
    # Above confidence 5 all road is found with one false alarm: precision 4/5, recall 1.
    expected = {"MaxF": 800 / 9, "PRE": 80, "REC": 100, "FPR": 100 / 6, "FNR": 0, "IoU": 80}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["AP"] == pytest.approx(80) and found["threshold"] == pytest.approx(6 / 255)


def test_confusion_and_iou_equal_brute_force(random):
    label = random.choice([0, 1, 2, VOID], (20, 30)).astype(np.uint8)
    prediction = random.integers(0, 3, label.shape)
    scores = metrics.class_scores(metrics.confusion_matrix(label, prediction, 4), "abcd")
    for index, name in enumerate("abc"):
        truth, called = (label == index), (prediction == index) & (label != VOID)
        expected = 100 * (truth & called).sum() / (truth | called).sum()
        assert scores["classes"][name] == pytest.approx(expected)
    assert scores["classes"]["d"] is None
    valid = label != VOID
    assert scores["accuracy"] == pytest.approx(100 * np.mean((label == prediction)[valid]))
    assert scores["mean_iou"] == pytest.approx(np.mean([scores["classes"][n] for n in "abc"]))


def test_tally_sums_over_pictures_before_it_scores(random):
    """Two pictures of different size and category score as their pixels put together."""
    tally, labels, roads = Tally(KITTI.classes), [], []
    for category, shape in (("um", (10, 12)), ("uu", (7, 9))):
        labels.append(random.choice([0, 1, VOID], shape).astype(np.uint8))
        roads.append(random.uniform(size=shape).astype(np.float32))
        tally.add(labels[-1], np.stack([1 - roads[-1], roads[-1]], axis=-1), category)
    label, road = (np.concatenate([part.ravel() for part in parts]) for parts in (labels, roads))
    expected = brute_force_kitti_scores(label, np.rint(255 * road).astype(np.uint8))
    scores = tally.scores()
    assert scores["perspective"]["all"] == pytest.approx({**expected, "pictures": 2}, abs=1e-9)
    assert set(scores["perspective"]) == {"all", "um", "uu"}
    chosen = np.where(label == 1, road, 1 - road)[label != VOID]
    assert tally.loss == pytest.approx(-np.log(chosen).mean(), rel=1e-4)


def test_calibration_makes_probabilities_true(random):
    """Odds that were stretched and shifted come back; the reliability figure is that of a loop."""
    true_odds = random.normal(0, 2, (400, 500))
    label = (random.uniform(size=true_odds.shape) < scipy.special.expit(true_odds)).astype(np.uint8)
    label[:50] = VOID
    stretched = scipy.special.expit((true_odds - 0.7) / 0.4)
    counts = log_odds_counts(label, stretched)
    assert counts.sum() == 350 * 500
    assert fit_calibration(counts) == pytest.approx((0.4, 0.7), abs=0.02)
    found = calibration_scores(counts)
    probability, truth = stretched[50:].ravel(), label[50:].ravel()
    error = 0
    for lower in np.arange(15) / 15:
        inside = (probability >= lower) & (probability < lower + 1 / 15)
        error += abs(truth[inside].sum() - probability[inside].sum()) / truth.size
    assert found["expected_calibration_error"] == pytest.approx(100 * error, abs=0.3)
    called = probability >= 0.5
    hits = (called & (truth == 1)).sum()
    expected = 200 * hits / (called.sum() + truth.sum()), 100 * hits / (called | (truth == 1)).sum()
    assert (found["f1_at_half"], found["iou_at_half"]) == pytest.approx(expected)
    assert found["f1_at_best"] > found["f1_at_half"] + 1
    calibrated = log_odds_counts(label, scipy.special.expit(true_odds))
    assert calibration_scores(calibrated)["expected_calibration_error"] < 0.5


@pytest.mark.parametrize("label", [0, 1, VOID])
def test_probabilities_of_one_class_alone_stay_as_they_are(label, random):
    counts = log_odds_counts(np.full((3, 4), label), random.uniform(size=(3, 4)))
    assert fit_calibration(counts) == (1.0, 0.0)
    assert all(np.isfinite(value) for value in calibration_scores(counts).values())


def test_the_predictor_applies_the_calibration(random):
    network = small_network()
    for name in ("score_fc7", "score_pool4", "score_pool3"):
        layer = network.get_layer(name)
        layer.set_weights([random.normal(0, 0.01, size=w.shape) for w in layer.get_weights()])
    picture = random.integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    plain, fitted = (predictor(network, fit)(picture) for fit in ((1, 0), (0.4, 0.7)))
    odds = scipy.special.logit(plain[..., 1].astype(np.float64))
    inner = np.abs(odds) < 8
    assert inner.mean() > 0.5 and np.ptp(odds[inner]) > 0.1
    expected = scipy.special.expit(0.4 * odds + 0.7)
    np.testing.assert_allclose(fitted[..., 1][inner], expected[inner], atol=1e-3)


# --- from above -----------------------------------------------------------------------------------


def calibration_cases():
    """Texts of calibration files with the size of their pictures: drawn ones, and KITTI's own."""
    for category in scenes.CATEGORIES:
        scene = scenes.draw_scene(category, 1, shape=SMALL)
        yield scenes.calibration_text(scene.calibration), SMALL
    for path in sorted(REAL_SAMPLES.glob("*/calib/*.txt")):
        if path.stem != "umm_000013":  # as it came from KITTI: a list of names and dates
            yield path.read_text(), (375, 1242)


def test_cells_fall_on_the_pixels_of_kittis_rule(tmp_path, random):
    for text, (height, width) in calibration_cases():
        (tmp_path / "calibration.txt").write_text(text)
        calibration = calibration_files.read_calibration(tmp_path / "calibration.txt")
        places = birds_eye.find_places(calibration, height, width)
        assert places.shape == (800, 400)
        projection = ground_projection(text)
        for row in [*random.integers(0, 800, 10).tolist(), *range(690, 800, 4)]:  # borders are near
            expected = [
                cell_by_hand(projection, row, column, height, width) for column in range(400)
            ]
            np.testing.assert_array_equal(places[row], expected)
        assert np.mean(places >= 0) > 0.3


def test_metres_keep_their_length_from_above():
    """A bar of 10 m ahead, 2 m across, drawn into a picture, is 200 cells long and 40 wide."""
    scene = scenes.draw_scene("umm", 2, shape=(375, 1242))
    x, z = np.meshgrid(np.arange(-1, 1, 0.002), np.arange(7.5, 17.5, 0.002))
    points = np.stack([x.ravel(), np.zeros(x.size), z.ravel(), np.ones(x.size)])
    u, v, depth = calibration_files.project_road(scene.calibration) @ points
    picture = np.zeros((375, 1242), np.uint8)
    picture[(v / depth).astype(int) - 1, (u / depth).astype(int) - 1] = 1
    seen = birds_eye.look_down(picture, birds_eye.find_places(scene.calibration, 375, 1242)) == 1
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert np.ptp(rows) + 1 == pytest.approx(200, abs=6)  # a pixel covers some cells there
    assert np.ptp(columns) + 1 == pytest.approx(40, abs=3)
    assert rows.mean() == pytest.approx((46 - 12.5) / 0.05, abs=3)
    assert columns.mean() == pytest.approx(199.5, abs=1)


def test_scores_from_above_are_those_of_what_is_seen_from_above(random):
    """And a picture without calibration is left out of them alone."""
    tally, labels, roads = Tally(KITTI.classes), [], []
    for index in range(2):
        scene = scenes.draw_scene("um", index, shape=SMALL)
        label = decode_label(scene.label, KITTI.label_values, "drawn")
        road = random.uniform(size=label.shape).astype(np.float32)
        probabilities = np.stack([1 - road, road], axis=-1)
        tally.add(label, probabilities, "um", scene.calibration)
        tally.add(label, probabilities, "uu")
        places = birds_eye.find_places(scene.calibration, *SMALL)
        seen = places.ravel()[places.ravel() >= 0]
        labels.append(label.ravel()[seen])
        roads.append(np.rint(255 * road.ravel()[seen]).astype(np.uint8))
    expected = brute_force_kitti_scores(np.concatenate(labels), np.concatenate(roads))
    found = tally.scores()["birds_eye"]
    assert set(found) == {"all", "um"} and found["all"] == found["um"]
    assert found["all"] == pytest.approx({**expected, "pictures": 2}, abs=1e-9)
    assert tally.scores()["perspective"]["all"]["pictures"] == 4


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: "", "P2 has 0 numbers"),
        (lambda text: text.replace("R0_rect", "R1_rect"), "R0_rect has 0 numbers"),
        (lambda text: text.replace("P2: ", "P2: 1.0 "), "P2 has 13 numbers"),
        (lambda text: text.replace("P2: ", "P2: x"), "could not convert"),
        (lambda text: re.sub(r"(Tr_cam_to_road: ).*", r"\g<1>" + "0 " * 12, text), "no rotation"),
        (lambda text: re.sub(r"(Tr_cam_to_road: ).*", r"\g<1>" + "nan " * 12, text), "12 numbers"),
    ],
    ids=["empty", "missing", "long", "word", "zero", "nan"],
)
def test_a_broken_calibration_is_named_and_left_out(damage, reason, spoilt):
    labelled, _ = KITTI.find(spoilt / "data_road")
    path = labelled[0].calibration
    path.write_text(damage(path.read_text()))
    labelled[1].calibration.unlink()
    calibrations, faults = read_calibrations(labelled[::-1])
    assert set(calibrations) == {sample.name for sample in labelled[2:]}
    assert list(faults) == [labelled[0].name, labelled[1].name]  # broken before missing
    broken, missing = faults.values()
    assert str(path) in broken and reason in broken
    assert str(labelled[1].calibration) in missing and "No such file" in missing


# --- evaluation -----------------------------------------------------------------------------------


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


def test_a_run_keeps_what_makes_its_probabilities_true(trained, tmp_path):
    """With it the loss on the validation part is lower than without."""
    plain = tmp_path / "run"
    shutil.copytree(trained, plain)
    (plain / "calibration.json").unlink()
    losses = []
    for folder in (trained, plain):
        predict, data_set, settings = main.load_run(folder)
        labelled, _ = data_set.find(Path(settings["data_dir"]) / "data_road")
        _, validation = data_set.split(labelled, 0)
        tally = score_pictures(predict, validation, data_set, settings["image_shape"])
        losses.append(tally.loss)
    assert losses[0] < losses[1] - 1e-3


def test_a_run_that_is_not_there_gives_one_line(trained, tmp_path, capsys):
    assert evaluate.main([str(tmp_path / "nothing")]) == 2
    assert "no run found" in error_line(capsys)
    shutil.copytree(trained, tmp_path / "run")
    weights = tmp_path / "run" / "best.weights.h5"
    for content in (b"", weights.read_bytes()[:5000]):
        weights.write_bytes(content)
        assert evaluate.main([str(tmp_path / "run")]) == 2
        assert "best.weights.h5" in error_line(capsys)


def test_a_submission_is_what_kittis_server_takes(drawn, tmp_path, random):
    """290 grey pictures of 800x400 in the root, each the warped 8-bit probability."""
    _, testing = KITTI.find(drawn / "data_road")
    samples = [
        Sample(f"{category}_{number:06d}", original.picture, None, category, original.calibration)
        for category, count in (("um", 96), ("umm", 94), ("uu", 100))
        for number, original in zip(range(count), itertools.cycle(testing))
    ]
    road = random.uniform(size=SMALL).astype(np.float32)

    def predict(pictures):
        return np.stack([np.stack([1 - road, road], axis=-1)] * len(pictures))

    path = tmp_path / "submission.zip"
    pack_submission(path, predict, samples, SMALL)
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        image = Image.open(archive.open("umm_road_000093.png"))
        assert image.mode == "L" and image.size == (400, 800)
        pixels = np.asarray(image)
    assert names == {
        f"{category}_road_{number:06d}.png"
        for category, count in (("um", 96), ("umm", 94), ("uu", 100))
        for number in range(count)
    }
    sample = samples[96 + 93]
    projection = ground_projection(sample.calibration.read_text())
    for row, column in random.integers(0, (800, 400), (200, 2)).tolist():
        place = cell_by_hand(projection, row, column, *SMALL)
        assert pixels[row, column] == (0 if place < 0 else np.rint(255 * road.ravel()[place]))
    assert len(read_submission(path)) == 290
    with pytest.raises(UserError, match="289 testing pictures"):
        pack_submission(path, predict, samples[1:], SMALL)


def test_no_submission_without_kittis_testing_pictures(trained, tmp_path, capsys):
    path = tmp_path / "submission.zip"
    assert evaluate.main([str(trained), "--submission", str(path)]) == 2
    assert "3 testing pictures" in error_line(capsys) and not path.exists()

"""Score a network on labelled pictures and calibrate its probabilities."""

from roadseg import terminal
from roadseg.answering.predictor import (
    PREDICTION_BATCH,
    UNCALIBRATED,
    nearest_shape,
    predict_ahead,
    read_sample,
)
from roadseg.data.calibration_files import read_calibrations
from roadseg.data.pictures import WORKERS, map_ahead, read_label
from roadseg.files import write_json
from roadseg.scoring.calibration import fit_calibration
from roadseg.scoring.metrics import CLASS_SCORES
from roadseg.scoring.tally import Tally

FAULTS_SHOWN = 5  # lines of a warning
VIEW_SCORES = ("MaxF", "AP", "PRE", "REC", "IoU")
# Part of metrics.json -> its title and columns.
VIEWS = {
    "perspective": ("in the picture", VIEW_SCORES),
    "birds_eye": ("seen from above", VIEW_SCORES),
}
CLASSES = {"per_class": ("each class", CLASS_SCORES)}


def score_pictures(
    predict,
    samples,
    data_set,
    image_shape,
    batch_size=PREDICTION_BATCH,
    calibrations=None,
    after_each=lambda *_: None,
    read=read_sample,
    read_label=read_label,
):
    """Compare predictions with labels in the pictures' own size. Returns a Tally.

    Threads read and count beside the network. calibrations: {sample's name: matrices of
    `read_calibration`}, for scores from above; after_each: function (sample, picture, label,
    probabilities, calibration or None); read: of `predict_ahead`; read_label: function (sample,
    data_set) -> uint8 [H, W].
    """
    tally, calibrations = Tally(data_set.classes), calibrations or {}

    def count(answer):
        sample, picture, probabilities = answer[0], answer[1], answer[2].array()
        label, calibration = read_label(sample, data_set), calibrations.get(sample.name)
        counted = Tally(data_set.classes)
        counted.add(label, probabilities, data_set.category(sample), calibration)
        return sample, picture, label, probabilities, calibration, counted

    answers = predict_ahead(predict, samples, read, nearest_shape(image_shape), batch_size)
    for *seen, counted in map_ahead(count, answers, WORKERS):
        tally += counted
        after_each(*seen)
    return tally


def calibrate(predict, samples, data_set, image_shape, folder, batch_size=PREDICTION_BATCH):
    """Fit the calibration of a network and write calibration.json.

    batch_size: of `predict_ahead`. Returns a Calibration, UNCALIBRATED for more than two classes.
    """
    fit = UNCALIBRATED
    if len(data_set.classes) == 2:
        tally = score_pictures(predict, samples, data_set, image_shape, batch_size)
        fit = fit_calibration(tally.log_odds, tally.front)
    write_json(folder / "calibration.json", fit._asdict())
    return fit


def score_run(
    predict, samples, data_set, settings, split, batch_size=PREDICTION_BATCH, look=lambda *_: None
):
    """Score a network on a part of its data, in the layout of metrics.json.

    look: after_each of `score_pictures`. Pictures without a valid calibration file are left out of
    the scores from above, with a warning. Returns (content of metrics.json, Tally).
    """
    calibrations, faults = read_calibrations(samples)
    if faults:
        terminal.say(
            f"left out of the scores from above, without a valid calibration file: {len(faults)} "
            f"of {terminal.counted(len(samples), 'picture')}: {terminal.listing(list(faults))}\n"
            + "\n".join(list(faults.values())[:FAULTS_SHOWN])
        )
    with terminal.progress(total=len(samples), desc="scoring", unit="picture") as bar:

        def after_each(*seen):
            look(*seen)
            bar.update()

        shape = settings["image_shapes"]
        tally = score_pictures(
            predict, samples, data_set, shape, batch_size, calibrations, after_each
        )
    result = {name: settings[name] for name in ("dataset", "labels")} | {"split": split}
    return result | tally.scores(), tally


def score_table(result):
    """Format the content of metrics.json as a table for the terminal."""
    pictures = terminal.counted(result["pictures"], "picture")
    lines = [
        f"Scores on {pictures} of the {result['split']} part, in percent",
        f"({result['labels']})",
    ]
    for part, (title, columns) in (VIEWS if "perspective" in result else CLASSES).items():
        if part in result:
            lines.append(f"{title:32}" + "".join(f"{column:>10}" for column in columns))
        for name, scores in result.get(part, {}).items():
            name += f" ({scores['pictures']})" if "pictures" in scores else ""
            cells = ("none" if scores[key] is None else f"{scores[key]:.2f}" for key in columns)
            lines.append(f"{name:32}" + "".join(f"{cell:>10}" for cell in cells))
    for rule, max_f in result.get("simple_rules", {}).items():
        lines.append(f"{'rule: ' + rule:32}{max_f:10.2f}")
    if "calibration" in result:
        scores = result["calibration"]
        lines.append(
            f"F1 {scores['f1_at_half']:.2f} at probability 0.5, {scores['f1_at_best']:.2f} at "
            f"{scores['best_threshold']:.2f}; calibration error "
            f"{scores['expected_calibration_error']:.2f}"
        )
    lines.append(f"accuracy {result['accuracy']:.2f}, mean IoU {result['mean_iou']:.2f}")
    return "\n".join(lines)

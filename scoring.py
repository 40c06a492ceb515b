"""Scores a network on labelled pictures, and makes its probabilities true."""

import numpy as np
import scipy.optimize
import scipy.special

import helper
import metrics
from metrics import ROAD
from roadseg import devices, terminal
from roadseg.data.calibration_files import read_calibrations
from roadseg.data.pictures import read_image, read_label
from roadseg.engine import keras
from roadseg.files import write_json

PREDICTION_BATCH = 4  # pictures on each device
OTHER_SCALES = (0.85, 1.15)  # of the size that is asked for
CELL = 32  # pixels; the network pads to whole ones
FAULTS_SHOWN = 5  # lines of one kind, of those that stop nothing


def with_probabilities(network, calibration=(1.0, 0.0)):
    """Put calibration and softmax behind a network.

    network: of `main.layers`; calibration: (slope, offset) of `fit_calibration`, for two classes.
    Returns a model: pictures [N, H, W, 3] -> class probabilities float32 [N, H, W, classes].
    """
    slope, offset = calibration
    shift = [0.0] * (network.output.shape[-1] - 1) + [offset]
    logits = keras.layers.Rescaling(slope, shift, dtype="float32")(network.output)
    return keras.Model(network.input, keras.layers.Softmax(dtype="float32")(logits))


def predictor(network, calibration=(1.0, 0.0)):
    """Make the function pictures [N, H, W, 3] -> what the model of `with_probabilities` gives.

    It computes on all devices of this process.
    """
    team, model = devices.team(), with_probabilities(network, calibration)

    def predict(pictures):
        filled = np.take(pictures, devices.fill_up(len(pictures), team.own_devices), axis=0)
        with team.own_scope():
            return model.predict_on_batch(team.spread(filled))[: len(pictures)]

    return predict


def scaled_shape(shape, scale):
    """Return scale times shape, (height, width), in whole cells of 32 pixels, one at least.

    Where there is padding that training did not have, networks answer worse (docs/experiments.md).
    """
    return [max(1, round(scale * size / CELL)) * CELL for size in shape]


def thoroughly(predict):
    """Make the function that answers with the mean of what predict says at three sizes.

    predict: function float32 [N, H, W, 3] -> float32 [N, H, W, C] for any H and W. It is asked at
    the size of the pictures and at `OTHER_SCALES` of it.
    """

    def resample(arrays, shape):
        return np.stack([resample(array, shape) for array in arrays])

    def predict_thoroughly(pictures):
        shape = pictures.shape[1:3]
        others = [resample(pictures, scaled_shape(shape, scale)) for scale in OTHER_SCALES]
        answers = [predict(pictures), *(resample(predict(other), shape) for other in others)]
        return np.mean(answers, axis=0)

    return predict_thoroughly


def prediction_batch():
    """How many pictures this process predicts at once."""
    return PREDICTION_BATCH * devices.team().own_devices


def score_pictures(
    predict, samples, data_set, image_shape, calibrations=None, after_each=lambda *_: None
):
    """Compare predictions with labels in the pictures' own size. Returns a metrics.Tally.

    calibrations: {sample's name: birds_eye's matrices}, to score these from above too; after_each:
    function (sample, picture, label, probabilities, calibration or None) to call after each.
    """
    tally, calibrations = metrics.Tally(data_set.classes), calibrations or {}
    output = helper.gen_test_output(predict, samples, image_shape, prediction_batch())
    for sample, picture, probabilities in output:
        label, calibration = read_label(sample, data_set), calibrations.get(sample.name)
        tally.add(label, probabilities, sample.category, calibration)
        after_each(sample, picture, label, probabilities, calibration)
    return tally


def validator(network, own, samples, data_set, image_shape, after_each=lambda *_: None):
    """Make the function () -> metrics.Tally of a network as it is then.

    own: network that answers in its place, or the same one; the others: of `score_pictures`.
    """
    predict = predictor(own)

    def validate():
        if own is not network:
            own.set_weights(network.get_weights())
        return score_pictures(predict, samples, data_set, image_shape, after_each=after_each)

    return validate


def calibrate(network, samples, data_set, image_shape, folder):
    """Fit what makes a network's probabilities true, and keep it in the run's calibration.json.

    Returns the predictor that applies it. For more classes than two nothing is changed.
    """
    tally = score_pictures(predictor(network), samples, data_set, image_shape)
    slope, offset = fit_calibration(tally.log_odds)
    write_json(folder / "calibration.json", {"slope": slope, "offset": offset})
    return predictor(network, (slope, offset))


def fit_calibration(counts):
    """Fit the slope and offset that turn log-odds into true ones, by maximum likelihood.

    counts: int64 of `metrics.log_odds_counts`, summed. Returns (slope, offset), (1, 0) where a
    class is missing. (J. Platt: Probabilistic Outputs for Support Vector Machines, 1999; C. Guo et
    al.: On Calibration of Modern Neural Networks, arXiv:1706.04599)
    """
    if not counts.sum(axis=1).all():
        return 1.0, 0.0
    (other, road), log_odds = counts / counts.sum(), metrics.bin_log_odds()

    def loss(answer):
        true = answer[0] * log_odds + answer[1]
        return -(road @ scipy.special.log_expit(true) + other @ scipy.special.log_expit(-true))

    return tuple(scipy.optimize.minimize(loss, (1.0, 0.0)).x.tolist())


def score_run(predict, samples, data_set, settings, split, look=lambda *_: None):
    """Score a network on a part of its data, in the layout of metrics.json.

    look: function as after_each of `score_pictures`. Pictures without a whole calibration file are
    left out of the scores from above, and named. Returns (what metrics.json holds, metrics.Tally).
    """
    calibrations, faults = read_calibrations(samples)
    if faults:
        terminal.say(
            f"{len(faults)} of {len(samples)} pictures have no whole calibration file and are left "
            f"out of the scores from above: {' '.join(faults)}\n"
            + "\n".join(list(faults.values())[:FAULTS_SHOWN])
        )
    with terminal.progress(total=len(samples), desc="scoring", unit="picture") as bar:
        shape = settings["image_shape"]
        tally = score_pictures(
            predict,
            samples,
            data_set,
            shape,
            calibrations,
            after_each=lambda *seen: look(*seen) or bar.update(),
        )
    result = {name: settings[name] for name in ("dataset", "labels")} | {"split": split}
    return result | tally.scores(), tally


def score_simple_rules(training, validation, data_set):
    """Score two rules that need no network, each with its best threshold.

    Returns {rule: MaxF in percent} on the validation part; the colour rule's mean road colour is
    that of the training part.
    """
    colours = [
        read_image(sample.picture)[read_label(sample, data_set) == ROAD] for sample in training
    ]
    road_colour = np.concatenate(colours).mean(axis=0)
    rules = {
        "all below the horizon": lambda picture: metrics.row_confidence(*picture.shape[:2]),
        "near the road's mean colour": lambda picture: metrics.colour_confidence(
            picture, road_colour
        ),
    }
    counts = dict.fromkeys(rules, 0)
    for sample in validation:
        picture, label = read_image(sample.picture), read_label(sample, data_set)
        for rule, confidence in rules.items():
            counts[rule] = counts[rule] + metrics.confidence_counts(label, confidence(picture))
    return {rule: metrics.kitti_scores(count)["MaxF"] for rule, count in counts.items()}

"""Brings a trained run back, ready to answer."""

from main import layers, load_vgg
from roadseg.answering.predictor import predictor
from roadseg.data import vgg_weights
from roadseg.data.datasets import row_of
from roadseg.engine import answering_precision, keras
from roadseg.errors import UserError
from roadseg.files import read_json
from roadseg.training import checkpoint


def load_network(folder, precision=None):
    """Bring a trained run's network back.

    folder: of the run; precision: of the inner layers, default: as the run's settings say.
    Returns (network of `layers`, (slope, offset) of its calibration, row of DATASETS, settings).
    Raises UserError where the run has no weights, or damaged ones.
    """
    settings, weights = read_json(folder / "settings.json"), folder / checkpoint.BEST
    if not weights.is_file():
        raise UserError(f"{weights}: not found; this run has not trained a whole epoch yet")
    data_set = row_of(settings)
    keras.config.set_dtype_policy(precision or answering_precision(settings))
    network = layers(load_vgg(vgg_weights.read(str(weights), folder)), len(data_set.classes))
    try:
        network.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{weights}: damaged, or of another network ({error})") from error
    fit = folder / "calibration.json"
    fit = read_json(fit) if fit.is_file() else {"slope": 1.0, "offset": 0.0}
    return network, (fit["slope"], fit["offset"]), data_set, settings


def load_run(folder):
    """Bring a trained run back: returns (predictor, row of DATASETS, settings)."""
    network, calibration, data_set, settings = load_network(folder)
    return predictor(network, calibration), data_set, settings

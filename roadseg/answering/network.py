"""A network of Keras that answers: calibration and softmax behind it, on all devices."""

import functools
import itertools

import numpy as np

from roadseg import devices
from roadseg.answering.layers import SHARES, RaiseRoad
from roadseg.answering.predictor import PREDICTION_BATCH, UNCALIBRATED, in_tiles
from roadseg.engine import device_kind, keras

RAISE_ROAD = "raise_road"  # the layer that needs all pixels of a picture


def with_probabilities(network, calibration=UNCALIBRATED):
    """Append calibration and softmax to a network.

    network: of `main.layers`; calibration: Calibration, of two classes.
    Returns a model: pictures [N, H, W, 3] -> class probabilities float32 [N, H, W, classes].
    """
    slope, offset, share, front = calibration
    shift = [0.0] * (network.output.shape[-1] - 1) + [offset]
    logits = keras.layers.Rescaling(slope, shift, dtype="float32")(network.output)
    if share < SHARES[1]:
        logits = RaiseRoad(share, front, dtype="float32", name=RAISE_ROAD)(logits)
    return keras.Model(network.input, keras.layers.Softmax(dtype="float32")(logits))


class Predictor:
    """The function of `with_probabilities`: pictures [N, H, W, 3] -> float32 [N, H, W, classes].

    It uses all devices of this process.
    """

    def __init__(self, network, calibration=UNCALIBRATED, team=devices.ONE_DEVICE):
        self.model, self.team = with_probabilities(network, calibration), team
        self.most = {}  # (model, shape of a picture) -> most pictures that came at once

    def __call__(self, pictures):
        return self._compute(self.model, pictures)

    def in_tiles(self, **sizes):
        """Return a function like this that answers large pictures by `in_tiles`.

        sizes: of `in_tiles`. A picture is brightened as a whole, before it is cut, and road is
        raised by what the whole shows.
        """
        layers = {layer.name: layer for layer in self.model.layers}
        cuts = [layers["brighten"].output]
        if RAISE_ROAD in layers:
            cuts.append(layers[RAISE_ROAD].input)
        ends = itertools.pairwise([self.model.input, *cuts, self.model.output])
        models = (functools.partial(self._compute, keras.Model(*pair)) for pair in ends)
        brighten, answer, *finish = models
        steps = [brighten, in_tiles(answer, **sizes), *finish]
        return lambda pictures: functools.reduce(lambda seen, step: step(seen), steps, pictures)

    def _compute(self, model, pictures):
        places = devices.fill_up(len(pictures), self.team.own_devices)
        if device_kind() != "cpu":  # it compiles anew for another number of pictures
            key = id(model), pictures.shape[1:]
            self.most[key] = max(self.most.get(key, 0), len(places))
            places = devices.fill_up(len(pictures), self.most[key])
        filled = np.take(pictures, places, axis=0)
        with self.team.own_scope():
            return model.predict_on_batch(self.team.shard(filled))[: len(pictures)]


def prediction_batch(team):
    """Return how many pictures a process of the team predicts at once."""
    return PREDICTION_BATCH * team.own_devices

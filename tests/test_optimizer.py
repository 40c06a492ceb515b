"""The steps of the optimizer, by hand."""

import math

import numpy as np
import pytest

import main
from main import keras
from tests.small import small_network


def test_each_layer_learns_at_its_rate_and_the_rate_rises_and_falls():
    """With one gradient for ever, each Adam step is as long as the layer's learning rate."""
    network = small_network()
    optimizer = main.optimize(network, 1e-3, 50).optimizer
    variables = network.trainable_variables
    rates, steps = [], {"block5_conv1/bias": [], "score_pool3/bias": []}
    watched = {v.path: v for v in variables if v.path in steps}
    for _ in range(50):
        rates.append(float(optimizer.learning_rate))
        before = {path: variable.numpy()[0] for path, variable in watched.items()}
        optimizer.apply([keras.ops.ones_like(variable) for variable in variables], variables)
        for path, variable in watched.items():
            steps[path].append(before[path] - variable.numpy()[0])
    for path, factor in (("block5_conv1/bias", 1), ("score_pool3/bias", 600)):
        np.testing.assert_allclose(steps[path], np.array(rates) * factor, rtol=0.01, atol=1e-5)
    top = int(np.argmax(rates))
    assert max(rates) == pytest.approx(1e-3, rel=0.01) and rates[-1] < 1e-5
    assert np.all(np.diff(rates[: top + 1]) > 0) and np.all(np.diff(rates[top:]) < 0)

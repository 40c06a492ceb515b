"""The steps of the optimizer, by hand."""

import math

import numpy as np
import pytest

import main
from main import keras
from tests.small import small_network


def rate_by_hand(step, highest, warm_up, total):
    """It rises evenly over the first steps and falls as a cosine to zero."""
    if step < warm_up:
        return highest * (1 / warm_up + (1 - 1 / warm_up) * step / warm_up)
    return highest * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up))) / 2


@pytest.mark.parametrize("slices", [1, 2])
def test_the_rate_rises_evenly_and_falls_as_a_cosine(slices):
    """Where slices make a step it counts at the last of them; a slowdown is a factor of it."""
    options = {"slowdown": 0.5, "slices": slices}
    optimizer = main.optimize(small_network(), 2e-3, 60, **options).optimizer
    (counter,) = [variable for variable in optimizer.variables if variable.name == "iteration"]
    rates = []
    for step in range(60):
        counter.assign(slices * step + slices - 1)
        rates.append(float(optimizer.learning_rate))
    late = 1 - 1 / slices  # of a step
    expected = [rate_by_hand(step + late, 1e-3, 3, 60) for step in range(60)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)
    assert max(rates) == pytest.approx(1e-3, rel=1e-3) and rates[-1] < 1e-5


def test_a_step_is_as_long_as_the_rate():
    """With one gradient for ever, in every layer, as Adam promises."""
    network = small_network()
    optimizer = main.optimize(network, 1e-3, 50).optimizer
    variables = network.trainable_variables
    for _ in range(6):
        rate, before = float(optimizer.learning_rate), [v.numpy() for v in variables]
        optimizer.apply([keras.ops.ones_like(variable) for variable in variables], variables)
        for variable, old in zip(variables, before, strict=True):
            np.testing.assert_allclose(old - variable.numpy(), rate, rtol=0.01)


@pytest.mark.parametrize("length", [0.5, 20.0])
def test_gradients_are_clipped_together(length):
    """The first of Adam's moments is a tenth of the first gradients, at most 1 long together."""
    network = small_network()
    optimizer = main.optimize(network, 1e-3, 50).optimizer
    variables = network.trainable_variables
    numbers = sum(math.prod(variable.shape) for variable in variables)
    gradient = length / math.sqrt(numbers)
    optimizer.apply([keras.ops.full(v.shape, gradient) for v in variables], variables)
    moments = [v.numpy() for v in optimizer.variables if v.name.endswith("momentum")]
    assert len(moments) == len(variables)
    expected = 0.1 * gradient * min(1, 1 / length)
    for moment in moments:
        np.testing.assert_allclose(moment, expected, rtol=1e-4)

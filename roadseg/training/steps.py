"""Steps of the optimizer: each waited for, or on a GPU issued one after the other."""

import functools
import itertools

import numpy as np

from roadseg import devices
from roadseg.engine import keras
from roadseg.errors import MemoryShortError

OUT_OF_MEMORY = ("MemoryError", "ResourceExhausted", "RESOURCE_EXHAUSTED")  # of any engine


def raise_if_memory_is_short(error, labels):
    """Raise MemoryShortError where an engine's error means that; labels: [N, H, W]."""
    if any(sign in repr(error) for sign in OUT_OF_MEMORY):
        shape = "x".join(map(str, labels.shape))
        raise MemoryShortError(f"no memory for a batch of {shape} pixels") from error


def take_step(compiled, pictures, labels, team=devices.ONE_DEVICE, count=None, slices=1):
    """Train on one batch in equal slices; the optimizer accumulates their gradients.

    pictures, labels: arrays [N, ...], this process's share of the batch; count: pictures in the
    batch of all processes, default N. Rows that fill it up to equal slices have weight 0. Returns
    the mean loss over `count` pictures. Raises MemoryShortError.
    """
    size, losses = len(labels), []
    count = count or size
    places = devices.fill_up(size, slices * team.own_devices)
    weights = np.zeros(len(places), np.float32)
    weights[:size] = team.real_rows(count, size)
    weights *= len(places) * team.processes / count
    try:
        cut = (np.split(array, slices) for array in (places, weights))
        for chosen, chosen_weights in zip(*cut, strict=True):
            compiled.reset_metrics()  # else the loss is the mean since the start
            batch = pictures[chosen], labels[chosen], chosen_weights
            losses.append(float(compiled.train_on_batch(*map(team.shard_step, batch))))
    except Exception as error:  # each engine has its own class for this
        raise_if_memory_is_short(error, labels)
        raise
    return sum(losses) / slices


class StepsAhead:
    """Steps that are not waited for, so that the next is ready when a GPU has taken one.

    Keras' `train_on_batch` waits for each loss, and prepares a step for longer than a GPU takes it.
    """

    def __init__(self, compiled):
        """compiled: result of `main.optimize`, of one device and one slice."""
        kinds = {"jax": JaxSteps, "tensorflow": TensorFlowSteps}
        self.steps = kinds[keras.backend.backend()](compiled)

    def __call__(self, pictures, labels, count):
        """Take a step on the first `count` pictures of a batch on the device.

        Returns a function () -> its mean loss, which waits. Raises MemoryShortError.
        """
        weights = np.zeros(len(labels), np.float32)
        weights[:count] = 1 / count
        try:
            loss = self.steps.take(pictures, labels, keras.ops.convert_to_tensor(weights))
        except Exception as error:  # each engine has its own class for this
            raise_if_memory_is_short(error, labels)
            raise
        return functools.partial(wait_for, loss, labels)

    def settle(self):
        """Give the variables their values, which they lack since the last step."""
        self.steps.settle()


def wait_for(loss, labels):
    """Return a loss as a number."""
    try:
        return float(loss)
    except Exception as error:  # each engine has its own class for this
        raise_if_memory_is_short(error, labels)
        raise


class JaxSteps:
    """Steps compiled by JAX, which keeps the values of all variables from step to step."""

    def __init__(self, compiled):
        import jax

        optimizer, self.values = compiled.optimizer, None
        self.groups = (
            compiled.trainable_variables,
            compiled.non_trainable_variables,
            optimizer.variables,
        )

        def loss_of(trainable, others, pictures, labels, weights):
            logits, others = compiled.stateless_call(trainable, others, pictures, training=True)
            return keras.ops.sum(weights * compiled.loss(labels, logits)), others

        @functools.partial(jax.jit, donate_argnums=0)
        def step(values, *batch):
            trainable, others, moments = values
            with_gradient = jax.value_and_grad(loss_of, has_aux=True)
            (loss, others), gradients = with_gradient(trainable, others, *batch)
            trainable, moments = optimizer.stateless_apply(moments, gradients, trainable)
            return (trainable, others, moments), loss

        self.step = step

    def take(self, *batch):
        """Take a step. Returns its loss, which may not be there yet."""
        if self.values is None:
            self.values = tuple([variable.value for variable in group] for group in self.groups)
        self.values, loss = self.step(self.values, *batch)
        return loss

    def settle(self):
        """Give the variables their values."""
        if self.values is not None:
            variables = itertools.chain(*self.groups)
            for variable, value in zip(variables, itertools.chain(*self.values), strict=True):
                variable.assign(value)
            self.values = None


class TensorFlowSteps:
    """Steps compiled by TensorFlow, which keeps values in the variables themselves."""

    def __init__(self, compiled):
        import tensorflow as tf

        @tf.function(jit_compile=compiled.jit_compile)
        def take(pictures, labels, weights):
            with tf.GradientTape() as tape:
                losses = compiled.loss(labels, compiled(pictures, training=True))
                loss = tf.reduce_sum(weights * losses)
            gradients = tape.gradient(loss, compiled.trainable_variables)
            compiled.optimizer.apply(gradients, compiled.trainable_variables)
            return loss

        self.take = take

    def settle(self):
        """Do nothing: the variables have their values."""

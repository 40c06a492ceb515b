"""Steps of the optimizer: each waited for, or on a GPU issued one after the other."""

import functools

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
        self.take = {"jax": jax_step, "tensorflow": tensorflow_step}[keras.backend.backend()](
            compiled
        )

    def __call__(self, pictures, labels, count):
        """Take a step on the first `count` pictures of a batch on the device.

        Returns a function () -> its mean loss, which waits. Raises MemoryShortError.
        """
        weights = np.zeros(len(labels), np.float32)
        weights[:count] = 1 / count
        try:
            loss = self.take(pictures, labels, keras.ops.convert_to_tensor(weights))
        except Exception as error:  # each engine has its own class for this
            raise_if_memory_is_short(error, labels)
            raise
        return functools.partial(wait_for, loss, labels)


def wait_for(loss, labels):
    """Return a loss as a number."""
    try:
        return float(loss)
    except Exception as error:  # each engine has its own class for this
        raise_if_memory_is_short(error, labels)
        raise


def jax_step(compiled):
    """Make a function (pictures, labels, weights) -> loss on JAX, compiled as one."""
    import jax

    optimizer = compiled.optimizer
    groups = compiled.trainable_variables, compiled.non_trainable_variables, optimizer.variables

    def loss_of(trainable, others, pictures, labels, weights):
        logits, others = compiled.stateless_call(trainable, others, pictures, training=True)
        return keras.ops.sum(weights * compiled.loss(labels, logits)), others

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, *batch):
        trainable, others, moments = state
        with_gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, others), gradients = with_gradient(trainable, others, *batch)
        trainable, moments = optimizer.stateless_apply(moments, gradients, trainable)
        return (trainable, others, moments), loss

    def take(*batch):
        state, loss = step([[variable.value for variable in group] for group in groups], *batch)
        for group, values in zip(groups, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        return loss

    return take


def tensorflow_step(compiled):
    """Make a function (pictures, labels, weights) -> loss on TensorFlow, compiled as one."""
    import tensorflow as tf

    @tf.function(jit_compile=compiled.jit_compile)
    def step(pictures, labels, weights):
        with tf.GradientTape() as tape:
            losses = compiled.loss(labels, compiled(pictures, training=True))
            loss = tf.reduce_sum(weights * losses)
        gradients = tape.gradient(loss, compiled.trainable_variables)
        compiled.optimizer.apply(gradients, compiled.trainable_variables)
        return loss

    return step

"""Brings Keras up without chatter, on TensorFlow unless KERAS_BACKEND names another engine.

And tells what the engine can do on this machine.
"""

import math
import os
import shutil
import time
from pathlib import Path

import numpy as np

import helper

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
with helper.quiet_standard_error():
    import keras

SHARE_OF_LIMIT = 0.7  # of a matrix product's rate that training reaches; about
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def warn_about_idle_gpu():
    """Say so when this machine has an NVIDIA GPU that Keras can't use."""
    has_gpu = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    if has_gpu and keras.distribution.list_devices()[0].startswith("cpu"):
        packages = {"tensorflow": "tensorflow[and-cuda]", "jax": "jax[cuda]"}
        backend = keras.backend.backend()
        helper.say(
            f"This machine has an NVIDIA GPU, but {backend} can't use it and trains on the CPU. "
            f"To use it: pip install '{packages.get(backend, backend)}'"
        )


def device_names(count):
    """Say what the network computes on; count: of devices."""
    kind = keras.distribution.list_devices()[0].split(":")[0]
    if kind == "cpu" and count == 1:
        return f"{os.cpu_count()} processor cores"
    return f"{count} {kind.upper()}{'s' if count > 1 else ''}"


def expected_seconds(network, shape, passes):
    """Guess how long a network needs for so many forward passes of (height, width) pictures."""
    return passes * operations(network, shape) / (SHARE_OF_LIMIT * matrix_product_rate())


def matrix_product_rate(size=2048, seconds=0.5):
    """The machine's own limit: floating-point operations a second of a large matrix product."""
    matrix = keras.ops.ones((size, size), "float32")
    count, started = -1, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or count < 1:
        np.asarray(keras.ops.matmul(matrix, matrix)[0, 0])  # waits until it is done
        count += 1
        if not count:  # the first one warms up
            started = time.perf_counter()
    return 2 * size**3 * count / passed


def operations(network, shape):
    """Floating-point operations of a network's convolutions for one picture of (height, width).

    A multiplication and an addition are two.
    """
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    outputs = keras.Model(network.input, [layer.output for layer in convolutions])
    shapes = outputs.compute_output_shape((1, *shape, 3))
    return sum(
        2 * math.prod(layer.kernel.shape) * math.prod(output[1:3])
        for layer, output in zip(convolutions, shapes, strict=True)
    )

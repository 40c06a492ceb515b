"""Brings Keras up without chatter, on TensorFlow unless KERAS_BACKEND names another engine.

And tells what the engine can do on this machine.
"""

import math
import os
import shutil
import time
from pathlib import Path

from roadseg import terminal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
with terminal.quiet_standard_error():
    import keras

SHARE_OF_LIMIT = 0.7  # of a matrix product's rate that training reaches; about
FLOAT32, BFLOAT16 = "float32", "mixed_bfloat16"
PRECISIONS = (FLOAT32, BFLOAT16, "mixed_float16")
WORTH_ROUNDING = 1.3  # times as fast a product in bfloat16 has to be
ROUNDS, ROUND_SECONDS = 3, 0.15  # of that comparison


def device_kind():
    """Return what the network computes on: "cpu", "gpu" or "tpu"."""
    return keras.distribution.list_devices()[0].split(":")[0]


def warn_about_idle_gpu():
    """Say so when this machine has an NVIDIA GPU that Keras can't use."""
    has_gpu = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    if has_gpu and device_kind() == "cpu":
        packages = {"tensorflow": "tensorflow[and-cuda]", "jax": "jax[cuda]"}
        backend = keras.backend.backend()
        terminal.say(
            f"This machine has an NVIDIA GPU, but {backend} can't use it and trains on the CPU. "
            f"To use it: pip install '{packages.get(backend, backend)}'"
        )


def device_names(count):
    """Say what the network computes on; count: of devices."""
    kind = device_kind()
    if kind == "cpu" and count == 1:
        return f"{os.cpu_count()} processor cores"
    return f"{count} {kind.upper()}{'s' if count > 1 else ''}"


def faster_precision():
    """Return BFLOAT16 where this machine multiplies so much faster, else FLOAT32.

    Graphics processors do, and newer processors (AVX512-BF16, AMX); others imitate it slowly.
    """
    compared = (BFLOAT16, FLOAT32)
    rounds = [
        [matrix_product_rate(precision, seconds=ROUND_SECONDS) for precision in compared]
        for _ in range(ROUNDS)
    ]
    # The best of each: whatever else the machine does for a moment only makes it slower.
    rounded, exact = map(max, zip(*rounds, strict=True))
    return BFLOAT16 if rounded > WORTH_ROUNDING * exact else FLOAT32


def answering_precision(settings):
    """Return the precision of the inner layers in which a run's network answers.

    What is left to the program is exact: the same for one picture as for many, and everywhere.
    """
    return FLOAT32 if settings["precision"] == "auto" else settings["precision"]


def expected_seconds(network, shape, precision, trained, predicted):
    """Guess how long a network needs to train on, and predict, so many (height, width) pictures."""
    work = trained * operations(network, shape, training=True)
    work += predicted * operations(network, shape)
    return work / (SHARE_OF_LIMIT * matrix_product_rate(precision))


def matrix_product_rate(precision=FLOAT32, size=2048, seconds=0.5):
    """The machine's own limit: floating-point operations a second of a large matrix product.

    precision: of PRECISIONS, in which it multiplies.
    """
    matrix = keras.ops.ones((size, size), keras.DTypePolicy(precision).compute_dtype)
    count, started = -1, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or count < 1:
        float(keras.ops.matmul(matrix, matrix)[0, 0])  # waits until it is done
        count += 1
        if not count:  # the first one warms up
            started = time.perf_counter()
    return 2 * size**3 * count / passed


def operations(network, shape, training=False):
    """Floating-point operations of a network's convolutions for one picture of (height, width).

    A multiplication and an addition are two. In training the gradients of kernels that are trained
    cost as much again, and so do those of what such layers send on to later ones.
    """
    convolutions = [layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D)]
    outputs = keras.Model(network.input, [layer.output for layer in convolutions])
    shapes = outputs.compute_output_shape((1, *shape, 3))
    total, is_sent_back = 0, False
    for layer, output in zip(convolutions, shapes, strict=True):
        passes = 1 + layer.trainable + is_sent_back if training else 1
        total += passes * 2 * math.prod(layer.kernel.shape) * math.prod(output[1:3])
        is_sent_back |= layer.trainable
    return total

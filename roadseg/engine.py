"""Import Keras quietly, on TensorFlow unless KERAS_BACKEND is set; measure what it can do here."""

import logging
import math
import os
import shutil
import sys
import time
from pathlib import Path

from roadseg import terminal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
try:
    with terminal.quiet_standard_error():
        import keras
except ModuleNotFoundError as error:  # of a command that was started without requirements.txt
    package = error.name if error.name in ("jax", "torch") else "-r requirements.txt"
    print(f"this needs {error.name}: pip install {package}", file=sys.stderr)
    sys.exit(2)
logging.getLogger("tensorflow").setLevel(logging.ERROR)  # pictures of many sizes are meant

SHARE_OF_LIMIT = 0.7  # of the measured matmul rate that training reaches, roughly
FLOAT32, BFLOAT16 = "float32", "mixed_bfloat16"
PRECISIONS = (FLOAT32, BFLOAT16, "mixed_float16")
WORTH_ROUNDING = 1.3  # least speed-up of a bfloat16 matmul to use it
ROUNDS, ROUND_SECONDS = 3, 0.15  # of that measurement
MATRIX_SIZES = {"cpu": (2048, 1), "gpu": (8192, 16), "tpu": (8192, 16)}  # and products a wait
AT_ONCE = {"size": 1024, "seconds": 0.03}  # of that before an answer: 0.3 s, not 2 s, in all


def device_kind():
    """Return the kind of device in use: "cpu", "gpu" or "tpu"."""
    return keras.distribution.list_devices()[0].split(":")[0]


def warn_about_idle_gpu():
    """Warn when this machine has an NVIDIA GPU that Keras can't use."""
    has_gpu = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    if has_gpu and device_kind() == "cpu":
        packages = {"tensorflow": "tensorflow[and-cuda]", "jax": "jax[cuda13]"}
        backend = keras.backend.backend()
        terminal.say(
            f"This machine has an NVIDIA GPU, but {backend} can't use it and trains on the CPU. "
            f"To use it: pip install '{packages.get(backend, backend)}'"
        )


def device_names(count):
    """Return the name and number of the devices in use, as text."""
    kind = device_kind()
    if kind == "cpu" and count == 1:
        return f"{os.cpu_count()} CPU cores"
    return f"{count} {kind.upper()}{'s' if count > 1 else ''}"


def faster_precision(size=None, seconds=ROUND_SECONDS):
    """Return BFLOAT16 where its matmul is WORTH_ROUNDING times as fast, else FLOAT32.

    size, seconds: of each `matrix_product_rate`.
    GPUs and newer CPUs (AVX512-BF16, AMX) have it in hardware; others emulate it slowly.
    """
    compared = (BFLOAT16, FLOAT32)
    rounds = [
        [matrix_product_rate(precision, size=size, seconds=seconds) for precision in compared]
        for _ in range(ROUNDS)
    ]
    # The best of each: other load only makes it slower.
    rounded, exact = map(max, zip(*rounds, strict=True))
    return BFLOAT16 if rounded > WORTH_ROUNDING * exact else FLOAT32


def scoring_precision(settings):
    """Return the precision of a run's network in validation and scoring.

    "auto" is float32: the same answer on every machine and for every batch size.
    """
    return FLOAT32 if settings["precision"] == "auto" else settings["precision"]


def noted_precision(settings):
    """Return BFLOAT16 where a run's settings note it for predict.py and it is faster here.

    Else None: that of `scoring_precision`.
    """
    noted = settings.get("answering_precision") or {}
    if noted.get("chosen") != BFLOAT16:
        return None
    return BFLOAT16 if faster_precision(**AT_ONCE) == BFLOAT16 else None


def expected_seconds(network, shape, precision, trained, predicted):
    """Estimate the seconds to train on `trained` and predict `predicted` pictures of a shape."""
    work = trained * operations(network, shape, training=True)
    work += predicted * operations(network, shape)
    return work / (SHARE_OF_LIMIT * matrix_product_rate(precision))


def matrix_product_rate(precision=FLOAT32, seconds=0.5, size=None):
    """Measure this machine's peak: FLOP/s of a large matmul; precision: one of PRECISIONS.

    size: rows of the matrices, default: of MATRIX_SIZES. They hold random numbers: a GPU multiplies
    zeros and ones faster.
    """
    large, together = MATRIX_SIZES[device_kind()]
    size = size or large
    matrix = keras.random.normal((size, size), seed=0)
    matrix = keras.ops.cast(matrix, keras.DTypePolicy(precision).compute_dtype)
    count, started = -together, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds or count < 1:
        products = [keras.ops.matmul(matrix, matrix) for _ in range(together)]
        float(products[-1][0, 0])  # waits for the result
        count += together
        if not count:  # the first are warm-up
            started = time.perf_counter()
    return 2 * size**3 * count / passed


def gpu_memory():
    """Return what is known of the first GPU's memory, in bytes.

    As JAX names it: "peak_bytes_in_use", the most that this process had, and "bytes_limit", what it
    may have, which TensorFlow does not tell. {}: no GPU.
    """
    if device_kind() != "gpu":
        return {}
    if keras.backend.backend() == "jax":
        import jax

        return jax.local_devices()[0].memory_stats() or {}
    import tensorflow as tf

    return {"peak_bytes_in_use": tf.config.experimental.get_memory_info("GPU:0")["peak"]}


def operations(network, shape, training=False):
    """Return the FLOPs of a network's convolutions for one picture of (height, width).

    A multiply-add counts 2. In training the gradient of a trained kernel costs a forward pass
    more, and so does the gradient of the input where an earlier layer is trained.
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

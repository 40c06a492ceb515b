"""Brings Keras up without chatter, on TensorFlow unless KERAS_BACKEND names another engine."""

import os
import shutil
from pathlib import Path

import helper

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
with helper.quiet_standard_error():
    import keras

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

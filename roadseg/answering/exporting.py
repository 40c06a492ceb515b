"""Export formats of a trained network, and the check against the run."""

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadseg.answering import runtimes
from roadseg.answering.network import with_probabilities
from roadseg.engine import keras
from roadseg.errors import UserError, WrongAnswerError, refuse_missing
from roadseg.files import refuse_unwritable
from roadseg.terminal import counted

LARGEST_DIFFERENCE = 1e-4  # between probabilities
ROUNDS = 3  # over these pictures, for throughput


def open_saved_model(path):
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    return lambda pictures: model.serve({"picture": pictures})["probabilities"].numpy()


@dataclass(frozen=True)
class Format:
    """One format: its name in Keras, its file, what writing it needs, and its runtime."""

    keras_name: str
    file_name: Path  # default; its suffix is required
    modules: tuple[str, ...]
    open: Callable


def _format(keras_name, file_name, *modules):
    """Return a Format that a runtime without TensorFlow opens."""
    runtime = runtimes.RUNTIMES[Path(file_name).suffix]
    return Format(keras_name, Path(file_name), (*modules, runtime.module), runtime.open)


FORMATS = {
    "saved_model": Format("tf_saved_model", Path("saved_model"), (), open_saved_model),
    "onnx": _format("onnx", "model.onnx", "tf2onnx"),
    "litert": _format("litert", "model.tflite"),
    "openvino": _format("openvino", "model.xml"),
}


class Resample(keras.layers.Layer):
    """Resize pictures [N, H, W, C] as `resample` does, by two matrix products.

    shapes: as the image_shape of `nearest_shape`; None: the shape of a second input. Written as
    arithmetic, because the formats differ in their resize operations.
    """

    def __init__(self, shapes=None, **options):
        super().__init__(**options)
        self.shapes = None if shapes is None else np.reshape(shapes, (-1, 2)).astype(np.int32)

    def call(self, pictures, reference=None):
        ops = keras.ops
        given = ops.shape(pictures)[1:3]
        wanted = ops.shape(reference)[1:3] if self.shapes is None else self._nearest(given)
        rows, columns = map(self._weights, given, wanted)
        planes = ops.transpose(ops.cast(pictures, "float32"), (0, 3, 1, 2))
        planes = ops.matmul(ops.matmul(rows, planes), ops.transpose(columns))
        return ops.transpose(planes, (0, 2, 3, 1))

    def _nearest(self, given):
        """Return the (height, width) of those in training whose proportions are nearest."""
        first, *others = self.shapes.tolist()
        if not others:
            return first
        ops = keras.ops
        height, width = (ops.cast(size, "float32") for size in given)
        proportions = ops.log(width / height)
        chosen, nearest = first, ops.abs(math.log(first[1] / first[0]) - proportions)
        for shape in others:  # by comparisons, because OpenVINO cannot read Keras' argmin
            distance = ops.abs(math.log(shape[1] / shape[0]) - proportions)
            chosen = [
                ops.where(distance < nearest, *pair) for pair in zip(shape, chosen, strict=True)
            ]
            nearest = ops.minimum(nearest, distance)
        return chosen

    @staticmethod
    def _weights(given, wanted):
        """Return the weight of each given pixel in each wanted one: float32 [wanted, given].

        The kernel is a triangle; its half width is the larger of the two pixel sizes. Distances
        of centres are integers in units of 1 / (2 given wanted), so they are exact at any size.
        """
        ops = keras.ops
        centres = [2 * ops.arange(size, dtype="int32") + 1 for size in (wanted, given)]
        distances = ops.abs(centres[0][:, None] * given - centres[1][None] * wanted)
        reach = ops.cast(2 * ops.maximum(given, wanted), "float32")
        weights = ops.relu(1 - ops.cast(distances, "float32") / reach)
        return weights / ops.sum(weights, axis=1, keepdims=True)

    def compute_output_shape(self, pictures_shape, reference_shape=None):
        if self.shapes is None:
            wanted = reference_shape[1:3]
        else:
            wanted = self.shapes[0].tolist() if len(self.shapes) == 1 else (None, None)
        return (pictures_shape[0], *wanted, pictures_shape[3])


def whole_network(network, calibration, image_shape):
    """Build a model that does all that `predict.py` does, resizing and calibration included.

    network: of `main.layers`; calibration: Calibration; image_shape: of `nearest_shape`. Returns a
    model {"picture": uint8 [N, H, W, 3]} -> {"probabilities": float32 [N, H, W, classes]}.
    """
    picture = keras.Input((None, None, 3), dtype="uint8", name="picture")
    predict = with_probabilities(network, calibration)
    probabilities = predict(Resample(image_shape, name="shrink")(picture))
    answer = Resample(name="enlarge")(probabilities, picture)
    return keras.Model({"picture": picture}, {"probabilities": answer})


def refuse_what_cannot_be_written(form, output):
    """Raise UserError for a wrong or unwritable name, a missing package or another engine."""
    if keras.backend.backend() != "tensorflow":
        raise UserError("export needs TensorFlow: unset KERAS_BACKEND")
    if (suffix := form.file_name.suffix) and output.suffix != suffix:
        raise UserError(f"{output}: expected a name that ends with {suffix}")
    if output.is_dir() and not (output / "saved_model.pb").is_file():
        raise UserError(f"{output}: is a folder that holds something else; give another --output")
    if output.is_file() and not suffix:
        raise UserError(f"{output}: is a file; this format is a folder: give another --output")
    refuse_unwritable(output.parent)
    refuse_missing(form.modules, "requirements-export.txt")


def refuse_several_shapes(name, image_shapes):
    """Raise UserError where a format, by its name, can't hold a network of several shapes."""
    if name == "litert" and len(image_shapes) > 1:
        raise UserError(
            f"litert holds networks of one shape alone, this one has {len(image_shapes)}, of "
            "joined data sets; export it as onnx or openvino"
        )


def compare(answer, expected, pictures):
    """Compare an exported network with the run, on single pictures and on a batch of two.

    answer, expected: functions uint8 [N, H, W, 3] -> float32 [N, H, W, classes]; pictures: uint8
    [H, W, 3]. Returns a line with the largest difference. Raises WrongAnswerError if it exceeds
    LARGEST_DIFFERENCE.
    """
    batches = [*(picture[None] for picture in pictures), np.repeat(pictures[0][None], 2, axis=0)]
    largest = max(np.abs(answer(batch) - expected(batch)).max() for batch in batches)
    if not largest <= LARGEST_DIFFERENCE:
        raise WrongAnswerError(
            f"the exported network's probabilities differ by {largest:.1e} from the run's, more "
            f"than {LARGEST_DIFFERENCE}; nothing was written"
        )
    return f"checked on {counted(len(pictures), 'picture')}: largest difference {largest:.1e}"


def throughput(answer, expected, pictures):
    """Return a line with the pictures a second of two functions of `compare`, asked in turn."""
    seconds = dict.fromkeys((answer, expected), 0.0)
    for _ in range(ROUNDS):
        for function in seconds:
            started = time.perf_counter()
            for picture in pictures:
                function(picture[None])
            seconds[function] += time.perf_counter() - started
    theirs, ours = (ROUNDS * len(pictures) / spent for spent in seconds.values())
    return f"{theirs:.2f} pictures a second one by one, {ours:.2f} in Keras"


def publish(source, target):
    """Move all files of a folder to another, replacing those of the same name."""
    for path in sorted(source.iterdir()):  # an OpenVINO .bin before the .xml that names it
        if path.is_dir():
            shutil.rmtree(target / path.name, ignore_errors=True)
        os.replace(path, target / path.name)

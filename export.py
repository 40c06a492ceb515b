"""Writes a trained run in another format and proves that it answers the same.

    python export.py RUN --format onnx                        RUN/model.onnx
    python export.py RUN --format openvino --output road.xml  road.xml and road.bin

What is written takes pictures, uint8 [N, H, W, 3], RGB, of any height and width, and gives
probabilities, float32 [N, H, W, classes]: resizing, VGG16's preprocessing, calibration and softmax
are inside.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from main import load_network
from roadseg import terminal
from roadseg.answering.predictor import predict_ahead, predictor, with_probabilities
from roadseg.command_line import exit_status
from roadseg.data.layouts import spread
from roadseg.data.pictures import read_image
from roadseg.drawn import scenes
from roadseg.engine import keras
from roadseg.errors import UserError, WrongAnswerError
from roadseg.training import run_folder

LARGEST_DIFFERENCE = 1e-4  # of probabilities
CHECKED_PICTURES = 4
ROUNDS = 3  # of these, for the speeds


def parse_settings(arguments=None):
    """Read the command line. Wrong usage ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description="Writes a trained run in another format and checks that it answers the same.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder, or its name in runs/")
    add("--format", required=True, choices=list(FORMATS), help="what to write")
    add("--output", type=Path, metavar="PATH", help="default: model… in RUN")
    return parser.parse_args(arguments)


# --- formats --------------------------------------------------------------------------------------
# Each function opens what was exported in the format's own runtime, and returns a function
# uint8 [N, H, W, 3] -> float32 [N, H, W, classes].


def open_saved_model(path):
    import tensorflow as tf

    model = tf.saved_model.load(str(path))
    return lambda pictures: model.serve({"picture": pictures})["probabilities"].numpy()


def open_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["probabilities"], {"picture": pictures})[0]


def open_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    return lambda pictures: run(picture=pictures)["probabilities"]


def open_openvino(path):
    import openvino

    # Some processors would compute with fewer digits by default.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", exact)
    return lambda pictures: model({"picture": pictures})["probabilities"]


@dataclass(frozen=True)
class Format:
    """One format: what Keras calls it, what it is called, what it needs, and how it is run."""

    keras_name: str
    file_name: Path  # the default; its suffix is a must
    modules: tuple[str, ...]
    open: Callable


FORMATS = {
    "saved_model": Format("tf_saved_model", Path("saved_model"), (), open_saved_model),
    "onnx": Format("onnx", Path("model.onnx"), ("tf2onnx", "onnxruntime"), open_onnx),
    "litert": Format("litert", Path("model.tflite"), ("ai_edge_litert",), open_litert),
    "openvino": Format("openvino", Path("model.xml"), ("openvino",), open_openvino),
}


# --- network --------------------------------------------------------------------------------------


class Resample(keras.layers.Layer):
    """Resizes pictures [N, H, W, C] as `resample` does, by two products of matrices.

    shape: (height, width); without it a second input has the size that is wanted. Written with
    arithmetic alone, because no two formats agree on what resizing is.
    """

    def __init__(self, shape=None, **options):
        super().__init__(**options)
        self.shape = shape

    def call(self, pictures, reference=None):
        ops = keras.ops
        wanted = self.shape or ops.shape(reference)[1:3]
        rows, columns = map(self._weights, ops.shape(pictures)[1:3], wanted)
        planes = ops.transpose(ops.cast(pictures, "float32"), (0, 3, 1, 2))
        planes = ops.matmul(ops.matmul(rows, planes), ops.transpose(columns))
        return ops.transpose(planes, (0, 2, 3, 1))

    @staticmethod
    def _weights(given, wanted):
        """The share of each given pixel in each wanted one: float32 [wanted, given].

        A triangle about the wanted pixel's centre, as wide as the larger of the two pixels to
        either side. The centres' distances are whole numbers in units of 1 / (2 given wanted),
        which keeps them exact in pictures of any size.
        """
        ops = keras.ops
        centres = [2 * ops.arange(size, dtype="int32") + 1 for size in (wanted, given)]
        distances = ops.abs(centres[0][:, None] * given - centres[1][None] * wanted)
        reach = ops.cast(2 * ops.maximum(given, wanted), "float32")
        weights = ops.relu(1 - ops.cast(distances, "float32") / reach)
        return weights / ops.sum(weights, axis=1, keepdims=True)

    def compute_output_shape(self, pictures_shape, reference_shape=None):
        return (pictures_shape[0], *(self.shape or reference_shape[1:3]), pictures_shape[3])


def whole_network(network, calibration, image_shape):
    """Put around a network what `predict.py` does around it.

    network: of `main.layers`; calibration: (slope, offset) of `fit_calibration`;
    image_shape: (height, width) to predict at. Returns a model: {"picture": uint8 [N, H, W, 3]}
    -> {"probabilities": float32 [N, H, W, classes]}.
    """
    picture = keras.Input((None, None, 3), dtype="uint8", name="picture")
    predict = with_probabilities(network, calibration)
    probabilities = predict(Resample(tuple(image_shape), name="shrink")(picture))
    answer = Resample(name="enlarge")(probabilities, picture)
    return keras.Model({"picture": picture}, {"probabilities": answer})


# --- export ---------------------------------------------------------------------------------------


def export(settings):
    """Do what the command line says. Raises UserError; nothing is left then."""
    form, folder = FORMATS[settings.format], run_folder.find_run(settings.run)
    output = settings.output or folder / form.file_name
    refuse_what_cannot_be_written(form, output)
    network, calibration, data_set, trained = load_network(folder, "float32")
    model = whole_network(network, calibration, trained["image_shape"])
    predict = predictor(network, calibration)

    def predict_one(pictures):
        seen = predict_ahead(
            predict, pictures, np.asarray, lambda _: trained["image_shape"], batch_size=1
        )
        return np.stack([probabilities for _, _, probabilities in seen])

    pictures = pictures_to_check(data_set, trained)
    model({"picture": pictures[0][None]})  # Keras exports only what was called before
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix="partial.") as temporary:
        path = Path(temporary) / output.name
        with terminal.quiet_standard_error(), contextlib.redirect_stdout(io.StringIO()):
            model.export(str(path), format=form.keras_name, verbose=False)
            answer = form.open(path)
            answer(pictures[0][None])
        said = compare(answer, predict_one, pictures)
        publish(Path(temporary), output.parent)
    classes = ", ".join(f"{index} {name}" for index, name in enumerate(data_set.classes))
    terminal.say(
        f"{output}: picture, uint8 [N, H, W, 3] RGB -> probabilities, float32 [N, H, W, "
        f"{len(data_set.classes)}]: {classes}\n{said}"
    )


def refuse_what_cannot_be_written(form, output):
    """Raise UserError for a wrong name, a missing package, or another engine than TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise UserError("exporting needs TensorFlow: unset KERAS_BACKEND for it")
    if (suffix := form.file_name.suffix) and output.suffix != suffix:
        raise UserError(f"{output}: expected a name that ends with {suffix}")
    if output.is_dir() and not (output / "saved_model.pb").is_file():
        raise UserError(f"{output}: is a folder that holds something else; give another --output")
    if output.is_file() and not suffix:
        raise UserError(f"{output}: is a file; this format is a folder: give another --output")
    absent = [module for module in form.modules if not importlib.util.find_spec(module)]
    if missing := [module.replace("_", "-") for module in absent]:
        raise UserError(
            f"this format needs {' and '.join(missing)}, which is not installed: pip install -r "
            f"requirements-export.txt, or pip install {' '.join(missing)}"
        )


def pictures_to_check(data_set, trained):
    """Read some testing pictures of the run's data set, or draw some where it is not there."""
    try:
        _, testing = data_set.find(Path(trained["data_dir"]) / data_set.folder)
        return [read_image(sample.picture) for sample in spread(testing, CHECKED_PICTURES)]
    except UserError as error:
        terminal.say(f"{error}\ndrawn scenes are checked instead")
        return [scenes.draw_scene("um", index).picture for index in range(CHECKED_PICTURES)]


def compare(answer, expected, pictures):
    """Let an exported network answer pictures, one by one and several at once.

    answer, expected: functions uint8 [N, H, W, 3] -> float32 [N, H, W, classes]; pictures: uint8
    [H, W, 3]. Returns a line that tells the largest difference and both speeds. Raises
    WrongAnswerError where the difference is too large.
    """
    batches = [picture[None] for picture in pictures]
    several = [np.repeat(batches[0], 2, axis=0)]
    largest = max(np.abs(answer(batch) - expected(batch)).max() for batch in batches + several)
    if not largest <= LARGEST_DIFFERENCE:
        raise WrongAnswerError(
            f"the exported network's probabilities differ by {largest:.1e} from the run's, more "
            f"than {LARGEST_DIFFERENCE}; nothing was written"
        )
    seconds = dict.fromkeys((answer, expected), 0.0)
    for _ in range(ROUNDS):
        for function in seconds:
            started = time.perf_counter()
            for batch in batches:
                function(batch)
            seconds[function] += time.perf_counter() - started
    theirs, ours = (ROUNDS * len(batches) / spent for spent in seconds.values())
    return (
        f"checked on {len(batches)} pictures: largest difference {largest:.1e}; one by one "
        f"{theirs:.2f} pictures a second, here {ours:.2f}"
    )


def publish(source, target):
    """Move everything from one folder to another, in place of what has the same name there."""
    for path in sorted(source.iterdir()):  # an OpenVINO .bin before the .xml that names it
        if path.is_dir():
            shutil.rmtree(target / path.name, ignore_errors=True)
        os.replace(path, target / path.name)


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda _: export(parse_settings(arguments)))


if __name__ == "__main__":
    sys.exit(main())

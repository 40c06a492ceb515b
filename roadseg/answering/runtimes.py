"""Open exported networks in their own runtimes. Neither Keras nor TensorFlow here.

An exported network takes pictures, uint8 [N, H, W, 3], RGB, of any size, and gives probabilities,
float32 [N, H, W, classes]. A description travels inside its file: JSON of what a run's settings say
of data set and classes, see `describe`.
"""

import functools
import importlib.util
import json
import os
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadseg.errors import UserError, refuse_missing

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would report to its maker

DESCRIPTION = "fcn8s"  # the name under which a file holds it
STREAMS = 2  # of OpenVINO: pictures at a time, each on its share of the cores
FROM_SETTINGS = ("dataset", "classes", "paint", "image_shapes")


def describe(settings, precision):
    """Return the description of an exported run; settings: of the run; precision: of PRECISIONS."""
    known = {name: settings[name] for name in FROM_SETTINGS if name in settings}
    return known | {"precision": precision}


def load_onnx(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def answer_onnx(session):
    return lambda pictures: session.run(["probabilities"], {"picture": pictures})[0]


def read_onnx(session):
    return session.get_modelmeta().custom_metadata_map[DESCRIPTION]


def mark_onnx(path, text):
    import onnx

    model = onnx.load(path)
    model.metadata_props.add(key=DESCRIPTION, value=text)
    onnx.save(model, path)


def answer_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    return lambda pictures: run(picture=pictures)["probabilities"]


def read_litert(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read(DESCRIPTION).decode()


def mark_litert(path, text):
    """Append a zip archive, as TensorFlow Lite does with associated files."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(DESCRIPTION, text)


def load_openvino(path):
    import openvino

    return openvino.Core().read_model(path)


def answer_openvino(model):
    @functools.cache
    def start(streams, process):  # a forked process has none of the threads
        return start_openvino(model, streams)

    def answer(pictures):
        answer_all = start(1 if len(pictures) == 1 else STREAMS, os.getpid())
        return np.concatenate([*answer_all(np.split(pictures, len(pictures)))])

    start(1, os.getpid())  # a file that can't be compiled fails here
    return answer


def start_openvino(model, streams):
    """Compile a model to answer so many pictures at the same time, each on its share of the cores.

    Streams do not wait for one another as the threads of one do: what reads and paints beside them
    takes away no more than its own time. Returns a function: pictures [1, H, W, 3] -> answers.
    """
    import openvino

    # The default is bfloat16 on some CPUs.
    options = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(streams)}
    compiled, own = openvino.Core().compile_model(model, "CPU", options), threading.local()

    def begin():
        own.request = compiled.create_infer_request()

    def answer_one(picture):
        return own.request.infer({"picture": picture})["probabilities"]

    return functools.partial(ThreadPoolExecutor(streams, initializer=begin).map, answer_one)


def read_openvino(model):
    return model.get_rt_info(DESCRIPTION).astype(str)


def mark_openvino(path, text):
    model = load_openvino(path)
    model.set_rt_info(text, DESCRIPTION)
    save_openvino(model, path)


def save_openvino(model, path, compress_to_fp16=False):
    """Save a model in place of the one that it was read from, whose .bin is still mapped."""
    import openvino

    temporary = path.with_name(f"new_{path.name}")
    openvino.save_model(model, temporary, compress_to_fp16=compress_to_fp16)
    for suffix in (".xml", ".bin"):
        os.replace(temporary.with_suffix(suffix), path.with_suffix(suffix))


@dataclass(frozen=True)
class Runtime:
    """How the files of one suffix are opened, and their descriptions read and written."""

    module: str  # the package it needs
    load: Callable  # path -> what the next two take
    answer: Callable  # -> function pictures -> probabilities
    read: Callable  # -> text
    mark: Callable  # (path, text)
    at_once: int = 1  # calls of its function that are answered at the same time

    def open(self, path):
        """Return the function of a file: pictures -> probabilities."""
        return self.answer(self.load(path))


RUNTIMES = {
    ".onnx": Runtime("onnxruntime", load_onnx, answer_onnx, read_onnx, mark_onnx),
    ".tflite": Runtime("ai_edge_litert", Path, answer_litert, read_litert, mark_litert),
    ".xml": Runtime(
        "openvino", load_openvino, answer_openvino, read_openvino, mark_openvino, STREAMS
    ),
}


def is_exported(path):
    """Return whether a path is a file with the suffix of an exported network."""
    return path.suffix in RUNTIMES and path.is_file()


def can_open(path):
    """Return whether an exported network is there, and the package that runs it."""
    return is_exported(path) and importlib.util.find_spec(RUNTIMES[path.suffix].module) is not None


def open_exported(path):
    """Open an exported network.

    Returns (function uint8 [N, H, W, 3] -> float32 [N, H, W, classes], its description). Raises
    UserError where its runtime is missing, it is damaged, or this program did not write it.
    """
    runtime = RUNTIMES[path.suffix]
    refuse_missing((runtime.module,))
    try:
        loaded = runtime.load(path)
        answer = runtime.answer(loaded)
    except Exception as error:  # runtimes raise many types
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            f"{path}: cannot be opened by {runtime.module} ({reason}); get it again, or export it "
            "again with export.py"
        ) from error
    try:
        return answer, json.loads(runtime.read(loaded))
    except Exception as error:  # likewise
        raise UserError(
            f"{path}: does not say what its classes are; export it again with export.py"
        ) from error


def on_whole_numbers(answer):
    """Make a function that takes pictures of any dtype, as `Predictor` does, of one for uint8."""
    return lambda pictures: answer(pictures.astype(np.uint8))

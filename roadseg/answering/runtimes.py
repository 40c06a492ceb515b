"""Open exported networks in their own runtimes. Neither Keras nor TensorFlow here.

An exported network takes pictures, uint8 [N, H, W, 3], RGB, of any size, and gives probabilities,
float32 [N, H, W, classes]. A description travels inside its file: JSON of what a run's settings say
of data set and classes, see `describe`.
"""

import importlib.util
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

from roadseg.errors import UserError

DESCRIPTION = "fcn8s"  # the name under which a file holds it
FROM_SETTINGS = ("dataset", "classes", "paint", "image_shapes")


def describe(settings, precision):
    """Return the description of an exported run; settings: of the run; precision: of PRECISIONS."""
    known = {name: settings[name] for name in FROM_SETTINGS if name in settings}
    return known | {"precision": precision}


def open_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["probabilities"], {"picture": pictures})[0]


def read_onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map[DESCRIPTION]


def mark_onnx(path, text):
    import onnx

    model = onnx.load(path)
    model.metadata_props.add(key=DESCRIPTION, value=text)
    onnx.save(model, path)


def open_litert(path):
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


def open_openvino(path):
    import openvino

    # The default is bfloat16 on some CPUs.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", exact)
    return lambda pictures: model({"picture": pictures})["probabilities"]


def read_openvino(path):
    import openvino

    return openvino.Core().read_model(path).get_rt_info(DESCRIPTION).astype(str)


def mark_openvino(path, text):
    import openvino

    model = openvino.Core().read_model(path)
    model.set_rt_info(text, DESCRIPTION)
    marked = path.with_name(f"marked_{path.name}")  # the .bin of the first is still mapped
    openvino.save_model(model, marked, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        os.replace(marked.with_suffix(suffix), path.with_suffix(suffix))


@dataclass(frozen=True)
class Runtime:
    """How the files of one suffix are opened, and their descriptions read and written."""

    module: str  # the package it needs
    open: Callable  # path -> function pictures -> probabilities
    read: Callable  # path -> text
    mark: Callable  # (path, text)


RUNTIMES = {
    ".onnx": Runtime("onnxruntime", open_onnx, read_onnx, mark_onnx),
    ".tflite": Runtime("ai_edge_litert", open_litert, read_litert, mark_litert),
    ".xml": Runtime("openvino", open_openvino, read_openvino, mark_openvino),
}


def is_exported(path):
    """Return whether a path is that of an exported network, by its suffix."""
    return path.suffix in RUNTIMES and path.is_file()


def open_exported(path):
    """Open an exported network.

    Returns (function uint8 [N, H, W, 3] -> float32 [N, H, W, classes], its description). Raises
    UserError where its runtime is missing, it is damaged, or this program did not write it.
    """
    runtime = RUNTIMES[path.suffix]
    refuse_missing((runtime.module,), "requirements-predict.txt")
    try:
        answer = runtime.open(path)
    except Exception as error:  # runtimes raise many types
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be opened by {runtime.module} ({reason})") from error
    try:
        return answer, json.loads(runtime.read(path))
    except Exception as error:  # likewise
        raise UserError(
            f"{path}: does not say what its classes are; export it again with export.py"
        ) from error


def refuse_missing(modules, requirements):
    """Raise UserError that names the packages of modules that are not installed."""
    absent = [module for module in modules if not importlib.util.find_spec(module)]
    if missing := [module.replace("_", "-") for module in absent]:
        raise UserError(
            f"this format needs {' and '.join(missing)}: pip install -r {requirements}, or "
            f"pip install {' '.join(missing)}"
        )

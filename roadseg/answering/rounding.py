"""Round the numbers of an exported network to fewer bits, by its framework's own tool.

Resizing and softmax stay in float32: they cost little, and pixels' places need more than 8 bits.
What depends on a whole picture's mean does, too: in int8 no mean exceeds those of the samples.
So do fuses and all behind them: in int8 they cost 0.6 of mean IoU on CamVid (experiments/log.md).
"""

import contextlib
import logging

import numpy as np

from roadseg.answering import runtimes
from roadseg.errors import UserError, refuse_missing

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"
PRECISIONS = (FLOAT32, FLOAT16, INT8)
LARGE = 4096  # numbers in an array that is worth rounding
OF_MEANS = "brighten", "raise_road"  # layers that depend on the mean of a picture


def openvino_float16(path, pictures):
    """Store the weights in float16; the runtime computes in float32."""
    runtimes.save_openvino(runtimes.load_openvino(path), path, compress_to_fp16=True)


def openvino_int8(path, pictures):
    """Quantize the convolutions after training, on pictures: uint8 [H, W, 3] each."""
    with contextlib.redirect_stdout(None):
        import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    samples = nncf.Dataset([picture[None] for picture in pictures])
    model = runtimes.load_openvino(path)
    exact = from_fuses(
        (
            node.get_friendly_name(),
            [value.get_node().get_friendly_name() for value in node.input_values()],
            # Shapes are joined, too, as whole numbers.
            node.get_type_name() == "Concat" and node.get_output_element_type(0).is_real(),
        )
        for node in model.get_ordered_ops()
    )
    patterns = [f".*{name}.*" for name in OF_MEANS]
    types = ["MatMul", "Power"]  # resizing, and the gamma, which OpenVINO has renamed
    kept = nncf.IgnoredScope([*exact], patterns, types, validate=False)
    model = nncf.quantize(model, samples, subset_size=len(pictures), ignored_scope=kept)
    runtimes.save_openvino(model, path)


def from_fuses(nodes):
    """Return the names of the nodes that fuse scores and edges, and of all that follow.

    nodes: of a graph, in the order of computing: (name, names that it reads, whether it joins
    channels, which the network does only before a fuse).
    """
    behind = set()
    for name, read, is_fuse in nodes:
        if is_fuse or not behind.isdisjoint(read):
            behind.add(name)
    return behind


def onnx_float16(path, pictures):
    """Store large weights in float16, each behind a cast back to float32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    casts = []
    for stored in model.graph.initializer:
        array = numpy_helper.to_array(stored)
        if array.dtype == np.float32 and array.size >= LARGE:
            name, rounded = stored.name, f"{stored.name}_float16"
            stored.CopyFrom(numpy_helper.from_array(array.astype(np.float16), rounded))
            casts.append(helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def onnx_int8(path, pictures):
    """Quantize the convolutions after training, on pictures: uint8 [H, W, 3] each."""
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        batches = iter([{"picture": picture[None]} for picture in pictures])

        def get_next(self):
            return next(self.batches, None)

    logging.getLogger().setLevel(logging.ERROR)  # it recommends a step that changes nothing here
    nodes = onnx.load(path).graph.node  # in the order of computing; they read names of outputs
    exact = from_fuses(
        (output, node.input, joins_channels(node)) for node in nodes for output in node.output
    )
    quantization.quantize_static(
        str(path),
        str(path),
        Reader(),
        op_types_to_quantize=["Conv", "MaxPool"],
        per_channel=True,
        # Weights of 7 bits: without VNNI x86 adds products of 8 bits in 16, which overflow.
        reduce_range=True,
        nodes_to_exclude=[node.name for node in nodes if node.output[0] in exact],
    )


def joins_channels(node):
    """Return whether a node of ONNX joins tensors along another axis than the first, as shapes."""
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return node.op_type == "Concat" and axes != [0]


# (Format, precision) -> function (path, pictures) that changes the file in place.
ROUND = {
    ("openvino", FLOAT16): openvino_float16,
    ("openvino", INT8): openvino_int8,
    ("onnx", FLOAT16): onnx_float16,
    ("onnx", INT8): onnx_int8,
}
MODULES = {("openvino", INT8): ("nncf",)}  # beside those of the format


def refuse_what_cannot_be_rounded(form, precision):
    """Raise UserError where a format, by its name, can't be written in a precision here."""
    if precision == FLOAT32:
        return
    if (form, precision) not in ROUND:
        known = " and ".join(sorted({name for name, _ in ROUND}))
        raise UserError(f"--precision {precision}: {form} has float32 alone; {known} have it")
    refuse_missing(MODULES.get((form, precision), ()), "requirements-export.txt")

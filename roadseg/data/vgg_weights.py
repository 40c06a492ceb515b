"""Read VGG16's weights from NPZ and Keras files."""

import collections
import math
from pathlib import Path

import h5py
import numpy as np

from roadseg.errors import UserError
from roadseg.files import BEST, REPOSITORY

CONVOLUTIONS_FILE = REPOSITORY / "data" / "vgg16_imagenet_conv_float16.npz"
CONVOLUTION_NAMES = tuple(
    f"block{block}_conv{number}"
    for block, count in enumerate((2, 2, 3, 3, 3), start=1)
    for number in range(1, count + 1)
)
KINDS = ("conv", "full", "none")  # of weights that need no path
HEAD_NAMES = ("fc1", "fc2", "fc6", "fc7")  # dense in Keras' file, convolutions in ours


def read(vgg):
    """Read the weights of VGG16.

    vgg: "conv", the 13 ImageNet convolutions in this repository; "none", no weights; or a path of
    `weights_path`, with fc6 and fc7. Returns {layer name: (kernel, bias)}, float32, kernels
    [height, width, in, out]; the fully connected fc1 and fc2 become the convolutions fc6 and fc7;
    empty for "none". Raises UserError if the file is not a VGG16 file.
    """
    if vgg == "none":
        return {}
    path = CONVOLUTIONS_FILE if vgg == "conv" else weights_path(vgg)
    try:
        arrays = _read_npz(path) if path.suffix == ".npz" else _read_h5(path)
        weights = _pair_kernels_with_biases(arrays)
        head = _head(weights)
    except Exception as error:  # a damaged file raises many types
        raise UserError(f"{path}: cannot be read as VGG16 weights ({error})") from error
    missing = [name for name in CONVOLUTION_NAMES if name not in weights]
    if missing:
        raise UserError(f"{path}: has no layer {missing[0]}; expected a Keras VGG16 file")
    weights = {name: weights[name] for name in CONVOLUTION_NAMES} | head
    _refuse_other_shapes(weights, path)
    return weights


def _refuse_other_shapes(weights, path):
    """Raise UserError where a convolution does not take what the one before it gives."""
    channels = 3
    for name, (kernel, bias) in weights.items():
        if kernel.ndim != 4 or kernel.shape[2:] != (channels, len(bias)):
            raise UserError(
                f"{path}: {name} has a kernel of {list(kernel.shape)} and a bias of {len(bias)}; "
                f"expected [height, width, {channels}, {len(bias)}] of a VGG16"
            )
        channels = len(bias)


def weights_path(vgg):
    """Return the path of a Keras VGG16 file, or of a run's weights, whose folder may be given.

    None for one of KINDS. Raises UserError where no such file is.
    """
    if vgg in KINDS:
        return None
    path = Path(vgg) / BEST if Path(vgg).is_dir() else Path(vgg)
    if not path.is_file():
        raise UserError(
            f"{path}: not found; expected {', '.join(KINDS)}, a Keras VGG16 file, a run's folder "
            f"or its {BEST}"
        )
    return path


def _head(weights):
    """Return fc6 and fc7 as convolutions; fc1's inputs are in the order row, column, channel."""
    if "fc1" not in weights or "fc2" not in weights:
        return {name: weights[name] for name in ("fc6", "fc7") if name in weights}
    (first, first_bias), (second, second_bias) = weights["fc1"], weights["fc2"]
    channels = len(weights[CONVOLUTION_NAMES[-1]][1])
    size = math.isqrt(len(first) // channels)
    return {
        "fc6": (first.reshape(size, size, channels, -1), first_bias),
        "fc7": (second.reshape(1, 1, *second.shape), second_bias),
    }


def _read_npz(path):
    with np.load(path, allow_pickle=False) as file:
        return {tuple(name.split("/")): file[name] for name in file.files}


def _read_h5(path):
    """Read {(layer, …, variable): array}; a .weights.h5 names layers in an attribute."""
    arrays = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            layer, *rest = name.split("/")
            arrays[item.parent.attrs.get("name", layer), *rest] = item[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return arrays


def _pair_kernels_with_biases(arrays):
    """Group arrays by layer, the first part of their path; a bias has one axis."""
    weights = collections.defaultdict(dict)
    for (layer, *_), array in arrays.items():
        if layer in (*CONVOLUTION_NAMES, *HEAD_NAMES):
            weights[layer]["bias" if array.ndim == 1 else "kernel"] = array.astype(np.float32)
    return {layer: (pair["kernel"], pair["bias"]) for layer, pair in weights.items()}

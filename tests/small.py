"""Small networks, pictures and runs, and what the tests do with them."""

import dataclasses
import fractions
import importlib.util
import struct
import zipfile
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import evaluate
import export
import main
import predict
from main import keras
from roadseg.answering.network import Predictor
from roadseg.data import vgg_weights
from roadseg.data.augmentation import MAP_NUMBERS, draw_maps, warp
from roadseg.data.datasets import DATASETS, FCN_8S
from roadseg.data.pictures import VOID
from roadseg.scoring.tally import Tally
from roadseg.training import trainer

HERE = Path(__file__).parent.parent
REAL_SAMPLES = HERE.parent / "shared" / "data" / "kitti_samples"
SMALL = (96, 320)  # height, width of drawn test pictures
SMALL_BLOCKS = ((1, 4), (1, 4), (1, 8), (1, 8), (1, 8))
NARROW_BLOCKS = tuple((count, 4) for count, _ in main.VGG_BLOCKS)
KITTI = DATASETS["kitti"]
# Python that imports predict where what requirements-predict.txt doesn't name is not installed.
ABSENT = ("keras", "tensorflow", "jax", "scipy", "h5py", "imageio", "jinja2", "pillow_heif")
WITHOUT_KERAS = f"import sys; sys.modules |= dict.fromkeys({ABSENT}); import predict"


SMALL_RECIPE = dataclasses.replace(main.RECIPE, head_channels=8, fuse_channels=8)
WITHOUT_DROPOUT = dataclasses.replace(
    SMALL_RECIPE, skip_dropout=0.0, pool5_dropout=0.0, head_dropout=0.0
)


def small_vgg(weights=None, blocks=SMALL_BLOCKS, recipe=SMALL_RECIPE):
    return main.load_vgg(weights or {}, recipe, blocks)


def small_network(num_classes=2, recipe=SMALL_RECIPE, skips=FCN_8S, blocks=SMALL_BLOCKS):
    keras.utils.set_random_seed(0)
    recipe = dataclasses.replace(recipe, skips=skips)
    return main.layers(small_vgg(None, blocks, recipe), num_classes, recipe)


def narrow_weights(channels=4, head_channels=8):
    """Weights of a narrow VGG16, fc6 and fc7 included, as a file holds them: {name: array}."""
    random, inputs, weights = np.random.default_rng(0), 3, {}
    shapes = dict.fromkeys(vgg_weights.CONVOLUTION_NAMES, (3, 3, channels))
    shapes |= {"fc6": (7, 7, head_channels), "fc7": (1, 1, head_channels)}
    for name, (*size, outputs) in shapes.items():
        deviation = np.sqrt(2 / (np.prod(size) * inputs))
        kernel = random.normal(0, deviation, (*size, inputs, outputs))
        weights[f"{name}/kernel"] = kernel.astype(np.float32)
        # Not 0, where a ReLU of zeros would turn on and off by mere rounding.
        weights[f"{name}/bias"] = np.full(outputs, 0.1, np.float32)
        inputs = outputs
    return weights


def set_small_scores(network, random, deviation=1.0):
    """Give every score layer weights that matter, so that tests see through the network."""
    for layer in (layer for layer in network.layers if layer.name.startswith("score_")):
        layer.set_weights([random.normal(0, deviation, w.shape) for w in layer.get_weights()])


def augment(picture, label, random, recipe):
    """Move picture and label together as a recipe says, at random."""
    numbers = random.random((1, MAP_NUMBERS))
    (matrix,), (offset,) = draw_maps(label.shape, numbers, recipe, recipe.mirrored)
    return warp(picture, label, matrix, offset)


def words(*arguments):
    return [str(argument) for argument in arguments]


def run_main(*arguments, changes=None):
    return main.main(words(*arguments), changes)


def error_line(capsys):
    """Return the one line, beside progress bars, that a person's mistake is to give."""
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    (line,) = [
        line
        for line in lines
        if line.strip()
        and not line.startswith(("checking: ", "unpacking ", "scoring: ", "comparing: "))
    ]
    return line


def needs_jax(test):
    """Mark a test that runs the program on JAX, in a process of its own."""
    missing = importlib.util.find_spec("jax") is None
    return pytest.mark.jax(pytest.mark.skipif(missing, reason="jax is not installed")(test))


def one_batch(shape):
    """Two pictures of noise and labels that only memory can tell."""
    height, width = shape
    pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    labels = np.zeros((2, height, width), np.uint8)
    labels[0, height // 2 :, width // 4 : width // 2] = 1
    labels[1, height // 4 : height // 2] = 1
    labels[:, -3:] = VOID
    return pictures, labels


def answer(model, pictures):
    """Call a model as a function, which needs no graph. Returns what it gives, as arrays."""
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(pictures))


def compiler(network, rate=1e-3, steps=10, recipe=SMALL_RECIPE, eagerly=True):
    """Make the compile_network of a Training; eagerly: without a graph, for a few steps faster."""

    def compile_network(slowdown=1.0, slices=1):
        compiled = main.optimize(network, rate, steps, recipe, slowdown=slowdown, slices=slices)
        compiled.run_eagerly = eagerly
        return compiled

    return compile_network


def train_one_batch(
    folder, network, batch, epochs, rate, stopping=None, steps=20, eagerly=False, patience=0
):
    """Train on one batch, `steps` times an epoch, as `main.run` would. Returns its validate."""
    pictures, labels = batch

    def validate():
        tally = Tally(KITTI.classes)
        for label, chances in zip(labels, Predictor(network)(pictures), strict=True):
            tally.add(label, chances, "um")
            if stopping:
                stopping.check()
        return tally

    compile_network = compiler(network, rate, steps * epochs, eagerly=eagerly)
    state = trainer.Training(network, compile_network, folder, patience=patience)
    main.train_nn(state, Repeat(batch, steps), epochs, 2, validate, stopping)
    return validate


def even_tally():
    """What a validation gives whose score does not matter."""
    tally = Tally(KITTI.classes)
    tally.add(np.eye(2, dtype=np.uint8), np.full((2, 2, 2), 0.5, np.float32), "um")
    return tally


class Repeat:
    """A get_batches_fn that gives one batch again and again."""

    def __init__(self, batch, times):
        self.batch, self.times = batch, times

    def __call__(self, batch_size, epoch=0, first=0):
        return [self.batch] * (self.times - first)

    def names(self, batch_size, epoch, number):
        return ["one", "two"]


def run_predict(run, *arguments):
    return predict.main(words("--run", run, *arguments))


def run_evaluate(run, *arguments):
    return evaluate.main(words("--run", run, *arguments))


def run_export(run, *arguments):
    return export.main(words("--run", run, *arguments))


def write_video(
    path, frames, rate=10, codec="ffv1", times=None, rotation=None, shape=None, pixel_shape=0
):
    """Write uint8 [H, W, 3] frames with PyAV; times in milliseconds; shape: where none tells it."""
    forms = {"ffv1": "bgr0", "libx264": "yuv420p", "mpeg4": "yuv420p"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate)
        stream.height, stream.width = shape or frames[0].shape[:2]
        stream.pix_fmt = forms[codec]
        stream.codec_context.gop_size = 5
        stream.codec_context.sample_aspect_ratio = pixel_shape
        if rotation:
            stream.set_display_rotation(rotation)
        if times:
            milliseconds = fractions.Fraction(1, 1000)
            stream.time_base = stream.codec_context.time_base = milliseconds
        container.start_encoding()
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            if times:
                frame.pts, frame.time_base = times[number], milliseconds
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_video(path):
    """Return (times in seconds, frames, average rate) with PyAV."""
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
        frames = list(container.decode(video=0))
    grey = frames[0].format.name == "gray"
    pictures = [frame.to_ndarray(format="gray" if grey else "rgb24") for frame in frames]
    return [frame.time for frame in frames], pictures, float(rate)


PNG_GREY, PNG_RGB = 0, 2


def write_png(path, size, bits, colours, content):
    """Write a PNG file by hand. size: (width, height); bits: of a number; content: its rows."""

    def chunk(kind, content):
        parts = kind + content
        return struct.pack(">I", len(content)) + parts + struct.pack(">I", zlib.crc32(parts))

    header = struct.pack(">IIBBBBB", *size, bits, colours, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(content)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def zip_of(entries, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def run_kitti(data_dir, runs_dir, *more):
    folders = ("--data-dir", data_dir, "--runs-dir", runs_dir, "--run", "first")
    return run_main("--dataset", "kitti", *folders, "--image-shape", 32, 96, *more)


def run_camvid(data_dir, *more, changes=None):
    folders = ("--data-dir", data_dir, "--runs-dir", data_dir / "runs", "--run", "city")
    shape = ("--image-shape", 32, 64, "--epochs", 1)
    return run_main("--dataset", "camvid", *folders, *shape, *more, changes=changes)


def rotated():
    """EXIF that says: turn a quarter to see me upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif

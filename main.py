"""Trains FCN-8s on VGG16 to find the road in a picture.

    python main.py                                   KITTI Road, or drawn scenes where it isn't
    python main.py --run first --epochs 20           again: goes on where it stopped
    KERAS_BACKEND=jax python main.py                 the same on JAX

The file reads in the order in which things happen: settings, VGG16, skip layers, loss, training,
run. J. Long, E. Shelhamer, T. Darrell: Fully Convolutional Networks for Semantic
Segmentation, arXiv:1411.4038 and 1605.06211; K. Simonyan, A. Zisserman: arXiv:1409.1556.
"""

import argparse
import contextlib
import functools
import math
import sys
from pathlib import Path

import numpy as np

import helper
import report
from roadseg import devices, terminal
from roadseg.answering.predictor import prediction_batch, predictor
from roadseg.command_line import at_least, exit_status, positive_rate
from roadseg.data import augmentation, vgg_weights
from roadseg.data.check import check_samples
from roadseg.data.datasets import DATASETS, row_of
from roadseg.data.pictures import VOID
from roadseg.engine import PRECISIONS, answering_precision, keras, warn_about_idle_gpu
from roadseg.errors import LossError, MemoryShortError, StopRequest, TrainingError, UserError
from roadseg.files import read_json, write_json
from roadseg.page import gallery
from roadseg.scoring.evaluation import calibrate, score_run, score_table, validator
from roadseg.scoring.simple_rules import score_simple_rules
from roadseg.stopping import Stopping
from roadseg.training import checkpoint, plan
from roadseg.training.optimizer import CosineOfSteps, LayerwiseAdam
from roadseg.training.trainer import TRAINING_COST, Training, tell, train_epoch

VGG_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # (convolutions, channels) each
# Pretrained layers that stay as they are: edges and textures are the same in every street, and
# these are the dearest layers to train.
FROZEN = ("block1", "block2")
HEAD_CHANNELS = 512  # of fc6 and fc7 where they do not come from ImageNet
DROPOUT = {"pool3": 0.2, "pool4": 0.2, "pool5": 0.3, "fc6": 0.5, "fc7": 0.5}
SKIP_SCALES = {"pool3": 1e-4, "pool4": 1e-2}  # of the paper's all-at-once training
SCORE_DEVIATION = 1e-3  # of the kernels that score, at their start
BOUNDARY_REACH, BOUNDARY_WEIGHT = 4, 5.0  # pixels; times that of others, in the loss
BATCH_SIZE = 4
LEARNING_RATE = 2e-4
CLIP_NORM = 1.0
WARM_UP_SHARE = 0.05  # of all steps
AVERAGED_SHARE = 0.1  # of the steps so far; these weights are validated, kept and used


# --- settings -------------------------------------------------------------------------------------


def parse_settings(arguments=None):
    """Read the command line. Wrong usage ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description="Trains FCN-8s on VGG16 to find the road in a picture.",
        epilog="--image-shape and --epochs have a default of their own for each data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", default="auto", choices=["auto", *DATASETS], help="auto: KITTI, else drawn")
    add("--data-dir", default="data", type=Path, metavar="DIR", help="holds the data sets")
    add("--runs-dir", default="runs", type=Path, metavar="DIR", help="gets a folder for each run")
    add("--run", metavar="NAME", help="name of the run; an old name goes on; default: the time")
    add("--vgg", default="conv", metavar="conv|full|none|FILE", help="ImageNet weights to start on")
    add("--image-shape", type=at_least(1), nargs=2, metavar=("H", "W"), help="pixels, in training")
    add("--epochs", type=at_least(1), metavar="N", help="how often each picture is seen")
    add(
        "--batch-size",
        default=BATCH_SIZE,
        type=at_least(1),
        metavar="N",
        help="pictures a step, on each device",
    )
    add("--learning-rate", default=LEARNING_RATE, type=positive_rate, metavar="R", help="highest")
    add(
        "--precision",
        default="auto",
        choices=["auto", *PRECISIONS],
        help="of the inner layers; auto: trains in the fastest, answers in float32",
    )
    add("--devices", type=at_least(1), metavar="N", help="of each machine to use; default: all")
    add("--seed", default=0, type=at_least(0), metavar="N", help="of every random number")
    add("--limit", type=at_least(1), metavar="N", help="use at most N pictures of each part")
    return parser.parse_args(arguments)


# --- VGG16 ----------------------------------------------------------------------------------------


class Preprocess(keras.layers.Layer):
    """RGB pictures 0..255 of any size -> what VGG16 was trained on, padded to a multiple of 32.

    Blue, green, red, less the mean colour of ImageNet. The padding, below and to the right, is
    the mean colour, which is the zero that every convolution pads with.
    """

    def call(self, picture):  # [N, H, W, 3]
        height, width = keras.ops.shape(picture)[1:3]
        centred = picture - keras.ops.array(augmentation.VGG_MEAN_RGB, "float32")
        padding = [[0, 0], [0, -height % 32], [0, -width % 32], [0, 0]]
        return keras.ops.pad(keras.ops.flip(centred, axis=-1), padding)

    def compute_output_shape(self, picture_shape):
        padded = [size and size + -size % 32 for size in picture_shape[1:3]]
        return (picture_shape[0], *padded, picture_shape[3])


def load_vgg(weights, blocks=VGG_BLOCKS, head_channels=HEAD_CHANNELS):
    """Build VGG16 as a fully convolutional network.

    weights: {layer name: (kernel, bias)} of `vgg_weights.read`; layers not named start from
    random numbers, and named ones of FROZEN blocks are not trained. blocks: (convolutions,
    channels) of each block. head_channels: of fc6 and fc7 where weights has none; ImageNet's have
    4096.
    Returns a model: uint8 or float RGB pictures [N, H, W, 3], 0..255, any size -> block3_pool,
    block4_pool and fc7, at 1/8, 1/16 and 1/32 of the size padded to a multiple of 32.
    """
    picture = keras.Input((None, None, 3), name="picture")
    x = Preprocess(dtype="float32", name="preprocess")(picture)
    pools = []
    for block, (convolutions, channels) in enumerate(blocks, start=1):
        for number in range(1, convolutions + 1):
            x = convolution(x, channels, 3, f"block{block}_conv{number}")
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
        pools.append(x)
    head = {name: weights[name][0].shape for name in ("fc6", "fc7") if name in weights}
    x = drop(x, "pool5")
    for name, size in (("fc6", 7), ("fc7", 1)):
        size, _, _, channels = head.get(name, (size, size, None, head_channels))
        # In bfloat16, oneDNN fills the gradient of what a kernel never sees of pictures below
        # 128 pixels with whatever lies in memory, up to 1e38 (TensorFlow 2.21). fc7 is cheap.
        x = drop(convolution(x, channels, size, name, dtype="float32"), name)
    vgg = keras.Model(picture, [pools[2], pools[3], x], name="vgg16")
    for name, (kernel, bias) in weights.items():
        layer = vgg.get_layer(name)
        layer.set_weights([kernel, bias])
        layer.trainable = not name.startswith(FROZEN)
    return vgg


def convolution(x, channels, size, name, **options):
    """Convolve and rectify, keeping height and width. options: further ones of Conv2D."""
    return keras.layers.Conv2D(
        channels,
        size,
        padding="same",
        activation="relu",
        kernel_initializer="he_normal",
        name=name,
        **options,
    )(x)


def drop(x, name, kind=keras.layers.Dropout):
    """Leave out a share of x, in training, so that no answer hangs on a few numbers."""
    return kind(DROPOUT[name], dtype="float32", name=f"{name}_dropout")(x)


# --- skip layers ----------------------------------------------------------------------------------


class CropLike(keras.layers.Layer):
    """Cuts away below and to the right what is larger than a reference [N, H, W, anything]."""

    def call(self, x, reference):
        height, width = keras.ops.shape(reference)[1:3]
        return x[:, :height, :width]

    def compute_output_shape(self, x_shape, reference_shape):
        return (x_shape[0], *reference_shape[1:3], x_shape[3])


def layers(vgg, num_classes):
    """Add the skip layers of FCN-8s to VGG16.

    vgg: model of `load_vgg`. Returns a model: pictures [N, H, W, 3] -> logits float32
    [N, H, W, num_classes], of the pictures' own size.
    """
    pool3, pool4, fc7 = vgg.outputs  # 1/8, 1/16, 1/32
    x = score(fc7, num_classes, "score_fc7")
    x = upsample(x, 2, "upsample_fc7")
    x = x + score(skip(pool4, "pool4"), num_classes, "score_pool4")
    x = upsample(x, 2, "upsample_pool4")
    x = x + score(skip(pool3, "pool3"), num_classes, "score_pool3")
    x = upsample(x, 8, "upsample_pool3")
    logits = CropLike(dtype="float32", name="logits")(x, vgg.input)
    return keras.Model(vgg.input, logits, name="fcn8s")


def skip(pool, name):
    """Make the large activations of early layers small, so that skips start gently.

    In training whole channels are left out: neighbouring places tell nearly the same.
    """
    dropped = drop(pool, name, keras.layers.SpatialDropout2D)
    return keras.layers.Rescaling(SKIP_SCALES[name], dtype="float32")(dropped)


def score(x, num_classes, name):
    """Score the classes at every place, by a 1x1 convolution that starts near zero."""
    start = keras.initializers.TruncatedNormal(stddev=SCORE_DEVIATION)
    return keras.layers.Conv2D(
        num_classes, 1, kernel_initializer=start, dtype="float32", name=name
    )(x)


def upsample(x, factor, name):
    """Enlarge by a transposed convolution that starts as exact bilinear interpolation.

    The outermost pixels are repeated first, or the borders would fade to zero.
    """
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="symmetric")
    x = keras.layers.Conv2DTranspose(
        x.shape[-1],
        2 * factor,
        strides=factor,
        padding="same",
        use_bias=False,
        kernel_initializer=bilinear_kernel,
        dtype="float32",
        name=name,
    )(x)
    return keras.layers.Cropping2D(factor, dtype="float32")(x)


def bilinear_kernel(shape, dtype=None):
    """Start a transposed convolution as bilinear interpolation, each channel by itself.

    shape: (size, size, out, in), size twice the stride. Returns a tensor of that shape.
    """
    size = shape[0]
    triangle = 1 - np.abs((np.arange(size) + 0.5) / (size / 2) - 1)
    plane = np.outer(triangle, triangle)
    return keras.ops.array(plane[..., None, None] * np.eye(*shape[2:]), dtype)


# --- loss -----------------------------------------------------------------------------------------


def optimize(network, learning_rate, total_steps, slowdown=1.0, parts=1):
    """Give a network its loss and its optimizer.

    learning_rate: the highest; it rises evenly over the first steps and falls as a cosine to zero
    at total_steps.
    slowdown: factor of the rate; parts: calls of train_on_batch whose gradients make a step.
    Returns a compiled model that shares all layers with network; its loss is the mean of
    `picture_loss`. Its optimizer keeps a running average of the weights.
    """
    warm_up, rate = max(1, round(WARM_UP_SHARE * total_steps)), slowdown * learning_rate
    schedule = CosineOfSteps(
        rate / warm_up,
        max(1, total_steps - warm_up),
        alpha=0.0,
        warmup_target=rate,
        warmup_steps=warm_up,
    )
    schedule.parts = parts
    optimizer = LayerwiseAdam(
        schedule,
        global_clipnorm=CLIP_NORM,
        averaged_share=AVERAGED_SHARE,
        gradient_accumulation_steps=parts if parts > 1 else None,
    )
    trainer = keras.Model(network.input, network.output, name="trainer")
    trainer.compile(optimizer, picture_loss)
    # Keras would learn shapes from the first batch, which it can't where that lies on many devices.
    classes = network.output.shape[-1]
    trainer.compute_loss(y=np.zeros((1, 1, 1), np.uint8), y_pred=np.zeros((1, 1, 1, classes)))
    return trainer


def picture_loss(labels, logits):
    """Average the cross-entropy over each picture's pixels, weighted by `pixel_weights`, in nats.

    Each picture by itself, so that it does not matter which pictures share a batch or a device.
    labels: [N, H, W] class indices; logits: [N, H, W, classes]. Returns float32 [N], 0 where all is
    VOID.
    """
    weights = pixel_weights(labels)
    losses = keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True, ignore_class=VOID
    )
    return keras.ops.sum(weights * losses, axis=(1, 2)) / keras.ops.maximum(
        keras.ops.sum(weights, axis=(1, 2)), 1.0
    )


def pixel_weights(labels):
    """Weigh pixels near another class BOUNDARY_WEIGHT times as much as others, and VOID with 0.

    The idea is that of U-Net (O. Ronneberger, P. Fischer, T. Brox: arXiv:1505.04597).
    labels: [N, H, W] class indices. Returns float32 [N, H, W].
    """
    is_valid, index = labels != VOID, keras.ops.cast(labels, "float32")
    # The highest index around a pixel, and that of the negative ones: of one class, their sum is 0.
    either = [keras.ops.where(is_valid, sign * index, -VOID) for sign in (1, -1)]
    extremes = keras.ops.max_pool(
        keras.ops.stack(either, axis=-1), 2 * BOUNDARY_REACH + 1, strides=1, padding="same"
    )
    is_near = keras.ops.cast(keras.ops.sum(extremes, axis=-1) > 0, "float32")
    return keras.ops.cast(is_valid, "float32") * (1 + (BOUNDARY_WEIGHT - 1) * is_near)


# --- training -------------------------------------------------------------------------------------


def train_nn(training, get_batches_fn, epochs, batch_size, validate, stopping=None, bar=None):
    """Train up to a number of epochs, from where the training stands.

    training: Training; get_batches_fn: of `helper.gen_batch_function`; validate: function () ->
    Tally of the network as it is then, with averaged weights; stopping: Stopping, grants a
    wish to stop; bar: tqdm, counts forward passes.
    The run's folder gets log.csv, checkpoint/ and best.weights.h5. Returns the rows of log.csv.
    Raises TrainingError where training can't go on, and StopRequest after saving.
    """
    stopping = stopping or Stopping()
    if bar is not None:
        bar.reset(bar.total * (epochs - len(training.progress.history)) // epochs)
    with stopping.granted():
        while len(training.progress.history) < epochs:
            try:
                train_epoch(training, get_batches_fn, batch_size, stopping, bar)
                row = training.finish_epoch(validate)
                training.save()
                tell(row, epochs, row is training.progress.best)
            except StopRequest:
                training.save()
                terminal.say(f"saved; the same command with --run {training.folder.name} goes on")
                raise
            except LossError as error:
                training.go_back(error)
            except MemoryShortError as error:
                training.cut_batches(error, batch_size)
            except OSError as error:
                raise TrainingError(
                    f"{error.filename or training.folder}: {error.strerror or error}; what was "
                    "saved before is kept: put the disk right, then the same command goes on"
                ) from error
    return training.progress.history


# --- run ------------------------------------------------------------------------------------------


def run(arguments, stopping):
    """Train a network and write the run's folder, as the arguments say. Returns the folder.

    arguments: of `parse_settings`. Several processes share the work; the first alone writes,
    validates and paints.
    """
    team = devices.team()
    used, data_set, root = team.first_then_others(
        lambda: helper.prepare_data_set(arguments.dataset, arguments.data_dir)
    )
    settings = plan.complete_settings(arguments, used, data_set)
    parts = plan.choose_pictures(data_set, root, settings)
    remembered = Path(settings["runs_dir"]) / ".checked.json"
    settings["data_digest"] = team.from_first(lambda: check_samples(parts, data_set, remembered))
    weights = team.first_then_others(
        lambda: vgg_weights.read(settings["vgg"], Path(settings["data_dir"]))
    )
    with contextlib.ExitStack() as lock, team.scope():
        folder, decided = team.from_first(lambda: plan.open_folder(settings, lock, data_set))
        folder = Path(folder)
        if not decided:
            return folder
        settings |= decided
        keras.utils.set_random_seed(settings["seed"] % 2**32)
        network, own = build_networks(weights, len(data_set.classes), settings)
        train(network, own, folder, data_set, settings, parts, stopping)

        def finish():
            own.load_weights(folder / checkpoint.BEST)
            write_results(own, folder, data_set, settings, parts)

        team.from_first(finish)
    return folder


def build_networks(weights, num_classes, settings):
    """Build the network to train, and the one to answer with.

    Returns (the first, on all devices; the second, on those of this process): the same one where
    neither devices nor precision differ.
    """

    def build(precision):
        keras.config.set_dtype_policy(precision)
        return layers(load_vgg(weights), num_classes)

    team, training, answering = (
        devices.team(),
        settings["training_precision"],
        answering_precision(settings),
    )
    network = own = build(training)
    if team.processes > 1 or training != answering:
        with team.own_scope():
            own = build(answering)
    return network, own


def train(network, own, folder, data_set, settings, samples, stopping):
    """Train a network from where the run stands.

    network: on all devices; own: on those of this process; samples: training, validation, testing.
    """
    (training, validation, _), team = samples, devices.team()
    epochs, shape, seed, batch_size = (
        settings[name] for name in ("epochs", "image_shape", "seed", "pictures_a_step")
    )
    # Adam's rule: the rate grows with the root of the batch (S. Malladi et al.: On the SDEs and
    # Scaling Rules for Adaptive Gradient Algorithms, arXiv:2205.10287).
    rate = settings["learning_rate"] * math.sqrt(batch_size / settings["batch_size"])
    get_batches_fn = helper.gen_batch_function(training, data_set, shape, seed, share=team.share)
    plan.tell_plan(
        network, settings, trained=epochs * len(training), predicted=epochs * len(validation)
    )
    steps = epochs * math.ceil(len(training) / batch_size)
    make_trainer = functools.partial(optimize, network, rate, steps)
    parts = math.ceil(batch_size / (settings["batch_size"] * team.devices))
    team.from_first(lambda: checkpoint.check_room(folder, 4 * network.count_params()))
    state = Training(network, make_trainer, folder, seed, parts)
    total = epochs * (TRAINING_COST * len(training) + len(validation))
    with terminal.progress(total=total, desc="training", unit="pass", smoothing=0.1) as bar:
        validate = validator(
            network, own, validation, data_set, shape, lambda *_: stopping.check() or bar.update()
        )
        train_nn(state, get_batches_fn, epochs, batch_size, validate, stopping, bar)


def write_results(network, folder, data_set, settings, parts):
    """Calibrate a trained network, paint and score, and write all of it into the run's folder.

    parts: training, validation and testing samples.
    """
    training, validation, testing = parts
    shape = settings["image_shape"]
    predict = calibrate(network, validation, data_set, shape, folder)
    shown, worst = gallery.TestingGallery(folder, testing), gallery.WorstPictures()
    helper.save_inference_samples(
        folder / "pictures", predict, testing, data_set, shape, prediction_batch(), shown.add
    )
    result, tally = score_run(predict, validation, data_set, settings, "validation", worst.add)
    gallery.save(folder, tally, shown, worst)
    if "perspective" in result:
        result["simple_rules"] = score_simple_rules(training, validation, data_set)
    write_json(folder / "metrics.json", result)
    page = report.write(folder)
    terminal.say(f"\n{score_table(result)}\n\neverything on one page: {page}")


# --- a trained run, brought back ------------------------------------------------------------------


def load_network(folder, precision=None):
    """Bring a trained run's network back.

    folder: of the run; precision: of the inner layers, default: as the run's settings say.
    Returns (network of `layers`, (slope, offset) of its calibration, row of DATASETS, settings).
    Raises UserError where the run has no weights, or damaged ones.
    """
    settings, weights = read_json(folder / "settings.json"), folder / checkpoint.BEST
    if not weights.is_file():
        raise UserError(f"{weights}: not found; this run has not trained a whole epoch yet")
    data_set = row_of(settings)
    keras.config.set_dtype_policy(precision or answering_precision(settings))
    network = layers(load_vgg(vgg_weights.read(str(weights), folder)), len(data_set.classes))
    try:
        network.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{weights}: damaged, or of another network ({error})") from error
    fit = folder / "calibration.json"
    fit = read_json(fit) if fit.is_file() else {"slope": 1.0, "offset": 0.0}
    return network, (fit["slope"], fit["offset"]), data_set, settings


def load_run(folder):
    """Bring a trained run back: returns (predictor, row of DATASETS, settings)."""
    network, calibration, data_set, settings = load_network(folder)
    return predictor(network, calibration), data_set, settings


# --- command line ---------------------------------------------------------------------------------


def main(arguments=None):
    """Run from the command line. Returns the exit status."""

    def work(stopping):
        settings = parse_settings(arguments)
        with devices.joined(settings.devices):
            warn_about_idle_gpu()
            run(settings, stopping)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())

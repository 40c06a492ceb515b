"""Train FCN-8s on VGG16 to find the road in a picture.

    python main.py                                   KITTI Road, or drawn scenes where it isn't
    python main.py --run first --epochs 20           again: resumes where it stopped
    KERAS_BACKEND=jax python main.py                 the same on JAX

The file reads in the order in which things happen: recipe, VGG16, skip layers, loss, training, run;
at the end, how a trained run is brought back. J. Long, E. Shelhamer, T. Darrell:
Fully Convolutional Networks for Semantic Segmentation, arXiv:1411.4038 and 1605.06211;
K. Simonyan, A. Zisserman: arXiv:1409.1556.
"""

import contextlib
import functools
import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

import helper
from roadseg import terminal
from roadseg.answering.layers import Brighten, CropLike, Preprocess
from roadseg.answering.network import Predictor
from roadseg.answering.predictor import UNCALIBRATED, Calibration
from roadseg.command_line import exit_status
from roadseg.data import vgg_weights
from roadseg.data.check import check_samples, data_digest, files_below
from roadseg.data.datasets import FCN_8S, JOINT, row_of
from roadseg.data.finding import with_shapes
from roadseg.data.pictures import VOID
from roadseg.devices import ONE_DEVICE, joined
from roadseg.engine import FLOAT32, keras, scoring_precision, warn_about_idle_gpu
from roadseg.errors import LossError, MemoryShortError, StopRequest, UserError
from roadseg.files import read_json
from roadseg.page.results import write_results
from roadseg.stopping import Stopping
from roadseg.training import budget, checkpoint, plan, run_folder
from roadseg.training.arguments import parse_arguments
from roadseg.training.trainer import TRAINING_COST, Training, disk_errors, tell, train_epoch
from roadseg.training.validation import make_validate

VGG_BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))  # (convolutions, channels) each


# --- recipe ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a network is built and trained, but for what the command line says.

    A run keeps it in settings.json and goes on with no other; a data set's row may replace fields
    of it, and so may a trial.
    Ranges are (low, high); each value is drawn evenly, of ratios the logarithm. What each is worth:
    experiments/log.md.
    """

    # The network
    frozen: tuple = ("block1", "block2")  # pretrained: edges are the same in every street
    head_channels: int = 512  # of fc6 and fc7, where they do not come from ImageNet
    pool3_scale: float = 0.06  # times VGG16's large activations, so that skips learn gently
    pool4_scale: float = 0.3
    pool2_scale: float = 0.02  # what a fuse reads is about as large as the scores beside it
    pool1_scale: float = 0.05
    fuse_channels: int = 64  # of the 3x3 convolution in pool2's and pool1's skips; 0: scores alone
    skips: tuple = FCN_8S  # the first ones of SKIPS
    score_deviation: float = 1e-3  # of fc7's score kernel at its start; the skips' start at 0
    skip_dropout: float = 0.2  # share of whole channels: neighbouring places tell nearly the same
    pool5_dropout: float = 0.3  # share of numbers
    head_dropout: float = 0.5  # likewise, of fc6 and fc7
    # The loss and its steps
    boundary_reach: int = 4  # pixels from another class within which a pixel weighs more
    boundary_weight: float = 5.0  # times that of other pixels
    clip_norm: float = 1.0  # longest gradient of all weights together
    warm_up_share: float = 0.05  # of all steps; then the learning rate falls as a cosine
    # How picture and label are moved together
    zoom: tuple = (0.6, 1.8)
    stretch: tuple = (1 / 1.5, 1.5)  # width against height: a higher camera, a wider lens
    lean: tuple = (-0.15, 0.15)  # columns a row: a camera to the left or right
    shift: tuple = (-0.1, 0.1)  # of the picture's height and width
    rotation_degrees: tuple = (-5.0, 5.0)
    mirrored: bool | None = None  # half of the pictures; None: as the data set's row says
    # How light, colour and sharpness are varied, as other days and cameras do
    varied_share: float = 0.5  # of the pictures
    gamma: tuple = (0.6, 1.7)
    exposure: tuple = (0.5, 2.0)  # times each value
    colour_cast: tuple = (1 / 1.3, 1.3)  # times red, green and blue, each by itself
    contrast: tuple = (0.6, 1.3)
    saturation: tuple = (0.3, 1.5)  # 0: grey
    shadow: tuple = (0.5, 1.0)  # times the values on one side of a line
    blur_pixels: float = 1.2  # the largest standard deviation
    noise: float = 10.0  # likewise, of 255
    jpeg_quality: tuple = (20, 95)
    # How a dark picture is brightened to be answered
    luminance: float = 0.38  # of its lower half, 0..1, which is KITTI's mean
    brightening: tuple = (0.25, 1.0)  # range of the gamma that does it; (1, 1): left dark


RECIPE = Recipe()


# --- VGG16 ----------------------------------------------------------------------------------------


def load_vgg(weights, recipe=RECIPE, blocks=VGG_BLOCKS, head_precision=None):
    """Build VGG16 as a fully convolutional network.

    weights: {layer name: (kernel, bias)} of `vgg_weights.read`, which tell these layers' channels;
    layers not named start from random numbers, and named ones of frozen blocks are not trained.
    blocks: (convolutions, channels) of each block; head_precision: of fc6 and fc7, None: as all.
    Returns a model: uint8 or float RGB pictures [N, H, W, 3], 0..255, any size -> block3_pool,
    block4_pool and fc7, at 1/8, 1/16 and 1/32 of the size padded to a multiple of 32.
    `keras.applications.VGG16` has neither the preprocessing, nor fc6 and fc7 as convolutions.
    """
    picture = keras.Input((None, None, 3), name="picture")
    brighten = Brighten(recipe.luminance, recipe.brightening, dtype="float32", name="brighten")
    x = brighten(picture)
    x = Preprocess(dtype="float32", name="preprocess")(x)
    pools = []
    for block, (convolutions, channels) in enumerate(blocks, start=1):
        for number in range(1, convolutions + 1):
            x = convolve(x, f"block{block}_conv{number}", 3, channels, weights)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
        pools.append(x)
    x = drop(x, "pool5", recipe.pool5_dropout)
    for name, size in (("fc6", 7), ("fc7", 1)):
        x = convolve(x, name, size, recipe.head_channels, weights, dtype=head_precision)
        x = drop(x, name, recipe.head_dropout)
    vgg = keras.Model(picture, [pools[2], pools[3], x], name="vgg16")
    for name, (kernel, bias) in weights.items():
        layer = vgg.get_layer(name)
        layer.set_weights([kernel, bias])
        layer.trainable = not name.startswith(tuple(recipe.frozen))
    return vgg


def convolve(x, name, size, channels, weights, **options):
    """Convolve and rectify, keeping height and width.

    size, channels: of the kernel, where the weights have none of this name; options: of Conv2D.
    """
    start = keras.initializers.HeNormal()
    if name in weights:  # which take its place
        start, (size, _, _, channels) = "zeros", weights[name][0].shape
    layer = keras.layers.Conv2D(
        channels, size, 1, "same", activation="relu", kernel_initializer=start, name=name, **options
    )
    return layer(x)


def drop(x, name, rate, kind=keras.layers.Dropout):
    """Leave out a share of x, in training, so that no answer hangs on a few numbers."""
    return kind(rate, dtype="float32", name=f"{name}_dropout")(x)


# --- skip layers ----------------------------------------------------------------------------------


# Skip -> (layer of VGG16, whether it is fused), from coarse to fine: 1/16, 1/8, 1/4 and 1/2.
SKIPS = {
    "pool4": ("block4_pool", False),
    "pool3": ("block3_pool", False),
    "pool2": ("block2_pool", True),
    "pool1": ("block1_pool", True),
}


def layers(vgg, num_classes, recipe=RECIPE):
    """Add the skip layers to VGG16: of FCN-8s, or of a coarser or a finer network.

    vgg: model of `load_vgg`. Returns a model: pictures [N, H, W, 3] -> logits float32
    [N, H, W, num_classes], of the pictures' own size. Raises ValueError where the recipe's skips
    leave one out.
    """
    skips = tuple(recipe.skips)
    if skips != tuple(SKIPS)[: len(skips)]:
        raise ValueError(f"skips {', '.join(skips)}: expected the first ones of {', '.join(SKIPS)}")
    features = {name: scale_skip(vgg, name, recipe) for name in skips}
    near_zero = keras.initializers.TruncatedNormal(stddev=recipe.score_deviation)
    x = score(vgg.outputs[-1], num_classes, "score_fc7", near_zero)
    last, stride = "fc7", 32
    for name, feature in features.items():
        x = upsample(x, 2, f"upsample_{last}")
        last, stride, (_, is_fused) = name, stride // 2, SKIPS[name]
        if is_fused and recipe.fuse_channels:
            feature = fuse(x, feature, f"fuse_{name}", recipe.fuse_channels)
        x = x + score(feature, num_classes, f"score_{name}", "zeros")
    x = upsample(x, stride, f"upsample_{last}")
    # As large as the picture; not by vgg.input, so that `Predictor.in_tiles` can begin here.
    logits = CropLike(dtype="float32", name="logits")(x, vgg.get_layer("brighten").output)
    return keras.Model(vgg.input, logits, name=f"fcn{stride}s")


def scale_skip(vgg, name, recipe):
    """Make the large activations of early layers small; in training leave out whole channels.

    name: of SKIPS. Returns the pool's activations, [N, h, w, channels].
    """
    pool, scale = vgg.get_layer(SKIPS[name][0]).output, getattr(recipe, f"{name}_scale")
    dropped = drop(pool, name, recipe.skip_dropout, keras.layers.SpatialDropout2D)
    return keras.layers.Rescaling(scale, dtype="float32")(dropped)


def fuse(scores, feature, name, channels):
    """See scores and edges beside each other, 3x3 places at a time.

    Scores that are added place by place can't say on which side of an edge a pole stands.
    scores: [N, h, w, classes]; feature: [N, h, w, any]. Returns [N, h, w, channels].
    """
    both = keras.layers.Concatenate(name=f"{name}_input")([scores, feature])
    return convolve(both, name, 3, channels, {})


def score(x, num_classes, name, start):
    """Score the classes at each place by a 1x1 convolution; start: of its kernel."""
    layer = keras.layers.Conv2D(
        num_classes, 1, kernel_initializer=start, dtype="float32", name=name
    )
    return layer(x)


def upsample(x, factor, name):
    """Enlarge by a transposed convolution that starts as exact bilinear interpolation.

    The outermost pixels are repeated first, or the borders would fade to zero.
    """
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="symmetric")
    layer = keras.layers.Conv2DTranspose(
        x.shape[-1],
        2 * factor,
        strides=factor,
        padding="same",
        use_bias=False,
        kernel_initializer=bilinear_kernel,
        dtype="float32",
        name=name,
    )
    return keras.layers.Cropping2D(factor, dtype="float32")(layer(x))


def bilinear_kernel(shape, dtype=None):
    """Start a transposed convolution as bilinear interpolation, each channel by itself.

    shape: (size, size, out, in), size twice the stride. Returns a tensor of that shape.
    """
    size = shape[0]
    triangle = 1 - np.abs((np.arange(size) + 0.5) / (size / 2) - 1)
    plane = np.outer(triangle, triangle)
    return keras.ops.array(plane[..., None, None] * np.eye(*shape[2:]), dtype)


# --- loss -----------------------------------------------------------------------------------------


def optimize(
    network,
    learning_rate,
    steps,
    recipe=RECIPE,
    team=ONE_DEVICE,
    slowdown=1,
    slices=1,
    class_weights=(),
):
    """Give a network its loss and its optimizer, Adam.

    learning_rate: the highest; it rises evenly over the first steps and falls as a cosine to zero
    at steps. slowdown: factor of the learning rate; slices: calls of train_on_batch whose
    gradients make a step; class_weights: of `picture_loss`.
    Returns a compiled model that shares all layers with network; its loss is the mean of
    `picture_loss`.
    """
    warm_up, rate = max(1, round(recipe.warm_up_share * steps)), slowdown * learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / warm_up,
        slices * max(1, steps - warm_up),  # Keras counts the slices
        warmup_target=rate,
        warmup_steps=slices * warm_up,
    )
    compiled = keras.Model(network.input, network.output, name="compiled")
    compiled.compile(
        team.adam(schedule, recipe.clip_norm, slices),
        functools.partial(picture_loss, recipe=recipe, class_weights=class_weights),
    )
    show_shapes_to_loss(compiled)
    return compiled


def show_shapes_to_loss(compiled):
    """Let Keras learn shapes here: from a first batch that lies on many devices it can't."""
    logits = np.zeros((1, 1, 1, compiled.output.shape[-1]))
    compiled.compute_loss(y=np.zeros((1, 1, 1), np.uint8), y_pred=logits)


def picture_loss(labels, logits, recipe=RECIPE, class_weights=()):
    """Average the cross-entropy over each picture's pixels, weighted by `pixel_weights`, in nats.

    Each picture by itself, so that it does not matter which pictures share a batch or a device;
    Keras' own loss would average over all valid pixels of a batch.
    labels: [N, H, W] class indices; logits: [N, H, W, classes]; class_weights: another factor of
    the pixels of each class, all 1 where there are none. Returns float32 [N], 0 where all is VOID.
    """
    weights = pixel_weights(labels, recipe.boundary_reach, recipe.boundary_weight)
    if class_weights:
        index = keras.ops.where(labels == VOID, 0, keras.ops.cast(labels, "int32"))
        weights = weights * keras.ops.take(keras.ops.array(class_weights, "float32"), index)
    losses = keras.losses.sparse_categorical_crossentropy(
        labels, logits, from_logits=True, ignore_class=VOID
    )
    total = keras.ops.maximum(keras.ops.sum(weights, axis=(1, 2)), 1.0)
    return keras.ops.sum(weights * losses, axis=(1, 2)) / total


def pixel_weights(labels, reach, boundary_weight):
    """Weigh pixels near another class boundary_weight times as much as others, and VOID with 0.

    The idea is that of U-Net (O. Ronneberger, P. Fischer, T. Brox: arXiv:1505.04597).
    labels: [N, H, W] class indices; reach: pixels. Returns float32 [N, H, W].
    """
    is_valid, index = labels != VOID, keras.ops.cast(labels, "float32")

    def highest_around(values):
        values = keras.ops.where(is_valid, values, -VOID)[..., None]
        return keras.ops.max_pool(values, 2 * reach + 1, strides=1, padding="same")[..., 0]

    is_near = keras.ops.cast(highest_around(index) != -highest_around(-index), "float32")
    return keras.ops.cast(is_valid, "float32") * (1 + (boundary_weight - 1) * is_near)


# --- training -------------------------------------------------------------------------------------


def train_nn(training, get_batches_fn, epochs, batch_size, validate, stopping=None, bar=None):
    """Train up to a number of epochs, from where the training stands, or until it is over.

    training: Training; get_batches_fn: of `helper.gen_batch_function`; validate: function () ->
    Tally of the network as it is then; stopping: Stopping, answers a request to stop; bar: tqdm,
    counts forward passes.
    The run's folder gets log.csv, checkpoint/ and best.weights.h5. Returns the rows of log.csv.
    Raises TrainingError where training can't go on, and StopRequest after saving.
    """
    stopping = stopping or Stopping()
    if bar is not None:
        left = max(0, epochs - len(training.progress.history))  # of fewer --epochs than are done
        bar.reset(bar.total * left // epochs)
    with stopping.deferred(), disk_errors(training.folder):
        while not training.is_over(epochs):
            try:
                train_epoch(training, get_batches_fn, batch_size, stopping, bar)
                row = training.finish_epoch(validate)
                tell(row, epochs, row is training.progress.best)
                training.save_epoch(epochs)
            except StopRequest:
                training.save()
                terminal.say(f"saved; the same command with --run {training.folder.name} resumes")
                raise
            except LossError as error:
                training.go_back(error)
            except MemoryShortError as error:
                training.cut_batches(error, batch_size)
    training.tell_end(epochs)
    return training.progress.history


# --- run ------------------------------------------------------------------------------------------


def run(arguments, stopping, team=ONE_DEVICE, changes=None):
    """Train a network and write the run's folder, as the arguments say. Returns the folder.

    arguments: of `parse_arguments`; changes: {field of the recipe: value}, of a trial. Several
    processes share the work; the first alone writes, validates and paints.
    """
    vgg_weights.weights_path(arguments.vgg)  # a missing one is told before a download
    used, data_set, root = team.first_then_others(
        lambda: helper.prepare_data_set(JOINT.join(arguments.dataset), arguments.data_dir)
    )
    split = plan.choose_pictures(data_set, root, arguments.seed, arguments.limit)
    image_shape = arguments.image_shape or data_set.image_shape
    data_set = with_shapes(data_set, split.training, image_shape)
    files = {}

    def check_data():
        checked = check_samples(split.parts, data_set, arguments.runs_dir / ".checked.json")
        files.update(files_below(checked, root))
        return data_digest(files)

    settings = plan.complete_settings(arguments, used, data_set) | {
        "labels": data_set.label_note(split.labelled, root),
        "labels_are_official": data_set.has_official_labels(split.labelled),
        "data_digest": team.from_first(check_data),
    }

    weights = team.first_then_others(functools.partial(read_weights, arguments))
    head = {"head_channels": weights["fc6"][0].shape[-1]} if "fc6" in weights else {}
    recipe = replace(RECIPE, **(data_set.recipe | (changes or {}) | head))
    settings["recipe"] = asdict(recipe)
    with contextlib.ExitStack() as lock, team.scope():
        folder, decided = team.from_first(
            lambda: plan.open_folder(settings, lock, data_set, team, files, split.training)
        )
        folder = Path(folder)
        if not decided:
            return folder
        job = plan.Job(folder, settings | decided, data_set, split, recipe, team)
        keras.utils.set_random_seed(arguments.seed % 2**32)
        network, answering_network = build_networks(weights, job)
        train(job, network, answering_network, stopping)
        save = helper.save_inference_samples
        with disk_errors(folder):
            team.from_first(lambda: write_results(job, network, answering_network, save))
    return folder


def read_weights(arguments):
    """Read the weights to start on, as `vgg_weights.read`; the full VGG16 is downloaded first."""
    vgg = arguments.vgg
    if vgg == "full":
        vgg = helper.maybe_download_pretrained_vgg(arguments.data_dir)
    return vgg_weights.read(vgg)


def build_networks(weights, job):
    """Build the network to train, and the one to answer with.

    Returns (the first, on all devices; the second, on those of this process): the same one where
    neither devices nor precision differ.
    """
    training, answering = job.settings["training_precision"], scoring_precision(job.settings)
    build = functools.partial(
        build_network, weights, job.settings, job.recipe, len(job.data_set.classes)
    )
    network = answering_network = build(training)
    if job.team.processes > 1 or training != answering:
        with job.team.own_scope():
            answering_network = build(answering)
    return network, answering_network


def build_network(weights, settings, recipe, num_classes, precision):
    """Build the network of a run; precision: of PRECISIONS, for all that may be rounded."""
    keras.config.set_dtype_policy(precision)
    is_rounded = settings.get("head_precision") == precision  # earlier runs don't say
    vgg = load_vgg(weights, recipe, head_precision=None if is_rounded else FLOAT32)
    return layers(vgg, num_classes, recipe)


def train(job, network, answering_network, stopping):
    """Train a network from where the run stands; the other one of `build_networks` validates it."""
    settings, (training, validation, _) = job.settings, job.split.parts
    get_batches_fn = helper.gen_batch_function(
        training, job.data_set, settings["image_shape"], settings["seed"], job.recipe, job.team
    )
    plan.tell_plan(job, network)
    job.team.from_first(lambda: checkpoint.check_room(job.folder, 4 * network.count_params()))
    begin = functools.partial(begin_training, job, network, get_batches_fn)
    epochs = settings["epochs"] or budget.fit_epochs(
        job, begin(1), get_batches_fn, make_validate(job, network, answering_network)
    )
    state = begin(epochs)
    total = epochs * (TRAINING_COST * len(training) + len(validation))
    bar = terminal.progress(total=total, desc="training", unit="pass", smoothing=0.1)
    with state.writer, bar:  # nothing is being written when the folder is given back

        def after_each(*_):
            stopping.check()
            bar.update()

        validate = make_validate(job, network, answering_network, after_each)
        batch_size = settings["pictures_a_step"]
        train_nn(state, get_batches_fn, epochs, batch_size, validate, stopping, bar)


def begin_training(job, network, get_batches_fn, epochs):
    """Make the Training of a run, from where it stands, with a schedule of so many epochs."""
    settings, pictures = job.settings, job.settings["pictures_a_step"]
    compile_network = functools.partial(
        optimize,
        network,
        plan.learning_rate_of(pictures, settings["learning_rate"], settings["batch_size"]),
        epochs * get_batches_fn.count(pictures),
        job.recipe,
        job.team,
        class_weights=list(settings["weights_of_classes"].values()),
    )
    slices = math.ceil(pictures / (settings["batch_size"] * job.team.devices))
    patience = settings["patience"], settings["patience_since"]
    is_ahead = get_batches_fn.is_on_device and settings["training_precision"] != "mixed_float16"
    return Training(network, compile_network, job.folder, job.team, slices, *patience, is_ahead)


# --- a trained run, brought back ------------------------------------------------------------------


def load_network(folder, precision=None):
    """Bring a trained run's network back.

    folder: of the run; precision: of the inner layers, default: as the run's settings say.
    Returns (network of `layers`, Calibration, row of DATASETS, settings).
    Raises UserError where the run has no weights, damaged ones, or those of another version.
    """
    settings, weights = read_json(folder / "settings.json"), folder / checkpoint.BEST
    if not weights.is_file():
        raise UserError(f"{weights}: not found; train an epoch, or resume the run to restore it")
    with run_folder.of_this_version(folder):
        data_set, recipe = row_of(settings), read_recipe(settings)
        precision = precision or scoring_precision(settings)
    vgg, before = vgg_weights.read(weights), keras.config.dtype_policy()
    try:
        network = build_network(vgg, settings, recipe, len(data_set.classes), precision)
    finally:  # it is that of all Keras, also of who calls `load`
        keras.config.set_dtype_policy(before)
    try:
        network.load_weights(weights)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{weights}: damaged, or of another network ({error})") from error
    path = folder / "calibration.json"
    fit = read_json(path, missing=UNCALIBRATED._asdict())
    try:
        calibration = Calibration.of(fit)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); use another --run") from error
    return network, calibration, data_set, settings


def read_recipe(settings):
    """Return the Recipe in a run's settings. Raises KeyError where its fields are not today's."""
    values, names = run_folder.recipe_of(settings), {field.name for field in fields(Recipe)}
    if changed := sorted(values.keys() ^ names):
        raise KeyError(changed[0])
    return Recipe(**values)


def load_run(folder, precision=None):
    """Bring a trained run back: returns (Predictor, row of DATASETS, settings).

    precision, and what is raised: of `load_network`.
    """
    network, calibration, data_set, settings = load_network(folder, precision)
    return Predictor(network, calibration), data_set, settings


def main(arguments=None, changes=None):
    """Run from the command line; changes: of `run`. Returns the exit status."""

    def work(stopping):
        given = parse_arguments(arguments)
        with joined(given.devices) as team:
            warn_about_idle_gpu()
            run(given, stopping, team, changes)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())

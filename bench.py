"""Measure the throughput of the real functions and of the machine's peak.

    python bench.py                      a table on the terminal
    python bench.py --json bench.json    and as JSON, with each table as CSV beside it
    python bench.py --part training      that table alone, in a few minutes

All are measured in turn, ROUNDS times, in one process: only ratios of such figures are reliable.
Nothing is downloaded: the pictures are drawn, the head on ImageNet's VGG16 is untrained. Exported
files are measured where requirements-export.txt is installed.
"""

import argparse
import dataclasses
import functools
import importlib.util
import os
import platform
import re
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

import export
import helper
import predict
from main import RECIPE, build_networks, load_network, optimize
from roadseg import terminal
from roadseg.answering import rounding, runtimes
from roadseg.answering.exporting import FORMATS, refuse_what_cannot_be_written
from roadseg.answering.predictor import PREDICTION_BATCH
from roadseg.answering.rounding import FLOAT16, INT8
from roadseg.answering.sources import find_sources, plan_targets
from roadseg.command_line import exit_status
from roadseg.data import vgg_weights
from roadseg.data.datasets import DATASETS
from roadseg.devices import ONE_DEVICE
from roadseg.drawn import scenes
from roadseg.drawn.inputs import draw, write_pictures, write_video
from roadseg.engine import (
    BFLOAT16,
    FLOAT32,
    device_kind,
    faster_precision,
    gpu_memory,
    keras,
    matrix_product_rate,
    operations,
)
from roadseg.errors import UserError
from roadseg.files import write_csv, write_json
from roadseg.stopping import Stopping
from roadseg.training import checkpoint, run_folder
from roadseg.training.plan import Job, Split, default_batch_size
from roadseg.training.trainer import STEPS_AHEAD, Training, train_epoch
from roadseg.training.validation import make_validate

STEPS = "training steps alone"
LIMIT = "the machine's peak (measured matmul)"  # with as many FLOPs
ALONE = "network alone"
KITTI_SHAPE = (375, 1242)
NETWORK_SHAPE = (160, 576)
VIDEO_SHAPE = (720, 1280)
KERAS = "Keras"
NETWORKS = (  # what computes, a run in Keras or a format of export.py; in which precision
    (KERAS, FLOAT32),
    (KERAS, BFLOAT16),
    ("saved_model", FLOAT32),
    ("litert", FLOAT32),
    ("onnx", FLOAT32),
    ("onnx", INT8),
    ("openvino", FLOAT32),
    ("openvino", FLOAT16),
    ("openvino", INT8),
)
# Pictures or frames that predict.py answers, for about the same time in each precision.
COUNTS = {FLOAT32: 32, FLOAT16: 32, BFLOAT16: 64, INT8: 128}
VGG = "conv"  # weights at the start
LEARNING_RATE = 2e-4
DRAWN = 12  # scenes of each category in the data set of training and rounding
COPIES = 4  # of them in an epoch, which is long enough that a checkpoint counts little
ROUNDS = 2
# By kind of device: seconds of a measurement, about, and pictures predicted at once.
SECONDS = {"cpu": 6.0, "gpu": 2.0}
AT_ONCE = {"cpu": (PREDICTION_BATCH,), "gpu": (PREDICTION_BATCH, 1, 16, 64)}


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(description="Measure the throughput of the real functions.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--part", choices=PARTS, help="the table to measure; default: both")
    return parser.parse_args(arguments)


def make_job(folder, image_shape, precision, split=None):
    """Make the Job of a run on drawn scenes; split: Split of them, to train on."""
    settings = {
        "dataset": "synthetic",
        "seed": 0,
        "data_dir": str(folder),
        "image_shape": list(image_shape),
        "image_shapes": [list(image_shape)],
        "precision": "auto",
        "training_precision": precision,
        "head_precision": precision,
        "recipe": dataclasses.asdict(RECIPE),
    }
    return Job(folder, settings, DATASETS["synthetic"], split, RECIPE, ONE_DEVICE)


def build_untrained(job):
    """Build the networks of a Job, with an untrained head."""
    return build_networks(vgg_weights.read(VGG), job)


def make_run(folder, image_shape):
    """Make the folder of a run with an untrained head."""
    folder.mkdir(parents=True)
    job = make_job(folder, image_shape, FLOAT32)
    network, _ = build_untrained(job)
    network.save_weights(folder / checkpoint.BEST)
    write_json(folder / "settings.json", job.settings)
    return folder


SOURCES = (  # what predict.py answers: (height, width), how it is written, what predict.py saves
    (NETWORK_SHAPE, write_pictures, ("mask",)),
    (KITTI_SHAPE, write_pictures, ("mask", "overlay")),
    (VIDEO_SHAPE, write_video, ("mask", "overlay")),
)


@functools.cache
def readable_sources():
    """Return the SOURCES that this machine can read."""
    if importlib.util.find_spec("av"):
        return SOURCES
    terminal.say("left out: videos, which need PyAV: pip install av")
    return [source for source in SOURCES if source[1] is not write_video]


def rate_of(function, pictures):
    """Call a function on so many pictures repeatedly. Returns pictures a second."""
    function()
    count, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < SECONDS[device_kind()]:
        function()
        count += pictures
    return count / seconds


def rate_of_matrix_product(picture_operations, precision=FLOAT32):
    """Multiply large matrices. Returns the rate as pictures a second."""
    return matrix_product_rate(precision, SECONDS[device_kind()]) / picture_operations


def rate_of_predict(finder, source, kind):
    """Let predict.py write one kind of output of a source. Returns pictures a second."""
    sources, *_ = find_sources([str(source)])
    kinds = {kind: predict.KINDS[kind]}
    lossless = {kind: kinds[kind].lossless}
    targets = plan_targets(sources, source.with_name(f"{source.stem}_{kind}"), lossless)
    first = next(iter(sources[0]))
    picture = sources[0].read(first)
    list(finder.answer([picture] * PREDICTION_BATCH, np.asarray))  # compiles for this size
    count, seconds = predict.answer_sources(finder, targets, kinds, fail, Stopping())
    return count / seconds


def fail(error):
    """Raise what predict.py would tell at its end."""
    raise error


def rate_of_network(answer, pictures, number):
    """Answer so many pictures at once. Returns pictures a second."""
    batch = np.resize(pictures, (number, *pictures.shape[1:]))
    return rate_of(functools.partial(answer, batch), number)


def is_measurable(name, precision, folder):
    """Whether this machine can measure one of NETWORKS; if not, say why."""
    try:
        if name == KERAS:
            if precision == BFLOAT16 != faster_precision():
                raise UserError("not faster than float32 here")
        else:
            refuse_what_cannot_be_written(FORMATS[name], folder / FORMATS[name].file_name)
            rounding.refuse_what_cannot_be_rounded(name, precision)
        return True
    except UserError as error:
        terminal.say(f"left out: {name} in {precision}: {error}")
        return False


def export_run(run, data, name, precision):
    """Export a run, rounded on a data folder if need be. Returns the file's path."""
    path = run / precision / FORMATS[name].file_name
    words = ["--run", run, "--format", name, "--precision", precision, "--output", path]
    words += ["--data-dir", data, "--accept-loss"]  # untrained, it has no score to lose
    export.export(export.parse_arguments(map(str, words)), Stopping())
    return path


def open_network(run, data, name, precision):
    """Open one of NETWORKS.

    Returns (function that is the network alone, uint8 [N, H, W, 3] -> probabilities or logits;
    RoadFinder of it, or None for what predict.py can't open).
    """
    if name == KERAS:
        network = load_network(run, precision)[0]
        return network.predict_on_batch, predict.RoadFinder(run, precision=precision)
    path = export_run(run, data, name, precision)
    finder = predict.RoadFinder(path) if runtimes.is_exported(path) else None
    return FORMATS[name].open(path), finder


def things_of_network(opened, make_source, key):
    """Make the measurements of one network.

    opened: of `open_network`; make_source: function (row of SOURCES, number of pictures) -> path;
    key: its row of NETWORKS. Returns {(*key, pictures' shape, what): function () -> pictures a
    second}.
    """
    (alone, finder), (name, precision), partial = opened, key, functools.partial
    numbers = AT_ONCE[device_kind()] if name == KERAS else (PREDICTION_BATCH,)
    things = {
        (*key, NETWORK_SHAPE, f"{ALONE}, {number} at once" if place else ALONE): partial(
            rate_of_network, alone, draw(NETWORK_SHAPE), number
        )
        for place, number in enumerate(numbers)
    }
    for source in readable_sources() if finder else ():
        path = make_source(source, COUNTS[precision])
        for kind in source[2]:
            what = f"predict.py --save {kind}, {source[1].__name__.removeprefix('write_')}"
            things[*key, source[0], what] = partial(rate_of_predict, finder, path, kind)
    return things


def prediction_things(folder, data):
    """Make the measurements of all NETWORKS: as `things_of_network`, and the peak before them."""
    run = make_run(folder / "run", NETWORK_SHAPE)

    @functools.cache
    def make_source(source, count):
        shape, write, _ = source
        return write(folder / f"{text(shape)}_{count}", shape, count)

    work, things = operations(load_network(run, FLOAT32)[0], NETWORK_SHAPE), {}
    for name, precision in NETWORKS:
        if is_measurable(name, precision, run):
            if name == KERAS:
                things[name, precision, NETWORK_SHAPE, LIMIT] = functools.partial(
                    rate_of_matrix_product, work, precision
                )
            opened = open_network(run, data, name, precision)
            things |= things_of_network(opened, make_source, (name, precision))
    return things


def measure(things):
    """Measure things in turn, ROUNDS times. Returns {name: mean}."""
    rounds = [{name: thing() for name, thing in things.items()} for _ in range(ROUNDS)]
    return {name: float(np.mean([figures[name] for figures in rounds])) for name in things}


def draw_data(folder):
    """Draw the data set of training and rounding. Returns its data folder."""
    path = folder / DATASETS["synthetic"].folder
    scenes.draw_data_set(path, (DRAWN, DRAWN, DRAWN), (1, 1, 1), shape=KITTI_SHAPE)
    return folder


def start_training(folder, data, precision):
    """Start to train at NETWORK_SHAPE; data: of `draw_data`.

    Returns (Training, get_batches_fn, function of `make_validate`).
    """
    data_set = DATASETS["synthetic"]
    samples, _ = data_set.find(data / data_set.folder)
    training_part, validation = (COPIES * part for part in data_set.split(samples, 0))
    split = Split(training_part, validation, [], len(samples))
    job = make_job(run_folder.open_run(folder, "run"), NETWORK_SHAPE, precision, split)
    get_batches_fn = helper.gen_batch_function(
        training_part, data_set, NETWORK_SHAPE, recipe=job.recipe
    )
    networks = build_untrained(job)
    compile_network = functools.partial(
        optimize, networks[0], LEARNING_RATE, 1000, job.recipe, job.team
    )
    is_ahead = get_batches_fn.is_on_device
    state = Training(networks[0], compile_network, job.folder, is_ahead=is_ahead)
    return state, get_batches_fn, make_validate(job, *networks)


def training_things(state, get_batches_fn, validate, precision):
    """Make the measurements of `start_training`, once a step is compiled.

    Returns {name: function () -> pictures a second}.
    """
    batch_size, pictures = default_batch_size(get_batches_fn.data_set), len(get_batches_fn.samples)
    batch, names = next(get_batches_fn(batch_size)), get_batches_fn.names(batch_size, 0, 0)
    together = STEPS_AHEAD if state.is_ahead else 1

    def read():
        for made in get_batches_fn(batch_size):
            last = made
        int(last[1][0, 0, 0])  # waits for a GPU

    def steps(count=together):
        for _ in range(count):
            state.step(*batch, names)
        state.settle()
        state.progress.begin_epoch()

    def epoch():
        train_epoch(state, get_batches_fn, batch_size, Stopping())
        state.finish_epoch(validate)
        state.save_epoch(len(state.progress.history) + 1)
        state.wait_for_writing()  # in training this overlaps the next epoch

    steps(1)
    work = operations(state.network, NETWORK_SHAPE, training=True)
    return {
        LIMIT: functools.partial(rate_of_matrix_product, work, precision),
        "reading and augmenting alone": lambda: rate_of(read, pictures),
        STEPS: lambda: rate_of(steps, together * len(names)),
        "whole epoch, with validation and checkpoint": lambda: rate_of(epoch, pictures),
    }


def measure_training(folder, data, machine):
    """Measure the parts of training. Returns rows of the table, dicts.

    data: of `draw_data`; machine: gets the seconds to build the network, compile and take a step,
    and the memory in use.
    """
    precision, started = machine["training precision"], time.perf_counter()
    things = training_things(*start_training(folder, data, precision), precision)
    seconds = time.perf_counter() - started
    machine["seconds to build, compile and take a step"] = round(seconds, 1)
    figures = measure(things)
    machine["most memory in use on the GPU, bytes"] = gpu_memory().get("peak_bytes_in_use")
    return [
        {
            "what": name,
            "pictures a second": rate,
            "of training steps alone": rate / figures[STEPS],
            "of the machine's peak": rate / figures[LIMIT],
        }
        for name, rate in figures.items()
    ]


def measure_prediction(folder, data, _):
    """Measure all NETWORKS, in turn. Returns rows of the table, dicts; data: of `draw_data`."""
    folder.mkdir()
    figures = measure(prediction_things(folder, data))
    return list(prediction_rows(figures))


def prediction_rows(figures):
    """Yield the rows of measured things."""
    for (name, precision, shape, what), rate in figures.items():
        alone = figures[name, precision, NETWORK_SHAPE, ALONE]
        limit = figures.get((KERAS, precision, NETWORK_SHAPE, LIMIT))
        yield {
            "network": name,
            "precision": precision,
            "pictures": shape,
            "what": what,
            "pictures a second": rate,
            "of the network alone": rate / alone,
            "of the machine's peak": rate / limit if limit else None,
        }


PARTS = {"training": measure_training, "prediction": measure_prediction}


def text(value):
    """Format a name, a (height, width) or a figure."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:.2f}" if isinstance(value, float) else value or ""


def bench(arguments, stopping):
    """Measure, print and optionally write the tables."""
    machine = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "devices": keras.distribution.list_devices(),
        "versions": {name: metadata.version(name) for name in ("keras", keras.backend.backend())},
    }
    machine["training precision"] = faster_precision()
    with tempfile.TemporaryDirectory() as folder, stopping.removing(folder):
        data, parts = draw_data(Path(folder) / "data"), {}
        for name, measure_part in PARTS.items():
            if arguments.part in (name, None):
                parts[name] = measure_part(Path(folder) / name, data, machine)
    print(*(f"{name}: {value}" for name, value in machine.items()), sep="\n")
    if arguments.json:
        write_json(arguments.json, {"machine": machine} | parts)
    for name, rows in parts.items():
        texts = [{key: text(row[key]) for key in row} for row in rows]
        print(f"\n{name}\n\n{terminal.markdown_table(texts)}")
        if arguments.json:
            path = arguments.json.with_name(f"{arguments.json.stem}_{name}.csv")
            write_csv(path, texts, list(rows[0]))


def processor():
    """Return the name of the CPU."""
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):  # other systems than Linux
        return platform.processor()


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda stopping: bench(parse_arguments(arguments), stopping))


if __name__ == "__main__":
    sys.exit(main())

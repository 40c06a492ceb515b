"""Measure the throughput of the real functions and of the machine's peak.

    python bench.py                      a table on the terminal
    python bench.py --json bench.json    and as JSON, with each table as CSV beside it

All are measured in turn, ROUNDS times, in one process: only ratios of such figures are reliable.
Nothing is downloaded: the pictures are drawn, the head on ImageNet's VGG16 is untrained.
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

import imageio.v3 as imageio
import numpy as np

import export
import helper
import predict
from main import RECIPE, build_networks, load_network, optimize
from roadseg import terminal
from roadseg.answering.exporting import FORMATS
from roadseg.answering.predictor import PREDICTION_BATCH
from roadseg.command_line import exit_status
from roadseg.data import vgg_weights
from roadseg.data.datasets import DATASETS
from roadseg.data.pictures import resample
from roadseg.devices import ONE_DEVICE
from roadseg.drawn import scenes
from roadseg.engine import (
    FLOAT32,
    device_kind,
    faster_precision,
    gpu_memory,
    keras,
    matrix_product_rate,
    operations,
)
from roadseg.files import write_csv, write_json
from roadseg.stopping import Stopping
from roadseg.training import checkpoint, run_folder
from roadseg.training.plan import Job, Split
from roadseg.training.trainer import STEPS_AHEAD, Training, train_epoch
from roadseg.training.validation import make_validate

ALONE = "network alone in Keras"
STEPS = "training steps alone"
LIMIT = "the machine's peak (measured matmul)"  # with as many FLOPs
KITTI_SHAPE = (375, 1242)
NETWORK_SHAPE = (160, 576)
CASES = (  # pictures' shape, shape in the network, number of pictures for predict.py
    (NETWORK_SHAPE, NETWORK_SHAPE, 80),
    (KITTI_SHAPE, NETWORK_SHAPE, 80),
    (KITTI_SHAPE, KITTI_SHAPE, 24),
)
VGG = "conv"  # weights at the start
LEARNING_RATE = 2e-4
DRAWN = 12  # different pictures
COPIES = 4  # of them in an epoch, which is long enough that a checkpoint counts little
ROUNDS = 2
# By kind of device: pictures a step, seconds of a measurement, about, and pictures predicted at
# once.
BATCH_SIZES, SECONDS = {"cpu": 4, "gpu": 16}, {"cpu": 6.0, "gpu": 2.0}
AT_ONCE = {"cpu": (PREDICTION_BATCH,), "gpu": (PREDICTION_BATCH, 1, 16, 64)}


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(description="Measure the throughput of the real functions.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return parser.parse_args(arguments)


def make_job(folder, image_shape, precision, split=None):
    """Make the Job of a run on drawn scenes; split: Split of them, to train on."""
    settings = {
        "dataset": "synthetic",
        "skips": DATASETS["synthetic"].skips,
        "data_dir": str(folder),
        "image_shape": list(image_shape),
        "image_shapes": [list(image_shape)],
        "precision": "auto",
        "training_precision": precision,
        "recipe": dataclasses.asdict(RECIPE),
    }
    return Job(folder, settings, DATASETS["synthetic"], split, RECIPE, ONE_DEVICE)


def build_untrained(job):
    """Build the networks of a Job, with an untrained head."""
    return build_networks(vgg_weights.read(VGG, Path(__file__).parent / "data"), job)


def make_run(folder, image_shape):
    """Make the folder of a run with an untrained head."""
    folder.mkdir(parents=True)
    job = make_job(folder, image_shape, FLOAT32)
    network, _ = build_untrained(job)
    network.save_weights(folder / checkpoint.BEST)
    write_json(folder / "settings.json", job.settings)
    return folder


def draw_pictures(folder, shape, count):
    """Draw PNG files to predict. Returns a batch of them, uint8 [N, H, W, 3]."""
    folder.mkdir()
    pictures = [scenes.draw_scene("um", index, shape=shape).picture for index in range(DRAWN)]
    for number in range(count):
        imageio.imwrite(folder / f"{number:03d}.png", pictures[number % DRAWN])
    return np.stack(pictures[:PREDICTION_BATCH])


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


def rate_of_predict(run, pictures, kind):
    """Let predict.py write one kind of output of a folder. Returns pictures a second."""
    command = ["--run", run, pictures, "--output", pictures.parent / kind, "--save", kind]
    return predict.predict_sources(predict.parse_arguments(map(str, command)), Stopping())


def rate_of_export(run, name, batch):
    """Export a run and run it in its runtime. Returns pictures a second."""
    path = run / FORMATS[name].file_name
    if not path.exists():
        export.export(export.parse_arguments(["--run", str(run), "--format", name]), Stopping())
    return rate_of(functools.partial(FORMATS[name].open(path), batch), len(batch))


def rate_of_network(network, pictures, number):
    """Predict so many pictures at once. Returns pictures a second."""
    batch = np.resize(pictures, (number, *pictures.shape[1:]))
    return rate_of(lambda: network.predict_on_batch(batch), number)


def prediction_things(folder, run, shape, image_shape, count):
    """Make the measurements of one case: {name: function () -> pictures a second}."""
    batch = draw_pictures(folder / "pictures", shape, count)
    network = load_network(run)[0]
    small = np.stack([resample(picture, image_shape) for picture in batch])
    partial, has_tensorflow = functools.partial, keras.backend.backend() == "tensorflow"
    return (
        {LIMIT: partial(rate_of_matrix_product, operations(network, image_shape))}
        | {
            f"{ALONE}, {number} at once" if place else ALONE: partial(
                rate_of_network, network, small, number
            )
            for place, number in enumerate(AT_ONCE[device_kind()])
        }
        | {
            f"predict.py --save {kind}": partial(rate_of_predict, run, folder / "pictures", kind)
            for kind in ("mask", "overlay")
        }
        | {
            f"export.py --format {name}": partial(rate_of_export, run, name, batch)
            for name, form in FORMATS.items()
            if has_tensorflow and all(map(importlib.util.find_spec, form.modules))
        }
    )


def measure(things):
    """Measure things in turn, ROUNDS times. Returns {name: mean}."""
    rounds = [{name: thing() for name, thing in things.items()} for _ in range(ROUNDS)]
    return {name: float(np.mean([figures[name] for figures in rounds])) for name in things}


def measure_training(folder, precision):
    """Measure the parts of training at NETWORK_SHAPE.

    Returns (rows of the table, dicts; seconds to build the network, compile and take a step).
    """
    started = time.perf_counter()
    scenes.draw_data_set(folder / "data", (DRAWN, DRAWN, DRAWN), (1, 1, 1), shape=KITTI_SHAPE)
    data_set = DATASETS["synthetic"]
    samples, _ = data_set.find(folder / "data")
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
    is_ahead, batch_size = get_batches_fn.is_on_device, BATCH_SIZES[device_kind()]
    state = Training(networks[0], compile_network, job.folder, is_ahead=is_ahead)
    batch, names = next(get_batches_fn(batch_size)), get_batches_fn.names(batch_size, 0, 0)
    validate = make_validate(job, *networks)
    together = STEPS_AHEAD if is_ahead else 1

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

    steps(1)
    seconds = time.perf_counter() - started
    step_operations = operations(networks[0], NETWORK_SHAPE, training=True)
    figures = measure(
        {
            LIMIT: lambda: rate_of_matrix_product(step_operations, precision),
            "reading and augmenting alone": lambda: rate_of(read, len(training_part)),
            STEPS: lambda: rate_of(steps, together * len(names)),
            "whole epoch, with validation and checkpoint": lambda: rate_of(
                epoch, len(training_part)
            ),
        }
    )
    rows = [
        {
            "what": name,
            "pictures a second": rate,
            "of training steps alone": rate / figures[STEPS],
            "of the machine's peak": rate / figures[LIMIT],
        }
        for name, rate in figures.items()
    ]
    return rows, seconds


def measure_prediction(folder):
    """Measure all CASES. Yields rows of the table, dicts."""
    folder.mkdir()
    make_run_once = functools.cache(lambda shape: make_run(folder / f"run_{text(shape)}", shape))
    for number, (shape, image_shape, count) in enumerate(CASES):
        case, run = folder / str(number), make_run_once(image_shape)
        case.mkdir()
        figures = measure(prediction_things(case, run, shape, image_shape, count))
        for name, rate in figures.items():
            yield {
                "pictures": shape,
                "network": image_shape,
                "what": name,
                "pictures a second": rate,
                "of the network alone": rate / figures[ALONE],
                "of the machine's peak": rate / figures[LIMIT],
            }


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
    machine["training precision"] = precision = faster_precision()
    if keras.backend.backend() != "tensorflow":
        terminal.say("exports need TensorFlow: left out")
    with tempfile.TemporaryDirectory() as folder, stopping.removing(folder):
        training, seconds = measure_training(Path(folder) / "training", precision)
        machine["seconds to build, compile and take a step"] = round(seconds, 1)
        machine["most memory in use on the GPU, bytes"] = gpu_memory().get("peak_bytes_in_use")
        prediction = list(measure_prediction(Path(folder) / "prediction"))
    parts = {"training": training, "prediction": prediction}
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

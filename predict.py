"""Predict pictures and videos with the ready network, or with a trained run.

    python predict.py street.jpg holiday/ 'more/*.png'     predictions/NAME_overlay.png
    python predict.py drive.mp4 --save mask probability    predictions/drive_mask.mkv …
    python predict.py --run RUN street.jpg                 RUN/predictions/street_overlay.png
    python predict.py camera:0 --output DIR                until Ctrl-C
    python predict.py large.jpg --scale 1                  at the picture's own resolution
    python predict.py street.jpg --thorough                at three sizes: better, slower
    python predict.py street.jpg --precision float32       exact, where bfloat16 would be faster

    from predict import load                               the same from Python
    find_road = load()
    probabilities = find_road(picture)

Threads read, resize, paint and encode beside the network.
"""

import argparse
import contextlib
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadseg import terminal
from roadseg.answering import predictor, runtimes
from roadseg.answering.painting import choose_classes, paint_classes, to_confidence
from roadseg.answering.rounding import FLOAT32
from roadseg.answering.sources import find_sources, plan_targets
from roadseg.command_line import (
    HelpFormatter,
    add_run,
    add_thorough,
    at_least,
    exit_status,
    positive_rate,
)
from roadseg.data.datasets import row_of
from roadseg.data.pictures import WORKERS, map_ahead, resample, resize, scaled_shape
from roadseg.errors import FaultyPicturesError, UserError, refuse_missing
from roadseg.files import read_json, refuse_unwritable, written_whole
from roadseg.training import run_folder

AUTO = "auto"
LARGEST_SCALE = 4  # of --scale: more shows the network nothing new, and takes its square of memory
READY_FILE = "model.onnx"  # beside the ready network: the same in 8 bits, without TensorFlow
PRECISIONS = (AUTO, FLOAT32, "mixed_bfloat16")


def paint_overlay(picture, probabilities, data_set):
    """Return the picture with its classes tinted: uint8 [H, W, 3]."""
    return paint_classes(picture, choose_classes(probabilities), data_set.paint)


def choose_mask(picture, probabilities, data_set):
    """Return the class index of each pixel: uint8 [H, W]."""
    return choose_classes(probabilities)


def grey_probability(picture, probabilities, data_set):
    """Return the probability p of road, or of the last class: uint8 [H, W], round(255 p)."""
    return to_confidence(probabilities.plane(data_set.subject))


@dataclass(frozen=True)
class Kind:
    """A kind of output."""

    make: Callable  # (picture, Enlarged probabilities, data set) -> uint8 picture
    lossless: bool  # whether its numbers must not change


KINDS = {
    "overlay": Kind(paint_overlay, lossless=False),
    "mask": Kind(choose_mask, lossless=True),
    "probability": Kind(grey_probability, lossless=True),
}


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        description="Find the road in pictures and videos.", formatter_class=HelpFormatter
    )
    add, kinds = parser.add_argument, list(KINDS)
    paths = "picture, video, folder (with its subfolders), glob, rtsp://…, or camera:0"
    scale = "size in the network / the picture's, to multiples of 32; default: as in training"
    output = "default: RUN/predictions; for the ready network predictions/"
    add("paths", nargs="+", metavar="PATH", help=paths)
    add_run(parser, or_file=True)
    add("--output", type=Path, metavar="DIR", help=output)
    add("--save", nargs="+", default=["overlay"], choices=kinds, help="outputs for each")
    rate = functools.partial(positive_rate, highest=LARGEST_SCALE)
    add("--scale", type=rate, metavar="S", help=scale)
    add("--every", default=1, type=at_least(1), metavar="N", help="of a video, each Nth frame")
    add_thorough(parser)
    exact = "auto: bfloat16 where it is faster and the run scored the same in it, else float32"
    add("--precision", default=AUTO, choices=PRECISIONS, help=exact)
    return parser.parse_args(arguments)


class RoadFinder:
    """A trained run, or an exported one, that answers pictures, here or on the command line."""

    def __init__(self, path, scale=None, thorough=False, precision=AUTO):
        """path: of a run's folder or an exported file; the others: as on the command line."""
        is_exported = runtimes.is_exported(path)
        if is_exported and (scale or thorough or precision != AUTO):
            raise UserError(
                f"{path}: has size and precision inside; --scale, --thorough and --precision need "
                "a run"
            )
        opened = open_file(path) if is_exported else open_run(path, precision)
        self.predict, self.data_set, trained_shapes, self.shrink = opened
        self.at_once = runtimes.RUNTIMES[path.suffix].at_once if is_exported else 1
        if thorough:
            self.predict = predictor.thoroughly(self.predict, self.data_set.mirrored)
        self.scale, self.trained_shape = scale, predictor.nearest_shape(trained_shapes)
        self.classes = self.data_set.classes

    def __call__(self, picture):
        """Return the probabilities of `classes`: float32 [H, W, classes].

        picture: uint8 [H, W, 3], RGB, of any size. Raises TypeError or ValueError for anything
        else.
        """
        check_picture(picture)
        ((_, _, probabilities),) = self.answer([picture], np.asarray)
        return probabilities.array()

    def answer(self, items, read):
        """Answer many items, ahead of time: `predictor.predict_ahead`."""
        batch_size = predictor.PREDICTION_BATCH // self.at_once
        return predictor.predict_ahead(
            self.predict, items, read, self.choose_shape, batch_size, self.shrink, self.at_once
        )

    def choose_shape(self, shape):
        """Return the (height, width) in the network of a picture of this one."""
        if self.scale:
            return scaled_shape(shape, self.scale)
        return self.trained_shape(shape)


def open_run(folder, precision):
    """Open a run.

    Returns (predict function, row of its data set, shapes in training, how pictures get these).
    """
    # Without them importing `engine` would end the process, also of who calls `load`.
    engine_module = os.environ.get("KERAS_BACKEND", "tensorflow")
    refuse_missing(("keras", engine_module), "requirements.txt")
    from main import load_run  # brings Keras, which an exported network does without
    from roadseg import engine

    if precision == AUTO:
        precision = engine.noted_precision(read_json(folder / "settings.json"))
    predict, data_set, settings = load_run(folder, precision)
    return predict.in_tiles(), data_set, settings["image_shapes"], resample


def open_file(path):
    """Open an exported network. Returns the same as `open_run`.

    An exact one resizes by itself: None. For a rounded one threads do it, to whole numbers, in a
    fraction of the file's own time.
    """
    answer, description = runtimes.open_exported(path)
    is_exact = description["precision"] == FLOAT32
    shapes = None if is_exact else description["image_shapes"]
    return predictor.in_parts(answer), row_of(description), shapes, resize


def load(run=None):
    """Load a network to call from Python: see `RoadFinder`.

    run: a run's folder, its name in runs/, or an exported file; None: the ready network. Raises
    UserError where it is not there, is damaged, or a package that it needs is missing.
    """
    return RoadFinder(find_network(run))


def find_network(name, needs_run=False):
    """Return the path of an exported file, or of a run's folder as `run_folder.find_run` does.

    name: None: the ready network, as its file where that can be opened; needs_run: as a run.
    Raises UserError where nothing is found.
    """
    if name is None:
        file = run_folder.READY / READY_FILE
        return file if runtimes.can_open(file) and not needs_run else run_folder.find_run()
    path = Path(name)
    if path.suffix in runtimes.RUNTIMES and not path.exists():
        raise UserError(f"{name}: not found; expected an exported file, or give a run's name")
    return path if runtimes.is_exported(path) else run_folder.find_run(name)


def check_picture(picture):
    """Raise TypeError or ValueError unless this is an array of a picture."""
    found = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
    expected = "expected a NumPy array, uint8 [height, width, 3], RGB"
    if found != np.uint8:
        raise TypeError(f"found {found}; {expected}")
    if picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"found the shape {list(picture.shape)}; {expected}")


def predict_sources(arguments, stopping):
    """Predict all inputs and write the outputs. Returns pictures or frames a second.

    Raises FaultyPicturesError at the end if an input can't be read.
    """
    refuse_runs(arguments.paths)
    needs_run = arguments.scale or arguments.thorough or arguments.precision != AUTO
    folder = find_network(arguments.run, needs_run)
    output = arguments.output or run_folder.output_folder(folder) / "predictions"
    (sources, *left_out), faults = find_sources(arguments.paths, output, KINDS), []
    kinds = {name: KINDS[name] for name in arguments.save}
    refuse_unwritable(output)
    targets = plan_targets(sources, output, {name: kinds[name].lossless for name in kinds})
    finder = RoadFinder(folder, arguments.scale, arguments.thorough, arguments.precision)
    with stopping.deferred():
        count, seconds = answer_sources(
            finder, targets, kinds, faults.append, stopping, arguments.every
        )
        pictures = terminal.counted(count, "picture")
        terminal.say(f"{output}: {pictures}, {count / seconds:.1f} a second")
    tell_left_out(sources, *left_out)
    if faults:
        raise FaultyPicturesError("\n".join(sorted(map(str, faults))))
    return count / seconds


def answer_sources(finder, targets, kinds, tell_fault, stopping, every=1):
    """Answer each Nth frame of sources and write it. Returns (frames written, seconds).

    targets: {source: {name: path to write}}; kinds: {name: Kind}; tell_fault: function (UserError).
    """

    def read(item):
        source, frame = item
        try:
            return source.read(frame)
        except UserError as error:
            tell_fault(error)

    frames = read_frames(targets, every, tell_fault)
    encode = functools.partial(encode_answer, kinds=kinds, data_set=finder.data_set)
    encoded = map_ahead(encode, finder.answer(frames, read), WORKERS)
    until_stopped = itertools.takewhile(lambda _: not stopping.requested, encoded)
    total = sum(-(-source.expected // every) for source in targets) or None
    started = time.monotonic()
    with terminal.progress(until_stopped, total=total, unit="picture") as bar:
        count = write_all(bar, targets, kinds, tell_fault, stopping)
    return count, time.monotonic() - started


def refuse_runs(paths):
    """Raise UserError if one of the paths is a run: its folder, or just its name in runs/."""
    for path in paths:
        folder = run_folder.look_for_run(path)
        if folder and (folder == Path(path) or not Path(path).exists()):
            raise UserError(f"{path}: is a run, not a picture; give it as --run {path}")


def tell_left_out(sources, others, made):
    """Say what was found and not answered: parts of the sources, other files, earlier outputs."""
    for note in itertools.chain.from_iterable(source.notes for source in sources):
        terminal.say(note)
    terminal.say_left_out(others, "neither pictures nor videos")
    terminal.say_left_out(made, "outputs of an earlier command")


def read_frames(sources, every, tell_fault):
    """Yield (source, each Nth frame) in order; call tell_fault(error) for an unreadable source."""
    for source in sources:
        try:
            yield from ((source, frame) for frame in itertools.islice(source, 0, None, every))
        except UserError as error:
            tell_fault(error)


def encode_answer(answer, kinds, data_set):
    """Encode the outputs of an answer: (source, frame), picture, probabilities.

    kinds: {name: Kind}. Returns (source, frame, {name: encoded picture}, the picture, by whose
    size `map_ahead` tells how many it can hold).
    """
    (source, frame), picture, probabilities = answer
    encoded = {
        name: source.encode(kind.make(picture, probabilities, data_set), kind.lossless)
        for name, kind in kinds.items()
    }
    return source, frame, encoded, picture


def write_all(encoded, targets, kinds, tell_fault, stopping):
    """Write what `encode_answer` returns to the targets, one source after the other.

    A file that can't be written is told, and the other sources go on. What is unfinished is removed
    even if a second signal ends the process. Returns how many frames were written.
    """
    count = 0
    for source, frames in itertools.groupby(encoded, key=lambda item: item[0]):
        try:
            count += write_source(frames, source, targets[source], kinds, stopping)
        except OSError as error:
            path = error.filename or next(iter(targets[source].values()))
            tell_fault(UserError(f"{path}: {error.strerror or error}"))
    return count


def write_source(frames, source, paths, kinds, stopping):
    """Write all frames of a source. Returns how many; paths: {name: path}; kinds: {name: Kind}."""
    count = 0
    with contextlib.ExitStack() as files:
        writes = {
            name: open_target(files, path, source, kinds[name].lossless, stopping)
            for name, path in paths.items()
        }
        for _, frame, encoded, _ in frames:
            for name, picture in encoded.items():
                writes[name](picture, frame)
            count += 1
    return count


def open_target(files, path, source, lossless, stopping):
    """Open a file for an atomic write, until `files` is closed. Returns its write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = files.enter_context(written_whole(path))
    files.enter_context(stopping.removing(temporary))
    return files.enter_context(source.writing(temporary, lossless))


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda stopping: predict_sources(parse_arguments(arguments), stopping))


if __name__ == "__main__":
    sys.exit(main())

"""Uses a trained run on pictures and videos.

python predict.py RUN street.jpg holiday/ 'more/*.png'     RUN/predictions/NAME_overlay.png
python predict.py RUN drive.mp4 --save mask probability    RUN/predictions/drive_mask.mkv …
python predict.py RUN camera:0 --output DIR                until Ctrl-C
python predict.py RUN large.jpg --scale 1                  at the picture's own resolution
python predict.py RUN street.jpg --thorough                at three sizes: better and slower
"""

import argparse
import contextlib
import functools
import glob
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from main import load_run
from roadseg import terminal
from roadseg.answering import video
from roadseg.answering.painting import choose_classes, encode_png, paint_classes, to_confidence
from roadseg.answering.predictor import (
    PREDICTION_BATCH,
    in_tiles,
    predict_ahead,
    scaled_shape,
    thoroughly,
)
from roadseg.command_line import add_thorough, exit_status, positive_rate
from roadseg.data.layouts import PICTURE_SUFFIXES
from roadseg.data.pictures import WORKERS, map_ahead, read_image
from roadseg.errors import FaultyPicturesError, UserError
from roadseg.files import written_whole
from roadseg.training import run_folder

SUFFIXES = (*PICTURE_SUFFIXES, *video.SUFFIXES, ".gif")  # what is looked for in folders


def parse_settings(arguments=None):
    """Read the command line. Wrong usage ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description="Finds the road in pictures and videos.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder, or its name in runs/")
    add(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a picture, a video, a folder (with all below), a glob, or camera:0",
    )
    add("--output", type=Path, metavar="DIR", help="default: RUN/predictions")
    add("--save", nargs="+", default=["overlay"], choices=list(KINDS), help="what to write of each")
    add(
        "--scale",
        type=positive_rate,
        metavar="S",
        help="of what the network sees to the picture: "
        "1 is its own resolution; to multiples of 32; default: the size of training",
    )
    add_thorough(parser)
    return parser.parse_args(arguments)


# --- what to write --------------------------------------------------------------------------------


def paint_overlay(picture, probabilities, data_set):
    """The picture with its classes tinted: uint8 [H, W, 3]."""
    return paint_classes(picture, probabilities, data_set.paint)


def choose_mask(picture, probabilities, data_set):
    """The class index of each pixel: uint8 [H, W]."""
    return choose_classes(probabilities)


def grey_probability(picture, probabilities, data_set):
    """The probability of road, or of the last class, round(255 p): uint8 [H, W]."""
    return to_confidence(probabilities[..., data_set.subject])


@dataclass(frozen=True)
class Kind:
    """One thing to write of each picture, and how to write it of a video."""

    make: Callable  # (picture, probabilities, data set) -> uint8 picture
    codec: video.Codec


KINDS = {
    "overlay": Kind(paint_overlay, video.TO_WATCH),
    "mask": Kind(choose_mask, video.LOSSLESS_GREY),
    "probability": Kind(grey_probability, video.LOSSLESS_GREY),
}


# --- what to read ---------------------------------------------------------------------------------


class Png:
    """How pictures are written, whatever it is; with the methods of video.Codec."""

    suffix = ".png"
    encode = staticmethod(encode_png)

    @staticmethod
    @contextlib.contextmanager
    def writing(path, source):
        """Open a file: a context manager of write(encoded, frame)."""
        yield lambda encoded, _: path.write_bytes(encoded)


@dataclass(frozen=True)
class Picture:
    """A picture to read, with the methods of video.Video."""

    path: Path
    name: str  # of what is made of it
    expected = 1  # frames
    read = staticmethod(read_image)

    def __iter__(self):
        yield self.path

    def codec(self, of_videos):
        """Choose how to write what a video's codec would write."""
        return Png


def find_sources(paths):
    """Find the pictures and videos that paths stand for.

    paths: files, folders, globs, "camera:0". Returns Pictures and Videos whose name is the
    output's, below the folder they were found in, without suffix where that is enough. Raises
    UserError for a path that stands for nothing.
    """
    found = {}
    for text in paths:
        path = Path(text)
        if text.startswith(video.CAMERA):
            files = {text: Path(text.replace(":", "_"))}
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            files = {file: file.relative_to(path) for file in inside}
        else:
            matches = [path] if path.is_file() else map(Path, sorted(glob.glob(text)))
            files = {file: Path(file.name) for file in matches}
        if not files:
            raise UserError(
                f"{text}: nothing found; expected a picture, a video, a folder, a glob, or camera:0"
            )
        found |= files
    names = [relative.with_suffix("").as_posix() for relative in found.values()]
    return [
        (video.Video if is_video(path) else Picture)(
            path, name if names.count(name) == 1 else relative.as_posix()
        )
        for (path, relative), name in zip(found.items(), names, strict=True)
    ]


def is_video(path):
    """Tell videos from pictures: by their names, or by what is in them where these tell nothing."""
    suffix = Path(path).suffix.lower()
    if suffix in PICTURE_SUFFIXES:
        return False
    try:
        with Image.open(path) as opened:
            return getattr(opened, "is_animated", False)
    except (OSError, ValueError):
        return True


def plan_targets(sources, output, kinds):
    """Return {source: {kind: path to write}}. Raises UserError where that would be an input.

    Likewise where two sources would become one.
    """
    targets = {
        source: {
            kind: output / f"{source.name}_{kind}{source.codec(KINDS[kind].codec).suffix}"
            for kind in kinds
        }
        for source in sources
    }
    taken = {Path(source.path).resolve(): None for source in sources}
    planned = ((source, path) for source in sources for path in targets[source].values())
    for source, path in planned:
        if (earlier := taken.setdefault(path.resolve(), source)) is None:
            raise UserError(f"{path}: is one of the files to read; give another --output")
        if earlier is not source:
            raise UserError(
                f"{path}: both {earlier.path} and {source.path} would be written there; predict "
                "them one after the other, each with an --output of its own"
            )
    return targets


# --- predicting -----------------------------------------------------------------------------------


def read_frames(sources, tell_fault):
    """Yield (source, frame) of all sources in their order; tell of those that can't be read."""
    for source in sources:
        try:
            yield from ((source, frame) for frame in source)
        except UserError as error:
            tell_fault(error)


def load_predictor(folder, settings):
    """Bring a run back to answer as the command line wants.

    Returns (function pictures -> probabilities, function (height, width) of a picture -> that to
    show it in, the run's data set).
    """
    predict, data_set, trained = load_run(folder)
    predict = in_tiles(predict)
    if settings.thorough:
        predict = thoroughly(predict)

    def choose_shape(shape):
        scale = settings.scale
        return scaled_shape(shape, scale) if scale else trained["image_shape"]

    return predict, choose_shape, data_set


def encode_answer(answer, targets, data_set):
    """Encode all that is to be written of (source, frame), picture, probabilities."""
    (source, frame), *seen = answer
    return (
        source,
        frame,
        {
            kind: source.codec(KINDS[kind].codec).encode(KINDS[kind].make(*seen, data_set))
            for kind in targets[source]
        },
    )


def predict_sources(settings, stopping):
    """Do what the command line says. Returns pictures or frames a second.

    Raises FaultyPicturesError at the end where something can't be read.
    """
    folder = run_folder.find_run(settings.run)
    sources, faults = find_sources(settings.paths), []
    output = settings.output or folder / "predictions"
    targets = plan_targets(sources, output, settings.save)
    predict, choose_shape, data_set = load_predictor(folder, settings)

    def read(item):
        source, frame = item
        try:
            return source.read(frame)
        except UserError as error:
            faults.append(error)

    frames = read_frames(sources, faults.append)
    answers = predict_ahead(predict, frames, read, choose_shape, PREDICTION_BATCH)
    encode = functools.partial(encode_answer, targets=targets, data_set=data_set)
    encoded = map_ahead(encode, answers, WORKERS)
    until_stopped = itertools.takewhile(lambda _: not stopping.wish, encoded)
    total, started = sum(source.expected for source in sources) or None, time.monotonic()
    with stopping.granted(), terminal.progress(until_stopped, total=total, unit="picture") as bar:
        write_all(bar, targets)
        rate = bar.n / (time.monotonic() - started)
        terminal.say(f"{output}: {bar.n} pictures or frames, {rate:.1f} a second")
    if faults:
        raise FaultyPicturesError("\n".join(sorted(map(str, faults))))
    return rate


def write_all(encoded, targets):
    """Write (source, frame, {kind: encoded picture}) to the targets, one source after the other."""
    for source, frames in itertools.groupby(encoded, key=lambda item: item[0]):
        with contextlib.ExitStack() as files:
            writes = {
                kind: open_target(files, path, source.codec(KINDS[kind].codec), source)
                for kind, path in targets[source].items()
            }
            for _, frame, pictures in frames:
                for kind, picture in pictures.items():
                    writes[kind](picture, frame)


def open_target(files, path, codec, source):
    """Open a file to write, whole or not at all, until `files` is closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = files.enter_context(written_whole(path))
    return files.enter_context(codec.writing(temporary, source))


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda stopping: predict_sources(parse_settings(arguments), stopping))


if __name__ == "__main__":
    sys.exit(main())

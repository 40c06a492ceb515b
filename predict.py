"""Uses a trained run on pictures.

    python predict.py RUN street.jpg holiday/ 'more/*.png'     RUN/predictions/NAME_overlay.png
    python predict.py RUN street.jpg --save mask probability --output masks
"""

import argparse
import functools
import glob
import sys
import time
from pathlib import Path

import imageio.v3 as imageio

import helper
import main
import metrics
import run_folder
import scoring
from command_line import exit_status
from datasets import PICTURE_SUFFIXES, Sample, UserError

WRITING_AHEAD = 2  # pictures that wait to be written


class FaultyPicturesError(UserError):
    """Some pictures can't be read; all others are done."""

    exit_status = 1


def parse_settings(arguments=None):
    """Read the command line. Wrong usage ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description="Finds the road in pictures.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder, or its name in runs/")
    add("paths", nargs="+", metavar="PATH", help="a picture, a folder (with all below), or a glob")
    add("--output", type=Path, metavar="DIR", help="default: RUN/predictions")
    add("--save", nargs="+", default=["overlay"], choices=list(KINDS), help="what to write of each")
    return parser.parse_args(arguments)


def paint_overlay(picture, probabilities, data_set):
    """The picture with its classes tinted: uint8 [H, W, 3]."""
    return helper.paint_classes(picture, probabilities, data_set.paint)


def choose_mask(picture, probabilities, data_set):
    """The class index of each pixel: uint8 [H, W]."""
    return helper.choose_classes(probabilities)


def grey_probability(picture, probabilities, data_set):
    """The probability of road, round(255 p): uint8 [H, W]."""
    return metrics.to_confidence(probabilities[..., data_set.classes.index("road")])


KINDS = {"overlay": paint_overlay, "mask": choose_mask, "probability": grey_probability}


def find_pictures(paths):
    """Find the pictures that paths stand for.

    paths: pictures, folders and globs. Returns Samples whose name is the output's, below the folder
    they were found in, without suffix where that is enough. Raises UserError for a path that stands
    for nothing.
    """
    found = {}
    for text in paths:
        path = Path(text)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
            pictures = {picture: picture.relative_to(path) for picture in inside}
        else:
            matches = [path] if path.is_file() else map(Path, sorted(glob.glob(text)))
            pictures = {picture: Path(picture.name) for picture in matches}
        if not pictures:
            raise UserError(f"{text}: no picture found; expected a picture, a folder or a glob")
        found |= pictures
    names = [relative.with_suffix("").as_posix() for relative in found.values()]
    return [
        Sample(name if names.count(name) == 1 else relative.as_posix(), picture, None, "")
        for (picture, relative), name in zip(found.items(), names, strict=True)
    ]


def plan_targets(samples, output, kinds):
    """Return {picture: {kind: path to write}}. Raises UserError where that would be an input."""
    targets = {
        sample.picture: {kind: output / f"{sample.name}_{kind}.png" for kind in kinds}
        for sample in samples
    }
    inputs = {path.resolve() for path in targets}
    for path in (path for paths in targets.values() for path in paths.values()):
        if path.resolve() in inputs:
            raise UserError(f"{path}: is one of the pictures to read; give another --output")
    return targets


def predict_pictures(settings):
    """Do what the command line says. Raises UserError at the end where pictures can't be read."""
    folder = run_folder.find_run(settings.run)
    samples = find_pictures(settings.paths)
    predict, data_set, trained = main.load_run(folder)
    output = settings.output or folder / "predictions"
    targets = plan_targets(samples, output, settings.save)
    faults, started = [], time.monotonic()

    def write(seen):
        sample, picture, probabilities = seen
        for kind, path in targets[sample.picture].items():
            path.parent.mkdir(parents=True, exist_ok=True)
            array = KINDS[kind](picture, probabilities, data_set)
            save = functools.partial(
                imageio.imwrite, image=array, plugin="pillow", compress_level=3
            )
            run_folder.write_atomically(path, save)

    results = helper.gen_test_output(
        predict, samples, trained["image_shape"], scoring.PREDICTION_BATCH, faults.append
    )
    written = helper.map_ahead(write, results, WRITING_AHEAD)
    count = sum(1 for _ in helper.progress(written, total=len(samples), unit="picture"))
    seconds = time.monotonic() - started
    helper.say(f"{output}: {count} of {len(samples)} pictures, {count / seconds:.1f} a second")
    if faults:
        raise FaultyPicturesError("\n".join(sorted(map(str, faults))))


def run(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda _: predict_pictures(parse_settings(arguments)))


if __name__ == "__main__":
    sys.exit(run())

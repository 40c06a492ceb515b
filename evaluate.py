"""Scores a trained run again, as KITTI does, and packs a submission.

python evaluate.py RUN                            the validation part, into RUN/metrics.json
python evaluate.py RUN --part training            the training part, on the terminal
python evaluate.py RUN --thorough                 what asking at three sizes brings, likewise
python evaluate.py RUN --submission FILE.zip      the testing pictures, for KITTI's server
"""

import argparse
import io
import sys
import zipfile
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

import helper
from main import load_run
from roadseg import terminal
from roadseg.answering.painting import to_confidence
from roadseg.answering.predictor import PREDICTION_BATCH, thoroughly
from roadseg.command_line import add_thorough, exit_status
from roadseg.data.calibration_files import read_calibrations
from roadseg.data.layouts import spread
from roadseg.errors import UserError
from roadseg.files import read_json, write_atomically, write_json
from roadseg.scoring import birds_eye
from roadseg.scoring.evaluation import score_run, score_table
from roadseg.scoring.metrics import ROAD
from roadseg.training import run_folder

OFFICIAL_TESTING_COUNT = 290
ADVICE = (
    "KITTI takes no submissions of student work or of small modifications: it asks to score them "
    "on a part of the training set, as `python evaluate.py RUN` does."
)


def parse_settings(arguments=None):
    """Read the command line. Wrong usage ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description="Scores a trained run as KITTI does, or packs a submission.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder, or its name in runs/")
    add("--data-dir", type=Path, metavar="DIR", help="holds the data set; default: as in training")
    add("--part", default="validation", choices=["validation", "training"], help="what to score")
    add("--submission", type=Path, metavar="FILE.zip", help="pack the testing pictures instead")
    add_thorough(parser)
    return parser.parse_args(arguments)


def evaluate(settings):
    """Do what the command line says."""
    folder = run_folder.find_run(settings.run)
    predict, data_set, trained = load_run(folder)
    if settings.thorough:
        predict = thoroughly(predict)
    data_dir = settings.data_dir or Path(trained["data_dir"])
    _, _, root = helper.prepare_data_set(trained["dataset"], data_dir)
    labelled, testing = data_set.find(root)
    if settings.submission:
        return pack_submission(settings.submission, predict, testing, trained["image_shape"])
    training, validation = data_set.split(labelled, trained["seed"])
    parts = {"training": training, "validation": validation}
    samples = spread(parts[settings.part], trained["limit"])
    result, _ = score_run(predict, samples, data_set, trained, settings.part)
    if settings.part == "validation" and not settings.thorough:
        path = folder / "metrics.json"
        earlier = read_json(path) if path.is_file() else {}
        write_json(path, earlier | result)
    terminal.say(f"\n{score_table(result)}")


def pack_submission(path, predict, samples, image_shape):
    """Write a zip of the samples' road probabilities as seen from above, as KITTI's server wants.

    8-bit grey PNGs of 800x400 in the root of the zip, um_road_000000.png for um_000000.png. Raises
    UserError, before anything is predicted, where the samples are not KITTI's testing pictures or
    one has no whole calibration file.
    """
    calibrations, faults = read_calibrations(samples)
    if len(samples) != OFFICIAL_TESTING_COUNT or faults or len(calibrations) != len(samples):
        raise UserError(
            f"{samples[0].picture.parent}: {len(samples)} testing pictures, "
            f"{len(calibrations)} of them with a whole calibration file; expected KITTI's "
            f"{OFFICIAL_TESTING_COUNT} with all of theirs"
            + (f" (first fault: {next(iter(faults.values()))})" if faults else "")
        )

    def write(temporary):
        with zipfile.ZipFile(temporary, "w") as archive:
            output = helper.gen_test_output(predict, samples, image_shape, PREDICTION_BATCH)
            for sample, picture, probabilities in terminal.progress(
                output, total=len(samples), desc="submission", unit="picture"
            ):
                places = birds_eye.find_places(calibrations[sample.name], *picture.shape[:2])
                confidence = to_confidence(probabilities[..., ROAD])
                seen = birds_eye.look_down(confidence, places)
                png = imageio.imwrite("<bytes>", seen, extension=".png")
                archive.writestr(f"{sample.name.replace('_', '_road_')}.png", png)

    write_atomically(path, write)
    read_submission(path)
    terminal.say(f"{path}: {len(samples)} pictures as KITTI's server takes them.\n{ADVICE}")


def read_submission(path):
    """Read a submission back: {name: uint8 [800, 400]}. Raises UserError where it is none."""
    confidences = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            array = imageio.imread(io.BytesIO(archive.read(entry)))
            if array.shape != birds_eye.SHAPE or array.dtype != np.uint8:
                raise UserError(f"{path}: {entry.filename} is {array.shape} of {array.dtype}")
            confidences[entry.filename] = array
    if len(confidences) != OFFICIAL_TESTING_COUNT:
        raise UserError(f"{path}: {len(confidences)} pictures; expected {OFFICIAL_TESTING_COUNT}")
    return confidences


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda _: evaluate(parse_settings(arguments)))


if __name__ == "__main__":
    sys.exit(main())

"""Pack a submission for KITTI's server: road of the testing pictures from above."""

import zipfile

import imageio.v3 as imageio

from roadseg import terminal
from roadseg.answering.painting import to_confidence
from roadseg.answering.predictor import PREDICTION_BATCH, predict_samples
from roadseg.data.calibration_files import read_calibrations
from roadseg.errors import UserError
from roadseg.files import write_atomically
from roadseg.scoring import birds_eye
from roadseg.scoring.metrics import ROAD

OFFICIAL_TESTING_COUNT = 290
ADVICE = (
    "KITTI accepts no submissions of student work or small modifications: score those on a part "
    "of the training set, with `python evaluate.py --run RUN`."
)


def pack_submission(path, predict, samples, image_shape):
    """Write a zip of the samples' road probabilities from above, in the format of KITTI's server.

    8-bit grey PNGs of 800x400 in the root of the zip, um_road_000000.png for um_000000.png. Raises
    UserError, before predicting, unless the samples are KITTI's testing pictures, each with a
    valid calibration file.
    """
    if not samples:
        raise UserError(
            "no testing pictures here; expected KITTI's 290, with their calibration: see --data-dir"
        )
    calibrations, faults = read_calibrations(samples)
    if len(samples) != OFFICIAL_TESTING_COUNT or faults or len(calibrations) != len(samples):
        raise UserError(
            f"{samples[0].picture.parent}: {len(samples)} testing pictures, "
            f"{len(calibrations)} of them with a valid calibration file; expected KITTI's "
            f"{OFFICIAL_TESTING_COUNT}, each with one"
            + (f" (first fault: {next(iter(faults.values()))})" if faults else "")
        )

    def write(temporary):
        with zipfile.ZipFile(temporary, "w") as archive:
            output = predict_samples(predict, samples, image_shape, PREDICTION_BATCH)
            for sample, picture, probabilities in terminal.progress(
                output, total=len(samples), desc="submission", unit="picture"
            ):
                places = birds_eye.find_places(calibrations[sample.name], *picture.shape[:2])
                confidence = to_confidence(probabilities[..., ROAD])
                seen = birds_eye.look_down(confidence, places)
                png = imageio.imwrite("<bytes>", seen, extension=".png")
                archive.writestr(f"{sample.name.replace('_', '_road_')}.png", png)

    write_atomically(path, write)
    terminal.say(f"{path}: {len(samples)} pictures in the format of KITTI's server.\n{ADVICE}")

"""Score trained networks on streets that they have not seen, and in other light.

    .venv/bin/python experiments/strangers.py RUN [RUN ...] --data-dir DIR [--csv FILE]

RUN may be an exported file that lies in the run's folder. Each picture is predicted as `predict.py`
does by default. The rows are STRANGERS, data sets whose labels tell road from the rest, as far as
they are in DIR; the pictures with KITTI's own labels come under each of CHANGES. Of a data set that
the run was trained on, only the validation part counts. Scores are agreement with the labels that
are there.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from main import load_run
from predict import find_network
from roadseg import terminal
from roadseg.answering import runtimes
from roadseg.answering.predictor import read_sample
from roadseg.command_line import exit_status
from roadseg.data import light
from roadseg.data.datasets import JOINT, row_of
from roadseg.data.finding import locate, regroup
from roadseg.data.layouts import subsample
from roadseg.data.pictures import VOID, read_label
from roadseg.errors import UserError
from roadseg.files import read_json, write_csv
from roadseg.scoring.evaluation import score_pictures

ROAD = ("other", "road")
OFFICIAL = 200  # the first number of pictures of data_road with KITTI's own labels


@dataclasses.dataclass(frozen=True)
class Stranger:
    """Labelled pictures of streets: a data set, and which of its pictures count."""

    data_set: str  # as main.py's --dataset
    counts: Callable = lambda sample: True
    lowest_left_out: float = 0  # share of the height, whose labels do not count

    def read_label(self, sample, row):
        """Read a label: uint8 [H, W]."""
        label = read_label(sample, row)
        label[round((1 - self.lowest_left_out) * len(label)) :] = VOID
        return label


def has_own_label(sample):
    """Return whether a Sample of KITTI Road carries KITTI's own label, and shows lane marks."""
    return sample.category in ("um", "umm") and int(sample.name.split("_")[1]) >= OFFICIAL


STRANGERS = {
    "KITTI, own labels": Stranger("kitti", has_own_label),
    # In um and umm most of KITTI's polygons end above the lower edge, so its road is not road.
    "KITTI, own labels, less the lowest 3 of 188 rows": Stranger("kitti", has_own_label, 3 / 188),
    "KITTI, the rest": Stranger("kitti", lambda sample: not has_own_label(sample)),
    "CamVid": Stranger("camvid"),
    "campus": Stranger("folder:lums"),
    "Indian streets": Stranger("folder:other_streets"),
}


def by_values(change):
    """Make a function picture -> picture that changes each value 0..255 as a float."""

    def changed(picture):
        return np.rint(np.clip(change(picture.astype(np.float32)), 0, 255)).astype(np.uint8)

    return changed


def add_noise(values):
    return values + np.random.default_rng(0).normal(0, 20, values.shape)


CHANGES = {
    "unchanged": np.asarray,
    "half as bright": by_values(lambda values: values / 2),
    "a quarter as bright": by_values(lambda values: values / 4),
    "1.8 times as bright": by_values(lambda values: values * 1.8),
    "fog": by_values(lambda values: 0.4 * values + 0.6 * 190),
    "blurred by 1.5 pixels": functools.partial(light.blur, deviation=1.5),
    "noise of 20": by_values(add_noise),
    "JPEG quality 10": functools.partial(light.compress, quality=10),
    "reddish": by_values(lambda values: values * np.float32((1.25, 1.0, 0.7))),
    "bluish": by_values(lambda values: values * np.float32((0.7, 1.0, 1.25))),
}
FIELDS = (
    *("run", "pictures", "change", "number", "f1_at_half", "f1_at_best", "best_threshold"),
    *("precision", "recall", "expected_calibration_error", "worst"),
)


def road_predictor(predict, data_set):
    """Make a function pictures -> probabilities of (other, road) of one for many classes."""

    def predict_road(pictures):
        road = np.asarray(predict(pictures))[..., data_set.subject]
        return np.stack([1 - road, road], axis=-1)

    return predict_road


def score(predict, samples, row, image_shape, change, read_label):
    """Score pictures under a change. Returns the fields of a row of the table."""
    worst = []

    def keep(sample, picture, label, probabilities, calibration):
        wrong = (label != probabilities.argmax(axis=-1)) & (label <= 1)
        worst.append((wrong.mean(), sample.name))

    def read(sample):
        return change(read_sample(sample))

    tally = score_pictures(
        predict, samples, row, image_shape, after_each=keep, read=read, read_label=read_label
    )
    (_, false_alarms), (missed, hits) = tally.confusion.tolist()
    return {
        "number": len(samples),
        **tally.scores()["calibration"],
        "precision": 100 * hits / max(1, hits + false_alarms),
        "recall": 100 * hits / max(1, hits + missed),
        "worst": " ".join(name for _, name in sorted(worst, reverse=True)[:3]),
    }


def pictures_of(stranger, data_dir, settings, limit):
    """Return (samples, row) of a stranger; of a data set seen in training, what validates."""
    row, root = locate(stranger.data_set, data_dir)
    labelled, _ = row.find(root)
    if stranger.data_set in settings["dataset"].split(JOINT):
        _, labelled = row.split(labelled, settings["seed"])
    chosen = [sample for sample in labelled if stranger.counts(sample)]
    if not chosen:
        raise UserError(f"{root}: none of the {len(labelled)} pictures counts here")
    return subsample(chosen, limit), regroup(row, ROAD)


def open_network(path):
    """Open a run, or an exported file in its folder: as `main.load_run`."""
    if not runtimes.is_exported(path):
        return load_run(path)
    answer, description = runtimes.open_exported(path)
    settings = read_json(path.parent / "settings.json") | {"image_shapes": None}  # it resizes
    return runtimes.on_whole_numbers(answer), row_of(description), settings


def score_run(path, data_dir, names, limit):
    """Yield the rows of the table of one run, or exported file; names: of STRANGERS."""
    predict, data_set, settings = open_network(path)
    predict, shape = road_predictor(predict, data_set), settings["image_shapes"]
    for name in names:
        try:
            samples, row = pictures_of(STRANGERS[name], data_dir, settings, limit)
        except UserError as error:
            terminal.say(f"left out: {error}")
            continue
        changes = CHANGES if name == "KITTI, own labels" else {"unchanged": np.asarray}
        for title, change in changes.items():
            found = {"run": path.name, "pictures": name, "change": title}
            found |= score(predict, samples, row, shape, change, STRANGERS[name].read_label)
            terminal.say(
                "{run:16} {pictures:18} {change:22}{number:4} F1 {f1_at_half:5.1f} best "
                "{f1_at_best:5.1f} at {best_threshold:.2f} precision {precision:5.1f} recall "
                "{recall:5.1f} calibration error {expected_calibration_error:.1f} {worst}".format(
                    **found
                )
            )
            yield {field: found[field] for field in FIELDS}


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or an exported file")
    where = "holds data_road, camvid, lums and other_streets; what is missing is left out"
    parser.add_argument("--data-dir", type=Path, default="data", metavar="DIR", help=where)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table here")
    parser.add_argument("--limit", type=int, metavar="N", help="of each row, at most N pictures")
    rows = f"rows of the table, default all: {', '.join(STRANGERS)}"
    parser.add_argument(
        "--only", nargs="+", choices=STRANGERS, default=STRANGERS, metavar="NAME", help=rows
    )
    given = parser.parse_args(arguments)

    def work(stopping):
        paths = map(find_network, given.runs)
        rows = [
            row
            for path in paths
            for row in score_run(path, given.data_dir, given.only, given.limit)
        ]
        if given.csv:
            write_csv(given.csv, rows, FIELDS)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())

"""Score a trained run as KITTI does, or pack a submission.

python evaluate.py RUN                            the validation part, into RUN/metrics.json
python evaluate.py RUN --part training            the training part, printed only
python evaluate.py RUN --thorough                 predicted at three sizes, printed only
python evaluate.py RUN --submission FILE.zip      the testing pictures, for KITTI's server
"""

import argparse
import sys
from pathlib import Path

import helper
from main import load_run
from roadseg import terminal
from roadseg.answering.predictor import thoroughly
from roadseg.command_line import add_thorough, exit_status
from roadseg.data.layouts import subsample
from roadseg.files import read_json, write_json
from roadseg.scoring.evaluation import score_run, score_table
from roadseg.scoring.submission import pack_submission
from roadseg.training import run_folder


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        description="Score a trained run as KITTI does, or pack a submission.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run's folder, or its name in runs/")
    add("--data-dir", type=Path, metavar="DIR", help="holds the data set; default: as in training")
    add("--part", default="validation", choices=["validation", "training"], help="part to score")
    add("--submission", type=Path, metavar="FILE.zip", help="pack the testing pictures instead")
    add_thorough(parser)
    return parser.parse_args(arguments)


def evaluate(arguments):
    """Score a run, or pack a submission."""
    folder = run_folder.find_run(arguments.run)
    predict, data_set, settings = load_run(folder)
    if arguments.thorough:
        predict = thoroughly(predict)
    data_dir = arguments.data_dir or Path(settings["data_dir"])
    _, _, root = helper.prepare_data_set(settings["dataset"], data_dir)
    labelled, testing = data_set.find(root)
    if arguments.submission:
        pack_submission(arguments.submission, predict, testing, settings["image_shape"])
        return
    training, validation = data_set.split(labelled, settings["seed"])
    parts = {"training": training, "validation": validation}
    samples = subsample(parts[arguments.part], settings["limit"])
    result, _ = score_run(predict, samples, data_set, settings, arguments.part)
    if arguments.part == "validation" and not arguments.thorough:
        path = folder / "metrics.json"
        earlier = read_json(path) if path.is_file() else {}
        write_json(path, earlier | result)
    terminal.say(f"\n{score_table(result)}")


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda _: evaluate(parse_arguments(arguments)))


if __name__ == "__main__":
    sys.exit(main())

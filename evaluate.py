"""Score a trained run, or the ready network, as KITTI does, or pack a submission.

python evaluate.py --run RUN                      the validation part, into RUN/metrics.json
python evaluate.py                                the ready network, printed only
python evaluate.py --part training                the training part, printed only
python evaluate.py --thorough                     predicted at three sizes, printed only
python evaluate.py --submission FILE.zip          the testing pictures, for KITTI's server
"""

import argparse
import sys
from pathlib import Path

from main import load_run
from roadseg import terminal
from roadseg.answering.predictor import thoroughly
from roadseg.command_line import HelpFormatter, add_run, add_thorough, exit_status
from roadseg.data.check import check_samples, data_digest, files_below
from roadseg.files import partial_path, read_json, write_json
from roadseg.scoring.evaluation import score_run, score_table
from roadseg.scoring.submission import pack_submission
from roadseg.training import plan, run_folder


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(
        description="Score a trained run as KITTI does, or pack a submission.",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add_run(parser)
    add("--data-dir", type=Path, metavar="DIR", help="holds the data set; default: as in training")
    add("--part", default="validation", choices=["validation", "training"], help="part to score")
    add("--submission", type=Path, metavar="FILE.zip", help="pack the testing pictures instead")
    add_thorough(parser)
    return parser.parse_args(arguments)


def evaluate(arguments, stopping):
    """Do what the command line says. Nothing is downloaded or drawn."""
    folder = run_folder.find_run(arguments.run)
    predict, data_set, settings = load_run(folder)
    if not arguments.run:
        terminal.say(f"the ready network, of {data_set.title}; --run NAME scores one of yours")
    if arguments.thorough:
        predict = thoroughly(predict, data_set.mirrored)
    data_dir = arguments.data_dir or settings["data_dir"]
    found, root = plan.find_again(settings, data_dir, data_set.classes)
    if arguments.submission:
        _, testing = found.find(root)
        with stopping.removing(partial_path(arguments.submission)):
            pack_submission(arguments.submission, predict, testing, settings["image_shapes"])
        return
    split = plan.choose_pictures(found, root, settings["seed"], settings["limit"])
    is_trained_on = say_whether_trained_on(folder, split, found, root, settings["data_digest"])
    if not is_trained_on:
        settings |= {"labels": found.label_note(split.labelled, root)}
    samples = getattr(split, arguments.part)
    result, _ = score_run(predict, samples, found, settings, arguments.part)
    is_kept = arguments.part == "validation" and not arguments.thorough and is_trained_on
    path = folder / "metrics.json"
    if not path.is_file():
        terminal.say(f"{folder}: this run is not finished; the scores are for the terminal alone")
    elif is_kept and not run_folder.is_ready(folder):
        write_json(path, read_json(path) | result)
    terminal.say(f"\n{score_table(result)}")


def say_whether_trained_on(folder, split, data_set, root, digest):
    """Return whether the files are those of the run's training; say which are not."""
    checked = check_samples(split.parts, data_set, folder.parent / ".checked.json")
    files = files_below(checked, root)
    is_same = data_digest(files) == digest
    if not is_same:
        terminal.say(
            f"{root}: these are not the files of the run's training "
            f"({run_folder.name_changed_files(folder, files)}); the scores are for the terminal "
            "alone"
        )
    return is_same


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda stopping: evaluate(parse_arguments(arguments), stopping))


if __name__ == "__main__":
    sys.exit(main())

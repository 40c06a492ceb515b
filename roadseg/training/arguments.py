"""The command line of main.py."""

import argparse
from pathlib import Path

from roadseg.command_line import HelpFormatter, at_least, positive_rate
from roadseg.data.class_weights import WEIGHT_KINDS
from roadseg.data.datasets import DATASETS, JOINT
from roadseg.engine import PRECISIONS
from roadseg.training import plan, run_folder


def parse_arguments(arguments=None):
    """Read the command line. Wrong usage ends the program with status 2.

    A run that is there already gives its settings to the flags that are not.
    """
    parser = argparse.ArgumentParser(
        description="Train FCN-8s on VGG16 to find the road in a picture.",
        epilog="--image-shape and --epochs have a default of their own for each data set.",
        formatter_class=HelpFormatter,
    )
    add, whole, rate, path = parser.add_argument, at_least(1), positive_rate, Path
    vgg, shape = "conv|full|none|PATH", ("H", "W")
    precisions = ["auto", *PRECISIONS]
    sets = f"auto, {', '.join(DATASETS)}, or folder:DIR in the data folder; several are joined"
    weights = "rare classes weigh more in the loss; default: of the data set"
    patience = "end after N epochs without a better validation score; 0: train all epochs"
    add("--dataset", default=["auto"], type=data_set_name, nargs="+", metavar="NAME", help=sets)
    add("--data-dir", default="data", type=path, metavar="DIR", help="holds the data sets")
    add("--runs-dir", default="runs", type=path, metavar="DIR", help="gets a folder for each run")
    add("--run", metavar="NAME", help="name of the run; an old name resumes; default: the time")
    add("--vgg", default="conv", metavar=vgg, help="weights to start on; PATH: a run or VGG16 file")
    add("--image-shape", type=whole, nargs=2, metavar=shape, help="pixels, in training")
    length = parser.add_mutually_exclusive_group().add_argument
    length("--epochs", type=whole, metavar="N", help="how often each picture is seen")
    length("--minutes", type=rate, metavar="M", help="time to train: as many epochs as fit")
    add("--patience", default=0, type=at_least(0), metavar="N", help=patience)
    fastest = "auto: trains in the fastest, scores in float32"
    each = f"pictures a step on each device; default: of the data set, on a GPU {plan.GPU_BATCH}"
    highest = f"the highest; default: {plan.RATE_OF_ONE} times the root of --batch-size"
    add("--batch-size", type=whole, metavar="N", help=each)
    add("--learning-rate", type=rate, metavar="R", help=highest)
    add("--class-weights", choices=WEIGHT_KINDS, help=weights)
    add("--precision", default="auto", choices=precisions, help=fastest)
    add("--devices", type=whole, metavar="N", help="of each machine to use; default: all")
    add("--seed", default=0, type=at_least(0), metavar="N", help="of every random number")
    add("--limit", type=whole, metavar="N", help="use at most N pictures of each part")
    add("--tensorboard", action="store_true", help="write its event files into RUN/tensorboard")
    given = parser.parse_args(arguments)
    if given.run:
        parser.set_defaults(**run_folder.defaults_to_resume(given.runs_dir / given.run))
    given = parser.parse_args(arguments)
    if "auto" in given.dataset and len(given.dataset) > 1:
        parser.error("--dataset auto: is one data set; name each that is to be joined")
    return given


def data_set_name(text):
    """Check the name of a data set: auto, a key of DATASETS, or folder:DIR."""
    name, _, folder = text.partition(":")
    if name not in ("auto", *DATASETS) or (folder and name != "folder") or JOINT in text:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected auto, {', '.join(DATASETS)}, or folder:DIR"
        )
    if folder and Path(folder).name in ("", ".."):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a folder in the data folder, by its name; the data folder itself "
            "is folder alone"
        )
    return text

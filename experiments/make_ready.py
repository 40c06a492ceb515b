"""Make data/ready, the network that comes with the repository, from a finished run.

    .venv/bin/python experiments/make_ready.py RUN --data-dir DIR
    .venv/bin/python experiments/make_ready.py data/ready --data-dir DIR     calibrates it again

Weights become float16, which halves the file; what the settings say of this machine's folders is
left out. The calibration and the scores in metrics.json are those of the rounded network, on the
validation part.
"""

import argparse
import itertools
import sys
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from main import load_network
from predict import READY_FILE
from roadseg import terminal
from roadseg.answering.network import Predictor
from roadseg.command_line import exit_status
from roadseg.files import read_json, write_atomically, write_json, write_text
from roadseg.scoring.evaluation import calibrate, score_run, score_table
from roadseg.training import checkpoint, plan, run_folder

OF_THIS_MACHINE = {"data_dir": "data", "runs_dir": "runs"}


def round_weights(source, target):
    """Copy a .weights.h5 with all arrays in float16."""
    with h5py.File(source) as given, h5py.File(target, "w") as rounded:

        def copy(name, item):
            if isinstance(item, h5py.Dataset):
                copied = rounded.create_dataset(name, data=item[()].astype(np.float16))
            else:
                copied = rounded.require_group(name)
            copied.attrs.update(item.attrs)

        rounded.attrs.update(given.attrs)
        given.visititems(copy)


def portable(settings):
    """Return a run's settings without the folders of this machine."""
    labels = settings["labels"].replace(settings["data_dir"], OF_THIS_MACHINE["data_dir"])
    settings = settings | OF_THIS_MACHINE | {"labels": labels}
    flags = {f"--{name.replace('_', '-')}": value for name, value in OF_THIS_MACHINE.items()}
    lines = [
        [flags.get(before, word) for before, word in itertools.pairwise(["", *words])]
        for words in settings["command_lines"]
    ]
    return settings | {"command_lines": lines}


def make(folder, ready, data_dir):
    """Write the folder `ready` from a run's folder, calibrate and score it."""
    ready.mkdir(parents=True, exist_ok=True)
    write_text(ready / "log.csv", (folder / "log.csv").read_text())
    weights = folder / checkpoint.BEST
    write_atomically(ready / checkpoint.BEST, lambda path: round_weights(weights, path))
    settings = portable(read_json(folder / "settings.json"))
    write_json(ready / "settings.json", settings)
    network, _, trained_on, _ = load_network(ready)
    data_set, root = plan.find_again(settings, data_dir, trained_on.classes)
    split = plan.choose_pictures(data_set, root, settings["seed"], settings["limit"])
    validation, shapes = split.validation, settings["image_shapes"]
    fit = calibrate(Predictor(network), validation, data_set, shapes, ready)
    result, _ = score_run(Predictor(network, fit), validation, data_set, settings, "validation")
    write_json(ready / "metrics.json", result)
    size = (ready / checkpoint.BEST).stat().st_size
    terminal.say(f"{score_table(result)}\n{ready}: {size / 1e6:.1f} MB of weights")
    if (file := ready / READY_FILE).is_file():
        terminal.say(f"{file}: still the network before; export.py writes it again (see the card)")


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its name in runs/")
    where, output = "holds the data sets of the run", "where to write; default: data/ready"
    parser.add_argument("--data-dir", type=Path, default="data", metavar="DIR", help=where)
    parser.add_argument("--output", type=Path, default="data/ready", metavar="DIR", help=output)
    given = parser.parse_args(arguments)

    def work(stopping):
        make(run_folder.find_run(given.run), given.output, given.data_dir)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())

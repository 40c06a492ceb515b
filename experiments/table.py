"""Print a table of trials: the score with each change, and without.

    .venv/bin/python experiments/table.py RUN [RUN ...] [--csv FILE]   folders of trials.py

A row has the runs with the same names and flags; flags that all runs share are left out. The score
is the best epoch's F1, or mean IoU for more than two classes. The difference is to `unchanged`,
over the seeds that both have.
"""

import argparse
import math
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from roadseg import terminal
from roadseg.command_line import exit_status
from roadseg.errors import UserError
from roadseg.files import read_json, write_csv
from roadseg.training import run_folder

NOT_COMPARED = ("--data-dir", "--runs-dir", "--run", "--seed")
HEAD = ("trial", "score of seeds", "mean", "difference", "lowest validation loss", "minutes")
WITHOUT = "unchanged"


def read_run(folder):
    """Read a run.

    Returns (its trial, the compared flags with their values, its seed, {name: number}). Raises
    UserError.
    """
    settings, rows = read_json(folder / "settings.json"), run_folder.read_log(folder)
    if not rows:
        raise UserError(f"{folder}: log.csv has no epoch yet")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in NOT_COMPARED:
        parser.add_argument(flag)
    _, words = parser.parse_known_args(settings["command_lines"][0][1:])
    names, flags = [], []
    for word in words:
        if word.startswith("--"):
            flags.append(word)
        elif flags:
            flags[-1] += f" {word}"
        else:
            names.append(word)
    return (
        " ".join(names) or WITHOUT,
        flags,
        settings["seed"],
        {
            "score": max(float(row["val_max_f"] or row["val_iou"]) for row in rows),
            "loss": min(float(row["val_loss"]) for row in rows),
            "minutes": sum(float(row["seconds"]) for row in rows) / 60,
        },
    )


def group_runs(runs):
    """Group runs of `read_run` by trial and flags that not all have: {name: {seed: numbers}}.

    Raises UserError for two runs that the table could not tell apart.
    """
    shared = set.intersection(*(set(flags) for _, flags, _, _ in runs))
    trials = {}
    for trial, flags, seed, numbers in runs:
        name = " ".join([trial, *(flag for flag in flags if flag not in shared)])
        if trials.setdefault(name, {}).setdefault(seed, numbers) is not numbers:
            raise UserError(f"two runs are {name} with seed {seed}; give one of them")
    return trials


def table_rows(trials):
    """Yield the table's rows, dicts of text, largest difference first; trials: of `group_runs`."""
    reference = trials.get(WITHOUT, {})
    gains = {name: gain(seeds, reference) for name, seeds in trials.items()}
    for name in sorted(trials, key=lambda name: (-gains[name], -average(trials[name], "score"))):
        seeds = trials[name]
        scores = [f"{seed}: {seeds[seed]['score']:.1f}" for seed in sorted(seeds)]
        is_compared = name != WITHOUT and gains[name] > -math.inf
        cells = (
            name,
            ", ".join(scores),
            f"{average(seeds, 'score'):.1f}",
            f"{gains[name]:+.1f}" if is_compared else "",
            f"{average(seeds, 'loss'):.3f}",
            f"{average(seeds, 'minutes'):.1f}",
        )
        yield dict(zip(HEAD, cells, strict=True))


def gain(seeds, reference):
    """Return the mean difference of scores over the seeds that both have; -inf if none."""
    shared = seeds.keys() & reference.keys()
    differences = [seeds[seed]["score"] - reference[seed]["score"] for seed in shared]
    return mean(differences) if differences else -math.inf


def average(seeds, what):
    """Return the mean of a number over the seeds of a trial."""
    return mean(numbers[what] for numbers in seeds.values())


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to FILE")
    given = parser.parse_args(arguments)

    def work(_):
        runs = [read_run(run_folder.find_run(name)) for name in given.runs]
        table = list(table_rows(group_runs(runs)))
        print(terminal.markdown_table([row | {"trial": f"`{row['trial']}`"} for row in table]))
        if given.csv:
            write_csv(given.csv, table, HEAD)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())

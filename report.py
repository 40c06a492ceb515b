"""Write a run's report again, also during training.

python report.py RUN          writes RUN/report.html, one file, usable offline
"""

import argparse
import sys

from roadseg.command_line import exit_status
from roadseg.errors import refuse_missing
from roadseg.training import run_folder


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(description="Write RUN/report.html.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its name in runs/")
    return parser.parse_args(arguments)


def write(run):
    """Write a run's report; run: as on the command line. Returns its path."""
    folder = run_folder.find_run(run)
    refuse_missing(("imageio", "scipy", "h5py", "jinja2"), "requirements.txt")
    from roadseg.page import report  # which needs them

    return report.write(folder)


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    return exit_status(lambda _: print(write(parse_arguments(arguments).run)))


if __name__ == "__main__":
    sys.exit(main())

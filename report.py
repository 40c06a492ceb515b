"""Write a run's report again, also during training.

python report.py RUN          writes RUN/report.html, one file, usable offline
"""

import argparse
import sys

from roadseg.command_line import exit_status
from roadseg.page import report
from roadseg.training import run_folder


def parse_arguments(arguments=None):
    """Read the command line. Exits with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(description="Write RUN/report.html.")
    parser.add_argument("run", metavar="RUN", help="a run's folder, or its name in runs/")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run from the command line. Returns the exit status."""
    run = parse_arguments(arguments).run
    return exit_status(lambda _: print(report.write(run_folder.find_run(run))))


if __name__ == "__main__":
    sys.exit(main())

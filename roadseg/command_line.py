"""What the commands share: argument types, error messages and exit statuses."""

import argparse
import math
import sys

from roadseg import terminal
from roadseg.errors import StopRequest, TrainingError, UserError
from roadseg.stopping import Stopping


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Add each default to the help of its flag, unless it is None, which the help explains."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def at_least(minimum):
    """Make the argument type of whole numbers >= minimum."""

    def whole_number(text):
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a whole number, at least {minimum}"
            )
        return int(text)

    return whole_number


def positive_rate(text, highest=math.inf):
    """Read a finite number > 0, at most `highest`."""
    try:
        if 0.0 < (rate := float(text)) <= highest and rate < math.inf:
            return rate
    except ValueError:
        pass
    limit = f", at most {highest}" if highest < math.inf else ""
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number above zero{limit}")


def add_run(parser, or_file=False):
    """Add the flag --run (see `run_folder.find_run`); or_file: whether it may be an export."""
    file = ", or an exported file" if or_file else ""
    where = f"a run's folder, or its name in runs/{file}; default: the ready network"
    parser.add_argument("--run", metavar="RUN", help=where)


def add_thorough(parser):
    """Add the flag --thorough (see `predictor.thoroughly`)."""
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="average predictions at 0.7, 1 and 1.3 times the size, and of mirror images where "
        "training had some: better, 3 or 6 times the work",
    )


def exit_status(work):
    """Call work(Stopping) and print its error, if any. Returns the exit status."""
    with terminal.consoles():
        return _exit_status(work)


def _exit_status(work):
    try:
        with Stopping() as stopping:
            work(stopping)
    except (UserError, StopRequest) as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except TrainingError as error:
        print(f"training failed: {error}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(f"{error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0

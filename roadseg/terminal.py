"""Terminal output: messages, progress bars, and silence from libraries."""

import contextlib
import os
import sys
import tempfile

from tqdm import tqdm

SHOWN = 5  # texts of a listing


class Console:
    """A stream of text that never ends a run.

    A letter that it lacks is shown otherwise; where it is gone (a closed pipe, a full disk), what
    is written is lost.
    """

    def __init__(self, stream):
        self.stream = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        self._try(lambda: self.stream.write(text))

    def flush(self):
        self._try(self.stream.flush)

    def _try(self, function):
        try:
            function()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def consoles():
    """Make standard output and error Consoles in the body."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # for one that was closed from the beginning
        sys.stdout, sys.stderr = (Console(stream or nowhere) for stream in before)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def quiet_standard_error():
    """Hold back what libraries write to file descriptor 2; show it if the body fails."""
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(original, held.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)


def progress(iterable=None, **options):
    """Make a tqdm bar that updates rarely in a log file, to keep it short."""
    seconds = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, mininterval=seconds, dynamic_ncols=True, **options)


def say_left_out(paths, reason, folder=None):
    """Say what is left out, in which folder and why; nothing if there are no paths."""
    if paths:
        where = f" in {folder}" if folder else ""
        say(f"left out{where}, {reason}: {listing([path.name for path in paths])}")


def counted(count, noun):
    """Put a number before a noun: "1 picture", "2 pictures"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def listing(texts, shown=SHOWN):
    """Join the first of some texts for a message, and say how many more there are."""
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return f"{', '.join(texts[:shown])}{more}"


def say(message):
    """Print a message without breaking a progress bar."""
    tqdm.write(str(message), file=sys.stdout)
    sys.stdout.flush()  # else a log file gets it late


def markdown_table(rows):
    """Lay out rows, dicts of texts with the same keys, as a table in Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""Terminal output: messages, progress bars, and silence from libraries."""

import contextlib
import os
import sys
import tempfile

from tqdm import tqdm


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


def say(message):
    """Print a message without breaking a progress bar."""
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()  # else a log file gets it late


def markdown_table(rows):
    """Lay out rows, dicts of texts with the same keys, as a table in Markdown."""
    lines = [rows[0], ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

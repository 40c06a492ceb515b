"""Atomic writes, JSON, CSV and file digests; where this repository and a run's weights lie."""

import contextlib
import csv
import hashlib
import json
import os
import tempfile
from pathlib import Path

from roadseg.errors import UserError

REPOSITORY = Path(__file__).parents[1]
BEST = "best.weights.h5"  # in a run's folder
TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names out of old archives survive


def partial_path(path):
    """Return where a file is written before it is whole."""
    return path.with_name(f"partial.{path.name}")


@contextlib.contextmanager
def written_whole(path):
    """Yield a temporary path to write to, and rename it to path at the end: atomic.

    The temporary file keeps the suffixes, which select the format, and is synced to the disk.
    """
    temporary = partial_path(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # a full disk's error has none
        raise


def refuse_unwritable(folder):
    """Raise UserError where no file can be made below a folder, which need not be there yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(
            f"{there}: no file can be made there ({error.strerror}); give another --output"
        ) from error


def write_atomically(path, write):
    """Let write(temporary path) make a file, atomically."""
    with written_whole(path) as temporary:
        write(temporary)


def write_text(path, text):
    """Write a text file atomically. File names in it need not be UTF-8, and stay as they are."""
    write_atomically(path, lambda temporary: temporary.write_text(text, **TEXT))


def write_json(path, content):
    """Write content as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_text(path, text)


def write_csv(path, rows, fields):
    """Write rows, dicts, as CSV with a header, atomically. fields: ordered names."""

    def write(temporary):
        with temporary.open("w", newline="", **TEXT) as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def read_json(path, missing=None):
    """Read a JSON file of a run, a dict. Raises UserError if it is damaged.

    missing: what is returned where there is no such file; None: that is an error.
    """
    if missing is not None and not path.is_file():
        return missing
    try:
        content = json.loads(path.read_text(**TEXT))
        if not isinstance(content, dict):
            raise ValueError("expected an object in braces")
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); use another --run") from error
    return content


def file_digest(path, algorithm):
    """Return the hash of a file in hexadecimal; algorithm: a name that hashlib knows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()

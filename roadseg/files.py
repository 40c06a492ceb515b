"""Files that are written whole or not at all, JSON, CSV, and digests."""

import contextlib
import csv
import hashlib
import json
import os

from roadseg.errors import UserError


@contextlib.contextmanager
def written_whole(path):
    """Give a temporary path to write in the body, which then gets the name: whole or not at all.

    The temporary file keeps the suffixes, which decide on the format, and is synced to the disk.
    """
    temporary = path.with_name(f"partial.{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # a full disk is told without one
        raise


def write_atomically(path, write):
    """Let write(temporary path) make a file, whole or not at all."""
    with written_whole(path) as temporary:
        write(temporary)


def write_json(path, content):
    """Write content as indented JSON, atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_csv(path, rows, fields):
    """Write rows, dicts, as CSV with a header, atomically. fields: names in their order."""

    def write(temporary):
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def read_json(path):
    """Read a JSON file of a run. Raises UserError that names a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); use another --run") from error


def file_digest(path, algorithm):
    """Return the hash of a file in hexadecimal; algorithm: a name that hashlib knows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()

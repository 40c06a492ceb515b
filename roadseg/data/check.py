"""Check every file of a data set once before training, and cache the result."""

import contextlib
import hashlib
import json
import typing

import numpy as np

from roadseg import terminal
from roadseg.data.pictures import VOID, map_ahead, read_image, read_label
from roadseg.errors import UserError
from roadseg.files import file_digest, write_json

VERSION = 1  # of the checks; a cache of another version does not count


class Seen(typing.NamedTuple):
    """What the check found in a sample."""

    picture: str  # SHA-256 of the file
    label: str  # the same; empty without a label
    classes: frozenset
    fault: str | None  # error message, one line


def check_samples(parts, data_set, memory):
    """Check that training can use every file.

    parts: training, validation and testing samples; data_set: their row of DATASETS; memory: path
    of the cache, JSON, valid until a file's name, size or time changes. Returns the SHA-256 of all
    pictures and labels. Raises UserError with one line for each file that is unreadable, has an
    unknown colour, differs in size from its picture or is a copy, and if the training labels hold
    fewer than two classes.
    """
    samples = [sample for part in parts for sample in part]
    key = _look_from_outside(samples, data_set)
    remembered = _recall(memory)
    if key not in remembered:
        looks = map_ahead(lambda sample: _look_at(sample, data_set), samples)
        bar = terminal.progress(looks, total=len(samples), desc="checking", unit="picture")
        remembered[key] = _judge(list(zip(samples, bar, strict=True)), len(parts[0]), data_set)
        with contextlib.suppress(OSError):  # then the check is repeated next time
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, remembered)
    return remembered[key]


def _look_from_outside(samples, data_set):
    """Return a digest of names, sizes and times of the files and of the label values."""
    facts = [VERSION, data_set.title, data_set.label_values]
    for path in (path for sample in samples for path in (sample.picture, sample.label) if path):
        with contextlib.suppress(OSError):  # reading it reports the error
            status = path.stat()
            facts.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _recall(memory):
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _look_at(sample, data_set):
    """Check a sample's files. Returns Seen."""
    try:
        height, width = read_image(sample.picture).shape[:2]
        picture = file_digest(sample.picture, "sha256")
        if not sample.label:
            return Seen(picture, "", frozenset(), None)
        label = read_label(sample, data_set)
        if label.shape != (height, width):
            raise UserError(
                f"{sample.label}: is {label.shape[1]}x{label.shape[0]} pixels; expected "
                f"{width}x{height}, the size of {sample.picture.name}"
            )
        classes = frozenset(np.unique(label).tolist()) - {VOID}
        return Seen(picture, file_digest(sample.label, "sha256"), classes, None)
    except UserError as error:
        return Seen("", "", frozenset(), str(error))


def _judge(looks, training_count, data_set):
    """Raise UserError with all faults, or return the SHA-256 of all files.

    looks: [(Sample, Seen)], training first.
    """
    faults, first, digest = [], {}, hashlib.sha256()
    for sample, seen in looks:
        digest.update(f"{sample.name} {seen.picture} {seen.label}\n".encode())
        original = first.setdefault(seen.picture or sample.picture, sample.picture)
        if seen.fault:
            faults.append(seen.fault)
        elif original != sample.picture:
            faults.append(f"{sample.picture}: is a copy of {original}; remove one of them")
    classes = frozenset().union(*(seen.classes for _, seen in looks[:training_count]))
    if not faults and len(classes) < 2:
        names = " and ".join(data_set.classes[index] for index in classes) or "nothing"
        faults.append(
            f"{looks[0][0].label.parent}: the training labels hold {names} alone; expected at "
            f"least two of {', '.join(data_set.classes)}"
        )
    if faults:
        raise UserError("\n".join(faults))
    return digest.hexdigest()

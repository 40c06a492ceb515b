"""Check every file of a data set once before training, and cache the result."""

import contextlib
import hashlib
import json
import os
import typing

import numpy as np

from roadseg import terminal
from roadseg.data.pictures import VOID, is_turned, map_ahead, read_image, read_label
from roadseg.errors import UserError
from roadseg.files import file_digest, write_json

DIGITS = 16  # of a file's digest, that are kept
VERSION = 2  # of the checks: what an earlier one remembered does not count


class Seen(typing.NamedTuple):
    """What the check found in a sample."""

    digest: str  # of both files
    picture: str  # SHA-256 of the picture alone
    classes: frozenset  # and VOID, where there is any
    fault: str | None


def check_samples(parts, data_set, memory):
    """Open every file and check that training can use it.

    parts: training, validation and testing samples; data_set: their row of DATASETS; memory: path
    of a JSON file for what was seen, which counts until a file's name, size or time changes.
    Returns {path of a picture: digest of it and its label}, and the digest of each class list that
    says what labels mean. Raises UserError with a line for each file that can't be read, has an
    unknown colour, differs in size from its picture or is a copy of another; where the training
    part's labels hold fewer than two classes; and where those of the validation part hold none.
    """
    samples = [sample for part in parts for sample in part]
    key = _look_from_outside(samples, data_set)
    remembered = _recall(memory)
    if key not in remembered:
        looks = map_ahead(lambda sample: _look_at(sample, data_set), samples)
        bar = terminal.progress(looks, total=len(samples), desc="checking", unit="picture")
        seen = list(zip(samples, bar, strict=True))
        _judge(seen, [len(part) for part in parts[:2]], data_set)
        remembered[key] = {str(sample.picture): look.digest[:DIGITS] for sample, look in seen}
        with contextlib.suppress(OSError):  # then it is looked at again
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, remembered)
    return remembered[key] | _class_lists(data_set)


def files_below(files, root):
    """Return what `check_samples` gives with paths below the data set's folder, wherever it is."""
    return {os.path.relpath(path, root): digest for path, digest in files.items()}


def data_digest(files):
    """Return one digest of all of `files_below`."""
    return _digest(repr(sorted(files.items())))


def changed_files(before, now):
    """Name the first files that differ between two results of `files_below`, and say how many."""
    names = sorted(name for name in before | now if before.get(name) != now.get(name))
    return terminal.listing(names)


def _digest(text):
    # File names out of old archives need not be UTF-8.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _class_lists(data_set):
    """Return {path: digest} of class lists by which labels hold more than class indices."""
    rows = data_set.parts.values() or [data_set]
    return {
        str(row.class_list.path): _digest(repr(sorted(row.label_values.items())))[:DIGITS]
        for row in rows
        if row.class_list and not row.class_list.counts_from_0
    }


def _look_from_outside(samples, data_set):
    """Return a digest of names, sizes and times of the files and of the label values."""
    facts = [VERSION, data_set.title, data_set.label_values]
    facts += [part.label_values for part in data_set.parts.values()]
    for path in (path for sample in samples for path in (sample.picture, sample.label) if path):
        with contextlib.suppress(OSError):  # reading it reports the error
            status = path.stat()
            facts.append((str(path.absolute()), status.st_size, status.st_mtime_ns))
    return _digest(repr(facts))


def _recall(memory):
    try:
        return json.loads(memory.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return {}


def _look_at(sample, data_set):
    """Check a sample's files. Returns Seen."""
    try:
        shape = read_image(sample.picture).shape[:2]
        picture = file_digest(sample.picture, "sha256")
        if not sample.label:
            return Seen(picture, picture, frozenset(), None)
        label = read_label(sample, data_set)
        if label.shape != shape:
            raise UserError(_size_fault(sample, label.shape, shape))
        digest = _digest(picture + file_digest(sample.label, "sha256"))
        return Seen(digest, picture, frozenset(np.unique(label).tolist()), None)
    except (UserError, OSError) as error:
        return Seen("", "", frozenset(), str(error))


def _size_fault(sample, found, expected):
    """Say that a label has another size, (height, width), than its picture."""
    fault = (
        f"{sample.label}: is {found[1]}x{found[0]} pixels; expected {expected[1]}x{expected[0]}, "
        f"the size of {sample.picture.name}"
    )
    if found == expected[::-1] and is_turned(sample.picture):
        fault += ", which its EXIF data turn: save the picture upright, without EXIF"
    return fault


def _judge(looks, counts, data_set):
    """Raise UserError with all faults there are.

    looks: [(Sample, Seen)], training first, then validation; counts: of these two parts.
    """
    faults, first = [], {}
    for sample, seen in looks:
        original = first.setdefault(seen.picture or sample.picture, sample.picture)
        if seen.fault:
            faults.append(seen.fault)
        elif original != sample.picture:
            faults.append(f"{sample.picture}: is a copy of {original}; remove one of them")
    if not faults:
        training, validation = counts
        labels = looks[0][0].label.parent
        validating = looks[training : training + validation]
        faults = _class_faults(labels, looks[:training], "training", 2, data_set)
        faults = faults or _class_faults(labels, validating, "validation", 1, data_set)
    if faults:
        raise UserError("\n".join(faults))


def _class_faults(labels, looks, purpose, least, data_set):
    """Return a line where the labels of a part hold fewer classes than least, else nothing."""
    found = frozenset().union(*(seen.classes for _, seen in looks))
    classes = found - {VOID}
    if len(classes) >= least:
        return []
    names = " and ".join(data_set.classes[index] for index in classes) or "nothing"
    fault = (
        f"{labels}: the {purpose} labels hold {names} alone; expected at least "
        f"{('one', 'two')[least - 1]} of {', '.join(data_set.classes)}"
    )
    if data_set.class_list and VOID in found and data_set.label_values.get(VOID) == VOID:
        missing = [name for index, name in enumerate(data_set.classes) if index not in found][-1]
        cure = data_set.class_list.needs([VOID], missing)
        fault += f"; {VOID} counts nowhere: if it is {missing}, {cure}"
    return [fault]

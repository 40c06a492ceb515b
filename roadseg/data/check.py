"""Check every file of a data set once before training, and cache the result."""

import contextlib
import hashlib
import json
import os
import typing

import numpy as np

from roadseg import terminal
from roadseg.data.layouts import VALIDATION_LIST
from roadseg.data.pictures import VOID, is_turned, map_ahead, read_image, read_label
from roadseg.errors import UserError
from roadseg.files import file_digest, write_json

DIGITS = 16  # of a file's digest, that are kept
VERSION = 4  # of the checks: what an earlier one remembered does not count


class Seen(typing.NamedTuple):
    """What the check found in a sample."""

    digest: str  # of both files
    picture: str  # SHA-256 of the picture alone
    classes: frozenset  # and VOID, where there is any
    fault: str | None


def check_samples(parts, data_set, memory):
    """Open every file and check that training can use it.

    parts: training, validation and testing samples; data_set: their row of DATASETS; memory: path
    of a JSON file for what was seen, which counts until a file's name, size, time or part changes.
    Returns {absolute path of a picture: digest of it and its label}, and the digest of each file
    that says what labels mean or which pictures validate. Raises UserError with a line for each
    file that can't be read, has an unknown colour, differs in size from its picture or is a copy;
    where the training part's labels hold fewer than two classes; and where those of the validation
    part hold none.
    """
    # Once each: without testing pictures those of the validation part are painted.
    samples = list(dict.fromkeys(sample for part in parts for sample in part))
    key = _look_from_outside(parts, data_set)
    remembered = _recall(memory)
    if key not in remembered:
        looks = map_ahead(lambda sample: _look_at(sample, data_set), samples)
        bar = terminal.progress(looks, total=len(samples), desc="checking", unit="picture")
        seen = list(zip(samples, bar, strict=True))
        _judge(seen, [len(part) for part in parts[:2]], data_set)
        # Absolute, as in the key: the next command may be given from another folder.
        remembered[key] = {
            str(sample.picture.absolute()): look.digest[:DIGITS] for sample, look in seen
        }
        with contextlib.suppress(OSError):  # then it is looked at again
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, remembered)
    return remembered[key] | _class_lists(data_set) | _chosen_parts(parts[1], data_set)


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
    return {
        str(row.class_list.path): _digest(repr(sorted(row.label_values.items())))[:DIGITS]
        for row in _rows(data_set).values()
        if row.class_list and not row.class_list.counts_from_0
    }


def _chosen_parts(validation, data_set):
    """Return {path: digest} of lists of validation pictures that somebody wrote."""
    found = {}
    for name, row in _rows(data_set).items():
        if row.class_list and (path := row.class_list.path.with_name(VALIDATION_LIST)).is_file():
            names = sorted(sample.name for sample in validation if sample.data_set == name)
            found[str(path)] = _digest(repr(names))[:DIGITS]
    return found


def _rows(data_set):
    """Return {Sample.data_set: its row}: of the data sets that are joined, or of the only one."""
    return data_set.parts or {"": data_set}


def _look_from_outside(parts, data_set):
    """Return a digest of names, sizes, times and parts of the files and of the label values."""
    facts = [VERSION, data_set.title, [len(part) for part in parts]]
    facts += [row.label_values for row in _rows(data_set).values()]
    samples = (sample for part in parts for sample in part)
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
    first, faults = {}, list(_faults_of_files(looks))
    for sample, seen in looks:
        original = first.setdefault(seen.picture or sample.picture, sample.picture)
        if not seen.fault and original != sample.picture:
            faults.append(f"{sample.picture}: is a copy of {original}; remove one of them")
    if not faults:
        training, validation = counts
        validating = looks[training : training + validation]
        faults = _class_faults(looks[:training], "training", 2, data_set)
        faults = faults or _class_faults(validating, "validation", 1, data_set)
        faults = faults or _faults_of_joined(looks[:training], data_set)
    if faults:
        raise UserError("\n".join(faults))
    found = _classes_in(looks[:training])
    if data_set.class_list and (missing := _missing_classes(found, data_set)):
        said = f"no training label holds {' or '.join(missing)}{_cure_of_void(found, data_set)}"
        terminal.say(f"{looks[0][0].label.parent}: {said}")


def _faults_of_files(looks):
    """Yield the faults that were seen; those that say the same of several labels are one line."""
    same = {}
    for sample, seen in looks:
        if seen.fault:
            text = seen.fault.removeprefix(f"{sample.label}: ")  # of a picture it keeps the path
            same.setdefault((sample.picture.parent, text), []).append((sample, seen.fault))
    for (_, fault), *others in same.values():
        names = ", ".join((sample.label or sample.picture).name for sample, _ in others)
        yield f"{fault}; the same of {names}" if others else fault


def _class_faults(looks, purpose, least, data_set):
    """Return a line where the labels of a part hold fewer classes than least, else nothing."""
    labels, found = looks[0][0].label.parent, _classes_in(looks)
    if len(found - {VOID}) >= least:
        return []
    names = " and ".join(data_set.classes[index] for index in found - {VOID}) or "nothing"
    return [
        f"{labels}: the {purpose} labels hold {names} alone; expected at least "
        f"{('one', 'two')[least - 1]} of {', '.join(data_set.classes)}"
        f"{_cure_of_void(found, data_set)}"
    ]


def _classes_in(looks):
    """Return the class indices, and VOID, in the labels of [(Sample, Seen)]."""
    return frozenset().union(*(seen.classes for _, seen in looks))


def _cure_of_void(found, data_set):
    """Say what makes a missing class of the number that counts nowhere, to end a line.

    found: of `_classes_in`. Returns "" where one of the two is not there.
    """
    missing = _missing_classes(found, data_set)
    is_void = VOID in found and data_set.label_values.get(VOID) == VOID
    if not (data_set.class_list and is_void and missing):
        return ""
    cure = data_set.class_list.needs([VOID], missing[0] if len(missing) == 1 else "NAME")
    return f"; {VOID} counts nowhere: if it is {' or '.join(missing)}, {cure}"


def _missing_classes(found, data_set):
    """Return the names of the classes whose indices are not found."""
    return [name for index, name in enumerate(data_set.classes) if index not in found]


def _faults_of_joined(looks, data_set):
    """Return a line for each joined data set of one class whose labels hold VOID beside it.

    looks: of training. One of a single class without VOID may be meant: streets without road.
    """
    faults = []
    for name, row in data_set.parts.items():
        own = [(sample, seen) for sample, seen in looks if sample.data_set == name]
        if VOID in _classes_in(own):
            faults += _class_faults(own, "training", 2, row)
    return faults

"""Find data sets on the disk by their names, and join several into one. No Keras here."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

from roadseg.data.class_lists import OTHER
from roadseg.data.datasets import DATASETS, JOINT, Dataset, classes_of_own
from roadseg.data.pictures import VOID, scaled_shape, upright_shape
from roadseg.errors import UserError


def locate(names, data_dir):
    """Find data sets on the disk.

    names: keys of DATASETS, or folder:DIR for the folder DIR in DATA_DIR, joined by JOINT. Returns
    (the row, or several joined into one; its folder). Raises UserError where one is not there.
    """
    found = {}
    for short, name in told_apart(names).items():
        row, folder = _locate_one(name, data_dir)
        if any(folder == other for _, other in found.values()):
            raise UserError(f"--dataset: {short} reads {folder} again; each folder once")
        found[short] = row, folder
    return (join(found), data_dir) if len(found) > 1 else found.popitem()[1]


def told_apart(names):
    """Return {Sample.data_set: name}, of names as in `locate`. Raises UserError for two of one."""
    found = {}
    for name in names.split(JOINT):
        short = Path(name.split(":")[-1]).name
        other = found.get(short, "")
        if other == name:
            raise UserError(f"--dataset: names {name} twice; each data set once")
        if other:
            raise UserError(f"--dataset: {other} and {name} are both named {short}; rename one")
        found[short] = name
    return found


def _locate_one(name, data_dir):
    row = named_row(name)
    folder = check_folder(row, data_dir)
    return replace(row, **row.complete(folder)), folder


def check_folder(row, data_dir, may_be_missing=False):
    """Return the folder of a row of DATASETS.

    Raises UserError where it is missing, or DATA_DIR is that folder, not what holds it.
    """
    folder = data_dir / row.folder
    if data_dir.absolute().name == row.folder and not folder.is_dir():
        raise UserError(f"--data-dir {data_dir}: is the data set itself; give the folder it is in")
    if not may_be_missing and not folder.is_dir():
        raise UserError(f"{folder}: not found; put {row.layout} there, or give --data-dir")
    return folder


def named_row(name):
    """Return the row of a key of DATASETS, or of folder:DIR. Raises UserError for another name."""
    key, _, folder = name.partition(":")
    if key not in DATASETS:
        raise UserError(f"--dataset {name}: not known; expected one of {', '.join(DATASETS)}")
    row = DATASETS[key]
    return replace(row, title=folder, folder=folder) if folder else row


def join(found):
    """Join data sets into one, with the classes that all share; "other" takes the rest.

    found: {name: (row, folder)}. The joined pictures are named NAME/PICTURE, and split and scored
    by data set. Raises UserError where no class is shared.
    """
    rows = [row for row, _ in found.values()]
    classes = shared_classes({name: row.classes for name, (row, _) in found.items()})
    parts = {name: regroup(row, classes) for name, (row, _) in found.items()}
    return Dataset(
        title=", ".join(row.title for row in rows),
        folder=".",
        layout="",
        label_values={},
        find=lambda _: _find_joined(found),
        split=lambda samples, seed: _split_joined(parts, samples, seed),
        image_shape=rows[0].image_shape,
        epochs=min(row.epochs for row in rows),
        mirrored=all(row.mirrored for row in rows),
        parts=parts,
        **classes_of_own(classes),
    )


def _find_joined(found):
    """Find the Samples of joined data sets; found: of `join`. Returns (labelled, testing)."""
    return _put_together(
        [[_renamed(sample, name) for sample in samples] for samples in row.find(folder)]
        for name, (row, folder) in found.items()
    )


def _split_joined(parts, samples, seed):
    """Split the Samples of joined data sets, each as by itself. Returns (training, validation)."""
    return _put_together(
        row.split([sample for sample in samples if sample.data_set == name], seed)
        for name, row in parts.items()
    )


def regroup(row, classes):
    """Return a row with the named classes; the first of them takes all others, but VOID."""

    def regrouped(index):
        name = None if index == VOID else row.classes[index]
        return VOID if name is None else classes.index(name) if name in classes else 0

    values = {value: regrouped(index) for value, index in row.label_values.items()}
    return replace(row, **classes_of_own(classes), label_values=values)


def shared_classes(classes_of):
    """Return the classes that all data sets share, "other" first if it is one or is needed.

    classes_of: {name: names of its classes}. Raises UserError where none is shared.
    """
    first, *others = classes_of.values()
    shared = [name for name in first if all(name in classes for classes in others)]
    classes = [OTHER, *(name for name in shared if name != OTHER)]
    if len(classes) < 2:
        named = "; ".join(f"{name} has {', '.join(own)}" for name, own in classes_of.items())
        raise UserError(f"these data sets share no class: {named}; rename one, or train each alone")
    is_all = OTHER not in shared and all(len(own) == len(shared) for own in classes_of.values())
    return shared if is_all else classes


def _put_together(pairs):
    """Make one pair of lists of several: (all first ones, all second ones)."""
    return [list(itertools.chain(*lists)) for lists in zip(*pairs, strict=True)]


def with_shapes(row, samples, image_shape):
    """Return a row that knows the shapes in training of the data sets that are joined in it.

    samples: of training; image_shape: (height, width), whose area each picture gets, in the
    proportions of the first of its data set.
    """
    first = {sample.data_set: sample.picture for sample in reversed(samples) if sample.data_set}

    def shape_like(shape):
        return scaled_shape(shape, math.sqrt(math.prod(image_shape) / math.prod(shape)))

    shapes = {name: shape_like(upright_shape(path)) for name, path in first.items()}
    return replace(row, shapes=shapes)


def _renamed(sample, data_set):
    return replace(sample, name=f"{data_set}/{sample.name}", data_set=data_set)

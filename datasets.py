"""Where each data set lies and what its label colours mean, one table row each.

No Keras here. A further data set is a further row of DATASETS and, where its files lie in another
way, a function that finds them; nothing outside this file knows which data set it is reading.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metrics import VOID


class UserError(Exception):
    """Something a person can put right: each line says what was found, expected and to be done."""


@dataclass(frozen=True)
class Sample:
    """One picture, its label (None where there is none), and the group it is scored in."""

    name: str
    picture: Path
    label: Path | None
    category: str


@dataclass(frozen=True)
class Dataset:
    """One row of the table: all that the rest of the program has to know about a data set."""

    title: str  # for people
    folder: str  # below DATA_DIR
    classes: tuple[str, ...]  # names in the order of their indices
    colours: Mapping[tuple[int, int, int], int]  # label colour -> class index or VOID
    find: Callable[[Path], tuple[list[Sample], list[Sample]]]  # -> labelled, testing
    split: Callable[[list[Sample], int], tuple[list[Sample], list[Sample]]]
    image_shape: tuple[int, int]  # the default (height, width) in the network, pixels
    epochs: int  # the default
    official_count: int | None = None  # labelled pictures of the official set, where it matters

    def label_note(self, count, root):
        """Say in one sentence what a score on the `count` labels found in `root` means."""
        if self.official_count is None:
            return f"scores are agreement with the labels of {self.title}"
        if count == self.official_count:
            return f"the {count} labels in {root} are taken for those of {self.title}"
        return (
            f"{root} holds {count} labels, not the {self.official_count} of {self.title}: "
            f"scores are agreement with these labels, not {self.title} scores"
        )


def find_kitti(root):
    """Find the pictures of a folder in KITTI Road's layout.

    root: holds training/image_2, training/gt_image_2 and testing/image_2, with pictures named
    um_000000.png and labels named um_road_000000.png (um, umm or uu). Returns the labelled and the
    testing samples, each sorted by name. Raises UserError for an empty or missing folder, a
    picture with another name, and pictures without label.
    """
    labels = root / "training" / "gt_image_2"
    training = _kitti_samples(root / "training" / "image_2", labels)
    missing = [sample.label for sample in training if not sample.label.is_file()]
    if missing:
        raise UserError("\n".join(f"{path}: this label is missing" for path in missing))
    return training, _kitti_samples(root / "testing" / "image_2")


def _kitti_samples(folder, labels=None):
    pictures = sorted(path for path in folder.glob("*.png") if not path.name.startswith("."))
    if not pictures:
        raise UserError(f"{folder}: no PNG pictures found here; expected um_000000.png and so on")
    samples = []
    for path in pictures:
        if not re.fullmatch(r"(um|umm|uu)_\d{6}", path.stem):
            raise UserError(f"{path}: expected a name such as um_000000.png, umm_… or uu_…")
        category, number = path.stem.split("_")
        label = labels / f"{category}_road_{number}.png" if labels else None
        samples.append(Sample(path.stem, path, label, category))
    return samples


def split_last_frames(samples, seed, last=16):
    """Split as KittiSeg does (its val3): the last frames of each category are for validation.

    Neighbouring frames look alike, so a random split would flatter. A category too small for that
    gives a fifth. seed is not used. Returns (training, validation) in the order of samples.
    """
    categories = {sample.category for sample in samples}
    validation = set()
    for category in categories:
        names = [sample.name for sample in samples if sample.category == category]
        validation.update(names[-min(last, -(-len(names) // 5)) :])
    return _divide(samples, validation)


def split_share(samples, seed, share=0.2):
    """Draw a share of the samples for validation, the same for the same seed.

    Returns (training, validation) in the order of samples.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen = order[: max(1, round(share * len(samples)))]
    return _divide(samples, {samples[index].name for index in chosen})


def _divide(samples, validation_names):
    training = [sample for sample in samples if sample.name not in validation_names]
    if not training:
        raise UserError(f"{samples[0].picture.parent}: one picture is too few, two at least needed")
    return training, [sample for sample in samples if sample.name in validation_names]


def spread(samples, limit):
    """Choose at most `limit` samples (None: all), spread evenly so that no category is left out."""
    if limit is None or limit >= len(samples):
        return samples
    return [samples[index * len(samples) // limit] for index in range(limit)]


def decode_label(colours, table, path):
    """Turn a label picture into class indices.

    colours: uint8 [H, W, 3]; table: {(red, green, blue): class index or VOID}; path: for the error.
    Returns uint8 [H, W]. Raises UserError that names the file and a colour not in the table.
    """
    codes = colours.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    known = {(r << 16) + (g << 8) + b: index for (r, g, b), index in table.items()}
    label = np.full(codes.shape, VOID, np.uint8)
    for code in np.unique(codes).tolist():
        if code not in known:
            colour = (code >> 16, code >> 8 & 255, code & 255)
            expected = ", ".join(str(colour) for colour in table)
            raise UserError(
                f"{path}: the colour {colour} stands for no class; expected one of {expected}"
                " (labels must be PNG, without smoothing or compression losses)"
            )
        label[codes == code] = known[code]
    return label


# KITTI's rule is "valid where red is set, road where blue is set".
KITTI_COLOURS = {(255, 0, 0): 0, (255, 0, 255): 1, (0, 0, 0): VOID, (0, 0, 255): VOID}
KITTI_CLASSES = ("other", "road")

DATASETS = {
    "kitti": Dataset(
        title="KITTI Road",
        folder="data_road",
        classes=KITTI_CLASSES,
        colours=KITTI_COLOURS,
        find=find_kitti,
        split=split_last_frames,
        image_shape=(160, 576),
        epochs=12,
        official_count=289,
    ),
    "synthetic": Dataset(
        title="drawn road scenes",
        folder="synthetic",
        classes=KITTI_CLASSES,
        colours=KITTI_COLOURS,
        find=find_kitti,
        split=split_share,
        image_shape=(96, 320),
        epochs=8,
    ),
}

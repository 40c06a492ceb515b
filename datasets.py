"""Where each data set lies and what its label colours mean, one table row each.

No Keras here. A further data set is a further row of DATASETS and, where its files lie in another
way, a function that finds them; nothing outside this file knows which data set it is reading.
"""

import colorsys
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metrics import VOID
from roadseg.errors import UserError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """One picture, its label (None where there is none), and the group it is scored in."""

    name: str
    picture: Path
    label: Path | None
    category: str
    calibration: Path | None = None  # where KITTI's calibration file of the picture belongs


@dataclass(frozen=True)
class Remote:
    """A file to be had from the network: where, how large, its hash, and in whose name."""

    title: str
    url: str
    page: str  # where a person finds it
    licence: str
    size: int  # bytes
    algorithm: str  # a name that hashlib knows
    digest: str  # hexadecimal


@dataclass(frozen=True)
class Dataset:
    """One row of the table: all that the rest of the program has to know about a data set."""

    title: str  # for people
    folder: str  # below DATA_DIR
    layout: str  # what belongs into the folder, for people
    classes: tuple[str, ...]  # names in the order of their indices
    # Label value -> class index or VOID: colours, or the numbers of single-channel labels.
    label_values: Mapping[tuple[int, int, int] | int, int]
    paint: Mapping[int, tuple[int, int, int]]  # class index -> colour to paint pictures with
    find: Callable[[Path], tuple[list[Sample], list[Sample]]]  # -> labelled, testing
    split: Callable[[list[Sample], int], tuple[list[Sample], list[Sample]]]
    image_shape: tuple[int, int]  # the default (height, width) in the network, pixels
    epochs: int  # the default on processors
    # Whether training sees mirror images too. Where traffic keeps to the right, its side says what
    # asphalt belongs to the road: the opposite carriageway lies left, tracks and yards right.
    mirrored: bool = True
    official_count: int | None = None  # labelled pictures of the official set, where it matters
    remote: Remote | None = None  # a zip that holds the folder, where one may be downloaded
    drawn: bool = False  # whether the program draws the pictures itself
    # What only the folder tells: function (folder) -> fields to replace.
    complete: Callable[[Path], dict] = lambda folder: {}

    @property
    def subject(self):
        """The index of the class whose probability is written: the road, or the last there is."""
        return self.classes.index("road") if "road" in self.classes else len(self.classes) - 1

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
    um_000000.png and labels named um_road_000000.png (um, umm or uu); and calib/um_000000.txt
    beside them where the scores seen from above are wanted. Returns the labelled and the
    testing samples, each sorted by name. Raises UserError for an empty or missing folder, a
    picture with another name, and pictures without label.
    """
    labels = root / "training" / "gt_image_2"
    training = _kitti_samples(root / "training" / "image_2", labels)
    _refuse_missing_labels(training)
    return training, _kitti_samples(root / "testing" / "image_2")


def _kitti_samples(folder, labels=None):
    paths = _pictures(folder, "um_000000.png and so on", "*.png")
    strangers = [path for path in paths if not re.fullmatch(r"(um|umm|uu)_\d{6}", path.stem)]
    if strangers:
        raise UserError(
            "\n".join(
                f"{path}: expected a name such as um_000000.png, umm_… or uu_…"
                for path in strangers
            )
        )
    samples = []
    for path in paths:
        category, number = path.stem.split("_")
        label = labels / f"{category}_road_{number}.png" if labels else None
        calibration = folder.parent / "calib" / f"{path.stem}.txt"
        samples.append(Sample(path.stem, path, label, category, calibration))
    return samples


def find_camvid(root):
    """Find the pictures of CamVid in the layout of the SegNet tutorial.

    root: holds train/ and val/, their labels in trainannot/ and valannot/ (single-channel PNG of
    the same stem), and test/ where there is one.
    Returns (labelled, testing), with "train" or "val" as category. Raises UserError for an empty or
    missing folder and pictures without label.
    """
    labelled = [
        Sample(path.stem, path, root / f"{part}annot" / f"{path.stem}.png", part)
        for part in ("train", "val")
        for path in _pictures(root / part, "train/, trainannot/, val/ and valannot/ of CamVid")
    ]
    _refuse_missing_labels(labelled)
    testing = _pictures(root / "test", "pictures") if (root / "test").is_dir() else []
    return labelled, [Sample(path.stem, path, None, "test") for path in testing]


def find_cityscapes(root):
    """Find the pictures of Cityscapes in its official layout.

    root: holds leftImg8bit/PART/CITY/NAME_leftImg8bit.png and gtFine/PART/CITY/
    NAME_gtFine_labelIds.png; PART is train, val or test (which is painted, where it is there).
    Returns (labelled, testing), with PART as category. Raises UserError for an empty or missing
    folder and pictures without label.
    """
    pictures, ending = root / "leftImg8bit", "_leftImg8bit"
    samples = [
        Sample(
            path.stem.removesuffix(ending),
            path,
            root
            / "gtFine"
            / part
            / path.parent.name
            / f"{path.stem.removesuffix(ending)}_gtFine_labelIds.png",
            part,
        )
        for part in ("train", "val")
        for path in _pictures(pictures / part, "folders of cities", f"*/*{ending}.png")
    ]
    _refuse_missing_labels(samples)
    testing = sorted((pictures / "test").glob(f"*/*{ending}.png"))
    return samples, [Sample(path.stem, path, None, "test") for path in testing]


def find_folder(root):
    """Find somebody's own pictures.

    root: holds pictures/, masks/ (single-channel PNG of the same stem: the number of each pixel's
    class in classes.txt, from 0 on, 255 where none counts), and where wanted testing/, pictures to
    paint, and validation.txt, the names of the pictures to validate, a line each; without it the
    last fifth of them validates, because neighbours may look alike. Returns (labelled, testing),
    with "train" or "val" as category. Raises UserError for an empty or missing folder, pictures
    without mask and names of no picture.
    """
    paths = _pictures(root / "pictures", "pictures, and a mask for each in masks/")
    listed, names = root / "validation.txt", [path.stem for path in paths]
    if listed.is_file():
        chosen = {Path(line).stem for line in _lines(listed)}
        if unknown := chosen - set(names):
            raise UserError(f"{listed}: names {min(unknown)}, which is not in {paths[0].parent}")
    else:
        count = max(1, len(names) // 5)
        chosen = set(names[-count:])
    samples = [
        Sample(
            path.stem,
            path,
            root / "masks" / f"{path.stem}.png",
            "val" if path.stem in chosen else "train",
        )
        for path in paths
    ]
    _refuse_missing_labels(samples)
    testing = _pictures(root / "testing", "pictures") if (root / "testing").is_dir() else []
    return samples, [Sample(path.stem, path, None, "test") for path in testing]


def read_classes(root):
    """Read the names of the classes from a folder's classes.txt, one a line, in their order.

    Returns the fields of Dataset that depend on them. Raises UserError where there are less than
    two or more than can be told apart.
    """
    path = root / "classes.txt"
    names = _lines(path)
    if not 2 <= len(set(names)) == len(names) <= VOID:
        raise UserError(
            f"{path}: {len(names)} names; expected 2 to {VOID} classes, one a line, all different"
        )
    return classes_of_own(names)


def classes_of_own(names):
    """Make the fields of Dataset that depend on the names of classes of one's own."""
    numbers = range(len(names))
    # Two classes are something and all else; a colour for each otherwise, as far apart as can be.
    hues = [colorsys.hsv_to_rgb(number / len(names), 0.8, 0.9) for number in numbers]
    colours = {number: tuple(round(255 * c) for c in hues[number]) for number in numbers}
    return {
        "classes": tuple(names),
        "label_values": {number: number for number in numbers} | {VOID: VOID},
        "paint": ROAD_GREEN if len(names) == 2 else colours,
    }


def _lines(path):
    """Read the lines of a text file that hold something."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; expected a text file with one name a line") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text in UTF-8 ({error.reason})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _pictures(folder, expected, pattern="*.*"):
    """List a folder's pictures by name; raise UserError where there are none."""
    pictures = sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    )
    if not pictures:
        raise UserError(f"{folder}: no pictures found here; expected {expected}")
    return pictures


def _refuse_missing_labels(samples):
    missing = [sample.label for sample in samples if not sample.label.is_file()]
    if missing:
        raise UserError("\n".join(f"{path}: this label is missing" for path in missing))


def split_by_category(samples, seed):
    """Split as the data set's folders do, which are the categories. seed is not used."""
    return _divide(samples, {sample.name for sample in samples if sample.category == "val"})


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


def decode_label(values, table, path):
    """Turn a label picture into class indices.

    values: uint8 [H, W, 3] colours or uint8 [H, W] numbers; table: {(red, green, blue) or number:
    class index or VOID}; path: for the error. Returns uint8 [H, W]. Raises UserError that names
    the file and a value not in the table.
    """
    channels = np.atleast_3d(values).astype(np.uint32)
    places = 256 ** np.arange(channels.shape[-1], dtype=np.uint32)[::-1]
    known = {int(np.atleast_1d(value) @ places): index for value, index in table.items()}
    codes = channels @ places
    label = np.full(codes.shape, VOID, np.uint8)
    for code in np.unique(codes).tolist():
        if code not in known:
            found = values[codes == code][0]
            found = tuple(found.tolist()) if found.ndim else int(found)
            expected = ", ".join(str(value) for value in table)
            raise UserError(
                f"{path}: the value {found} stands for no class; expected one of {expected}"
                " (labels must be PNG, without smoothing or compression losses)"
            )
        label[codes == code] = known[code]
    return label


def row_of(settings):
    """Return the row of a run's data set, from its settings."""
    row = DATASETS[settings["dataset"]]
    return row if row.classes else replace(row, **classes_of_own(settings["classes"]))


# KITTI's rule is "valid where red is set, road where blue is set".
KITTI_COLOURS = {(255, 0, 0): 0, (255, 0, 255): 1, (0, 0, 0): VOID, (0, 0, 255): VOID}
KITTI_CLASSES = ("other", "road")
KITTI_LAYOUT = "training/image_2, training/gt_image_2 and testing/image_2 of KITTI Road"
KITTI_ROAD = Remote(
    title="KITTI Road",
    url="https://s3.eu-central-1.amazonaws.com/avg-kitti/data_road.zip",
    page="https://www.cvlibs.net/datasets/kitti/eval_road.php",
    licence="CC BY-NC-SA 3.0, not for commercial use; J. Fritsch, T. Kuehnl, A. Geiger 2013",
    size=470_992_531,
    algorithm="sha256",
    digest="7bdcb76b15ca4ee1cb1c1063ce15dcfbabd2e6fcf4a0b47762b7b951c3e7a054",
)
ROAD_GREEN = {1: (0, 230, 150)}  # bluish enough for eyes that take green for red

# Cityscapes' numbers of the classes that count, with their names and colours; all others are void
# (M. Cordts et al.: The Cityscapes Dataset for Semantic Urban Scene Understanding, 2016).
CITYSCAPES_CLASSES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
CITYSCAPES_NUMBERS = 34  # 0 to 33, and 255 for number plates

# Names, order and grouping of the SegNet tutorial; each with a colour to paint it with.
CAMVID_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

DATASETS = {
    "kitti": Dataset(
        title="KITTI Road",
        folder="data_road",
        layout=KITTI_LAYOUT,
        classes=KITTI_CLASSES,
        label_values=KITTI_COLOURS,
        paint=ROAD_GREEN,
        find=find_kitti,
        split=split_last_frames,
        image_shape=(160, 576),
        epochs=19,
        mirrored=False,
        official_count=289,
        remote=KITTI_ROAD,
    ),
    "camvid": Dataset(
        title="CamVid",
        folder="camvid",
        layout="train/, trainannot/, val/ and valannot/ of the SegNet tutorial, which has no "
        "download that may be automated",
        classes=tuple(CAMVID_CLASSES),
        label_values={index: index for index in range(len(CAMVID_CLASSES))}
        | {len(CAMVID_CLASSES): VOID, VOID: VOID},
        paint=dict(enumerate(CAMVID_CLASSES.values())),
        find=find_camvid,
        split=split_by_category,
        image_shape=(360, 480),
        epochs=22,
    ),
    "synthetic": Dataset(
        title="drawn road scenes",
        folder="synthetic",
        layout=KITTI_LAYOUT,
        classes=KITTI_CLASSES,
        label_values=KITTI_COLOURS,
        paint=ROAD_GREEN,
        find=find_kitti,
        split=split_share,
        image_shape=(96, 320),
        epochs=10,
        drawn=True,
    ),
    "cityscapes": Dataset(
        title="Cityscapes",
        folder="cityscapes",
        layout="leftImg8bit/ and gtFine/ of Cityscapes, whose terms one has to agree to before",
        classes=tuple(CITYSCAPES_CLASSES),
        label_values=dict.fromkeys([*range(CITYSCAPES_NUMBERS), VOID], VOID)
        | {number: index for index, (number, _) in enumerate(CITYSCAPES_CLASSES.values())},
        paint={index: colour for index, (_, colour) in enumerate(CITYSCAPES_CLASSES.values())},
        find=find_cityscapes,
        split=split_by_category,
        image_shape=(256, 512),
        epochs=12,
    ),
    "folder": Dataset(
        title="your own pictures",
        folder=".",
        layout="pictures/, masks/ and classes.txt",
        classes=(),
        label_values={},
        paint={},
        find=find_folder,
        split=split_by_category,
        image_shape=(160, 576),
        epochs=30,
        complete=read_classes,
    ),
}

"""The data sets, one row of a table each: where the files are and what the labels mean.

A new data set needs a row of DATASETS, and a find function for a new layout. No code outside this
file depends on which data set it reads, but for `--dataset auto` (helper.py) and the report's
banners. No Keras here.
"""

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from roadseg.data.class_lists import BACKGROUND, ClassList, read_class_list
from roadseg.data.download import Remote
from roadseg.data.layouts import (
    Sample,
    find_camvid,
    find_cityscapes,
    find_folder,
    find_kitti,
    split_by_category,
    split_drive,
    split_last_frames,
    split_share,
)
from roadseg.data.pictures import VOID

FCN_8S = ("pool4", "pool3")  # the skips of main.SKIPS that make it
FCN_4S = (*FCN_8S, "pool2")


@dataclass(frozen=True)
class Dataset:
    """One row of the table: all that the program knows about a data set."""

    title: str  # for messages
    folder: str  # below DATA_DIR
    layout: str  # contents of the folder, for messages
    classes: tuple[str, ...]  # names in the order of their indices
    # Label value -> class index or VOID: colours, or the numbers of single-channel labels.
    label_values: Mapping[tuple[int, int, int] | int, int]
    paint: Mapping[int, tuple[int, int, int]]  # class index -> RGB in painted pictures
    find: Callable[[Path], tuple[list[Sample], list[Sample]]]  # -> labelled, testing
    split: Callable[[list[Sample], int], tuple[list[Sample], list[Sample]]]
    image_shape: tuple[int, int]  # default (height, width) in the network, pixels
    epochs: int  # default on a CPU
    batch_size: int = 4  # default on a CPU, pictures a step
    # Whether pictures are mirrored in training (of joined rows, whether all are). Right-hand
    # traffic helps to tell the opposite carriageway, on the left, from tracks and yards. A recipe's
    # own word on it is for all pictures; of joined rows each has its own.
    mirrored: bool = True
    recipe: Mapping[str, object] = field(default_factory=dict)  # fields of main.Recipe to replace
    class_weights: str = "none"  # of class_weights.WEIGHT_KINDS, in the loss
    official_count: int | None = None  # labels of the official set, if it is checked
    remote: Remote | None = None  # a zip that holds the folder, if it may be downloaded
    class_list: ClassList | None = None  # of somebody's own pictures, what their masks mean
    drawn: bool = False  # whether the program draws the pictures
    # Function (folder) -> fields that depend on it, to replace.
    complete: Callable[[Path], dict] = lambda folder: {}
    parts: Mapping[str, "Dataset"] = field(default_factory=dict)  # the rows that are joined
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of these, in training

    def of(self, sample):
        """Return the row that a Sample is from: one of those that are joined, or this."""
        return self.parts.get(sample.data_set, self)

    def shape_of(self, sample, image_shape):
        """Return the (height, width) in the network of a Sample's picture, in training.

        image_shape: of a run. Where data sets are joined, each has the proportions of its own
        pictures and the area of image_shape.
        """
        return self.shapes.get(sample.data_set, tuple(image_shape))

    def category(self, sample):
        """Return what a Sample is scored in: its data set, where several are joined."""
        return sample.data_set or sample.category

    @property
    def subject(self):
        """The index of the class whose probability is written.

        Of two it is the second, which is scored and painted; of more the road, or the last.
        """
        names = [name.casefold() for name in self.classes]
        return names.index("road") if "road" in names and len(names) > 2 else len(names) - 1

    @property
    def legend(self):
        """The painted classes: {name: (red, green, blue)}."""
        return {self.classes[index]: colour for index, colour in self.paint.items()}

    def has_official_labels(self, count):
        """Return whether `count` labels can be the official ones; None where there are none."""
        return None if self.official_count is None else count == self.official_count

    def label_note(self, count, root):
        """Return what a score on the `count` labels in `root` means, one sentence."""
        if self.official_count is None:
            return f"scores are agreement with the labels of {self.title}"
        if self.has_official_labels(count):
            return f"the {count} labels in {root} are taken for those of {self.title}"
        return (
            f"{root} holds {count} labels, not the {self.official_count} of {self.title}: "
            f"scores are agreement with these labels, not {self.title} scores"
        )


def read_classes(root):
    """Read a folder's class list. Returns the fields of Dataset that depend on it."""
    listed = read_class_list(root)
    fields = classes_of_own(listed.classes, listed.colours)
    return fields | {"label_values": listed.label_values, "class_list": listed}


def classes_of_own(names, colours=None):
    """Return the fields of Dataset that depend on the names of the classes.

    colours: {name: (red, green, blue)} to paint with, where they are given.
    """
    # Of two classes only the second is painted; of more all but BACKGROUND, in evenly spaced hues.
    hues = [colorsys.hsv_to_rgb(number / len(names), 0.8, 0.9) for number in range(len(names))]
    paint = {
        number: tuple(round(255 * c) for c in hues[number])
        for number, name in enumerate(names)
        if name.casefold() not in BACKGROUND
    }
    paint = ROAD_GREEN if len(names) == 2 else paint
    given = {n: tuple(colours[names[n]]) for n in paint if names[n] in colours} if colours else {}
    return {"classes": tuple(names), "paint": paint | given, "recipe": recipe_for(names)}


def recipe_for(classes):
    """Return the fields of main.Recipe that the number of classes decides: poles are thin."""
    return {"skips": FCN_4S} if len(classes) > 2 else {}


def row_of(settings):
    """Return the row of a run's data set, without its files.

    settings: of the run, whose recipe has the last word on mirroring. Raises KeyError where this
    version does not know the data set.
    """
    names = settings["dataset"].split(JOINT)
    rows = [DATASETS[name.split(":")[0]] for name in names]
    row = DATASETS["folder"] if len(rows) > 1 else rows[0]
    mirrored = settings.get("recipe", {}).get("mirrored")
    mirrored = all(row.mirrored for row in rows) if mirrored is None else mirrored
    if row.classes:
        return replace(row, mirrored=mirrored)
    title = JOINT.join(names) if len(names) > 1 else row.title
    fields = classes_of_own(settings["classes"], settings.get("paint"))
    return replace(row, title=title, mirrored=mirrored, **fields)


KITTI_ROAD = Remote(
    title="KITTI Road",
    url="https://s3.eu-central-1.amazonaws.com/avg-kitti/data_road.zip",
    page="https://www.cvlibs.net/datasets/kitti/eval_road.php",
    licence="CC BY-NC-SA 3.0, not for commercial use; J. Fritsch, T. Kuehnl, A. Geiger 2013",
    size=470_992_531,
    algorithm="sha256",
    digest="7bdcb76b15ca4ee1cb1c1063ce15dcfbabd2e6fcf4a0b47762b7b951c3e7a054",
)
JOINT = "+"  # between the names of data sets that are joined
ROAD_GREEN = {1: (0, 230, 150)}  # bluish, for red-green colour blindness

# The evaluated classes with their label ids and colours; all other ids are VOID
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
CITYSCAPES_NUMBERS = 34  # label ids 0 to 33
# Names, order and grouping of the SegNet tutorial, with colours to paint.
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

KITTI = Dataset(
    title="KITTI Road",
    folder="data_road",
    layout="training/image_2, training/gt_image_2 and testing/image_2 of KITTI Road",
    classes=("other", "road"),
    # Valid where red is set, road where blue is set.
    label_values={(255, 0, 0): 0, (255, 0, 255): 1, (0, 0, 0): VOID, (0, 0, 255): VOID},
    paint=ROAD_GREEN,
    find=find_kitti,
    split=split_last_frames,
    image_shape=(160, 576),
    epochs=19,
    mirrored=False,
    official_count=289,
    remote=KITTI_ROAD,
)
CAMVID = Dataset(
    title="CamVid",
    folder="camvid",
    layout="train/, trainannot/, val/ and valannot/ of the SegNet tutorial",
    classes=tuple(CAMVID_CLASSES),
    label_values={index: index for index in range(len(CAMVID_CLASSES))}
    | {len(CAMVID_CLASSES): VOID, VOID: VOID},
    paint=dict(enumerate(CAMVID_CLASSES.values())),
    find=find_camvid,
    split=split_by_category,
    image_shape=(360, 480),
    epochs=30,
    batch_size=2,
    class_weights="weak",  # finds poles and signs, and costs the road .1
    # Eleven classes are learnt too little, not by heart: less dropout, more steps.
    recipe=recipe_for(CAMVID_CLASSES)
    | {"skip_dropout": 0.0, "pool5_dropout": 0.0, "head_dropout": 0.2},
)

DATASETS = {
    "kitti": KITTI,
    "camvid": CAMVID,
    "camvid-drive": replace(
        CAMVID, title="CamVid, drive 0001TP held out", split=split_drive("0001TP")
    ),
    "synthetic": replace(
        KITTI,
        title="drawn road scenes",
        folder="synthetic",
        split=split_share,
        image_shape=(96, 320),
        epochs=10,
        mirrored=True,
        official_count=None,
        remote=None,
        drawn=True,
    ),
    "cityscapes": Dataset(
        title="Cityscapes",
        folder="cityscapes",
        layout="leftImg8bit/ and gtFine/ of Cityscapes (accept its terms to download)",
        classes=tuple(CITYSCAPES_CLASSES),
        label_values=dict.fromkeys([*range(CITYSCAPES_NUMBERS), VOID], VOID)
        | {number: index for index, (number, _) in enumerate(CITYSCAPES_CLASSES.values())},
        paint={index: colour for index, (_, colour) in enumerate(CITYSCAPES_CLASSES.values())},
        find=find_cityscapes,
        split=split_by_category,
        image_shape=(256, 512),
        epochs=12,
        recipe=recipe_for(CITYSCAPES_CLASSES),
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

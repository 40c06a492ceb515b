"""Find the files of each data set and split them into training and validation."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadseg import terminal
from roadseg.data.pictures import PICTURE_SUFFIXES, is_left_by_system
from roadseg.errors import UserError

VALIDATION_LIST = "validation.txt"  # in a folder of one's own pictures
# Its folders: the first that holds something is read, ours or as CVAT and labelme export them.
PICTURE_FOLDERS = ("pictures", "JPEGImages")
MASK_FOLDERS = ("masks", "SegmentationClassPNG", "SegmentationClass")


@dataclass(frozen=True)
class Sample:
    """One picture, its label (or None), and the category it is scored in."""

    name: str  # of one picture of its part alone: what is painted of it is NAME.png
    picture: Path
    label: Path | None
    category: str
    calibration: Path | None = None  # path of KITTI's calibration file, which may be missing
    data_set: str = ""  # where several are joined, the one it is from


def find_kitti(root):
    """Find the pictures of a folder in KITTI Road's layout.

    root: holds training/image_2, training/gt_image_2 and testing/image_2, with pictures named
    um_000000.png and labels named um_road_000000.png (um, umm or uu), and calib/um_000000.txt
    for scores from above. Returns (labelled, testing), sorted by name. Raises UserError for an
    empty or missing folder, a picture with another name, and pictures without label.
    """
    labels = root / "training" / "gt_image_2"
    training = _kitti_samples(root / "training" / "image_2", labels)
    _check_labels(training)
    return training, _kitti_samples(root / "testing" / "image_2")


def _kitti_samples(folder, labels=None):
    paths = list_pictures(folder, "um_000000.png and so on", "*.png")
    strangers = [path for path in paths if not re.fullmatch(r"(um|umm|uu)_\d{6}", path.stem)]
    if strangers:
        expected = "expected a name such as um_000000.png, umm_… or uu_…"
        raise UserError("\n".join(f"{path}: {expected}" for path in strangers))
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
    missing folder, pictures without label, and pictures that share one.
    """
    layout = "train/, trainannot/, val/ and valannot/ of CamVid"
    labelled = [
        Sample(path.stem, path, root / f"{part}annot" / f"{path.stem}.png", part)
        for part in ("train", "val")
        for path in list_pictures(root / part, layout)
    ]
    _check_labels(labelled)
    return labelled, _testing_samples(root / "test")


def find_cityscapes(root):
    """Find the pictures of Cityscapes in its official layout.

    root: holds leftImg8bit/PART/CITY/NAME_leftImg8bit.png and gtFine/PART/CITY/
    NAME_gtFine_labelIds.png; PART is train, val or, optionally, test.
    Returns (labelled, testing), with PART as category. Raises UserError for an empty or missing
    folder and pictures without label.
    """
    pictures, ending = root / "leftImg8bit", "_leftImg8bit"

    def sample(path, part):
        name = f"{path.parent.name}/{path.stem.removesuffix(ending)}"
        label = root / "gtFine" / part / f"{name}_gtFine_labelIds.png"
        return Sample(name, path, None if part == "test" else label, part)

    labelled = [
        sample(path, part)
        for part in ("train", "val")
        for path in list_pictures(pictures / part, "folders of cities", f"*/*{ending}.png")
    ]
    _check_labels(labelled)
    testing = sorted((pictures / "test").glob(f"*/*{ending}.png"))
    return labelled, [sample(path, "test") for path in testing]


def find_folder(root):
    """Find the user's own pictures.

    root: holds one of PICTURE_FOLDERS and of MASK_FOLDERS (PNG of the same stem, in the values of
    the class list); optionally testing/ and validation.txt, the names of the validation pictures,
    one a line. Without it the last fifth validates, because neighbours may look alike. Returns
    (labelled, testing), with "train" or "val" as category. Raises UserError for an empty or missing
    folder, pictures without mask or with a shared one, and unknown names.
    """
    pictures, masks = (_first_folder(root, names) for names in (PICTURE_FOLDERS, MASK_FOLDERS))
    paths = list_pictures(pictures, f"pictures, and a mask for each in {masks.name}/")
    listed = root / VALIDATION_LIST
    last_fifth = paths[-max(1, len(paths) // 5) :]
    chosen = set(_listed_pictures(listed, paths) if listed.is_file() else last_fifth)
    labelled = []
    for path in paths:
        part, mask = "val" if path in chosen else "train", masks / f"{path.stem}.png"
        labelled.append(Sample(path.stem, path, mask, part))
    _check_labels(labelled)
    stems = {path.stem for path in paths}
    unused = (path for path in masks.iterdir() if path.is_file() and path.stem not in stems)
    _say_left_out(unused, masks, "of no picture")
    return labelled, _testing_samples(root / "testing")


def _first_folder(root, names):
    """Return the first folder of these names that holds something, or where it is expected."""
    folders = [root / name for name in names]
    return next((folder for folder in folders if any(folder.glob("*"))), folders[0])


def _listed_pictures(listed, paths):
    """Return the pictures that a text file lists, a file name a line, with suffix or without."""
    known = {path.stem: path for path in paths} | {path.name: path for path in paths}
    chosen = []
    for line in read_lines(listed):
        name = Path(line).name
        if Path(name).suffix.lower() in PICTURE_SUFFIXES and name not in known:
            name = Path(name).stem
        if name not in known:
            raise UserError(
                f"{listed}: names {line}, which is not in {paths[0].parent}; put it there, or "
                "remove the line"
            )
        chosen.append(known[name])
    return chosen


def _testing_samples(folder):
    """Return the pictures of a folder that may be missing, as Samples without label."""
    paths = list_pictures(folder, "pictures") if folder.is_dir() else []
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(paths) else [path.name for path in paths]
    return [Sample(name, path, None, "test") for name, path in zip(names, paths, strict=True)]


def read_lines(path):
    """Read the lines of a text file that hold something, without a byte order mark.

    Raises UserError where it is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 ({error.reason}); save it as UTF-8") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def list_pictures(folder, expected, pattern="*"):
    """List a folder's pictures by name, and say what else is there.

    Raises UserError where there are none.
    """
    pictures = sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in PICTURE_SUFFIXES and not is_left_by_system(path.name)
    )
    if not pictures:
        raise UserError(f"{folder}: no pictures found here; expected {expected}")
    if "/" not in pattern:
        _say_left_out(set(folder.iterdir()) - set(pictures), folder, "not read")
    return pictures


def _say_left_out(paths, folder, reason):
    """Say which paths are left out, but for what systems leave."""
    paths = [path for path in sorted(paths) if not is_left_by_system(path.name)]
    terminal.say_left_out(paths, reason, folder)


def _check_labels(samples):
    """Raise UserError with a line for each label that is missing or that two pictures share."""
    faults, owners = [], {}
    expected = {sample.label.name for sample in samples}
    for sample in samples:
        owner = owners.setdefault(sample.label, sample)
        if not sample.label.is_file():
            faults.append(
                f"{sample.label}: this label of {sample.picture.name} is missing"
                f"{_alike(sample.label, expected)}"
            )
        elif owner is not sample:
            faults.append(
                f"{sample.picture}: shares the label {sample.label.name} with "
                f"{owner.picture.name}; rename one of the pictures, and give each its label"
            )
    if faults:
        raise UserError("\n".join(faults))


def _alike(label, expected):
    """Name a file beside a missing label that may be meant, for the end of a message.

    expected: names of all labels, which are meant for their own pictures.
    """
    begins = re.compile(rf"{re.escape(label.stem)}(?!\w*\d)", re.IGNORECASE)  # not s10 for s1
    inside = label.parent.iterdir() if label.parent.is_dir() else ()
    names = {path.name for path in inside} - expected
    alike = sorted(filter(begins.match, names))
    if not alike:
        return ""
    lossy = "JPEG changes the values of labels: write them as PNG"
    cures = {".png": f"rename it to {label.name}", ".jpg": lossy, ".jpeg": lossy}
    cure = cures.get(Path(alike[0]).suffix.lower(), f"save it as {label.name}")
    return f"; {alike[0]} is there: {cure}"


def split_by_category(samples, seed):
    """Split as the data set's folders do, which are the categories. seed is not used."""
    return _divide(samples, {sample for sample in samples if sample.category == "val"})


def split_drive(drive):
    """Make a split in which the pictures of train/ that begin with drive validate, the rest trains.

    What lies in val/ does neither: CamVid's is one clip of 7 seconds out of a drive that trains.
    """

    def split(samples, seed):
        labelled = [sample for sample in samples if sample.category != "val"]
        return _divide(labelled, {each for each in labelled if each.name.startswith(drive)})

    return split


def split_last_frames(samples, seed, last=16):
    """Split as KittiSeg's val3: the last frames of each category validate, at most a fifth.

    Neighbouring frames look alike, so a random split would flatter. seed is not used. Returns
    (training, validation) in the order of samples.
    """
    validation = set()
    for category in {sample.category for sample in samples}:
        same = [sample for sample in samples if sample.category == category]
        validation.update(same[-min(last, -(-len(same) // 5)) :])
    return _divide(samples, validation)


def split_share(samples, seed, share=0.2):
    """Draw a random share of the samples for validation, the same for the same seed.

    Returns (training, validation) in the order of samples.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen = order[: max(1, round(share * len(samples)))]
    return _divide(samples, {samples[index] for index in chosen})


def _divide(samples, validation):
    """Split samples into those that train and a set that validates; neither may be empty."""
    folder = samples[0].picture.parent
    if len(samples) == 1:
        raise UserError(f"{folder}: holds one picture; expected at least two")
    if len(validation) in (0, len(samples)):
        count = f"none of {len(samples)}" if not validation else f"all {len(samples)}"
        raise UserError(f"{folder}: {count} pictures validate; at least one has to, one to train")
    return [sample for sample in samples if sample not in validation], [
        sample for sample in samples if sample in validation
    ]


def subsample(samples, limit):
    """Choose at most `limit` samples (None: all), evenly spaced to keep all categories."""
    if limit is None or limit >= len(samples):
        return samples
    return [samples[index * len(samples) // limit] for index in range(limit)]

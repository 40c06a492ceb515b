"""Find the files of each data set and split them into training and validation."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadseg.errors import UserError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Sample:
    """One picture, its label (or None), and the category it is scored in."""

    name: str
    picture: Path
    label: Path | None
    category: str
    calibration: Path | None = None  # path of KITTI's calibration file, which may be missing


def find_kitti(root):
    """Find the pictures of a folder in KITTI Road's layout.

    root: holds training/image_2, training/gt_image_2 and testing/image_2, with pictures named
    um_000000.png and labels named um_road_000000.png (um, umm or uu), and calib/um_000000.txt
    for scores from above. Returns (labelled, testing), sorted by name. Raises UserError for an
    empty or missing folder, a picture with another name, and pictures without label.
    """
    labels = root / "training" / "gt_image_2"
    training = _kitti_samples(root / "training" / "image_2", labels)
    _refuse_missing_labels(training)
    return training, _kitti_samples(root / "testing" / "image_2")


def _kitti_samples(folder, labels=None):
    paths = _pictures(folder, "um_000000.png and so on", "*.png")
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
    the same stem), and optionally test/. Returns (labelled, testing), with "train" or "val" as
    category. Raises UserError for an empty or missing folder and pictures without label.
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
    NAME_gtFine_labelIds.png; PART is train, val or, optionally, test.
    Returns (labelled, testing), with PART as category. Raises UserError for an empty or missing
    folder and pictures without label.
    """
    pictures, ending = root / "leftImg8bit", "_leftImg8bit"
    samples = []
    for part in ("train", "val"):
        for path in _pictures(pictures / part, "folders of cities", f"*/*{ending}.png"):
            name, labels = path.stem.removesuffix(ending), root / "gtFine" / part
            label = labels / path.parent.name / f"{name}_gtFine_labelIds.png"
            samples.append(Sample(name, path, label, part))
    _refuse_missing_labels(samples)
    testing = sorted((pictures / "test").glob(f"*/*{ending}.png"))
    return samples, [Sample(path.stem, path, None, "test") for path in testing]


def find_folder(root):
    """Find the user's own pictures.

    root: holds pictures/, masks/ (single-channel PNG of the same stem: each pixel's line in
    classes.txt, from 0; 255 is void); optionally testing/ and validation.txt, the names of the
    validation pictures, one a line. Without it the last fifth validates, because neighbours may
    look alike. Returns (labelled, testing), with "train" or "val" as category. Raises UserError
    for an empty or missing folder, pictures without mask and unknown names.
    """
    paths = _pictures(root / "pictures", "pictures, and a mask for each in masks/")
    listed, names = root / "validation.txt", [path.stem for path in paths]
    if listed.is_file():
        chosen = {Path(line).stem for line in read_lines(listed)}
        if unknown := chosen - set(names):
            raise UserError(f"{listed}: names {min(unknown)}, which is not in {paths[0].parent}")
    else:
        count = max(1, len(names) // 5)
        chosen = set(names[-count:])
    samples = []
    for path in paths:
        part, mask = "val" if path.stem in chosen else "train", f"{path.stem}.png"
        samples.append(Sample(path.stem, path, root / "masks" / mask, part))
    _refuse_missing_labels(samples)
    testing = _pictures(root / "testing", "pictures") if (root / "testing").is_dir() else []
    return samples, [Sample(path.stem, path, None, "test") for path in testing]


def read_lines(path):
    """Return the lines of a text file that are not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: not found; expected a text file with one name a line") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text in UTF-8 ({error.reason})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _pictures(folder, expected, pattern="*.*"):
    """Return a folder's pictures, sorted. Raises UserError if there are none."""
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
    """Split by category, which is the folder: "val" validates. seed is not used."""
    return _divide(samples, {sample.name for sample in samples if sample.category == "val"})


def split_last_frames(samples, seed, last=16):
    """Split as KittiSeg's val3: the last frames of each category validate, at most a fifth.

    Neighbouring frames look alike, so a random split would flatter. seed is not used. Returns
    (training, validation) in the order of samples.
    """
    categories = {sample.category for sample in samples}
    validation = set()
    for category in categories:
        names = [sample.name for sample in samples if sample.category == category]
        validation.update(names[-min(last, -(-len(names) // 5)) :])
    return _divide(samples, validation)


def split_share(samples, seed, share=0.2):
    """Draw a random share of the samples for validation, the same for the same seed.

    Returns (training, validation) in the order of samples.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    chosen = order[: max(1, round(share * len(samples)))]
    return _divide(samples, {samples[index].name for index in chosen})


def _divide(samples, validation_names):
    training = [sample for sample in samples if sample.name not in validation_names]
    if not training:
        raise UserError(f"{samples[0].picture.parent}: holds one picture; expected at least two")
    return training, [sample for sample in samples if sample.name in validation_names]


def subsample(samples, limit):
    """Choose at most `limit` samples (None: all), evenly spaced to keep all categories."""
    if limit is None or limit >= len(samples):
        return samples
    return [samples[index * len(samples) // limit] for index in range(limit)]

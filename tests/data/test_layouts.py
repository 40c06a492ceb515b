"""Which pictures a data set has, and which of them validate."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import helper
from roadseg.data.datasets import DATASETS
from roadseg.data.layouts import Sample, split_last_frames, subsample
from roadseg.errors import UserError
from tests.small import KITTI


@pytest.mark.parametrize("counts", [(95, 96, 98), (80, 78, 84)])
def test_validation_is_the_last_16_of_each_category(counts):
    samples = [
        Sample(f"{category}_{number:06d}", Path(), None, category)
        for category, count in zip(("um", "umm", "uu"), counts, strict=True)
        for number in range(count)
    ]
    training, validation = split_last_frames(samples, seed=0)
    assert len(training) == sum(counts) - 48
    assert {sample.name for sample in validation} == {
        f"{category}_{number:06d}"
        for category, count in zip(("um", "umm", "uu"), counts, strict=True)
        for number in range(count - 16, count)
    }


def test_a_drive_that_is_held_out_validates_and_the_clip_of_val_is_left_out():
    """So neither training nor validation has neighbours of the other."""
    names = {"train": ["0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_08640"]}
    names["val"] = ["0016E5_07959", "0016E5_08159"]
    samples = [
        Sample(name, Path(part, f"{name}.png"), None, part)
        for part in ("train", "val")
        for name in names[part]
    ]
    training, validation = DATASETS["camvid-drive"].split(samples, seed=0)
    assert [sample.name for sample in validation] == names["train"][:2]
    assert [sample.name for sample in training] == names["train"][2:]
    with pytest.raises(UserError, match="none of 2 pictures validate"):
        DATASETS["camvid-drive"].split(training, seed=0)


def test_limit_leaves_no_category_out(drawn):
    labelled, _ = KITTI.find(drawn / "data_road")
    assert {sample.category for sample in subsample(labelled, 3)} == {"um", "umm", "uu"}


def save_pairs(pairs):
    """Write a picture and a label of two classes, no two alike: [(picture, label or None)]."""
    for number, (picture, label) in enumerate(pairs):
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 7, 0)).save(picture, format="PNG")
        if label:
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.tri(16, dtype=np.uint8)).save(label)


def city_pair(root, part, city, name):
    picture = root / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png"
    return picture, root / "gtFine" / part / city / f"{name}_gtFine_labelIds.png"


SAME_NAMES = {  # in train/ and val/, of two names each
    "camvid": lambda root: [
        (root / part / f"{name}.png", root / f"{part}annot" / f"{name}.png")
        for part, names in {"train": "abc", "val": "ab"}.items()
        for name in names
    ],
    "cityscapes": lambda root: [
        city_pair(root, part, city, name)
        for part, names in {"train": "abc", "val": "ab"}.items()
        for city in ("bonn", "ulm")
        for name in names
    ],
}


@pytest.mark.parametrize("name", SAME_NAMES)
def test_the_same_names_in_train_and_val_stay_apart(name, tmp_path):
    """The folders say which pictures train, and every painting gets a file of its own."""
    row = DATASETS[name]
    save_pairs(SAME_NAMES[name](tmp_path))
    training, validation = row.split(row.find(tmp_path)[0], 0)
    times = 2 if name == "cityscapes" else 1
    assert [len(training), len(validation)] == [3 * times, 2 * times]
    assert all("train" in sample.picture.parts for sample in training)
    assert all("val" in sample.picture.parts for sample in validation)

    def predict(pictures):
        return np.full((*pictures.shape[:3], len(row.classes)), 0.1, np.float32)

    painted = tmp_path / "painted"
    helper.save_inference_samples(painted, predict, validation, row, (16, 16))
    assert len(list(painted.rglob("*.png"))) == len(validation)


def own_folder(root, names, masks=None):
    """Write pictures/ and masks/ of somebody's own; masks: their stems, default: as pictures."""
    masks = [Path(name).stem for name in names] if masks is None else masks
    pairs = [
        (root / "pictures" / name, root / "masks" / f"{mask}.png")
        for name, mask in zip(names, masks, strict=True)
    ]
    save_pairs(pairs)
    return root


def split_own(root):
    """Return the names of the pictures that train and of those that validate."""
    row = DATASETS["folder"]
    return [[sample.picture.name for sample in part] for part in row.split(row.find(root)[0], 0)]


def test_two_pictures_that_share_a_mask_are_refused_and_both_named(tmp_path):
    own_folder(tmp_path, ["a.jpg", "b.jpg", "b.png"])
    with pytest.raises(UserError, match=r"b\.png: shares the label b\.png with b\.jpg"):
        DATASETS["folder"].find(tmp_path)


def test_two_testing_pictures_of_one_stem_get_a_painting_each(tmp_path):
    own_folder(tmp_path, ["a.jpg", "b.jpg"])
    save_pairs([(tmp_path / "testing" / name, None) for name in ("t.jpg", "t.png", "t.jpg.png")])
    _, testing = DATASETS["folder"].find(tmp_path)
    assert [sample.name for sample in testing] == ["t.jpg", "t.jpg.png", "t.png"]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("\ufeffb.jpg\r\n", ["b.jpg"]),  # as Notepad saves it
        ("\ufeffb", ["b.jpg"]),
        ("b.png\n\n  c.v2.jpg", ["b.jpg", "c.v2.jpg"]),  # b.png is the mask
        ("c.v2", ["c.v2.jpg"]),
        ("c.v2.png\nd.JPG", ["c.v2.jpg", "d.JPG"]),
        ("pictures/d.JPG", ["d.JPG"]),
    ],
    ids=["mark and suffix", "mark", "suffix of the mask", "dots", "dots and suffix", "folder"],
)
def test_validation_txt_is_read_however_it_was_written(listed, expected, tmp_path):
    own_folder(tmp_path, ["a.jpg", "b.jpg", "c.v2.jpg", "d.JPG"])
    (tmp_path / "validation.txt").write_bytes(listed.encode())
    assert split_own(tmp_path)[1] == expected


@pytest.mark.parametrize(
    ("listed", "line"), [("", "none of 3"), ("\ufeff\n \n", "none of 3"), ("a\nb\nc", "all 3")]
)
def test_nobody_or_everybody_in_validation_txt_is_refused(listed, line, tmp_path):
    own_folder(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    (tmp_path / "validation.txt").write_text(listed, encoding="utf-8")
    with pytest.raises(UserError, match=rf"pictures: {line} pictures validate"):
        split_own(tmp_path)


@pytest.mark.parametrize(
    ("mask", "cure"),
    [
        ("b_mask.png", "rename it to b.png"),
        ("B.PNG", "rename it to b.png"),
        ("b.npy", "save it as b.png"),
        ("b.jpg", "JPEG changes the values of labels: write them as PNG"),
    ],
)
def test_a_mask_under_another_name_is_pointed_at(mask, cure, tmp_path):
    """Not one that belongs to another picture, or only begins alike."""
    own_folder(tmp_path, ["a.jpg", "b.jpg", "b_2.jpg"])
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / mask)
    (tmp_path / "masks" / "b10.png").write_bytes(b"")
    missing = r"b\.png: this label of b\.jpg is missing"
    with pytest.raises(UserError, match=f"{missing}; {mask} is there: {cure}$"):
        DATASETS["folder"].find(tmp_path)
    (tmp_path / "masks" / mask).unlink()
    with pytest.raises(UserError, match=f"{missing}$"):
        DATASETS["folder"].find(tmp_path)


def test_masks_of_no_picture_are_named(tmp_path, capsys):
    own_folder(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "pictures" / "b.jpg").rename(tmp_path / "pictures" / "c.jpg")
    (tmp_path / "masks" / "c.png").write_bytes(b"")
    (tmp_path / "masks" / "._c.png").write_bytes(b"")
    DATASETS["folder"].find(tmp_path)
    said = capsys.readouterr().out
    assert said == f"left out in {tmp_path / 'masks'}, of no picture: b.png\n"


def test_folders_of_tools_are_read_where_ours_are_empty_or_missing(tmp_path):
    """labelme may have masks as arrays in SegmentationClass, and as PNG in another folder."""
    theirs, ours = ("JPEGImages", "SegmentationClassPNG"), ("pictures", "masks")
    for pictures, masks in (theirs, ours):
        save_pairs(
            [(tmp_path / pictures / f"{n}.jpg", tmp_path / masks / f"{n}.png") for n in "ab"]
        )
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "SegmentationClass" / "a.npy").write_bytes(b"")

    def folders():
        sample = DATASETS["folder"].find(tmp_path)[0][0]
        return sample.picture.parent.name, sample.label.parent.name

    assert folders() == ours
    for name in ours:
        shutil.rmtree(tmp_path / name)
        (tmp_path / name).mkdir()
    assert folders() == theirs


def test_what_is_not_read_in_a_folder_of_pictures_is_named(tmp_path, capsys):
    """But for files that systems leave."""
    own_folder(tmp_path, ["a.jpg", "b.jpg"])
    for name in ("._a.jpg", ".DS_Store", "Thumbs.db", "c.gif", "d"):
        (tmp_path / "pictures" / name).write_bytes(b"left")
    (tmp_path / "pictures" / "day 2").mkdir()
    assert split_own(tmp_path) == [["a.jpg"], ["b.jpg"]]
    said = capsys.readouterr().out
    assert said == f"left out in {tmp_path / 'pictures'}, not read: c.gif, d, day 2\n"

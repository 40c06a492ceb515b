"""Whatever is wrong with pictures and labels is named; what is only odd is read."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import helper
from roadseg.data.check import check_samples, files_below
from roadseg.data.pictures import VOID, read_label
from roadseg.errors import UserError
from roadseg.files import read_json, write_json
from tests.small import KITTI, PNG_RGB, error_line, rotated, run_main, write_png, zip_of


def label_of(training, name="umm_000000"):
    return training / "gt_image_2" / f"{name.replace('_', '_road_')}.png"


def picture_of(training, name="uu_000003"):
    return training / "image_2" / f"{name}.png"


def change(path, function):
    """Replace a picture by function(array of it)."""
    Image.fromarray(function(np.asarray(Image.open(path)).copy())).save(path)


def check(data_dir, memory):
    """Find and check the pictures as main.py does. Returns the digest of their content."""
    labelled, testing = KITTI.find(data_dir / "data_road")
    return check_samples((*KITTI.split(labelled, 0), testing), KITTI, memory)


def with_pixel(value):
    def changed(label):
        label[3, 4] = value
        return label

    return changed


def fill_labels(training, value):
    for path in (training / "gt_image_2").iterdir():
        change(path, lambda label: np.full_like(label, value))


def claim_size(path, size):
    """Write a PNG file that claims to be size x size and holds next to nothing."""
    write_png(path, (size, size), 8, PNG_RGB, bytes(99))


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_link(path, target):
    path.unlink()
    path.symlink_to(target)


# What may be wrong with a data set, by the name that the line has to hold.
SPOILERS = {
    "picture of 0 bytes": lambda t: picture_of(t).write_bytes(b""),
    "picture is text": lambda t: picture_of(t).write_text("not a picture"),
    "picture is a web page": lambda t: picture_of(t).write_text("<html>log in</html>"),
    "picture cut early": lambda t: picture_of(t).write_bytes(picture_of(t).read_bytes()[:20]),
    "picture cut late": lambda t: picture_of(t).write_bytes(picture_of(t).read_bytes()[:-40]),
    "picture with a wrong byte": lambda t: picture_of(t).write_bytes(
        picture_of(t).read_bytes()[:-2000] + b"wrong" + picture_of(t).read_bytes()[-1995:]
    ),
    "picture is a bomb": lambda t: claim_size(picture_of(t), 30_000),
    "picture claims to be large": lambda t: claim_size(picture_of(t), 9_000),
    "picture of 32 bits": lambda t: Image.new("F", (9, 9)).save(picture_of(t), format="TIFF"),
    "picture is a folder": lambda t: replace_by_folder(picture_of(t)),
    "picture is a dangling link": lambda t: replace_by_link(picture_of(t), "nowhere"),
    "picture links to itself": lambda t: replace_by_link(picture_of(t), "uu_000003.png"),
    "picture is a zip": lambda t: zip_of([("a", "b")], picture_of(t)),
    "picture of another size": lambda t: change(picture_of(t), lambda p: p[:50]),
    "picture is another's copy": lambda t: shutil.copy(picture_of(t, "um_000000"), picture_of(t)),
    "picture upside down is a copy of a link": lambda t: replace_by_link(
        picture_of(t), "um_000000.png"
    ),
    "picture is rotated by EXIF": lambda t: Image.open(picture_of(t)).save(
        picture_of(t), exif=rotated()
    ),
    "label missing": lambda t: label_of(t).unlink(),
    "label of 0 bytes": lambda t: label_of(t).write_bytes(b""),
    "label is text": lambda t: label_of(t).write_text("road"),
    "label cut": lambda t: label_of(t).write_bytes(label_of(t).read_bytes()[:300]),
    "label is a bomb": lambda t: claim_size(label_of(t), 30_000),
    "label is a folder": lambda t: replace_by_folder(label_of(t)),
    "label is a dangling link": lambda t: replace_by_link(label_of(t), "nowhere"),
    "label of another size": lambda t: change(label_of(t), lambda p: p[:9, :9]),
    "label turned": lambda t: change(label_of(t), lambda p: np.swapaxes(p, 0, 1)),
    "label with another colour": lambda t: change(label_of(t), with_pixel((255, 0, 128))),
    "label nearly magenta": lambda t: change(label_of(t), with_pixel((254, 0, 255))),
    "label with white": lambda t: change(label_of(t), with_pixel(255)),
    "label is its picture": lambda t: shutil.copy(picture_of(t, "umm_000000"), label_of(t)),
    "label smoothed": lambda t: (
        Image.open(label_of(t)).resize((160, 48)).resize((320, 96)).save(label_of(t))
    ),
    "label as JPEG": lambda t: Image.open(label_of(t)).save(label_of(t), format="JPEG"),
    "label of numbers": lambda t: change(label_of(t), lambda p: (p[..., 2] > 0).astype(np.uint8)),
    "label of 16 bits": lambda t: change(label_of(t), lambda p: p[..., 2].astype(np.uint16) * 257),
    "picture with another name": lambda t: picture_of(t).rename(t / "image_2" / "holiday.png"),
    "picture with a number too short": lambda t: picture_of(t).rename(t / "image_2" / "uu_3.png"),
    "no pictures": lambda t: shutil.rmtree(t / "image_2"),
    "pictures elsewhere": lambda t: (t / "image_2").rename(t / "pictures"),
    "no labels": lambda t: shutil.rmtree(t / "gt_image_2"),
    "no training": lambda t: shutil.rmtree(t),
    "no testing": lambda t: shutil.rmtree(t.parent / "testing"),
    "labels all void": lambda t: fill_labels(t, (0, 0, 0)),
    "labels all other": lambda t: fill_labels(t, (255, 0, 0)),
    "labels all road": lambda t: fill_labels(t, (255, 0, 255)),
}
NAMED = {
    "picture of another size": "uu_road_000003.png",
    "picture is rotated by EXIF": "uu_road_000003",
    "picture with another name": "holiday.png",
    "picture with a number too short": "uu_3.png",
    "no pictures": "image_2",
    "pictures elsewhere": "image_2",
    "no training": "image_2",
    "no testing": "testing",
    "labels all void": "nothing alone",
    "labels all other": "other alone",
    "labels all road": "road alone",
}

THROUGH_MAIN = (
    "picture of 0 bytes",
    "picture is another's copy",
    "label missing",
    "labels all road",
    "no training",
)


def name_in_line(name):
    """What the line about a fault has to hold."""
    return NAMED.get(name, "umm_road_000000.png" if name.startswith("label") else "uu_000003.png")


@pytest.mark.parametrize("name", [name for name in SPOILERS if name != "no labels"])
def test_wrong_data_give_one_line_that_names_the_file(name, spoilt, tmp_path):
    SPOILERS[name](spoilt / "data_road" / "training")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as raised:
        check(spoilt, tmp_path / "runs" / "checked.json")
    (line,) = str(raised.value).splitlines()
    assert name_in_line(name) in line and str(spoilt) in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", THROUGH_MAIN)
def test_wrong_data_end_the_program_with_one_line_and_leave_nothing(name, spoilt, tmp_path, capsys):
    SPOILERS[name](spoilt / "data_road" / "training")
    before = sorted(tmp_path.rglob("*"))
    arguments = ("--dataset", "kitti", "--data-dir", spoilt, "--runs-dir", tmp_path / "runs")
    assert run_main(*arguments) == 2
    line = error_line(capsys)
    assert name_in_line(name) in line and str(spoilt) in line
    assert sorted(tmp_path.rglob("*")) == before


def test_all_faults_are_told_at_once(spoilt, tmp_path, capsys):
    """A line for each of them, whatever kind it is of."""
    training, memory = spoilt / "data_road" / "training", tmp_path / "checked.json"
    names = ["um_000001", "um_000002", "umm_000003", "uu_000000"]
    picture_of(training, names[0]).write_bytes(b"")
    change(label_of(training, names[1]), with_pixel(255))
    label_of(training, names[2]).write_bytes(b"?")
    claim_size(picture_of(training, names[3]), 30_000)
    with pytest.raises(UserError) as raised:
        check(spoilt, memory)
    lines = sorted(str(raised.value).splitlines())
    assert len(lines) == len(names)
    assert all(any(name[-6:] in line for line in lines) for name in names)
    shutil.rmtree(training / "gt_image_2")
    capsys.readouterr()
    folders = ("--data-dir", spoilt, "--runs-dir", tmp_path)
    assert run_main("--dataset", "kitti", *folders) == 2
    error = capsys.readouterr().err
    assert error.count(" is missing") == error.count("\n") == 15


def test_what_is_wrong_with_several_labels_is_said_once(spoilt, tmp_path):
    """And names each of them."""
    training = spoilt / "data_road" / "training"
    for name in ("um_000000", "um_000001", "uu_000000"):
        change(label_of(training, name), with_pixel(255))
    change(label_of(training, "uu_000001"), with_pixel(9))
    with pytest.raises(UserError) as raised:
        check(spoilt, tmp_path / "checked.json")
    first, second = str(raised.value).splitlines()
    assert first.startswith(str(label_of(training, "um_000000"))) and "255" in first
    assert first.endswith("; the same of um_road_000001.png, uu_road_000000.png")
    assert second.startswith(str(label_of(training, "uu_000001"))) and "same" not in second


def test_good_data_are_looked_at_once(spoilt, tmp_path, monkeypatch):
    """Until a file changes; what was seen tells one content from another."""
    memory = tmp_path / "runs" / "checked.json"
    opened, read = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or read(path))
    digest = check(spoilt, memory)
    assert len(opened) == 2 * 15 + 3
    assert check(spoilt, memory) == digest and len(opened) == 33
    change(picture_of(spoilt / "data_road" / "training"), lambda picture: 255 - picture)
    assert check(spoilt, memory) != digest and len(opened) > 33


def test_what_was_seen_from_one_folder_counts_in_another(spoilt, tmp_path, monkeypatch):
    """Data and memory are named from the one folder by a relative path, from the other whole."""
    memory = tmp_path / "checked.json"
    monkeypatch.chdir(spoilt.parent)
    data_dir = Path(spoilt.name)
    here = files_below(check(data_dir, memory), data_dir / "data_road")
    monkeypatch.chdir(memory.root)
    assert files_below(check(spoilt, memory), spoilt / "data_road") == here
    assert "training/image_2/uu_000003.png" in here


def link_all(source, target):
    """Make a read-only copy of a folder in which every picture is a link."""
    for path in source.rglob("*.png"):
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    for folder in (target, *target.rglob("*/")):
        folder.chmod(0o555)


def test_data_behind_links_in_a_read_only_folder_with_an_odd_name(drawn, narrow_vgg, tmp_path):
    odd, runs = tmp_path / "Straßen von früher 100%", tmp_path / "meine Läufe"
    link_all(drawn, odd)
    arguments = ("--dataset", "kitti", "--data-dir", odd, "--runs-dir", runs)
    arguments += ("--run", "erster Lauf", "--vgg", narrow_vgg, "--precision", "float32")
    assert run_main(*arguments, "--image-shape", 32, 64, "--epochs", 1, "--limit", 3) == 0
    assert (runs / "erster Lauf" / "metrics.json").is_file()
    for folder in (odd, *odd.rglob("*/")):
        folder.chmod(0o755)


def write_own(folder, masks, classes="ground\nroad\n"):
    """Write pictures and their masks, uint8 [H, W]. Returns (samples, row of DATASETS)."""
    for name in ("pictures", "masks"):
        (folder / name).mkdir(parents=True)
    for index, mask in enumerate(masks):
        picture = Image.new("RGB", mask.shape[::-1], (9 * index, len(folder.name), 0))
        picture.save(folder / "pictures" / f"{index}.jpg")
        Image.fromarray(mask).save(folder / "masks" / f"{index}.png")
    (folder / "classes.txt").write_text(classes)
    _, row, root = helper.prepare_data_set("folder", folder)
    return row.find(root)[0], row


BOTH = np.tri(16, dtype=np.uint8)


def test_validation_pictures_without_a_valid_pixel_are_refused_before_training(tmp_path):
    samples, row = write_own(tmp_path, [BOTH, BOTH, np.full_like(BOTH, VOID)])
    with pytest.raises(UserError, match=r"masks: the validation labels hold nothing alone"):
        check_samples((samples[:2], samples[2:], []), row, tmp_path / "checked.json")


def test_masks_of_0_and_255_are_refused_with_the_cure(tmp_path):
    samples, row = write_own(tmp_path, [255 * BOTH] * 3)
    memory, parts = tmp_path / "checked.json", (samples[:2], samples[2:], [])
    cure = "255 counts nowhere: if it is road, classes.txt needs the line road 255, beside ground 0"
    with pytest.raises(UserError, match=f"hold ground alone.*; {cure}$"):
        check_samples(parts, row, memory)
    (tmp_path / "classes.txt").write_text("ground 0\nroad 255\n")
    _, row, _ = helper.prepare_data_set("folder", tmp_path)
    check_samples(parts, row, memory)
    np.testing.assert_array_equal(read_label(samples[0], row), BOTH)


def parts_of(names, data_dir):
    """Find and split data sets as main.py does. Returns (training, validation, testing), row."""
    _, row, root = helper.prepare_data_set(names, data_dir)
    labelled, testing = row.find(root)
    return (*row.split(labelled, 0), testing), row


def test_masks_of_0_and_255_are_refused_beside_another_data_set_too(tmp_path):
    """Streets without any road are no mistake there, if all of their pixels count."""
    for name, masks in (("good", BOTH), ("bad one", 255 * BOTH), ("no road yet", 0 * BOTH)):
        write_own(tmp_path / name, [masks] * 3)
    parts, row = parts_of("folder:good+folder:bad one", tmp_path)
    with pytest.raises(UserError, match=r"bad one/masks: .* hold ground alone.* line road 255"):
        check_samples(parts, row, tmp_path / "checked.json")
    parts, row = parts_of("folder:good+folder:no road yet", tmp_path)
    check_samples(parts, row, tmp_path / "checked.json")


def test_a_class_that_may_be_the_number_that_counts_nowhere_is_named(tmp_path, capsys):
    masks = [np.where(np.arange(16) > 8, 255 * BOTH, BOTH)] * 3  # 0, 1 and 255
    samples, row = write_own(tmp_path, masks, "ground\nroad\nkerb\n")
    check_samples((samples[:2], samples[2:], []), row, tmp_path / "checked.json")
    said = "no training label holds kerb; 255 counts nowhere: if it is kerb, classes.txt needs the"
    assert f"masks: {said} line kerb 255" in capsys.readouterr().out
    (tmp_path / "classes.txt").write_text("ground\nroad\nkerb\npole\n")
    _, row, _ = helper.prepare_data_set("folder", tmp_path)
    check_samples((samples[:2], samples[2:], []), row, tmp_path / "checked.json")
    assert "if it is kerb or pole, classes.txt needs the line NAME 255" in capsys.readouterr().out


def test_a_fault_of_a_picture_that_validates_and_is_painted_is_told_once(tmp_path):
    samples, row = write_own(tmp_path, [BOTH] * 2 + [BOTH + 1])
    with pytest.raises(UserError) as caught:
        check_samples((samples[:2], samples[2:], samples[2:]), row, tmp_path / "checked.json")
    assert str(caught.value).count("2.png") == 1


def test_another_choice_of_validation_pictures_is_another_data_set(tmp_path):
    """A run that resumed with it would choose by pictures that it was trained on."""
    masks = [BOTH] * 5 + [np.full_like(BOTH, VOID)]
    write_own(tmp_path, masks)
    memory, found = tmp_path / "checked.json", []
    for listed in ("1", "2\n4", "4\n2.jpg\n"):
        (tmp_path / "validation.txt").write_text(listed)
        found.append(check_samples(*parts_of("folder", tmp_path), memory))
    assert found[0] != found[1] == found[2]
    (tmp_path / "validation.txt").write_text("5")  # where nothing is valid
    with pytest.raises(UserError, match="validation labels hold nothing"):
        check_samples(*parts_of("folder", tmp_path), memory)


def test_a_mask_as_stored_of_a_picture_that_exif_turns_is_refused_with_the_cure(tmp_path):
    samples, row = write_own(tmp_path, [np.tri(16, 24, dtype=np.uint8)] * 3)
    path = samples[1].picture
    Image.open(path).save(path, exif=rotated())
    with pytest.raises(UserError, match=r"1\.png: is 24x16 pixels; .* EXIF data turn: save"):
        check_samples((samples[:2], samples[2:], []), row, tmp_path / "checked.json")


def test_names_out_of_old_archives_are_read_as_any_other(tmp_path):
    """That is, in Latin-1: Python holds the byte as a surrogate."""
    name = os.fsdecode("stra\xdfe".encode("latin-1"))
    write_own(tmp_path, [BOTH] * 3)
    for folder, suffix in (("pictures", "jpg"), ("masks", "png")):
        (tmp_path / folder / f"1.{suffix}").rename(tmp_path / folder / f"{name}.{suffix}")
    _, row, root = helper.prepare_data_set("folder", tmp_path)
    parts = (*row.split(row.find(root)[0], 0), [])
    memory = tmp_path / "checked.json"
    found = check_samples(parts, row, memory)
    assert any(name in path for path in found) and check_samples(parts, row, memory) == found
    write_json(tmp_path / "data.json", found)
    assert read_json(tmp_path / "data.json") == found

"""Class lists are read as people and tools write them; what does not fit is refused with a cure."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from roadseg.data.class_lists import read_class_list
from roadseg.data.datasets import DATASETS, read_classes, row_of
from roadseg.data.layouts import Sample
from roadseg.data.pictures import VOID, read_label
from roadseg.errors import UserError

BLACK, RED, GREEN = (0, 0, 0), (255, 0, 0), (0, 255, 0)
CVAT = "# label:color_rgb:parts:actions\nno road:0,0,0::\nroad:255,0,0:wheel:run"
ROBOFLOW = "Pixel Value, Class\n0, background\n1, lane 2"
LABELME = "__ignore__\n_background_\nroad"


@pytest.mark.parametrize(
    ("name", "text", "meaning"),  # of each value in the masks, in the order of the lines
    [
        ("classes.txt", "a\nb b", {0: "a", 1: "b b", 255: VOID}),
        ("classes.txt", "# mine\na 0\nroad 255", {0: "a", 255: "road"}),
        ("classes.txt", "b 7\na\t3", {7: "b", 3: "a", 255: VOID}),
        ("classes.txt", "lane 1 4\nlane 2 5", {4: "lane 1", 5: "lane 2", 255: VOID}),
        ("classes.txt", "a 1\nb 2\na 3\nIgnore 0", {1: "a", 2: "b", 3: "a", 0: VOID, 255: VOID}),
        ("classes.txt", "a\nvoid\nb", {0: "a", 1: VOID, 2: "b", 255: VOID}),
        ("classes.txt", "a 255 0 0\nvoid 0 0 0\nb 0 255 0", {RED: "a", BLACK: VOID, GREEN: "b"}),
        ("labelmap.txt", CVAT, {BLACK: "no road", RED: "road"}),
        ("_classes.csv", ROBOFLOW, {0: "background", 1: "lane 2", 255: VOID}),
        ("labels.txt", LABELME, {0: "_background_", 1: "road", 255: VOID}),
        ("class_names.txt", LABELME[11:], {0: "_background_", 1: "road", 255: VOID}),
    ],
)
def test_a_class_list_is_read_as_people_and_tools_write_it(name, text, meaning, tmp_path):
    for file in (name, "classes.txt"):  # under the tool's name, or copied
        (tmp_path / file).write_text(text)
        found = read_class_list(tmp_path)
        classes = [name for name in dict.fromkeys(meaning.values()) if name != VOID]
        assert found.path.name == file and found.classes == classes
        named = {
            value: VOID if i == VOID else classes[i] for value, i in found.label_values.items()
        }
        assert named == meaning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ground\nroad 255", "'ground' and 'road 255' have different forms; expected"),
        ("ground 0\nroad 1 2 3", "'ground 0' and 'road 1 2 3' have different forms; expected"),
        ("ground 0\nroad 256", "'road 256' has a number above 255; expected"),
        ("ground 3\nroad 3", "'ground 3' and 'road 3' cannot be told apart; expected"),
        ("lane 1\nlane 2", "1 name; expected .*what ends a line is the value in the masks"),
        ("void\nroad", "1 name; expected"),
        ("# nothing", "0 names; expected"),
        *(
            (f"ground\n{line}", f"'{line}' looks like a name and a number; .*expected")
            for line in ("1 road", "road:1", "road=", "road,", "road -1", "1")
        ),
    ],
)
def test_a_class_list_that_cannot_be_meant_is_refused(text, message, tmp_path):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt: {message}"):
        read_class_list(tmp_path)


@pytest.mark.parametrize(
    ("listed", "mask", "message"),
    [
        ("a\nb", [0, 1, 12], "0, 1, 12; no class has 12; .* the line NAME 12, beside a 0, b 1 "),
        ("a 0\nb 9", [9, 7, 8], "7, 8, 9; no class has 7, 8; .* NAME 7, NAME 8, beside a 0, b 9 "),
        ("a\nb", [BLACK, RED], "0 0 0, 255 0 0; .* lines NAME 0 0 0, NAME 255 0 0, in place of"),
        ("a 0 0 0\nb 0 255 0", [BLACK, RED], "no class has 255 0 0; .*, beside a 0 0 0, b 0 255 0"),
        (
            "a 0 0 0\nb 0 255 0",
            [0, 1],
            "no class has 1 1 1; .* the line NAME 1 1 1, beside a 0 0 0",
        ),
        ("a 1\nb 0", list(range(30)), "6, 7 and 22 more; no class has 2, .* 8, 9 and 20 more;"),
    ],
)
def test_values_in_no_line_are_listed_with_the_line_that_makes_them_fit(
    listed, mask, message, tmp_path
):
    with pytest.raises(UserError, match=rf"s\.png: holds .*{message}"):
        read_mask(tmp_path, listed, Image.fromarray(np.array([mask, mask], np.uint8)))


def read_mask(folder, listed, mask):
    """Return what a mask holds, by the text of a class list, and the row of DATASETS."""
    (folder / "classes.txt").write_text(listed)
    mask.save(folder / "s.png")
    row = dataclasses.replace(DATASETS["folder"], **read_classes(folder))
    return read_label(Sample("s", folder / "s.jpg", folder / "s.png", "train"), row), row


def test_a_palette_is_read_as_its_colours_where_the_list_gives_colours(tmp_path):
    """And as its indices elsewhere, as do masks of black and white."""
    mask = Image.fromarray(np.array([[5, 9, 5]], np.uint8))
    mask.putpalette([*[0] * 15, *RED, *[0] * 9, *GREEN])
    for listed in ("a 0 255 0\nb 255 0 0", "a 9\nb 5"):
        label, _ = read_mask(tmp_path, listed, mask)
        np.testing.assert_array_equal(label, [[1, 0, 1]])
    white = Image.fromarray(np.array([[0, 255]], np.uint8))
    for listed in ("a 0\nb 255", "a 0 0 0\nb 255 255 255"):
        np.testing.assert_array_equal(read_mask(tmp_path, listed, white)[0], [[0, 1]])


def test_given_colours_are_painted_and_others_as_before(tmp_path):
    """Of two classes the second alone; a run knows them, and an older run's classes get hues."""
    (tmp_path / "classes.txt").write_text("a 0 0 0\nb 255 0 0\nb 0 255 0\nvoid 9 9 9")
    assert read_classes(tmp_path)["paint"] == {1: RED}
    settings = {"dataset": "folder", "classes": ["a", "b"]}
    assert row_of(settings | {"paint": {"b": [255, 0, 0]}}).legend == {"b": RED}
    assert row_of(settings).legend == {"b": DATASETS["kitti"].paint[1]}
    assert len(row_of(settings | {"classes": ["a", "b", "c"]}).legend) == 3
    many = settings | {"classes": ["_background_", "b", "Other"]}
    assert list(row_of(many).legend) == ["b"]
    assert row_of(many | {"paint": {"Other": RED, "b": RED}}).legend == {"b": RED}


def test_of_two_classes_the_background_is_the_first(tmp_path):
    """Whatever its line; of three the lines say the order."""
    (tmp_path / "labelmap.txt").write_text("road:255,0,0::\nbackground:0,0,0::\n")
    row = dataclasses.replace(DATASETS["folder"], **read_classes(tmp_path))
    assert row.classes == ("background", "road") and row.legend == {"road": RED}
    assert row.label_values == {(0, 0, 0): 0, RED: 1}
    (tmp_path / "labelmap.txt").write_text("road\nother\n")
    assert read_classes(tmp_path)["label_values"] == {0: 1, 1: 0, VOID: VOID}
    (tmp_path / "labelmap.txt").write_text("road\nother\ncar\n")
    assert read_classes(tmp_path)["classes"] == ("road", "other", "car")

"""Several data sets are joined: shared classes, own shapes, own splits, a score for each."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

import helper
from roadseg.data import datasets, download, finding
from roadseg.data.layouts import Sample
from roadseg.data.pictures import VOID, read_label
from roadseg.errors import UserError
from tests.fixtures import draw_camvid
from tests.small import error_line, rotated, run_main

NAMES = "kitti+camvid+folder:own"


@pytest.fixture(scope="module")
def three(drawn, tmp_path_factory):
    """A data folder with KITTI's layout, CamVid's, and a folder of somebody's own."""
    folder = draw_camvid(tmp_path_factory.mktemp("three"))
    (folder / "data_road").symlink_to(drawn / "data_road")
    for name in ("pictures", "masks"):
        (folder / "own" / name).mkdir(parents=True)
    (folder / "own" / "classes.txt").write_text("sky 40\nroad 7\nvoid 99\nmud 2\n")
    for index in range(6):
        rows = np.full((96, 32), 2, np.uint8)
        rows[:10], rows[60:], rows[90:] = 40, 7, 99
        Image.fromarray(rows).save(folder / "own" / "masks" / f"{index}.png")
        picture = np.full((96, 32, 3), index, np.uint8)
        Image.fromarray(picture).save(folder / "own" / "pictures" / f"{index}.png")
    return folder


def joined(three, image_shape=(64, 96)):
    row, root = finding.locate(NAMES, three)
    labelled, testing = row.find(root)
    training, validation = row.split(labelled, 0)
    return finding.with_shapes(row, training, image_shape), training, validation, testing


def test_the_shared_classes_and_other(three):
    row, training, *_ = joined(three)
    assert row.classes == ("other", "road") and not row.mirrored
    assert row.batch_size == 4 and not row.recipe  # though CamVid's row has its own
    own = next(sample for sample in training if sample.name == "own/0")
    label = read_label(own, row)
    assert [label[row_, 0] for row_ in (5, 30, 70, 95)] == [0, 0, 1, VOID]
    camvid = next(sample for sample in training if sample.data_set == "camvid")
    numbers = np.asarray(Image.open(camvid.label))
    expected = np.where(numbers == 11, VOID, numbers == 3)  # of CamVid, 3 is road and 11 void
    np.testing.assert_array_equal(read_label(camvid, row), expected)


def test_each_is_split_as_by_itself(three):
    _, training, validation, testing = joined(three)
    for name in ("kitti", "camvid", "folder:own"):
        alone, root = finding.locate(name, three)
        split = alone.split(alone.find(root)[0], 0)
        for part, expected in zip((training, validation), split, strict=True):
            found = [sample for sample in part if sample.data_set == name.split(":")[-1]]
            assert [s.picture for s in found] == [s.picture for s in expected]
    assert [sample.name.split("/")[0] for sample in testing] == ["kitti"] * 3


def test_pictures_of_a_batch_have_one_shape_each_in_its_own_proportions(three):
    row, training, *_ = joined(three)
    # 64x96 is an area of 6144: KITTI's 96x320, CamVid's 48x64 and the folder's 96x32 pictures.
    assert row.shapes == {"kitti": (32, 128), "camvid": (64, 96), "own": (128, 32)}
    get_batches_fn = helper.gen_batch_function(training, row, (64, 96), seed=3)
    batches = list(get_batches_fn(2))
    assert len(batches) == get_batches_fn.count(2) == 12 // 2 + 4 // 2 + 5 // 2 + 1
    names = [get_batches_fn.names(2, 0, number) for number in range(len(batches))]
    assert sorted(itertools.chain(*names)) == sorted(sample.name for sample in training)
    for (pictures, labels), batch in zip(batches, names, strict=True):
        assert len({name.split("/")[0] for name in batch}) == 1
        assert pictures.shape[1:3] == labels.shape[1:] == row.shapes[batch[0].split("/")[0]]
    order = [batch[0].split("/")[0] for batch in names]
    assert order != sorted(order, key=order.index)  # mixed, not one set after the other
    rest = list(get_batches_fn(2, 0, first=3))
    for (seen, _), (expected, _) in zip(rest, batches[3:], strict=True):
        np.testing.assert_array_equal(seen, expected)


@pytest.mark.slow
def test_a_run_on_several_is_scored_for_each_and_resumes(three, narrow_vgg, tmp_path, capsys):
    words = ("--dataset", "kitti", "folder:own", "--data-dir", three)
    words += ("--runs-dir", tmp_path, "--run", "all", "--image-shape", 32, 64, "--vgg", narrow_vgg)
    assert run_main(*words, "--epochs", 1) == 0
    result = json.loads((tmp_path / "all" / "metrics.json").read_text())
    assert result["dataset"] == "kitti+folder:own"
    assert list(result["perspective"]) == ["all", "kitti", "own"]
    painted = {path.name for path in (tmp_path / "all" / "pictures").iterdir()}
    assert painted == {"kitti"}  # the folder has no testing pictures
    assert run_main("--runs-dir", tmp_path, "--run", "all", "--epochs", 2) == 0
    assert len((tmp_path / "all" / "log.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("kitti", "kitti"), "names kitti twice"),
        (("camvid", "camvid-drive"), "camvid again; each folder once"),
        (("camvid", "folder:nowhere"), "nowhere: not found"),
        (("folder:own", "folder:strange/own"), "are both named own; rename one"),
        (("kitti", "folder:strange"), "share no class"),
    ],
)
def test_what_cannot_be_joined_is_said(names, said, three, tmp_path, capsys):
    strange = three / "strange"
    strange.mkdir(exist_ok=True)
    (strange / "classes.txt").write_text("cat\ndog\n")
    words = ("--dataset", *names, "--data-dir", three, "--runs-dir", tmp_path)
    assert run_main(*words) == 2
    assert said in error_line(capsys)


def test_nothing_is_downloaded_before_all_that_is_joined_is_known_to_be_there(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(download, "download", lambda *_: pytest.fail("downloads"))
    for second, said in (("folder:typo", "typo: not found"), ("kitti", "names kitti twice")):
        assert run_main("--dataset", "kitti", second, "--data-dir", tmp_path) == 2
        assert said in error_line(capsys)


@pytest.mark.parametrize(
    "names",
    [
        *(("auto", "kitti"), ("kitty",), ("kitti:a",), ("kitti+camvid",)),
        *(("folder:.",), ("folder:own/..",)),  # names of folders are names of what is painted
    ],
)
def test_names_of_no_data_set_are_refused(names, capsys):
    with pytest.raises(SystemExit) as end:
        run_main("--dataset", *names)
    assert end.value.code == 2


def test_regrouping_by_hand():
    row = finding.regroup(datasets.DATASETS["camvid"], ("other", "road", "car"))
    values = row.label_values
    assert (values[3], values[8], values[0], values[11], values[VOID]) == (1, 2, 0, VOID, VOID)


def test_sharing_more_than_two_classes_gives_the_finer_skip():
    rows = {name: (datasets.DATASETS[name], None) for name in ("camvid", "cityscapes")}
    many = finding.join(rows)
    assert len(many.classes) > 2 and many.recipe == {"skips": datasets.FCN_4S}


def test_other_comes_first_wherever_it_stands():
    """Of two classes the second is scored and painted."""
    for names in (("road", "other"), ("other", "road")):
        both = {"first": names, "second": names[::-1]}
        assert finding.shared_classes(both) == ["other", "road"]
    assert finding.shared_classes({"a": ("ground", "lawn"), "b": ("lawn", "ground")}) == [
        "ground",
        "lawn",
    ]


def test_a_picture_that_exif_turns_has_its_upright_proportions(tmp_path):
    path = tmp_path / "0.jpg"
    Image.new("RGB", (64, 32)).save(path, exif=rotated())
    sample = Sample("own/0", path, None, "train", data_set="own")
    assert finding.with_shapes(datasets.CAMVID, [sample], (64, 64)).shapes == {"own": (96, 32)}


def test_sharing_no_class_is_an_error():
    rows = {name: (datasets.DATASETS[name], None) for name in ("kitti", "cityscapes")}
    assert finding.join(rows).classes == ("other", "road")
    strange = finding.regroup(datasets.DATASETS["camvid"], ("sky", "car"))
    with pytest.raises(UserError, match="share no class"):
        finding.join({"kitti": rows["kitti"], "strange": (strange, None)})

"""Every data set is found, read and trained on; what is wrong with one is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import helper
import main
from roadseg.data import class_weights, download
from roadseg.data.datasets import DATASETS, FCN_4S, FCN_8S
from roadseg.data.pictures import VOID, read_image, read_label, read_numbers
from roadseg.drawn import scenes
from roadseg.errors import UserError
from roadseg.files import write_json
from tests.small import error_line, run_camvid, run_evaluate, run_main, run_predict


def test_a_run_with_eleven_classes(trained_on_camvid):
    """CamVid: number labels, the official split, a score for each class, painted pictures."""
    result = json.loads((trained_on_camvid / "metrics.json").read_text())
    assert list(result["classes"]) == list(DATASETS["camvid"].classes)
    assert result["pictures"] == 2 and "perspective" not in result
    painted = sorted(path.name for path in (trained_on_camvid / "pictures").iterdir())
    assert painted == ["val_0.png", "val_1.png"]


@pytest.mark.slow
def test_a_run_has_the_recipe_of_its_data_set_and_weights_of_classes(
    trained_on_camvid, narrow_vgg, tmp_path, monkeypatch, capsys
):
    """It keeps both; a trial's recipe comes before the row's, and is another one."""
    given, optimize = [], main.optimize

    def recorded(*arguments, class_weights):
        given.append(class_weights)
        return optimize(*arguments, class_weights=class_weights)

    monkeypatch.setattr(main, "optimize", recorded)
    data = tmp_path / "data"
    shutil.copytree(trained_on_camvid.parents[1], data, ignore=lambda *_: ["runs"])
    words = ("--vgg", narrow_vgg, "--class-weights", "sqrt")
    assert run_camvid(data, *words) == 0
    run = data / "runs" / "city"
    before = json.loads((run / "settings.json").read_text())
    recipe = before["recipe"]
    assert recipe["skips"] == ["pool4", "pool3", "pool2"] and before["class_weights"] == "sqrt"
    assert (recipe["skip_dropout"], recipe["pool5_dropout"], recipe["head_dropout"]) == (0, 0, 0.2)
    assert before["batch_size"] == 2 and before["learning_rate"] == pytest.approx(1.414e-4, 1e-3)
    assert list(before["weights_of_classes"]) == list(DATASETS["camvid"].classes)
    monkeypatch.setattr(class_weights, "WEIGHT_KINDS", {})  # of another version
    assert run_camvid(data, "--epochs", 2) == 0
    weights = [before["weights_of_classes"][name] for name in DATASETS["camvid"].classes]
    assert given == [weights] * 2 and len(set(weights)) > 2
    after = json.loads((run / "settings.json").read_text())
    kept = ("recipe", "class_weights", "weights_of_classes")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert main.load_run(run)[0].model.get_layer("score_pool2").weights
    capsys.readouterr()
    assert run_camvid(data, "--epochs", 3, changes={"skips": FCN_8S}) == 2
    expected = "has recipe's skips ['pool4', 'pool3', 'pool2'], not ['pool4', 'pool3']"
    assert expected in error_line(capsys)


def test_skips_of_an_earlier_run_are_read_beside_its_recipe(trained_on_camvid, tmp_path):
    """One that does not tell them is an FCN-8s."""
    run = tmp_path / "run"
    shutil.copytree(trained_on_camvid, run)
    settings = json.loads((run / "settings.json").read_text())
    unsaid = settings | {"recipe": settings["recipe"] | {"skips": None}}
    write_json(run / "settings.json", unsaid | {"skips": settings["recipe"]["skips"]})
    assert main.load_run(run)[0].model.get_layer("score_pool2").weights
    write_json(run / "settings.json", unsaid)
    with pytest.raises(UserError, match="of another network"):
        main.load_run(run)


@pytest.fixture
def own(tmp_path, random):
    """A folder of somebody's own pictures with three classes; the second is the bright part."""
    for folder in ("pictures", "masks", "testing"):
        (tmp_path / folder).mkdir()
    for index in range(10):
        mask = random.integers(0, 3, 6, dtype=np.uint8).repeat(16)[:, None].repeat(64, axis=1)
        picture = np.array([40, 220, 120], np.uint8)[mask][..., None].repeat(3, axis=-1)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"a {index}.jpg")
        Image.fromarray(mask).save(tmp_path / "masks" / f"a {index}.png")
    Image.fromarray(picture).save(tmp_path / "testing" / "new.png")
    (tmp_path / "classes.txt").write_text("ground\nline\n\nräume\n", encoding="utf-8")
    return tmp_path


def run_data_set(name, folder, narrow_vgg):
    """Train one epoch on a data set, into folder/runs/own."""
    folders = ("--data-dir", folder, "--runs-dir", folder / "runs", "--run", "own")
    sizes = ("--image-shape", 48, 32, "--epochs", 1, "--vgg", narrow_vgg)
    return run_main("--dataset", name, *folders, *sizes, "--precision", "float32")


def test_a_run_on_somebodys_own_pictures(own, narrow_vgg, capsys):
    """Trained, scored, painted, reported, predicted with and scored again, under their names."""
    assert run_data_set("folder", own, narrow_vgg) == 0
    run = own / "runs" / "own"
    result = json.loads((run / "metrics.json").read_text())
    assert list(result["classes"]) == ["ground", "line", "räume"] and result["pictures"] == 2
    assert [path.name for path in (run / "pictures").iterdir()] == ["new.png"]
    page = (run / "report.html").read_text()
    assert "räume" in page and "FCN-4s on VGG16" in page
    assert run_predict(run, own / "testing", "--save", "mask", "probability") == 0
    assert read_numbers(run / "predictions" / "new_mask.png").max() <= 2
    assert run_evaluate(run) == 0
    assert json.loads((run / "metrics.json").read_text()) == result
    (own / "classes.txt").write_text("ground\nroad\nräume\n", encoding="utf-8")
    capsys.readouterr()
    assert run_data_set("folder", own, narrow_vgg) == 2
    assert "classes" in error_line(capsys)


VOC = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), VOID: (224, 224, 192)}  # of both tools


def as_labelme(mask, folder):
    """Indices with a palette, and labels.txt, whose first line has the number -1, stored as 255."""
    (folder / "labels.txt").write_text("__ignore__\n_background_\nline\nräume\n", "utf-8")
    picture = Image.fromarray(mask)
    picture.putpalette([part for index in range(256) for part in VOC.get(index, VOC[0])])
    return picture


def as_cvat(mask, folder):
    """RGB colours and labelmap.txt."""
    names = {0: "background", 1: "line", 2: "räume", VOID: "ignore"}
    lines = [f"{names[index]}:{','.join(map(str, VOC[index]))}::\n" for index in VOC]
    text = "".join(["# label:color_rgb:parts:actions\n", *lines])
    (folder / "labelmap.txt").write_text(text, "utf-8")
    picture = Image.new("RGB", mask.shape[::-1])
    for index, colour in VOC.items():
        picture.paste(colour, mask=Image.fromarray(mask == index))
    return picture


def export_masks(own, export):
    """Write the masks of a folder, and its class list, as a tool does. Returns what they hold."""
    (own / "classes.txt").unlink()
    masks = {}
    for path in (own / "masks").iterdir():
        masks[path.stem] = np.asarray(Image.open(path)).copy()
        masks[path.stem][:3] = VOID
        export(masks[path.stem], own).save(path)
    return masks


def train_on_exported(own, export, narrow_vgg):
    """Train on a folder as a tool writes it, which is read as it was. Returns the run."""
    masks = export_masks(own, export)
    for ours, theirs in (("pictures", "JPEGImages"), ("masks", "SegmentationClass")):
        (own / ours).rename(own / theirs)
    _, row, root = helper.prepare_data_set("folder", own)
    for sample in row.find(root)[0]:
        np.testing.assert_array_equal(read_label(sample, row), masks[sample.name])
    assert run_data_set("folder", own, narrow_vgg) == 0
    return own / "runs" / "own"


def test_a_run_on_three_classes_of_labelme(own, narrow_vgg):
    run = train_on_exported(own, as_labelme, narrow_vgg)
    result = json.loads((run / "metrics.json").read_text())
    assert list(result["classes"]) == ["_background_", "line", "räume"]


def test_a_run_on_three_classes_of_cvat_keeps_their_colours(own, narrow_vgg, capsys):
    """In paintings and the report, without the data; with other colours it does not go on."""
    run = train_on_exported(own, as_cvat, narrow_vgg)
    before, colours = (run / "metrics.json").read_bytes(), list(VOC.values())[:3]
    assert run_evaluate(run) == 0 and (run / "metrics.json").read_bytes() == before
    assert all(f"rgb{colour}" in (run / "report.html").read_text() for colour in colours[1:])
    listed = (own / "labelmap.txt").read_text("utf-8")
    (own / "labelmap.txt").unlink()
    assert run_predict(run, own / "testing", "--save", "mask", "overlay") == 0
    mask, overlay = (
        read_image(run / f"predictions/new_{kind}.png") for kind in ("mask", "overlay")
    )
    full, picture = np.array(colours)[mask[..., 0]], read_image(own / "testing" / "new.png")
    painted = np.where(mask > 0, 0.6 * picture + 0.4 * full, picture)
    contour = np.where(mask > 0, full, picture)
    assert np.minimum(abs(overlay - painted), abs(overlay - contour)).max() <= 1
    (own / "labelmap.txt").write_text(listed + "line:9,9,9::", "utf-8")
    capsys.readouterr()
    assert run_data_set("folder", own, narrow_vgg) == 2
    assert "(labelmap.txt)" in error_line(capsys)


def test_own_pictures_validate_as_listed_or_the_last_of_them(own):
    row = DATASETS["folder"]
    parts = row.split(row.find(own)[0], 0)
    assert [sample.name for sample in parts[1]] == ["a 8", "a 9"]
    (own / "validation.txt").write_text("a 3.jpg\na 0\n")
    parts = row.split(row.find(own)[0], 0)
    assert [sample.name for sample in parts[1]] == ["a 0", "a 3"] and len(parts[0]) == 8
    shutil.rmtree(own / "testing")
    assert row.find(own)[1] == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda own: (own / "classes.txt").unlink(), "holds no class list; expected classes.txt"),
        (lambda own: (own / "classes.txt").write_text("road"), "1 name; expected 2"),
        (lambda own: (own / "classes.txt").write_text("a\na\nb"), "all different"),
        (lambda own: (own / "classes.txt").write_bytes(b"\xff\xfe\n1"), "is not UTF-8"),
        (
            lambda own: (own / "classes.txt").write_text("a\nb"),
            "holds 0, 1, 2; no class has 2; classes.txt needs the line NAME 2, beside a 0, b 1",
        ),
        (lambda own: (own / "masks" / "a 4.png").unlink(), "this label of a 4.jpg is missing"),
        (lambda own: shutil.rmtree(own / "pictures"), "no pictures found"),
        (lambda own: (own / "validation.txt").write_text("nobody"), "names nobody, which is not"),
        (
            lambda own: Image.new("RGB", (64, 96), "red").save(own / "masks/a 1.png"),
            "NAME 255 0 0, in place of",
        ),
    ],
)
def test_wrong_own_pictures_give_a_line_that_names_the_file(
    spoil, message, own, narrow_vgg, capsys
):
    spoil(own)
    assert run_data_set("folder", own, narrow_vgg) == 2
    assert message in capsys.readouterr().err
    assert not (own / "runs" / "own").exists()


def write_cityscapes(folder, random):
    """Three pictures to train on, one to validate and one to test, in the official layout."""
    for part, count in {"train": 3, "val": 1, "test": 1}.items():
        paths = [folder / kind / part / "bonn" for kind in ("leftImg8bit", "gtFine")]
        for path in paths:
            path.mkdir(parents=True)
        for index in range(count):
            name = f"bonn_{index:06d}_000019"
            label = random.integers(0, 34, (32, 64), dtype=np.uint8)
            label[0, 0] = 255
            picture = random.integers(0, 256, (32, 64, 3), dtype=np.uint8)
            Image.fromarray(picture).save(paths[0] / f"{name}_leftImg8bit.png")
            Image.fromarray(label).save(paths[1] / f"{name}_gtFine_labelIds.png")
    return folder


def test_cityscapes_in_its_official_layout(narrow_vgg, tmp_path, random):
    """Its numbers become its 19 classes; what it does not count is void."""
    row = DATASETS["cityscapes"]
    (sample, *_), testing = row.find(write_cityscapes(tmp_path / "cityscapes", random))
    found, numbers = read_label(sample, row), np.asarray(Image.open(sample.label))
    for number, name in {7: "road", 8: "sidewalk", 23: "sky", 26: "car", 33: "bicycle"}.items():
        assert (found[numbers == number] == row.classes.index(name)).all()
    assert (found[np.isin(numbers, [0, 6, 9, 18, 29, 30, 255])] == VOID).all()
    assert len(row.classes) == 19 and len(np.unique(found)) == 20 and len(testing) == 1
    assert run_data_set("cityscapes", tmp_path, narrow_vgg) == 0
    assert row.recipe == {"skips": FCN_4S}


def spoil_camvid_by_another_number(folder):
    path = folder / "trainannot" / "train_1.png"
    label = np.asarray(Image.open(path)).copy()
    label[3, 4] = 12
    Image.fromarray(label).save(path)
    return "train_1.png"


def spoil_camvid_by_removing_a_label(folder):
    (folder / "valannot" / "val_0.png").unlink()
    return "val_0.png"


def spoil_camvid_by_removing_it(folder):
    shutil.rmtree(folder)
    return "trainannot"


@pytest.mark.parametrize(
    "spoil",
    [spoil_camvid_by_another_number, spoil_camvid_by_removing_a_label, spoil_camvid_by_removing_it],
)
def test_wrong_camvid_gives_one_line_that_names_the_file(spoil, camvid, capsys):
    name = spoil(camvid / "camvid")
    assert run_camvid(camvid) == 2
    assert name in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("classes", "subject"),
    [(("Ground", "ROAD", "Sky"), 1), (("road", "ground"), 1), (("mud", "ice", "sky"), 2)],
)
def test_classes_are_read_without_the_mark_of_notepad_and_found_by_any_letter_case(
    classes, subject, tmp_path
):
    """Written is the probability of the road; of two classes, of the one that is painted."""
    (tmp_path / "classes.txt").write_text("\n".join(classes), encoding="utf-8-sig")
    _, row, _ = helper.prepare_data_set("folder", tmp_path)
    assert row.classes == classes and row.subject == subject


@pytest.mark.parametrize("name", ["kitti", "synthetic"])
def test_a_data_folder_one_level_too_deep_is_named_and_nothing_is_brought(
    name, tmp_path, monkeypatch
):
    """No download and no drawing into the data set itself."""
    data_dir = tmp_path / DATASETS[name].folder
    (data_dir / "training").mkdir(parents=True)
    for place, function in ((download, "download"), (scenes, "draw_data_set")):
        monkeypatch.setattr(place, function, lambda *_: pytest.fail("brought"))
    with pytest.raises(UserError, match=f"--data-dir {data_dir}: is the data set itself"):
        helper.prepare_data_set(name, data_dir)
    monkeypatch.chdir(data_dir)
    with pytest.raises(UserError, match="is the data set itself"):
        helper.prepare_data_set(name, Path("."))

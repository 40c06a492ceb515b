"""The report stands alone and works in a browser."""

import html.parser
import json
import re
import shutil
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest

import report
from roadseg.data.datasets import DATASETS
from roadseg.page import report as page_of
from roadseg.scoring.metrics import class_scores
from tests.small import HERE, WITHOUT_KERAS, error_line


class PageReader(html.parser.HTMLParser):
    """Collects what a page refers to, and sees that its tags are balanced."""

    EMPTY = ("meta", "link", "img", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.sources, self.texts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes["href"]] if tag == "a" else []
        self.sources += [attributes["src"]] if "src" in attributes else []
        assert tag != "img" or attributes["alt"]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_the_report_stands_alone_and_links_to_the_pictures(trained):
    text = (trained / "report.html").read_text()
    page = PageReader(text)
    assert len(text) < 5_000_000 and "http" not in re.sub(r"base64,[\w+/=]*", "", text)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert len(page.sources) == 3 * 3 + 3 * 2  # testing layers; the worst and these from above
    assert page.links and all((trained / link).is_file() for link in page.links)
    assert any("Agreement with the labels" in text for text in page.texts)
    assert any("FCN-8s on VGG16" in text for text in page.texts)
    assert any("road missed" in text for text in page.texts)  # what red means in the worst
    scores = json.loads((trained / "metrics.json").read_text())
    for view in ("perspective", "birds_eye"):
        assert f"{scores[view]['umm']['MaxF']:.2f}" in page.texts
    best = scores["perspective"]["all"]
    assert "{REC:.5g},{PRE:.5g} ".format(**best) in text  # where the curve has its dot


def test_a_run_that_goes_on_has_a_report_too(trained, tmp_path, capsys):
    """Before its first epoch, and without pictures; names can't break the page."""
    folder = tmp_path / "<i>Straße & Co"
    folder.mkdir()
    settings = json.loads((trained / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings))
    assert report.main([str(folder)]) == 0
    shutil.copy(trained / "log.csv", folder)
    shutil.copytree(trained / "report", folder / "report")  # of fewer epochs, its scores are gone
    assert report.main([str(folder)]) == 0
    page = PageReader((folder / "report.html").read_text())
    assert any("<i>Straße & Co" in text for text in page.texts)
    assert any("not finished" in text for text in page.texts)
    assert report.main([str(tmp_path / "nothing")]) == 2
    assert "no run found" in error_line(capsys)


def test_a_report_of_more_classes_has_a_row_and_a_colour_for_each(trained_on_camvid):
    text = (trained_on_camvid / "report.html").read_text()
    page = PageReader(text)
    assert all(page.texts.count(name) >= 2 for name in DATASETS["camvid"].classes)
    for name, colour in DATASETS["camvid"].legend.items():
        assert f'style="background:rgb{colour}"></span>{name}' in text
    assert any("FCN-4s on VGG16" in text for text in page.texts)
    assert any("another class" in text for text in page.texts)  # what red means in the worst
    assert "Scores (validation pictures: 2)" in page.texts


def test_the_report_of_a_run_of_more_classes_that_goes_on_shows_its_best_mean_iou(
    trained_on_camvid, tmp_path
):
    shutil.copy(trained_on_camvid / "settings.json", tmp_path)
    header = "epoch,seconds,loss,val_loss,val_iou,val_max_f,learning_rate,returns"
    rows = ("1,9,0.5,0.6,41.5,,0.1,0", "2,9,0.4,0.5,52.25,,0.1,0", "3,9,0.4,0.5,50,,0.1,0")
    (tmp_path / "log.csv").write_text("\n".join([header, *rows]) + "\n")
    texts = PageReader(page_of.write(tmp_path).read_text()).texts
    assert "52.25" in texts[texts.index("best Mean IoU so far") :][:3]


def test_the_report_says_what_is_taken_for_what(tmp_path):
    names = ["building", "pole", "sky", "kerb", "bus"]
    settings = {"dataset": "folder", "labels": "", "classes": names}
    confusion = np.zeros((5, 5), int)
    confusion[:4, :3] = [[80, 0, 20], [31, 60, 9], [0, 1, 499], [1, 0, 0]]
    for name, content in {"settings": settings, "metrics": class_scores(confusion, names)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    texts = " ".join(filter(None, PageReader(page_of.write(tmp_path).read_text()).texts))
    assert "building 80 20 pole 31 60 9 sky 0 100 kerb 100 bus no pixels" in texts
    assert "100 % of kerb is taken for building 31 % of pole is taken for building 20 % of" in texts
    assert "pole 59.41 98.36 60.00 14.27" in texts and "of sky" not in texts
    assert "kerb 0.00 – 0.00 0.14" in texts  # never the answer, so without precision
    assert "bus no pixels no pixels no pixels 0.00" in texts


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (
            "trained",
            [
                ["loss, nats per pixel", "epoch"],
                ["F1, %", "epoch"],
                ["precision, %", "recall, %"],
                ["road among these pixels, %", "predicted probability of road, %"],
            ],
        ),
        ("trained_on_camvid", [["loss, nats per pixel", "epoch"], ["Mean IoU, %", "epoch"]]),
    ],
)
def test_every_axis_has_a_name_with_its_unit(run, expected, request):
    text = (request.getfixturevalue(run) / "report.html").read_text()
    charts = re.findall(r"<svg viewBox.*?</svg></svg>", text, re.DOTALL)
    assert [re.findall(r"<text.*>([A-Za-z].*)</text>", chart) for chart in charts] == expected


def test_what_this_version_does_not_know_is_one_line(tmp_path, capsys):
    header = "epoch,seconds,loss,val_loss,val_iou\n1,9,0.5,0.6,41.5\n"
    for settings, log, said in (
        ({"dataset": "kitty"}, "", "another version of this program, or damaged ('kitty')"),
        ({"dataset": "folder"}, "", "another version of this program, or damaged ('classes')"),
        ({"dataset": 5}, "", "another version of this program, or damaged ("),
        ({"dataset": "kitti", "recipe": []}, "", "another version of this program, or damaged ("),
        ({"dataset": "kitti", "image_shapes": 5}, "", "or damaged ("),
        ({"dataset": "kitti"}, header, "log.csv: damaged (no column learning_rate)"),
    ):
        (tmp_path / "settings.json").write_text(json.dumps(settings | {"labels": ""}))
        (tmp_path / "log.csv").write_text(log)
        assert report.main([str(tmp_path)]) == 2
        assert said in error_line(capsys)


def test_the_report_names_every_shape_in_training(tmp_path):
    settings = {"dataset": "kitti+camvid", "labels": "", "classes": ["other", "road"]}
    settings |= {"image_shape": [64, 96], "image_shapes": [[32, 128], [64, 96]]}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert "pictures of 32x128 and 64x96 pixels" in page_of.write(tmp_path).read_text()


def test_a_missing_package_of_the_report_is_told_in_one_line(trained):
    code = f"{WITHOUT_KERAS}, report; sys.exit(report.main([{str(trained)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(
        "this needs imageio and scipy and h5py and jinja2: pip install -r req"
    )


def test_the_report_of_the_ready_network_lies_in_the_current_folder(ready, tmp_path):
    """Its own stays as it is, as the fixture sees."""
    assert report.main([str(ready)]) == 0
    assert (tmp_path / "report.html").is_file()


def test_the_report_warns_of_drawn_scenes(tmp_path):
    """Other words where training began with a network that knows real ones, and its licence."""
    settings = {"dataset": "synthetic", "labels": "drawn"}
    for start, has_seen in ({}, False), ({"vgg": "conv"}, False), ({"vgg": "a/best.h5"}, True):
        (tmp_path / "settings.json").write_text(json.dumps(settings | start))
        page = page_of.write(tmp_path).read_text()
        assert ("never seen a real street" in page) == (not has_seen)
        assert ("It started from a/best.h5, whose licence" in page) == has_seen
        assert ("no score here is of a real street" in page) == has_seen


def open_report(browser, width, folder):
    """Open a run's report without any error. Nothing sticks out. Returns what runs scripts."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get((folder / "report.html").as_uri())
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    return browser.execute_script


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1440])
def test_a_confusion_matrix_of_many_classes_scrolls_in_its_box(width, browser, trained_on_camvid):
    run = open_report(browser, width, trained_on_camvid)
    box = "document.querySelector('.confusion').parentElement"
    assert run(f"return {box}.scrollWidth > {box}.clientWidth") == (width == 360)


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1440])
def test_the_report_works_in_a_browser(width, browser, trained):
    """Every picture loads, slider and keys fade the layers."""
    from selenium.webdriver.common.keys import Keys

    run = open_report(browser, width, trained)
    assert run("return [...document.images].every(image => image.naturalWidth > 0)")

    def opacities():
        style = "return getComputedStyle(document.querySelector('.layers .{}')).opacity"
        return [float(run(style.format(layer))) for layer in ("probability", "mask")]

    body, fader = browser.find_element("tag name", "body"), browser.find_element("id", "fader")
    for key, expected in (("1", [0, 0]), ("2", [1, 0]), ("3", [0, 1])):
        body.send_keys(key)
        assert opacities() == expected
    fader.send_keys(Keys.HOME)
    assert opacities() == [0, 0]
    fader.send_keys(*[Keys.ARROW_RIGHT] * 10)
    assert opacities() == pytest.approx([0.5, 0])


def test_links_reach_pictures_of_every_name(trained, tmp_path):
    """With # and ? and %, which mean something else in an address; below folders, too."""
    shutil.copytree(trained, tmp_path / "run")
    pictures, shown = tmp_path / "run" / "pictures", tmp_path / "run" / "report" / "report.json"
    report_json = json.loads(shown.read_text())
    names = ["street #1", "what?", "100%20/a b"]
    for old, new in zip(report_json["testing"], names, strict=True):
        for path in (tmp_path / "run" / "report" / "testing").glob(f"{old}_*"):
            target = path.with_name(path.name.replace(old, new.split("/")[-1]))
            target = path.parent / f"{new.rpartition('/')[0]}" / target.name
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
        (pictures / new).parent.mkdir(exist_ok=True)
        (pictures / f"{old}.png").rename(pictures / f"{new}.png")
    shown.write_text(json.dumps(report_json | {"testing": names}))
    page = PageReader(page_of.write(tmp_path / "run").read_text())
    links = [link for link in page.links if link.startswith("pictures/")]
    assert len(links) == 3 and not any(set("#?") & set(link) for link in links)
    assert all((tmp_path / "run" / urllib.parse.unquote(link)).is_file() for link in links)

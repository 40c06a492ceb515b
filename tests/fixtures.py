"""What tests start from: drawn pictures, a narrow VGG16, runs that are trained already."""

import importlib.util
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from roadseg import engine
from roadseg.drawn import scenes
from roadseg.page import results
from roadseg.training import plan, run_folder
from tests.small import SMALL, narrow_weights, rotated, run_camvid, run_kitti

MEASURE_BFLOAT16 = results.measure_bfloat16


def pytest_configure(config):
    """Let each of several processes of pytest-xdist compute on a core of its own.

    No run of a test measures whether bfloat16 is faster, to train in it or to note it for
    predict.py, whatever the machine: that takes seconds, and has its own tests.
    """
    results.measure_bfloat16 = lambda *_: None
    plan.faster_precision = lambda: engine.FLOAT32
    if hasattr(config, "workerinput"):
        os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


@pytest.fixture(autouse=True)
def float32():
    """Leave no test, and no fixture, in the precision of a run before it."""
    engine.keras.config.set_dtype_policy("float32")
    yield
    engine.keras.config.set_dtype_policy("float32")


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A data folder whose data_road holds small drawn scenes."""
    folder = tmp_path_factory.mktemp("data")
    scenes.draw_data_set(folder / "data_road", (5, 5, 5), (1, 1, 1), shape=SMALL)
    return folder


@pytest.fixture
def spoilt(drawn, tmp_path):
    """A copy of the drawn data that a test may spoil."""
    shutil.copytree(drawn, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def bfloat16(float32):
    engine.keras.config.set_dtype_policy("mixed_bfloat16")


@pytest.fixture(scope="session")
def narrow_vgg(tmp_path_factory):
    """The path of a VGG16 with four channels a layer, for --vgg."""
    path = tmp_path_factory.mktemp("vgg") / "narrow.npz"
    np.savez(path, **narrow_weights())
    return path


@pytest.fixture(scope="session")
def trained(drawn, narrow_vgg, tmp_path_factory):
    """The folder of a small run on the drawn data. Tests leave it as it is."""
    runs = tmp_path_factory.mktemp("runs")
    assert run_kitti(drawn, runs, "--vgg", narrow_vgg, "--epochs", 1) == 0
    return runs / "first"


@pytest.fixture
def ready(trained, tmp_path, monkeypatch):
    """The folder of the small run, as the ready network. Nothing may change in it.

    The current folder is an empty one.
    """

    def times():
        return {path: path.stat().st_mtime_ns for path in (trained, *trained.rglob("*"))}

    monkeypatch.setattr(run_folder, "READY", trained)
    monkeypatch.chdir(tmp_path)
    before = times()
    yield trained
    assert times() == before


@pytest.fixture
def frames(random):
    """Twelve frames of 31x45, none like another."""
    coarse = random.integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(small).resize((45, 31))) for small in coarse]


@pytest.fixture
def album(tmp_path, random):
    """A folder of pictures of several kinds and sizes, two of one name, one below."""
    folder = tmp_path / "album"
    (folder / "below").mkdir(parents=True)
    for name, shape in {
        "wide.png": (20, 300, 3),
        "tall.jpg": (200, 11, 3),
        "dot.png": (1, 1, 3),
        "grey.png": (40, 50),
        "see-through.webp": (30, 40, 4),
        "twin.png": (8, 9, 3),
        "twin.bmp": (8, 9, 3),
        "below/wide.png": (21, 30, 3),
        "still.gif": (12, 14),
    }.items():
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    deep = random.integers(0, 65536, (10, 12), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    Image.new("RGB", (2000, 1500), (90, 120, 60)).save(folder / "large.jpg")
    turned = Image.new("RGB", (30, 20))
    turned.save(folder / "turned.jpg", exif=rotated())
    (folder / "notes.txt").write_text("no picture")
    return folder


def draw_camvid(folder):
    """Write a data folder with CamVid's layout: drawn pictures as WebP, numbers as labels."""
    random = np.random.default_rng(0)
    for part, count in {"train": 4, "val": 2}.items():
        pictures, labels = (folder / "camvid" / name for name in (part, f"{part}annot"))
        pictures.mkdir(parents=True)
        labels.mkdir()
        for index in range(count):
            label = np.repeat(random.integers(0, 12, 48, dtype=np.uint8)[:, None], 64, axis=1)
            picture = np.repeat(20 * label[..., None], 3, axis=-1)
            Image.fromarray(picture).save(pictures / f"{part}_{index}.webp", lossless=True)
            Image.fromarray(label).save(labels / f"{part}_{index}.png")
    return folder


@pytest.fixture
def camvid(tmp_path):
    """A data folder with CamVid's layout, that a test may spoil."""
    return draw_camvid(tmp_path)


@pytest.fixture(scope="session")
def trained_on_camvid(narrow_vgg, tmp_path_factory):
    """The folder of a small run of eleven classes. Tests leave it as it is."""
    folder = draw_camvid(tmp_path_factory.mktemp("camvid"))
    assert run_camvid(folder, "--vgg", narrow_vgg) == 0
    return folder / "runs" / "city"


@pytest.fixture(scope="session")
def browser():
    if not (shutil.which("chromium") and importlib.util.find_spec("selenium")):
        pytest.skip("Chromium, its driver or selenium is not installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "disable-sync",
        "disable-background-networking",
        "disable-component-update",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()

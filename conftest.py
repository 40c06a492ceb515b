"""What tests start from: drawn pictures, runs that are trained already."""

import shutil

import numpy as np
import pytest
from PIL import Image

import main
from roadseg import engine
from roadseg.drawn import scenes
from tests.small import NARROW_BLOCKS, SMALL, run_kitti


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
def bfloat16():
    engine.keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    engine.keras.config.set_dtype_policy("float32")


@pytest.fixture
def narrow(monkeypatch):
    """Let the program build its network with few channels, where tests look at all but these."""
    monkeypatch.setattr(main.load_vgg, "__defaults__", (NARROW_BLOCKS, 8))


@pytest.fixture(scope="session")
def trained(drawn, tmp_path_factory):
    """The folder of a small run on the drawn data."""
    runs = tmp_path_factory.mktemp("runs")
    assert run_kitti(drawn, runs, "--epochs", 1) == 0
    return runs / "first"


@pytest.fixture
def frames(random):
    """Twelve frames of 31x45, none like another."""
    coarse = random.integers(0, 256, (12, 4, 5, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(small).resize((45, 31))) for small in coarse]


@pytest.fixture
def camvid(narrow, tmp_path, random):
    """A data folder with CamVid's layout: drawn pictures as WebP, numbers as labels."""
    for part, count in {"train": 4, "val": 2}.items():
        pictures, labels = (tmp_path / "camvid" / name for name in (part, f"{part}annot"))
        pictures.mkdir(parents=True)
        labels.mkdir()
        for index in range(count):
            label = np.repeat(random.integers(0, 12, 48, dtype=np.uint8)[:, None], 64, axis=1)
            picture = np.repeat(20 * label[..., None], 3, axis=-1)
            Image.fromarray(picture).save(pictures / f"{part}_{index}.webp", lossless=True)
            Image.fromarray(label).save(labels / f"{part}_{index}.png")
    return tmp_path

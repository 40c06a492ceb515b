"""Pictures of every kind are answered in their own size."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import export
import helper
import main
from main import keras
from roadseg.answering.predictor import in_tiles
from roadseg.data.pictures import read_image, read_numbers, resample
from roadseg.scoring.evaluation import score_pictures
from roadseg.scoring.metrics import ROAD
from tests.small import NARROW_BLOCKS, error_line, rotated, run_predict, set_small_scores


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
    Image.new("RGB", (4000, 3000), (90, 120, 60)).save(folder / "large.jpg")
    turned = Image.new("RGB", (30, 20))
    turned.save(folder / "turned.jpg", exif=rotated())
    (folder / "notes.txt").write_text("no picture")
    return folder


ALBUM_SIZES = {  # name of what is made of it: (width, height)
    "wide": (300, 20),
    "tall": (11, 200),
    "dot": (1, 1),
    "grey": (50, 40),
    "see-through": (40, 30),
    "twin.png": (9, 8),
    "twin.bmp": (9, 8),
    "below/wide": (30, 21),
    "still": (14, 12),
    "deep": (12, 10),
    "large": (4000, 3000),
    "turned": (20, 30),
}


def test_every_picture_of_a_folder_is_predicted_in_its_own_size(trained, album, tmp_path):
    kinds = ("overlay", "mask", "probability")
    assert run_predict(trained, album, "--output", tmp_path / "out", "--save", *kinds) == 0
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    }
    assert written == {f"{stem}_{kind}.png" for stem in ALBUM_SIZES for kind in kinds}
    for stem, size in ALBUM_SIZES.items():
        images = [Image.open(tmp_path / "out" / f"{stem}_{kind}.png") for kind in kinds]
        assert {image.size for image in images} == {size}
        assert [image.mode for image in images] == ["RGB", "L", "L"]
        mask, probability = (np.asarray(image) for image in images[1:])
        certain = np.abs(probability.astype(int) - 127.5) > 1
        np.testing.assert_array_equal(mask[certain], (probability >= 128)[certain])


def test_a_corrupt_picture_among_good_ones_is_named_at_the_end(trained, album, tmp_path, capsys):
    (album / "torn.png").write_bytes((album / "wide.png").read_bytes()[:100])
    (album / "below" / "empty.jpg").write_bytes(b"")
    (album / "words.mp4").write_text("no video")
    assert run_predict(trained, album, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert all(name in error for name in ("torn.png", "empty.jpg", "words.mp4"))
    assert len(list((tmp_path / "out").rglob("*_overlay.*"))) == len(ALBUM_SIZES)


def test_globs_and_files_go_to_the_runs_folder_and_nothing_is_overwritten(
    trained, album, tmp_path, capsys
):
    shutil.copytree(trained, tmp_path / "run")
    assert run_predict(tmp_path / "run", album / "tw*.*", album / "dot.png") == 0
    names = {path.name for path in (tmp_path / "run" / "predictions").iterdir()}
    assert names == {"twin.png_overlay.png", "twin.bmp_overlay.png", "dot_overlay.png"}
    shutil.copy(album / "wide.png", album / "wide_overlay.png")
    before = (album / "wide_overlay.png").read_bytes()
    capsys.readouterr()
    assert run_predict(trained, album, "--output", album) == 2
    assert "wide_overlay.png" in error_line(capsys)
    assert (album / "wide_overlay.png").read_bytes() == before
    assert run_predict(trained, album / "none*") == 2
    assert "nothing found" in error_line(capsys)
    twins = (album / "wide.png", album / "below" / "wide.png")
    assert run_predict(trained, *twins, "--output", tmp_path / "out") == 2
    assert "would be written there" in error_line(capsys) and not (tmp_path / "out").exists()


def test_a_picture_has_the_same_probabilities_alone_in_a_batch_and_in_validation(trained):
    road, data_set, settings = main.load_run(trained)
    labelled, _ = data_set.find(Path(settings["data_dir"]) / "data_road")
    samples, shape = labelled[:4], settings["image_shape"]
    together = [seen[2] for seen in helper.gen_test_output(road, samples, shape, 4)]
    alone = [seen[2] for seen in helper.gen_test_output(road, samples, shape, 1)]
    validated = []
    score_pictures(
        road, samples, data_set, shape, after_each=lambda *seen: validated.append(seen[3])
    )
    for one, two, three in zip(together, alone, validated, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
        np.testing.assert_allclose(one, three, atol=1e-4)


def triangle_weights(given, wanted):
    """The share of each given pixel in each wanted one, by the definition, one by one."""
    step = given / wanted
    weights = np.zeros((wanted, given))
    for i, j in np.ndindex(weights.shape):
        distance = abs(j + 0.5 - (i + 0.5) * step)
        weights[i, j] = max(0.0, 1 - distance / max(step, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((1, 1), (3, 5)),
        ((7, 9), (1, 1)),
        ((40, 31), (13, 64)),
        ((13, 64), (40, 31)),
        ((5, 6), (5, 6)),
        ((3, 1000), (2, 3)),
        ((2, 3), (3, 1000)),
    ],
    ids=str,
)
def test_resampling_is_the_same_outside_and_inside_of_a_network(given, wanted, random):
    """Both are the triangle filter; on whole numbers and on floats."""
    array = random.integers(0, 256, (*given, 3), dtype=np.uint8)
    rows, columns = map(triangle_weights, given, wanted)
    expected = np.einsum("ih,hwc,jw->ijc", rows, array, columns)
    np.testing.assert_allclose(resample(array, wanted), expected, atol=1e-3)
    reference = np.zeros((1, *wanted, 1), np.uint8)
    for layer in (export.Resample(wanted), lambda x: export.Resample()(x, reference)):
        np.testing.assert_allclose(layer(array[None])[0], expected, atol=1e-3)


def test_tiles_change_no_answer(random):
    """What a pixel's answer depends on lies in its tile; half as far would not be enough."""
    keras.utils.set_random_seed(0)
    network = main.layers(main.load_vgg({}, NARROW_BLOCKS, head_channels=4), 2)
    set_small_scores(network, random)
    whole = network.predict_on_batch
    sizes = []

    def watched(pictures):
        sizes.append(pictures.shape[:3])
        return whole(pictures)

    for shape in ((750, 801), (33, 1290), (640, 200)):
        pictures = random.uniform(0, 255, (2, *shape, 3)).astype(np.float32)
        expected = whole(pictures)
        spread = np.ptp(expected)
        found = in_tiles(watched, tile=704)(pictures)
        assert np.abs(found - expected).max() < 1e-5 * spread
        near = in_tiles(whole, tile=704, reach=128)(pictures)
        assert max(shape) <= 704 or np.abs(near - expected).max() > 1e-4 * spread
    assert all(n * height * width <= 704**2 for n, height, width in sizes)
    assert all(max(height, width) <= 704 for _, height, width in sizes)


def test_a_scale_is_that_of_the_picture(trained, tmp_path, random):
    """At 1 and at a half: the probabilities of the network there, in multiples of 32."""
    picture = random.integers(0, 256, (64, 100, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[:30, :40]).save(tmp_path / "of another size.png")
    network, _ = main.load_run(trained)[:2]
    for scale, shape in ((1, (64, 96)), (0.5, (32, 64))):
        assert (
            run_predict(
                trained,
                tmp_path / "*[ae].png",
                "--output",
                tmp_path,
                "--scale",
                scale,
                "--save",
                "probability",
            )
            == 0
        )
        assert Image.open(tmp_path / "of another size_probability.png").size == (40, 30)
        assert_road(tmp_path / "a_probability.png", answer(network, picture, shape))


def test_a_thorough_answer_is_the_mean_of_those_at_three_sizes(trained, drawn, tmp_path):
    """The two others in multiples of 32."""
    street = next((drawn / "data_road" / "testing" / "image_2").iterdir())
    picture = read_image(street, (128, 192))
    Image.fromarray(picture).save(tmp_path / "a.png")
    network, _ = main.load_run(trained)[:2]
    assert (
        run_predict(
            trained,
            tmp_path / "a.png",
            "--output",
            tmp_path,
            "--scale",
            1,
            "--thorough",
            "--save",
            "probability",
        )
        == 0
    )
    answers = [answer(network, picture, shape) for shape in ((96, 160), (128, 192), (160, 224))]
    assert_road(tmp_path / "a_probability.png", np.mean(answers, axis=0))
    assert np.ptp(answers, axis=0).max() > 2 / 255


def answer(network, picture, shape):
    """What a network says of a picture that it sees in another shape, in the picture's own."""
    seen = network(resample(picture, shape)[None])[0]
    return resample(seen, picture.shape[:2])


def assert_road(path, probabilities):
    """A file holds the probabilities of road."""
    np.testing.assert_allclose(read_numbers(path), 255 * probabilities[..., ROAD], atol=0.6)

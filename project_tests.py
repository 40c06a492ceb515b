"""Every promise of the other files, checked against something independent.

    python project_tests.py                 all but the long ones
    python project_tests.py -m slow         the long ones: the main job; runs that are killed
    python project_tests.py -m jax          those on JAX, where it is installed
    python project_tests.py -m browser      those in Chromium, with selenium, where it is installed
    python project_tests.py -m export       those of exported networks, with requirements-export.txt
    python project_tests.py -m demo         those of demo.py, with requirements-demo.txt
    python project_tests.py -k layers       those with "layers" in their name

Here stand those of the network, layer by layer; the others in tests/.
"""

import csv
import dataclasses
import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.special
from PIL import Image

import main
from main import keras
from roadseg.answering.layers import Brighten
from roadseg.data import vgg_weights
from roadseg.data.datasets import FCN_4S
from roadseg.data.layouts import Sample
from roadseg.data.pictures import VOID, read_image, read_label
from roadseg.devices import ONE_DEVICE
from roadseg.training import checkpoint, plan
from tests.by_hand import losses_by_hand, patchwork_labels, weights_by_hand
from tests.small import (
    HERE,
    KITTI,
    REAL_SAMPLES,
    SMALL_RECIPE,
    answer,
    compiler,
    needs_jax,
    one_batch,
    set_small_scores,
    small_network,
    small_vgg,
    train_one_batch,
)

# --- VGG16 ----------------------------------------------------------------------------------------


@functools.cache
def imagenet_vgg():
    return main.load_vgg(vgg_weights.read("conv"))


def test_load_vgg(random):
    """Every pooling layer gives what keras.applications.VGG16 gives on the same weights."""
    vgg = imagenet_vgg()
    reference = keras.applications.VGG16(weights=None, include_top=False)
    for name, pair in vgg_weights.read("conv").items():
        reference.get_layer(name).set_weights(pair)
    picture = random.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    names = [f"block{block}_pool" for block in range(1, 6)]
    expected, found = (
        keras.Model(model.input, [model.get_layer(name).output for name in names])
        for model in (reference, vgg)
    )
    blue_green_red = picture[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    for ours, theirs in zip(answer(found, picture), answer(expected, blue_green_red), strict=True):
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("shape", [(64, 96), (75, 61), (1, 1), (375, 1242)])
def test_load_vgg_gives_three_scales_of_any_size(shape):
    outputs = small_vgg()(np.zeros((1, *shape, 3), np.uint8))
    for output, scale in zip(outputs, (8, 16, 32), strict=True):
        assert output.shape[1:3] == tuple(-(-size // 32) * 32 // scale for size in shape)


def test_load_vgg_reads_bytes_and_floats_alike(random):
    vgg = small_vgg()
    picture = random.integers(0, 256, (1, 40, 50, 3), dtype=np.uint8)
    of_floats = answer(vgg, picture.astype(np.float32))
    for ours, theirs in zip(answer(vgg, picture), of_floats, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ((24, 24, 24), 200, (97, 97, 97)),  # .38 of 255, whatever the upper half
        ((60, 40, 20), 0, (115, 92, 63)),  # luminance 43.7: gamma .549
        ((130, 130, 130), 0, (130, 130, 130)),  # bright enough
        ((1, 1, 1), 0, (64, 64, 64)),  # gamma .25 at the least
        ((0, 0, 0), 255, (0, 0, 0)),
    ],
)
def test_dark_pictures_are_brightened_to_be_answered_and_not_in_training(lower, upper, expected):
    brighten = Brighten(0.38, (0.25, 1.0))
    picture = np.full((1, 10, 8, 3), upper, np.float32)
    picture[:, 5:] = lower
    assert np.abs(answer(brighten, picture)[0, 7, 3] - expected).max() < 1
    np.testing.assert_array_equal(brighten(picture, training=True), picture)


@needs_jax
def test_jax_gives_the_same_features(tmp_path, random):
    """The same network gives the same on JAX, within float32 rounding."""
    picture = random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    np.save(tmp_path / "picture.npy", picture)
    code = (
        "import main, numpy, pathlib, sys; from roadseg.data import vgg_weights\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "assert main.keras.backend.backend() == 'jax'\n"
        "vgg = main.load_vgg(vgg_weights.read('conv'))\n"
        "pools = main.keras.Model(vgg.input, [vgg.outputs[0], vgg.outputs[1],"
        " vgg.get_layer('block5_pool').output])\n"
        "numpy.savez(folder / 'features.npz',"
        " *pools.predict_on_batch(numpy.load(folder / 'picture.npy')))\n"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=HERE, env=environment)
    vgg = imagenet_vgg()
    outputs = [*vgg.outputs[:2], vgg.get_layer("block5_pool").output]
    ours = answer(keras.Model(vgg.input, outputs), picture)
    with np.load(tmp_path / "features.npz") as features:
        for one, other in zip(ours, features.values(), strict=True):
            assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()


def test_what_fc6_never_sees_of_a_small_picture_stays_as_it_is_in_bfloat16(bfloat16, random):
    deep = ((1, 4), (1, 4), (1, 4), (1, 4), (1, 512))
    keras.utils.set_random_seed(0)
    network = main.layers(main.load_vgg({}, blocks=deep, head_precision="float32"), 2)
    kernel = network.get_layer("fc6").kernel
    before = np.array(kernel)
    before[[0, 1, 5, 6]] = 0  # beside which the smallest step is seen
    kernel.assign(before)
    network.compile(keras.optimizers.SGD(1e-4), main.picture_loss)
    pictures = random.integers(0, 256, (2, 64, 128, 3)).astype(np.uint8)  # 2x4 places at pool5
    for _ in range(3):
        network.train_on_batch(pictures, pictures[..., 0] % 2)
    changed = np.any(np.array(kernel) != before, axis=(1, 2, 3))
    assert changed.tolist() == [False, False, True, True, True, False, False]


@pytest.mark.parametrize(
    ("shapes", "training", "head"),
    [
        ([[160, 576]], "mixed_bfloat16", "mixed_bfloat16"),
        ([[160, 576], [288, 96]], "mixed_bfloat16", "float32"),
        ([[160, 576]], "mixed_float16", "float32"),
    ],
)
def test_fc6_is_rounded_in_new_runs_whose_pictures_show_its_kernel_all_of_itself(
    narrow_vgg, shapes, training, head
):
    """What a run has begun with it keeps; one that does not say began in float32."""
    new = {"image_shapes": shapes, "precision": training, "batch_size": 4}
    new |= {"git_commits": [], "command_lines": []}
    decided = plan.decide_steps(new, {}, ONE_DEVICE)
    assert decided["head_precision"] == head
    assert plan.decide_steps(new | {"image_shapes": [[32, 32]]}, decided, ONE_DEVICE) == decided
    weights = vgg_weights.read(str(narrow_vgg))
    for settings, expected in ((decided, head), ({}, "float32")):
        network = main.build_network(weights, settings, SMALL_RECIPE, 2, training)
        assert network.get_layer("fc6").dtype_policy.name == expected
        assert network.get_layer("block5_conv3").dtype_policy.name == training


# --- skip layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_classes", "finest"), [(2, 2), (3, 2), (11, 0), (11, 3), (3, 4)])
@pytest.mark.parametrize("shape", [(32, 64), (75, 61), (1, 1)])
def test_layers(num_classes, finest, shape):
    """Logits have the size of the picture, whatever it is, for any number of classes and skips."""
    network = small_network(num_classes, skips=tuple(main.SKIPS)[:finest])
    logits = answer(network, np.zeros((2, *shape, 3), np.uint8))
    assert logits.shape == (2, *shape, num_classes) and logits.dtype == np.float32


def test_fcn_8s_is_the_paper_s_weight_by_weight():
    """One line an arrow: the same names, in the same order, with the same random numbers."""
    keras.utils.set_random_seed(0)
    vgg, scales = small_vgg(), (SMALL_RECIPE.pool4_scale, SMALL_RECIPE.pool3_scale)
    pool3, pool4, fc7 = vgg.outputs
    pool4, pool3 = (
        keras.layers.Rescaling(scale)(keras.layers.SpatialDropout2D(0.2)(pool))
        for pool, scale in zip((pool4, pool3), scales, strict=True)
    )
    near_zero = keras.initializers.TruncatedNormal(stddev=SMALL_RECIPE.score_deviation)
    x = main.upsample(main.score(fc7, 3, "score_fc7", near_zero), 2, "upsample_fc7")
    x = main.upsample(x + main.score(pool4, 3, "score_pool4", "zeros"), 2, "upsample_pool4")
    x = main.upsample(x + main.score(pool3, 3, "score_pool3", "zeros"), 8, "upsample_pool3")
    expected, found = keras.Model(vgg.input, x), small_network(3)
    assert [w.path for w in found.weights] == [w.path for w in expected.weights]
    assert found.name == "fcn8s"
    for ours, theirs in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("skips", [("pool3",), ("pool4", "pool2"), ("pool4", "pool5")])
def test_skips_that_leave_one_out_are_refused(skips):
    with pytest.raises(ValueError, match="expected the first ones of pool4, pool3, pool2, pool1"):
        small_network(skips=skips)


def test_layers_start_near_even_chances(random):
    picture = random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    keras.utils.set_random_seed(0)
    logits = answer(main.layers(imagenet_vgg(), 2), picture)
    assert np.abs(scipy.special.softmax(logits, axis=-1) - 0.5).max() < 0.4


@pytest.mark.parametrize("factor", [2, 8])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 1)])
def test_upsampling_starts_bilinear(factor, shape, random):
    """Equal to Pillow's bilinear enlargement everywhere, the borders too."""
    scores = random.normal(size=(1, *shape, 3)).astype(np.float32)
    inputs = keras.Input((None, None, 3))
    found = answer(keras.Model(inputs, main.upsample(inputs, factor, "up")), scores)
    for channel in range(3):
        plane = Image.fromarray(scores[0, ..., channel])
        size = (shape[1] * factor, shape[0] * factor)
        expected = np.asarray(plane.resize(size, Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found[0, ..., channel], expected, atol=1e-5)


def enlarge(score, factor):
    """Enlarge float32 [H, W, channels] by Pillow's bilinear interpolation."""
    size = (score.shape[1] * factor, score.shape[0] * factor)
    planes = [Image.fromarray(score[..., channel]) for channel in range(score.shape[-1])]
    larger = [plane.resize(size, Image.Resampling.BILINEAR) for plane in planes]
    return np.stack(larger, axis=-1)


def test_skips_are_scaled_enlarged_and_added(random):
    """Logits equal the sum of the three scores, each scaled, enlarged and added by hand."""
    network = small_network(3)
    set_small_scores(network, random)
    picture = random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    names = ["block3_pool", "block4_pool", "fc7"]
    features = keras.Model(network.input, [network.get_layer(name).output for name in names])
    pool3, pool4, fc7 = answer(features, picture)

    def score(feature, name):
        kernel, bias = network.get_layer(name).get_weights()
        return (feature[0] @ kernel[0, 0] + bias).astype(np.float32)

    expected = enlarge(score(fc7, "score_fc7"), 2) + score(pool4 * 0.3, "score_pool4")
    expected = enlarge(expected, 2) + score(pool3 * 0.06, "score_pool3")
    expected = enlarge(expected, 8)
    found = answer(network, picture)[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def fuse_by_hand(scores, feature, network):
    """Convolve scores beside a feature, [h, w, channels] each, by pool2's 3x3; ReLU; score."""
    (kernel, bias), (small, small_bias) = (
        network.get_layer(name).get_weights() for name in ("fuse_pool2", "score_pool2")
    )
    both = np.pad(np.concatenate([scores, feature], axis=-1), ((1, 1), (1, 1), (0, 0)))
    height, width = scores.shape[:2]
    seen = sum(
        both[row : row + height, column : column + width] @ kernel[row, column]
        for row in range(3)
        for column in range(3)
    )
    return np.maximum(seen + bias, 0) @ small[0, 0] + small_bias


def test_a_fused_skip_starts_at_nothing_and_is_added_to_what_is_coarser(random):
    """FCN-4s is FCN-8s at 1/4, and what a 3x3 convolution makes of it beside pool2."""
    network = small_network(3, skips=FCN_4S)
    picture = random.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    names = ["upsample_pool3", "block2_pool", "fuse_pool2"]
    watched = [network.get_layer(name).output for name in names]
    inner = keras.Model(network.input, [*watched, network.output])
    at_quarter = keras.layers.Cropping2D(2)

    def scores(seen):
        return answer(at_quarter, seen[0])[0]  # upsample repeats the border first

    start = answer(inner, picture)
    assert np.ptp(start[3]) > 0 and start[2].shape == (1, 16, 24, SMALL_RECIPE.fuse_channels)
    np.testing.assert_allclose(start[3][0], enlarge(scores(start), 4), atol=1e-5)
    set_small_scores(network, random)
    seen = answer(inner, picture)
    added = fuse_by_hand(scores(seen), seen[1][0] * 0.02, network)
    expected = enlarge((scores(seen) + added).astype(np.float32), 4)
    assert np.abs(added).max() > 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(seen[3][0], expected, atol=1e-4 * np.abs(expected).max())


# --- loss -----------------------------------------------------------------------------------------


def test_optimize(random):
    """The loss is the mean of the pictures' weighted mean cross-entropy."""
    network = small_network(3)
    set_small_scores(network, random)
    pictures = random.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    labels = patchwork_labels(32, 64)
    logits = answer(network, pictures).astype(np.float64)
    found = float(compiler(network)().test_on_batch(pictures, labels))
    expected = np.mean(losses_by_hand(weights_by_hand(labels), labels, logits))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    weighted = main.optimize(network, 1e-3, 10, class_weights=[0.0, 1.0, 0.0])
    found = float(weighted.test_on_batch(pictures, labels))
    expected = np.mean(losses_by_hand(weights_by_hand(labels) * (labels == 1), labels, logits))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_of_classes_multiply_those_of_pixels(random):
    """Each picture is still a mean, so weights that are all alike change nothing."""
    labels, logits = patchwork_labels(12, 16), random.normal(size=(2, 12, 16, 3))
    factors = np.array([0.5, 2.0, 7.0])
    weights = weights_by_hand(labels) * factors[np.where(labels == VOID, 0, labels)]
    found = main.picture_loss(labels, logits.astype(np.float32), class_weights=factors.tolist())
    np.testing.assert_allclose(found, losses_by_hand(weights, labels, logits), rtol=1e-5)
    plain = main.picture_loss(labels, logits.astype(np.float32))
    alike = main.picture_loss(labels, logits.astype(np.float32), class_weights=[3.0] * 3)
    np.testing.assert_allclose(alike, plain, rtol=1e-5)
    assert np.abs(np.subtract(found, plain)).min() > 0.01


def test_void_changes_neither_loss_nor_gradient(random):
    """The gradient at a pixel is (probability - truth) times its share of the picture's weight."""
    tensorflow = pytest.importorskip("tensorflow")
    logits = tensorflow.constant(random.normal(size=(2, 12, 16, 3)), "float32")
    labels = patchwork_labels(12, 16)
    with tensorflow.GradientTape() as tape:
        tape.watch(logits)
        loss = main.picture_loss(labels, logits)
    weights = weights_by_hand(labels)[..., None]
    truth = np.eye(3)[np.where(labels == VOID, 0, labels)]
    expected = weights * (scipy.special.softmax(logits.numpy(), axis=-1) - truth)
    expected /= weights.sum(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(tape.gradient(loss, logits).numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(main.picture_loss(np.full_like(labels, VOID), logits), 0)


def test_nothing_is_learnt_where_all_is_void(random):
    network = small_network()
    before = network.get_weights()
    pictures = random.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    compiled = compiler(network, rate=1.0)()
    compiled.train_on_batch(pictures, np.full((1, 32, 32), VOID, np.uint8))
    for weights, kept in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, kept)


def test_a_gradient_reaches_the_first_convolution(random):
    """The very first step moves the first kernel by about the learning rate."""
    network, rate = small_network(), 1e-2
    kernel = network.get_layer("block1_conv1").kernel
    before = kernel.numpy()
    pictures = random.integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)
    labels = random.integers(0, 2, (1, 32, 64), dtype=np.uint8)
    compiler(network, rate)().train_on_batch(pictures, labels)
    assert np.median(np.abs(kernel.numpy() - before)) > 0.5 * rate


# --- training -------------------------------------------------------------------------------------


def test_train_nn(tmp_path):
    """A single batch is learnt by heart; the log has every epoch; the best epoch is kept."""
    keras.utils.set_random_seed(0)
    recipe = dataclasses.replace(main.RECIPE, head_channels=64)
    blocks = ((1, 16), (1, 16), (1, 32), (1, 32), (1, 32))
    network = main.layers(main.load_vgg({}, recipe, blocks), 2, recipe)
    validate = train_one_batch(tmp_path, network, one_batch((32, 64)), epochs=3, rate=3e-3)
    assert validate().scores()["accuracy"] > 98
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert tuple(rows[0]) == checkpoint.LOG_FIELDS
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    network.get_layer("score_fc7").set_weights([np.zeros((1, 1, 64, 2)), np.zeros(2)])
    network.load_weights(tmp_path / "best.weights.h5")
    best = max(float(row["val_max_f"]) for row in rows)
    assert validate().scores()["perspective"]["all"]["MaxF"] == pytest.approx(best, abs=1e-6)


# --- data -----------------------------------------------------------------------------------------


def test_for_kitti_dataset(drawn):
    """Labels in KITTI's colours, drawn and KITTI's own, read by the benchmark's own rule.

    Its kit: what has no red does not count; of the rest, what has blue is road.
    """
    found = {}
    for folder in (drawn / "data_road", REAL_SAMPLES):
        for picture in sorted((folder / "training" / "image_2").glob("*.png")):
            label = picture.parents[1] / "gt_image_2" / picture.name.replace("_", "_road_")
            colours = np.asarray(Image.open(label).convert("RGB"))
            index = read_label(Sample(picture.stem, picture, label, "um"), KITTI)
            assert read_image(picture).shape == (*index.shape, 3)
            red, blue = colours[..., 0] > 0, colours[..., 2] > 0
            np.testing.assert_array_equal(index, np.where(red, np.where(blue, 1, 0), VOID))
            assert 0.05 < np.mean(index == 1) < 0.6
            found.setdefault(folder, set()).update(np.unique(index))
    assert len(found) == 1 + REAL_SAMPLES.is_dir()
    assert all(values == {0, 1, VOID} for values in found.values())


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, str(HERE / "tests"), "-m", "not slow", *sys.argv[1:]]))

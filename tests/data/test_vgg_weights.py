"""VGG16's weights, out of every kind of file that holds them."""

import h5py
import numpy as np
import pytest

import helper
import main
from main import keras
from roadseg.data import vgg_weights
from roadseg.errors import UserError
from tests.small import answer, error_line, run_main


def write_keras_vgg_file(path, random, channels=4, units=6):
    """Write a file with the layout of Keras' own: layer/layer_W_1:0, layer/layer_b_1:0."""
    shapes = {}
    inputs = 3
    for name in vgg_weights.CONVOLUTION_NAMES:
        shapes[name] = (3, 3, inputs, channels)
        inputs = channels
    shapes |= {"fc1": (7 * 7 * channels, units), "fc2": (units, units), "predictions": (units, 10)}
    weights = {}
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            kernel, bias = random.normal(size=shape), random.normal(size=shape[-1:])
            weights[name] = (kernel.astype(np.float32), bias.astype(np.float32))
            for letter, array in zip("Wb", weights[name], strict=True):
                file[f"{name}/{name}_{letter}_1:0"] = array
        file.create_group("block1_pool")
    return weights


def test_full_vgg_turns_fully_connected_layers_into_convolutions(tmp_path, random):
    """fc6 and fc7 at the middle of a 7x7 map equal the dense layers on the flattened map."""
    path = tmp_path / "vgg16.h5"
    written = write_keras_vgg_file(path, random)
    weights = vgg_weights.read(str(path))
    vgg = main.load_vgg(weights)
    last_pool = keras.Model(vgg.input, [vgg.get_layer("block5_pool").output, vgg.outputs[2]])
    features, found = answer(last_pool, random.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8))
    dense = features.reshape(-1)
    for name in ("fc1", "fc2"):
        kernel, bias = written[name]
        dense = np.maximum(dense @ kernel + bias, 0)
    np.testing.assert_allclose(found[0, 3, 3], dense, rtol=1e-3, atol=1e-3 * np.abs(dense).max())


def test_weights_of_an_earlier_run_are_taken(narrow_vgg, tmp_path):
    """Its convolutions, fc6 and fc7 come along, whatever its classes; its scores do not.

    Its folder and the file in it are the same.
    """
    narrow = vgg_weights.read(str(narrow_vgg))
    earlier = main.layers(main.load_vgg(narrow), num_classes=3)
    path = tmp_path / "best.weights.h5"
    earlier.save_weights(path)
    assert vgg_weights.weights_path(str(tmp_path)) == vgg_weights.weights_path(str(path)) == path
    weights = vgg_weights.read(str(tmp_path))
    assert set(weights) == {*vgg_weights.CONVOLUTION_NAMES, "fc6", "fc7"}
    vgg = main.load_vgg(weights)
    for name in weights:
        for ours, theirs in zip(
            vgg.get_layer(name).get_weights(), earlier.get_layer(name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("content", [None, b"no weights", b""])
def test_wrong_weights_are_named(tmp_path, content):
    path = tmp_path / "wrong.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"wrong\.h5"):
        vgg_weights.read(str(path))


def test_a_folder_without_a_runs_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"best\.weights\.h5: not found; .* a run's folder"):
        vgg_weights.read(str(tmp_path))


def test_weights_that_are_not_there_are_told_before_scenes_are_drawn(tmp_path, capsys):
    words = ("--dataset", "synthetic", "--data-dir", tmp_path, "--vgg", tmp_path / "none.npz")
    assert run_main(*words) == 2
    assert "none.npz: not found" in error_line(capsys) and not list(tmp_path.iterdir())


def test_full_weights_are_those_that_the_helper_downloads(drawn, tmp_path, monkeypatch, capsys):
    """Here an empty file."""
    monkeypatch.setattr(helper.download, "download", lambda remote, path: path.touch())
    link = tmp_path / "data"
    link.mkdir()
    (link / "data_road").symlink_to(drawn / "data_road")
    assert run_main("--dataset", "kitti", "--data-dir", link, "--vgg", "full") == 2
    name = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
    assert f"{link / name}: cannot be read as VGG16 weights" in error_line(capsys)


def test_a_kind_of_weights_is_no_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in vgg_weights.KINDS:
        (tmp_path / kind).mkdir()
        assert vgg_weights.weights_path(kind) is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_weights_that_are_damaged_inside_are_named(save, narrow_vgg, tmp_path):
    """The file is a zip, whose directory is whole."""
    path = tmp_path / "damaged.npz"
    with np.load(narrow_vgg) as whole:
        save(path, **whole)
    content = bytearray(path.read_bytes())
    content[200:240] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.npz: cannot be read as VGG16 weights"):
        vgg_weights.read(str(path))


@pytest.mark.parametrize("layer", ["block1_conv1", "fc6"])
def test_layers_of_other_shapes_are_named(layer, narrow_vgg, tmp_path):
    """Such as that of a network of grey pictures."""
    path = tmp_path / "grey.npz"
    with np.load(narrow_vgg) as whole:
        arrays = dict(whole)
    arrays[f"{layer}/kernel"] = arrays[f"{layer}/kernel"][:, :, :1]
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=rf"{layer} has a kernel of \[., ., 1, .\]"):
        vgg_weights.read(str(path))

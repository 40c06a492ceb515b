"""A data set that stays on a GPU: it is copied there once, and augmented there."""

import math

import numpy as np

from roadseg.data.light import UNCHANGED, Light, standard_noise
from roadseg.data.pictures import map_ahead
from roadseg.engine import device_kind, gpu_memory, keras
from roadseg.training import device_augmentation

DEVICE_BYTES = 4 << 30  # at most, for pictures and labels; more of them come from the disk
SHARE_OF_MEMORY = 0.25  # of the GPU's, at most, likewise


def belongs_on_device(pixels, team):
    """Return whether a data set of so many pixels is to stay on the device: on one GPU only.

    On two processor cores threads augment 60 times as fast as the network trains (docs/speed.md).
    """
    is_one_gpu = device_kind() != "cpu" and team.devices == 1
    memory = gpu_memory().get("bytes_limit", math.inf)
    return is_one_gpu and 4 * pixels <= min(DEVICE_BYTES, SHARE_OF_MEMORY * memory)


class DeviceData:
    """Pictures and labels on the device, those of one shape together, and what augments them."""

    def __init__(self, read_pair, groups):
        """read_pair: function index -> (uint8 [H, W, 3], uint8 [H, W]); groups: lists of indices,
        whose pairs have one shape.
        """
        self.noise = keras.ops.convert_to_tensor(standard_noise())
        self.group_of, self.arrays = {}, []
        for number, group in enumerate(groups):
            pairs = zip(*map_ahead(read_pair, group), strict=True)
            self.arrays.append([keras.ops.convert_to_tensor(np.stack(each)) for each in pairs])
            self.group_of |= {index: (number, place) for place, index in enumerate(group)}
        self.augment = compile_function(self._augment)

    def batch(self, indices, matrices, offsets, lights):
        """Return a batch on the device: uint8 [N, H, W, 3], uint8 [N, H, W].

        indices: of pictures of one shape; matrices, offsets, lights: of `draw_maps` and
        `draw_lights`. They travel as one array, which is fast; float32 holds all whole numbers
        below 2**24.
        """
        numbers, places = zip(*(self.group_of[index] for index in indices), strict=True)
        columns = [np.array(places), *matrices.reshape(-1, 4).T, *offsets.T]
        columns += [column for field in lights for column in np.atleast_2d(field.T)]
        return self.augment(*self.arrays[numbers[0]], self.noise, np.float32(columns))

    @staticmethod
    def _augment(pictures, labels, noise, columns):
        ops, light = keras.ops, {}
        places, matrices = ops.cast(columns[0], "int32"), ops.transpose(columns[1:5])
        moved, moved_labels = device_augmentation.warp(
            pictures, labels, places, ops.reshape(matrices, (-1, 2, 2)), ops.transpose(columns[5:7])
        )
        first = 7
        for name, default in UNCHANGED._asdict().items():
            width = len(np.atleast_1d(default))
            field = columns[first : first + width]
            light[name] = ops.transpose(field) if width > 1 else field[0]
            first += width
        light["noise_place"] = ops.cast(light["noise_place"], "int32")
        return device_augmentation.change_light(moved, Light(**light), noise), moved_labels


def compile_function(function):
    """Compile a function of arrays and tensors as the engine in use does."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    compiled = tf.function(function)
    return lambda *arrays: compiled(*map(tf.convert_to_tensor, arrays))

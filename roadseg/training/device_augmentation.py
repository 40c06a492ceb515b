"""Augment a batch on a GPU, as `data.augmentation` and `data.light` do on a processor.

The same maps and changes, drawn by the same functions; tests hold the two together.
"""

import numpy as np

from roadseg.data.augmentation import VGG_MEAN_RGB
from roadseg.data.light import LUMINANCE_RGB, NOISE_VALUES
from roadseg.data.pictures import VOID
from roadseg.engine import keras

BLUR_REACH = 5  # pixels, of a Gaussian with a deviation of at most 1.7
BLOCK = 8  # pixels, JPEG's
# JPEG (ITU-T T.81, tables K.1 and K.2): steps of brightness and of colour at quality 50.
LUMINANCE_STEPS = np.reshape(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ],
    (BLOCK, BLOCK),
)
COLOUR_STEPS = np.full((BLOCK, BLOCK), 99)
COLOUR_STEPS[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# JFIF's luminance, blueness and redness (less 128) of red, green and blue.
TO_YCC = np.array([LUMINANCE_RGB, (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)])
COSINES = np.cos(np.pi * np.outer(np.arange(BLOCK), np.arange(BLOCK) + 0.5) / BLOCK)
COSINES *= np.sqrt(np.where(np.arange(BLOCK) == 0, 1, 2) / BLOCK)[:, None]


def warp(pictures, labels, places, matrices, offsets):
    """Take pictures and labels and move each by its map, as `augmentation.warp` does.

    pictures: uint8 [M, H, W, 3]; labels: uint8 [M, H, W]; places: int32 [N], which of them;
    matrices: float32 [N, 2, 2]; offsets: float32 [N, 2]. Returns float32 [N, H, W, 3], whole
    numbers, and uint8 [N, H, W].
    """
    ops = keras.ops
    height, width = labels.shape[1:]
    flat_pictures, flat_labels = ops.reshape(pictures, (-1, 3)), ops.reshape(labels, (-1,))
    rows = ops.arange(height, dtype="float32")[:, None]
    columns = ops.arange(width, dtype="float32")[None, :]
    row, column = (
        matrices[:, axis, 0, None, None] * rows
        + matrices[:, axis, 1, None, None] * columns
        + offsets[:, axis, None, None]
        for axis in (0, 1)
    )
    inside = (row >= 0) & (row <= height - 1) & (column >= 0) & (column <= width - 1)

    def index_of(row, column):
        row = ops.clip(ops.cast(row, "int32"), 0, height - 1)
        column = ops.clip(ops.cast(column, "int32"), 0, width - 1)
        return (places[:, None, None] * height + row) * width + column

    def colour(row, column):
        return ops.cast(ops.take(flat_pictures, index_of(row, column), axis=0), "float32")

    top, left = ops.floor(row), ops.floor(column)
    down, right = (row - top)[..., None], (column - left)[..., None]
    upper = (1 - right) * colour(top, left) + right * colour(top, left + 1)
    lower = (1 - right) * colour(top + 1, left) + right * colour(top + 1, left + 1)
    moved = ops.floor((1 - down) * upper + down * lower + 0.5)
    outside = ops.array(np.round(VGG_MEAN_RGB), "float32")
    nearest = ops.take(flat_labels, index_of(ops.floor(row + 0.5), ops.floor(column + 0.5)), axis=0)
    return (
        ops.where(inside[..., None], moved, outside),
        ops.where(inside, nearest, ops.cast(VOID, nearest.dtype)),
    )


def change_light(pictures, light, noise):
    """Change pictures as `light.change_light` does, without rounding in between.

    pictures: float32 [N, H, W, 3], 0..255; light: Light of arrays [N, ...]; noise: of
    `light.standard_noise`, on the device. Returns uint8 [N, H, W, 3].
    """
    ops = keras.ops
    light = light._replace(
        **{
            name: each[:, None, None, None]
            for name, each in light._asdict().items()
            if each.ndim == 1
        }
    )
    values = ops.power(pictures / 255, light.gamma) * light.gain[:, None, None, :]
    values = ops.clip(light.middle + (values - light.middle) * light.contrast, 0, 1) * 255
    grey = values @ ops.array(np.reshape(LUMINANCE_RGB, (3, 1)), "float32")
    values = ops.clip(grey + light.saturation * (values - grey), 0, 255) * shade(pictures, light)
    values = add_noise(blur(values, light.blur_pixels), light, noise)
    packed = ops.where(light.jpeg_quality > 0, compress(values, light.jpeg_quality), values)
    return ops.cast(ops.round(ops.clip(packed, 0, 255)), "uint8")


def shade(pictures, light):
    """Return what a shadow leaves of each pixel's light: float32 [N, H, W, 1]."""
    ops = keras.ops
    height, width = pictures.shape[1:3]
    rows = ops.reshape(ops.linspace(-1.0, 1.0, height), (1, height, 1, 1))
    columns = ops.reshape(ops.linspace(-1.0, 1.0, width), (1, 1, width, 1))
    across = rows * ops.sin(light.shadow_angle) + columns * ops.cos(light.shadow_angle)
    lit = ops.sigmoid((across - light.shadow_place) / light.shadow_softness)
    return light.shadow + (1 - light.shadow) * lit


def blur(pictures, deviations):
    """Blur each picture by a Gaussian; deviations: float32 [N, 1, 1, 1], pixels, 0: none."""
    ops = keras.ops
    steps = range(-BLUR_REACH, BLUR_REACH + 1)
    weights = [ops.exp(-0.5 * (step / ops.maximum(deviations, 0.01)) ** 2) for step in steps]
    total, pads = sum(weights), [BLUR_REACH, BLUR_REACH]
    for axis in (1, 2):
        padding = [pads if each == axis else [0, 0] for each in range(4)]
        padded, size = ops.pad(pictures, padding, mode="symmetric"), pictures.shape[axis]
        shifted = (
            padded[:, start : start + size] if axis == 1 else padded[:, :, start : start + size]
            for start in range(len(weights))
        )
        pictures = sum(w * each for w, each in zip(weights, shifted, strict=True)) / total
    return pictures


def add_noise(pictures, light, noise):
    """Add to each picture its piece of the noise."""
    ops = keras.ops
    each = ops.arange(np.prod(pictures.shape[1:]), dtype="int32")
    places = (light.noise_place[:, 0, 0] + each) % NOISE_VALUES
    return pictures + light.noise * ops.reshape(ops.take(noise, places), ops.shape(pictures))


def compress(pictures, qualities):
    """Give pictures the artefacts of JPEG with halved colours, as `light.compress` does.

    pictures: float32 [N, H, W, 3], 0..255; qualities: [N, 1, 1, 1], 1 to 95. Returns float32.
    """
    ops = keras.ops
    height, width = pictures.shape[1:3]
    padding = [[0, 0], [0, -height % (2 * BLOCK)], [0, -width % (2 * BLOCK)], [0, 0]]
    padded = ops.pad(pictures, padding, mode="symmetric")
    split = ops.matmul(padded, ops.array(TO_YCC.T, "float32"))
    luminance = quantise(split[..., :1] - 128, LUMINANCE_STEPS, qualities) + 128
    halved = ops.average_pool(split[..., 1:], 2, strides=2)
    colour = ops.image.resize(
        quantise(halved, COLOUR_STEPS, qualities),
        padded.shape[1:3],
        "bilinear",
        data_format="channels_last",
    )
    joined = ops.concatenate([luminance, colour], axis=-1)
    restored = ops.matmul(joined, ops.array(np.linalg.inv(TO_YCC).T, "float32"))
    return ops.clip(restored[:, :height, :width], 0, 255)


def quantise(planes, steps, qualities):
    """Round the cosine transform of each block of 8x8 pixels as JPEG of a quality does.

    planes: float32 [N, H, W, C], H and W multiples of 8; steps: [8, 8] at quality 50.
    """
    ops = keras.ops
    height, width, channels = planes.shape[1:]
    qualities = ops.maximum(ops.cast(qualities, "float32"), 1)[..., None]
    scale = ops.where(qualities < 50, 5000 / qualities, 200 - 2 * qualities)
    table = ops.array(np.repeat(steps, channels, axis=1)[:, None], "float32")  # [8, 1, 8 C]
    step = ops.clip(ops.floor((table * scale + 50) / 100), 1, 255)  # [N, 1, 8, 1, 8 C]
    shape = (-1, height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
    together = (*shape[:4], BLOCK * channels)  # TensorFlow broadcasts five axes
    cosines = ops.array(COSINES, "float32")
    found = ops.einsum("ij,nhjwkc,lk->nhiwlc", cosines, ops.reshape(planes, shape), cosines)
    rounded = ops.round(ops.reshape(found, together) / step) * step
    rounded = ops.reshape(rounded, shape)
    back = ops.einsum("ij,nhiwlc,lk->nhjwkc", cosines, rounded, cosines)
    return ops.reshape(back, (-1, height, width, channels))

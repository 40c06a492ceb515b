"""Augment picture and label together, differently in each epoch."""

import functools

import numpy as np
import scipy.ndimage

from roadseg.data.pictures import VOID

VGG_MEAN_RGB = (123.68, 116.779, 103.939)


def augment(picture, label, random, recipe):
    """Mirror, zoom, stretch, shear, shift and rotate picture and label together.

    picture: uint8 [H, W, 3]; label: uint8 [H, W]; random: np.random.Generator; recipe:
    main.Recipe, the ranges. Returns the same shapes and dtypes; outside of the picture the label
    is VOID and the colour ImageNet's mean. Keras' random layers would fill picture and mask with
    one value and resize masks bilinearly.
    """
    return warp(picture, label, *draw_map(label.shape, random, recipe))


def warp(picture, label, matrix, offset):
    """Move picture and label together by a map of `draw_map`; outside is VOID and the mean."""
    move = functools.partial(scipy.ndimage.affine_transform, matrix=matrix, offset=offset)
    channels = [
        move(picture[..., channel], order=1, mode="constant", cval=round(mean))
        for channel, mean in enumerate(VGG_MEAN_RGB)
    ]
    return np.stack(channels, axis=-1), move(label, order=0, mode="constant", cval=VOID)


def ratio(random, bounds, size=None):
    """Draw a ratio: its logarithm is even between the bounds'."""
    return np.exp(random.uniform(*np.log(bounds), size=size))


def draw_map(shape, random, recipe):
    """Draw the affine map from (row, column) of the result to that of the source.

    shape: (height, width). Returns (matrix float64 [2, 2], offset float64 [2]).
    """
    angle = np.deg2rad(random.uniform(*recipe.rotation_degrees))
    turned = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    flip = np.diag([1.0, random.choice([-1.0, 1.0]) if recipe.mirrored else 1.0])
    zoom = ratio(random, recipe.zoom)
    stretch = np.exp(random.uniform(*np.log(recipe.stretch)) / 2)
    stretched = [[stretch, 0.0], [random.uniform(*recipe.lean), 1 / stretch]]
    matrix = np.array(turned) @ flip / zoom @ np.array(stretched)
    centre = (np.array(shape) - 1) / 2
    shift = random.uniform(*recipe.shift, size=2) * shape
    return matrix, centre + shift - matrix @ centre

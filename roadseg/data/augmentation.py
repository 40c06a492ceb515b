"""Augment picture and label together, differently in each epoch."""

import functools

import numpy as np
import scipy.ndimage

from roadseg.data.pictures import VOID

VGG_MEAN_RGB = (123.68, 116.779, 103.939)
MAP_NUMBERS = 7  # random ones that a map takes


def warp(picture, label, matrix, offset):
    """Mirror, zoom, stretch, shear, shift and rotate picture and label together.

    picture: uint8 [H, W, 3]; label: uint8 [H, W]; matrix, offset: a map of `draw_maps`. Returns the
    same shapes and dtypes; outside of the picture the label is VOID and the colour ImageNet's mean.
    Keras' random layers would fill picture and mask with one value and resize masks bilinearly.
    """
    move = functools.partial(scipy.ndimage.affine_transform, matrix=matrix, offset=offset)
    channels = [
        move(picture[..., channel], order=1, mode="constant", cval=round(mean))
        for channel, mean in enumerate(VGG_MEAN_RGB)
    ]
    return np.stack(channels, axis=-1), move(label, order=0, mode="constant", cval=VOID)


def between(numbers, bounds):
    """Turn random numbers 0..1 into even ones between bounds, (low, high)."""
    return bounds[0] + (bounds[1] - bounds[0]) * numbers


def ratio(numbers, bounds):
    """Turn random numbers 0..1 into ratios: their logarithm is even between the bounds'."""
    return np.exp(between(numbers, np.log(bounds)))


def draw_maps(shape, numbers, recipe, is_mirrored):
    """Draw affine maps from (row, column) of the result to that of the source.

    shape: (height, width); numbers: random, 0..1, float64 [N, MAP_NUMBERS]; recipe: main.Recipe;
    is_mirrored: bool, or [N] of it, whether half of such pictures are. Returns (matrices float64
    [N, 2, 2], offsets float64 [N, 2]).
    """
    turn, side, size, width, lean, *shift = numbers.T
    angle = np.deg2rad(between(turn, recipe.rotation_degrees))
    flip = np.where((side < 0.5) & np.asarray(is_mirrored, bool), -1.0, 1.0)
    stretch = np.sqrt(ratio(width, recipe.stretch))
    turned = _matrices(np.cos(angle), -np.sin(angle) * flip, np.sin(angle), np.cos(angle) * flip)
    leaning = between(lean, recipe.lean)
    stretched = _matrices(stretch, np.zeros_like(stretch), leaning, 1 / stretch)
    matrices = turned / ratio(size, recipe.zoom)[:, None, None] @ stretched
    centre = (np.array(shape) - 1) / 2
    return matrices, centre + between(np.transpose(shift), recipe.shift) * shape - matrices @ centre


def _matrices(*columns):
    """Make matrices [N, 2, 2] of their four elements, each [N]."""
    return np.stack(columns, axis=-1).reshape(-1, 2, 2)

"""Moves picture and label together, anew for each picture and epoch."""

import functools

import numpy as np
import scipy.ndimage

from roadseg.data.pictures import VOID

VGG_MEAN_RGB = (123.68, 116.779, 103.939)


def augment(picture, label, random, recipe):
    """Flip, zoom, stretch, lean, shift and rotate picture and label together.

    picture: uint8 [H, W, 3]; label: uint8 [H, W]; random: np.random.Generator; recipe: of
    `main.Recipe`, the ranges. The light stays as it is: changing it cost accuracy on KITTI
    (experiments/log.md). Keras' own random layers fill picture and mask with one value and resize
    masks bilinearly.
    Returns the same shapes and dtypes. VOID fills what comes into the label from outside, VGG's
    mean colour what comes into the picture; no new class index can appear.
    """
    matrix, offset = _random_affine(label.shape, random, recipe)
    warp = functools.partial(scipy.ndimage.affine_transform, matrix=matrix, offset=offset)
    channels = [
        warp(picture[..., channel], order=1, mode="constant", cval=round(mean))
        for channel, mean in enumerate(VGG_MEAN_RGB)
    ]
    return np.stack(channels, axis=-1), warp(label, order=0, mode="constant", cval=VOID)


def _random_affine(shape, random, recipe):
    """Draw the map from a place (row, column) in the result to its place in the source."""
    angle = np.deg2rad(random.uniform(*recipe.rotation_degrees))
    turned = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    flip = np.diag([1.0, random.choice([-1.0, 1.0]) if recipe.mirrored else 1.0])
    zoom = np.exp(random.uniform(*np.log(recipe.zoom)))
    stretch = np.exp(random.uniform(*np.log(recipe.stretch)) / 2)
    stretched = [[stretch, 0.0], [random.uniform(*recipe.lean), 1 / stretch]]
    matrix = np.array(turned) @ flip / zoom @ np.array(stretched)
    centre = (np.array(shape) - 1) / 2
    shift = random.uniform(*recipe.shift, size=2) * shape
    return matrix, centre + shift - matrix @ centre

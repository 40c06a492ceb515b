"""Moves picture and label together, anew for each picture and epoch."""

import functools

import numpy as np
import scipy.ndimage

from roadseg.data.pictures import VOID

VGG_MEAN_RGB = (123.68, 116.779, 103.939)

# Each value is drawn evenly from the range, of ratios the logarithm. The light stays as it is:
# changing it cost accuracy on KITTI (experiments/log.md).
ZOOM = (0.6, 1.8)
STRETCH = (1 / 1.5, 1.5)  # of the width against the height: a camera higher or lower, a wider lens
LEAN = (-0.15, 0.15)  # columns a row: a camera to the left or right moves the near road most
SHIFT = (-0.1, 0.1)  # of the picture's height and width
ROTATION_DEGREES = (-5.0, 5.0)


def augment(picture, label, random, mirrored=True):
    """Flip, zoom, stretch, lean, shift and rotate picture and label together.

    picture: uint8 [H, W, 3]; label: uint8 [H, W]; random: np.random.Generator; mirrored: whether
    half of them are flipped.
    Returns the same shapes and dtypes. VOID fills what comes into the label from outside, VGG's
    mean colour what comes into the picture; no new class index can appear.
    """
    matrix, offset = _random_affine(label.shape, random, mirrored)
    warp = functools.partial(scipy.ndimage.affine_transform, matrix=matrix, offset=offset)
    channels = [
        warp(picture[..., channel], order=1, mode="constant", cval=round(mean))
        for channel, mean in enumerate(VGG_MEAN_RGB)
    ]
    return np.stack(channels, axis=-1), warp(label, order=0, mode="constant", cval=VOID)


def _random_affine(shape, random, mirrored):
    """Draw the map from a place (row, column) in the result to its place in the source."""
    angle = np.deg2rad(random.uniform(*ROTATION_DEGREES))
    turned = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    flip = np.diag([1.0, random.choice([-1.0, 1.0]) if mirrored else 1.0])
    zoom = np.exp(random.uniform(*np.log(ZOOM)))
    stretch = np.exp(random.uniform(*np.log(STRETCH)) / 2)
    stretched = [[stretch, 0.0], [random.uniform(*LEAN), 1 / stretch]]
    matrix = np.array(turned) @ flip / zoom @ np.array(stretched)
    centre = (np.array(shape) - 1) / 2
    shift = random.uniform(*SHIFT, size=2) * shape
    return matrix, centre + shift - matrix @ centre

"""Moves picture and label together and changes the light, anew for each picture and epoch."""

import functools

import numpy as np
import scipy.ndimage

from datasets import VOID

VGG_MEAN_RGB = (123.68, 116.779, 103.939)

# Each value is drawn evenly from the range.
ZOOM = (0.6, 1.8)
SHIFT = (-0.1, 0.1)  # of the picture's height and width
ROTATION_DEGREES = (-5.0, 5.0)
BRIGHTNESS = (-25.0, 25.0)  # of 255
CONTRAST = (0.8, 1.25)
SATURATION = (0.7, 1.3)
COLOUR_GAIN = (0.95, 1.05)  # of red, green and blue apart


def augment(picture, label, random, mirrored=True):
    """Flip, zoom, shift and rotate picture and label together; change the picture's light.

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
    label = warp(label, order=0, mode="constant", cval=VOID)
    return _change_light(np.stack(channels, axis=-1), random), label


def _random_affine(shape, random, mirrored):
    """Draw the map from a place (row, column) in the result to its place in the source."""
    angle = np.deg2rad(random.uniform(*ROTATION_DEGREES))
    turned = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    flip = np.diag([1.0, random.choice([-1.0, 1.0]) if mirrored else 1.0])
    zoom = np.exp(random.uniform(*np.log(ZOOM)))
    matrix = np.array(turned) @ flip / zoom
    centre = (np.array(shape) - 1) / 2
    shift = random.uniform(*SHIFT, size=2) * shape
    return matrix, centre + shift - matrix @ centre


def _change_light(picture, random):
    changed = picture.astype(np.float32)
    grey = changed.mean(axis=-1, keepdims=True)
    changed = grey + random.uniform(*SATURATION) * (changed - grey)
    changed *= random.uniform(*COLOUR_GAIN, size=3).astype(np.float32)
    changed = random.uniform(*CONTRAST) * (changed - grey.mean()) + grey.mean()
    changed += random.uniform(*BRIGHTNESS)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)

"""Change the light, the colours and the sharpness of pictures, as other days and cameras do."""

import io

import numpy as np
from PIL import Image, ImageFilter

from roadseg.data.augmentation import ratio

LUMINANCE_RGB = (0.299, 0.587, 0.114)  # shares of red, green and blue: ITU-R BT.601


def vary_light(picture, random, recipe):
    """Change a share of the pictures as other light, weather and cameras do.

    picture: uint8 [H, W, 3]; random: np.random.Generator; recipe: main.Recipe, the ranges. Returns
    a picture of the same shape and dtype.
    """
    if random.random() >= recipe.varied_share:
        return picture
    picture = _retone(picture, random, recipe)
    picture = _saturate(picture, random.uniform(*recipe.saturation))
    picture = _shade(picture, random, recipe)
    for change in (_blur, _add_noise, _compress):
        if random.random() < 0.5:
            picture = change(picture, random, recipe)
    return picture


def _retone(picture, random, recipe):
    """Change gamma, exposure, contrast and the balance of colours, by a table of 256 values."""
    values = np.linspace(0, 1, 256)[:, None] ** ratio(random, recipe.gamma)
    values = values * ratio(random, recipe.exposure) * ratio(random, recipe.colour_cast, 3)
    middle = random.uniform(0.2, 0.8)
    values = middle + (values - middle) * ratio(random, recipe.contrast)
    table = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
    return np.stack([table[picture[..., channel], channel] for channel in range(3)], axis=-1)


def _saturate(picture, saturation):
    """Mix a picture with its grey version; saturation: 0 grey, 1 unchanged."""
    grey = Image.fromarray(picture).convert("L").convert("RGB")
    return np.asarray(Image.blend(grey, Image.fromarray(picture), saturation))


def _shade(picture, random, recipe):
    """Lay a shadow with a soft straight edge over one side of the picture."""
    height, width = picture.shape[:2]
    angle, softness = random.uniform(0, 2 * np.pi), random.uniform(0.01, 0.2)
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    distance = rows * np.sin(angle) + columns * np.cos(angle) - random.uniform(-1, 1)
    lit = 1 / (1 + np.exp(-np.clip(distance / softness, -30, 30)))
    darkest = random.uniform(*recipe.shadow)
    shade = (darkest + (1 - darkest) * lit).astype(np.float32)
    return (picture * shade[..., None]).astype(np.uint8)


def _blur(picture, random, recipe):
    return blur(picture, random.uniform(0, recipe.blur_pixels))


def _add_noise(picture, random, recipe):
    noise = random.standard_normal(picture.shape, np.float32)
    noise *= random.uniform(0, recipe.noise)
    return np.rint(np.clip(picture + noise, 0, 255)).astype(np.uint8)


def _compress(picture, random, recipe):
    return compress(picture, int(random.integers(*recipe.jpeg_quality)))


def blur(picture, deviation):
    """Blur by a Gaussian; deviation: its standard deviation, pixels."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(deviation)))


def compress(picture, quality):
    """Give a picture JPEG's artefacts; quality: 1 to 95, as Pillow has it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))

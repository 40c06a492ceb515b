"""Change the light, the colours and the sharpness of pictures, as other days and cameras do."""

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from roadseg.data.augmentation import ratio

LUMINANCE_RGB = (0.299, 0.587, 0.114)  # shares of red, green and blue: ITU-R BT.601
NOISE_VALUES = 1 << 22  # drawn once; a picture takes a piece


class Light(NamedTuple):
    """What is changed in a picture; the defaults change nothing."""

    gamma: float = 1.0
    gain: tuple = (1.0, 1.0, 1.0)  # times red, green and blue
    middle: float = 0.5  # 0..1, which contrast leaves as it is
    contrast: float = 1.0
    saturation: float = 1.0  # 0: grey
    shadow_angle: float = 0.0  # across the shadow's edge, radians
    shadow_place: float = 0.0  # of the edge, from -1 to 1
    shadow_softness: float = 0.1
    shadow: float = 1.0  # times the values on its side
    blur_pixels: float = 0.0  # standard deviation
    noise: float = 0.0  # likewise, of 255
    noise_place: int = 0  # where the noise is taken from
    jpeg_quality: int = 0  # 0: not compressed


UNCHANGED = Light()


def draw_light(random, recipe):
    """Draw what is changed in a picture, UNCHANGED for all but a share of them.

    random: np.random.Generator; recipe: main.Recipe, the ranges.
    """
    if random.random() >= recipe.varied_share:
        return UNCHANGED
    gain = ratio(random, recipe.exposure) * ratio(random, recipe.colour_cast, 3)
    is_blurred, is_noisy, is_compressed = random.random(3) < 0.5
    return Light(
        gamma=ratio(random, recipe.gamma),
        gain=tuple(gain),
        middle=random.uniform(0.2, 0.8),
        contrast=ratio(random, recipe.contrast),
        saturation=random.uniform(*recipe.saturation),
        shadow_angle=random.uniform(0, 2 * np.pi),
        shadow_place=random.uniform(-1, 1),
        shadow_softness=random.uniform(0.01, 0.2),
        shadow=random.uniform(*recipe.shadow),
        blur_pixels=float(is_blurred * random.uniform(0, recipe.blur_pixels)),
        noise=float(is_noisy * random.uniform(0, recipe.noise)),
        noise_place=int(random.integers(NOISE_VALUES)),
        jpeg_quality=int(is_compressed * random.integers(*recipe.jpeg_quality)),
    )


def change_light(picture, light):
    """Change a picture, uint8 [H, W, 3], as a Light says. Returns one of the same shape and dtype.

    `training.device_augmentation` does the same on a GPU.
    """
    if light is UNCHANGED:
        return picture
    picture = _saturate(_retone(picture, light), light.saturation)
    picture = _shade(picture, light)
    if light.blur_pixels:
        picture = blur(picture, light.blur_pixels)
    if light.noise:
        picture = _add_noise(picture, light)
    return compress(picture, light.jpeg_quality) if light.jpeg_quality else picture


def _retone(picture, light):
    """Change gamma, exposure, contrast and the balance of colours, by a table of 256 values."""
    values = np.linspace(0, 1, 256)[:, None] ** light.gamma * light.gain
    values = light.middle + (values - light.middle) * light.contrast
    table = np.rint(255 * values.clip(0, 1)).astype(np.uint8)
    return np.stack([table[picture[..., channel], channel] for channel in range(3)], axis=-1)


def _saturate(picture, saturation):
    """Mix a picture with its grey version; saturation: 0 grey, 1 unchanged."""
    grey = Image.fromarray(picture).convert("L").convert("RGB")
    return np.asarray(Image.blend(grey, Image.fromarray(picture), saturation))


def _shade(picture, light):
    """Lay a shadow with a soft straight edge over one side of the picture."""
    height, width = picture.shape[:2]
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    across = rows * np.sin(light.shadow_angle) + columns * np.cos(light.shadow_angle)
    distance = (across - light.shadow_place) / light.shadow_softness
    lit = 1 / (1 + np.exp(-np.clip(distance, -30, 30)))
    shade = (light.shadow + (1 - light.shadow) * lit).astype(np.float32)
    return np.rint(picture * shade[..., None]).astype(np.uint8)


@functools.cache
def standard_noise():
    """Return NOISE_VALUES standard normal numbers, always the same: float32."""
    return np.random.default_rng(0).standard_normal(NOISE_VALUES, np.float32)


def _add_noise(picture, light):
    places = range(light.noise_place, light.noise_place + picture.size)
    noise = standard_noise().take(places, mode="wrap").reshape(picture.shape)
    return np.rint(np.clip(picture + light.noise * noise, 0, 255)).astype(np.uint8)


def blur(picture, deviation):
    """Blur by a Gaussian; deviation: its standard deviation, pixels."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(deviation)))


def compress(picture, quality):
    """Give a picture JPEG's artefacts; quality: 1 to 95, as Pillow has it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))

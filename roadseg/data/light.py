"""Change the light, the colours and the sharpness of pictures, as other days and cameras do."""

import functools
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from roadseg.data.augmentation import between, ratio

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
LIGHT_NUMBERS = 20  # random ones that a Light takes


def draw_lights(numbers, recipe):
    """Draw what is changed in pictures, for all but a share of them what changes nothing.

    numbers: random, 0..1, float64 [N, LIGHT_NUMBERS]; recipe: main.Recipe, the ranges. Returns
    Light of arrays [N].
    """
    share, exposure, *cast, gamma, middle, contrast, saturation = numbers.T[:9]
    angle, place, softness, shadow, blurs, blurred, noises, noise, noise_place = numbers.T[9:18]
    packs, quality = numbers.T[18:]
    drawn = Light(
        gamma=ratio(gamma, recipe.gamma),
        gain=(ratio(np.array(cast), recipe.colour_cast) * ratio(exposure, recipe.exposure)).T,
        middle=between(middle, (0.2, 0.8)),
        contrast=ratio(contrast, recipe.contrast),
        saturation=between(saturation, recipe.saturation),
        shadow_angle=between(angle, (0, 2 * np.pi)),
        shadow_place=between(place, (-1, 1)),
        shadow_softness=between(softness, (0.01, 0.2)),
        shadow=between(shadow, recipe.shadow),
        blur_pixels=(blurs < 0.5) * blurred * recipe.blur_pixels,
        noise=(noises < 0.5) * noise * recipe.noise,
        noise_place=(noise_place * NOISE_VALUES).astype(np.int32),
        jpeg_quality=(packs < 0.5) * between(quality, recipe.jpeg_quality).astype(np.int32),
    )
    is_varied = share < recipe.varied_share
    return Light(
        *(
            np.where(is_varied if field.ndim == 1 else is_varied[:, None], field, default)
            for field, default in zip(drawn, UNCHANGED, strict=True)
        )
    )


def change_light(picture, light):
    """Change a picture, uint8 [H, W, 3], as a Light says. Returns one of the same shape and dtype.

    `training.device_augmentation` does the same on a GPU.
    """
    if light == UNCHANGED:
        return picture
    picture = _saturate(_retone(picture, light), light.saturation)
    picture = _shade(picture, light)
    if light.blur_pixels:
        picture = blur(picture, light.blur_pixels)
    if light.noise:
        picture = _add_noise(picture, light)
    return compress(picture, light.jpeg_quality) if light.jpeg_quality else picture


def light_of(lights, place):
    """Return one of the Lights in arrays, as plain numbers."""
    return Light(*(tuple(each[place]) if each.ndim > 1 else each[place].item() for each in lights))


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
    places = np.arange(light.noise_place, light.noise_place + picture.size)
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

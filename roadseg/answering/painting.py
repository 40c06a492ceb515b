"""Turn probabilities into classes, painted pictures, 8-bit confidences and PNG files."""

import struct
import zlib

import numpy as np
from PIL import Image

# Painting
TINT = 0.4  # share of the class's colour
CONTOUR_SHARE = 0.006  # contour width / the picture's shorter side
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_FILTER_UP = 2
PNG_COLOURS = {2: 0, 3: 2}  # dimensions of the array -> PNG colour type: grey, RGB


def choose_classes(planes):
    """Return the most likely class of each pixel: uint8 [H, W].

    planes: iterable of the probability of each class, float [H, W]. The later class wins a tie, so
    0.5 is road.
    """
    planes = iter(planes)
    best = next(planes).copy()
    classes = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(planes, start=1):
        classes[plane >= best] = index
        np.maximum(best, plane, out=best)
    return classes


def paint_classes(picture, classes, paint):
    """Tint the classes and draw their contours.

    picture: uint8 [H, W, 3]; classes: uint8 [H, W]; paint: {class index: (red, green, blue)}, other
    classes are not painted. Returns uint8 [H, W, 3].
    """
    width = max(1, round(min(classes.shape) * CONTOUR_SHARE))
    original = Image.fromarray(picture)
    painted = original.copy()
    for index, colour in paint.items():
        place = classes == index
        inside = shrink(place, width)
        tint = [round(value * (1 - TINT) + c * TINT) for c in colour for value in range(256)]
        painted.paste(colour, mask=Image.fromarray(place))
        painted.paste(original.point(tint), mask=Image.fromarray(inside))
    return np.asarray(painted)


def shrink(place, reach):
    """Return where all pixels within reach rows and columns, as far as there are any, are True.

    place: bool [H, W]. Returns the same.
    """
    for _ in place.shape:
        place = np.pad(place, ((reach, reach), (0, 0)), constant_values=True)
        joined, whole = 1, 2 * reach + 1  # rows
        while joined < whole:
            step = min(joined, whole - joined)
            place = place[:-step] & place[step:]
            joined += step
        place = place.T
    return place


def encode_png(picture):
    """Compress uint8 [H, W, 3] or [H, W] as PNG, in a third of Pillow's time. Returns bytes.

    Filter "up" and run-length encoding: slower compression saves little on photographs (W3C:
    Portable Network Graphics, third edition).
    """
    height, width = picture.shape[:2]
    rows = picture.reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), PNG_FILTER_UP, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    compressor = zlib.compressobj(1, strategy=zlib.Z_RLE)
    header = struct.pack(">2I5B", width, height, 8, PNG_COLOURS[picture.ndim], 0, 0, 0)
    chunks = {
        b"IHDR": header,
        b"IDAT": compressor.compress(filtered) + compressor.flush(),
        b"IEND": b"",
    }
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks.items()
    )


def to_confidence(probability):
    """Convert probabilities 0..1 to KITTI's 8-bit confidences: uint8, round(255 p)."""
    return np.rint(255.0 * np.asarray(probability)).astype(np.uint8)

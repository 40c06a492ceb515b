"""What is made of probabilities: classes, painted pictures, 8-bit confidences, PNG files."""

import struct
import zlib

import numpy as np
import scipy
from PIL import Image

# Painting
TINT = 0.4  # how much of the class's colour is in the picture's

CONTOUR_SHARE = 0.006  # width of contours, of the picture's shorter side

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

PNG_FILTER_UP = 2

PNG_COLOURS = {2: 0, 3: 2}  # number of the array's dimensions -> grey or red, green and blue


def choose_classes(probabilities):
    """Return the most likely class of each pixel: uint8 [H, W] of float [H, W, C].

    The later class wins a tie: road is road from probability 0.5 on.
    """
    first, *others = np.moveaxis(probabilities, -1, 0)
    best, classes = first.copy(), np.zeros(first.shape, np.uint8)
    for index, plane in enumerate(others, start=1):
        classes[plane >= best] = index
        np.maximum(best, plane, out=best)
    return classes


def paint_classes(picture, probabilities, paint):
    """Tint each class where it is the most likely one, and draw its contour.

    picture: uint8 [H, W, 3]; probabilities: float [H, W, C]; paint: {class index: (red, green,
    blue)}, classes without an entry stay as they are. Returns uint8 [H, W, 3].
    """
    classes = choose_classes(probabilities)
    width = max(1, round(min(classes.shape) * CONTOUR_SHARE))
    original = Image.fromarray(picture)
    painted = original.copy()
    for index, colour in paint.items():
        place = classes == index
        inside = scipy.ndimage.minimum_filter(place, 2 * width + 1)
        tint = [round(value * (1 - TINT) + c * TINT) for c in colour for value in range(256)]
        painted.paste(colour, mask=Image.fromarray(place))
        painted.paste(original.point(tint), mask=Image.fromarray(inside))
    return np.asarray(painted)


def encode_png(picture):
    """Compress uint8 [H, W, 3] or [H, W] as PNG, in a third of Pillow's time. Returns bytes.

    Each row is stored as its difference to the one above, runs of equal bytes as such: photographs
    gain next to nothing by what takes longer (W3C: Portable Network Graphics, third edition).
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
    """Turn probabilities 0..1 into KITTI's 8-bit confidences: uint8, round(255 p)."""
    return np.rint(255.0 * np.asarray(probability)).astype(np.uint8)

"""Read, resize and read ahead pictures and labels."""

import collections
import contextlib
import itertools
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from roadseg import terminal
from roadseg.errors import UserError

with contextlib.suppress(ImportError):  # without it .heic is refused by name
    import pillow_heif

    pillow_heif.register_heif_opener()
warnings.simplefilter("error", Image.DecompressionBombWarning)
Image.MAX_IMAGE_PIXELS = 250_000_000  # the largest cameras have 200 million

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic"),
    *(".heif", ".jp2", ".j2k", ".ppm", ".pgm", ".tga"),
)
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")  # in folders, and what begins with a dot
ORIENTATION = 0x0112  # EXIF's tag
CELL = 32  # pixels; the network pads to multiples
VOID = 255  # the label of pixels that count nowhere
BYTES_AHEAD = 1 << 29  # of results that are computed before they are asked for
VALUES_SHOWN = 8  # of a label, in a message
WORKERS = min(8, os.cpu_count() or 1)  # threads that read pictures ahead of the network


def is_left_by_system(name):
    """Return whether a file of this name is one that systems leave in a folder."""
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def read_image(path, shape=None):
    """Read a picture.

    shape: (height, width) to resize to, by area-aware bilinear interpolation; None: as it is.
    Returns uint8 [H, W, 3], RGB, rotated upright by EXIF; the upper 8 of 16 bits, no transparency,
    the first frame of an animation. Raises UserError that names the file.
    """
    with _opened(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode.startswith("I;16"):  # Pillow would make everything above 255 white
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        if upright.mode in ("I", "F"):
            raise ValueError("numbers of 32 bits; expected 8 or 16")
        picture = np.asarray(upright.convert("RGB"))
    return picture if shape is None else resize(picture, shape)


def picture_shape(path):
    """Return the (height, width) of a picture as it is stored; its pixels are not read."""
    with _opened(path) as picture:
        return picture.height, picture.width


def upright_shape(path):
    """Return the (height, width) of a picture, upright by EXIF; a PNG file is read for it."""
    return picture_shape(path)[:: -1 if is_turned(path) else 1]


def scaled_shape(shape, scale):
    """Return scale times shape, (height, width), rounded to multiples of CELL, at least one.

    Padding that training did not have lowers the score (experiments/log.md).
    """
    return tuple(max(1, round(scale * size / CELL)) * CELL for size in shape)


def count_pictures(path):
    """Return how many pictures a file holds: an animation, or pages, has more than one."""
    with _opened(path) as picture:
        return getattr(picture, "n_frames", 1)


def is_turned(path):
    """Whether a picture's EXIF data turn it by a quarter."""
    with _opened(path) as picture:
        return picture.getexif().get(ORIENTATION) in (5, 6, 7, 8)


def read_numbers(path):
    """Read a single-channel picture; a palette's indices stay.

    Masks of 1, 2 and 4 bits hold 0 to 1, 3 and 15; grey may be stored as equal colours. Returns
    uint8 [H, W]; colours, which are no numbers, as uint8 [H, W, 3]. Raises UserError that names
    the file.
    """
    with _opened(path) as picture:
        numbers = np.asarray(picture)
        if picture.mode == "1":
            return numbers.astype(np.uint8)
        if picture.mode in ("RGB", "RGBA"):
            is_grey = (numbers[..., :3] == numbers[..., :1]).all()
            return np.ascontiguousarray(numbers[..., 0 if is_grey else slice(3)])
        if picture.mode not in ("L", "P"):
            raise ValueError(
                f"a picture of mode {picture.mode}; expected one channel of 8 bits, the numbers of "
                "the classes"
            )
        bits = _png_bits(path) if picture.format == "PNG" and picture.mode == "L" else 8
        return numbers // (255 // (2**bits - 1))  # Pillow spreads 2 and 4 bits over 0 to 255


def _png_bits(path):
    """Return the bits of a sample in a PNG file: byte 24, in its first chunk."""
    with path.open("rb") as file:
        return file.read(25)[24]


@contextlib.contextmanager
def _opened(path):
    """Open a picture with Pillow. Any error in the body becomes a UserError."""
    try:
        with Image.open(path) as picture:
            yield picture
    except Exception as error:  # decoders raise many types on damaged files
        reason = getattr(error, "strerror", None) or str(error).replace(f" {str(path)!r}", "")
        raise UserError(f"{path}: {reason}; replace this picture, or remove it") from error


def read_label(sample, data_set, shape=None):
    """Read a sample's label, resized by nearest neighbour if shape is given.

    Returns uint8 [H, W] of class indices and VOID. Raises UserError that names the file.
    """
    row = data_set.of(sample)
    is_numbered = all(isinstance(value, int) for value in row.label_values)
    values = (read_numbers if is_numbered else read_image)(sample.label)
    label = decode_label(values, row.label_values, sample.label, row.class_list)
    return label if shape is None else resize(label, shape, Image.Resampling.NEAREST)


def resize(array, shape, resampling=Image.Resampling.BILINEAR):
    """Resize uint8 [H, W, 3], uint8 [H, W] or float32 [H, W] to shape, (height, width)."""
    height, width = shape
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(Image.fromarray(array).resize((width, height), resampling))


def resample(array, shape):
    """Resize [H, W, C] of any dtype bilinearly to shape, (height, width), without rounding.

    Shrinking averages over area. Returns float32. An exported network computes the same: see
    `exporting.Resample`.
    """
    planes = np.moveaxis(np.asarray(array, np.float32), -1, 0)
    return np.stack([resize(np.ascontiguousarray(plane), shape) for plane in planes], axis=-1)


def map_ahead(function, items, ahead=2 * WORKERS):
    """Yield function(item) in order; threads compute up to `ahead` items in advance.

    Of large results fewer, so that those in advance take BYTES_AHEAD or are a single one. The
    threads end with the generator.
    """
    items = iter(items)
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = collections.deque(pool.submit(function, item) for item in next_of(items, 1))
        try:
            while waiting:
                result = waiting.popleft().result()
                fitting = BYTES_AHEAD // max(1, bytes_of(result))
                missing = max(1, min(ahead, fitting)) - len(waiting)
                waiting.extend(pool.submit(function, item) for item in next_of(items, missing))
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def next_of(items, count):
    """Yield the next items of an iterator, count at most."""
    return itertools.islice(items, max(0, count))


def bytes_of(result):
    """Return the size of an array, or of all arrays in tuples and lists; 0 for anything else."""
    if isinstance(result, tuple | list):
        return sum(map(bytes_of, result))
    return result.nbytes if isinstance(result, np.ndarray) else 0


def decode_label(values, table, path, class_list=None):
    """Convert a label picture to class indices.

    values: uint8 [H, W, 3] colours or uint8 [H, W] numbers; table: {(red, green, blue) or number:
    class index or VOID}; path: for the message; class_list: ClassList that the table is from.
    Returns uint8 [H, W]. Raises UserError that names the file and the values not in the table.
    """
    channels = np.atleast_3d(values).astype(np.uint32)
    places = 256 ** np.arange(channels.shape[-1], dtype=np.uint32)[::-1]
    codes = channels @ places
    found = {
        code: tuple(code.to_bytes(3, "big")) if values.ndim == 3 else code
        for code in np.unique(codes).tolist()
    }
    if unknown := [value for value in found.values() if value not in table]:
        cure = class_list.needs(unknown) if class_list else f"expected one of {_listed(table)}"
        raise UserError(
            f"{path}: holds {_listed(found.values())}; no class has {_listed(unknown)}; {cure} "
            "(labels must be PNG, without smoothing or compression losses)"
        )
    label = np.full(codes.shape, VOID, np.uint8)
    for code, value in found.items():
        label[codes == code] = table[value]
    return label


def as_text(value):
    """Return a number or a (red, green, blue) as class lists have it."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _listed(values):
    return terminal.listing(list(map(as_text, values)), VALUES_SHOWN)


def pairs_that_fit(shape, share):
    """Return how many pictures of a shape, with labels, fill a share of the free memory."""
    return int(share * free_memory_bytes() / (4 * shape[0] * shape[1]))


def free_memory_bytes():
    """Return how much memory this process may still take, as far as the system tells (Linux).

    What files fill as a cache counts as free; a container's limit counts like the machine's.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) << 10
    except (OSError, StopIteration):
        return 2 << 30
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        group = Path("/sys/fs/cgroup")
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.M)
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used + int(cached[1]))
    return max(free, 0)
